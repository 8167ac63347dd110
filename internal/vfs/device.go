package vfs

// Device makes durable writes to a file: each is on stable storage when it completes. Several writes are in flight at
// once and complete in any order. One goroutine at a time may use it.
type Device interface {
	// Do starts writes, waits until at least need of the writes in flight have completed (0: it does not wait), and
	// appends the completions to dst. The caller never has more than Depth writes in flight. The device finishes a
	// short write before it completes it. A failed write is a Completion with Err; the error that Do returns means that
	// the device itself is unusable.
	Do(writes []Write, need int, dst []Completion) ([]Completion, error)
	// Depth returns the greatest number of writes in flight.
	Depth() int
	// Block returns the unit of writing in bytes: offsets, lengths and memory addresses are multiples of it.
	Block() int
	// Close waits for the writes in flight, in bounded time, then releases everything but the file. If some did not
	// end, its error wraps ErrInFlight, and their buffers must not be freed.
	Close() error
}

// Parker is a Device that can wait without blocking a thread. Where Do would keep the goroutine's processor from
// others, Park leaves it to them.
type Parker interface {
	Device
	// Park waits until a write in flight may have completed; it may return early. It takes no completion. It returns
	// false if it cannot wait: then Do does. While one goroutine is in Park, another may use the device.
	Park() bool
	// Unpark makes a call of Park return soon: the present one, or else perhaps the next. It does not block, and any
	// goroutine may call it.
	Unpark()
}

// Write is one durable write of a Device.
type Write = struct {
	Off int64  // file offset in bytes, a multiple of the device's block
	Buf []byte // whole blocks, aligned to a block in memory; the caller must not touch it until the completion
	Tag uint64 // returned in the completion
}

// Completion says how a Write ended. If Err is nil, all of it is durable.
type Completion = struct {
	Tag uint64
	Err error
}

// DeviceOptions say how to open a Device. The zero value takes the best that works.
type DeviceOptions struct {
	Ring    Mode     // io_uring; ModeOff uses system calls
	Direct  Mode     // O_DIRECT
	Depth   int      // writes in flight; 0: 8
	Buffers [][]byte // memory that writes will come from; it is registered with the ring if the limits allow it
}

// DeviceReport says which ways of writing a Device uses, and why none better.
type DeviceReport struct {
	Ring        bool   // io_uring; if false, system calls
	Direct      bool   // O_DIRECT; if false, through the page cache with RWF_DSYNC
	FixedFile   bool   // the file is registered with the ring
	FixedBuffer bool   // buffers are registered with the ring, each when it was filled for the first time
	Block       int    // block size in bytes
	Reason      string // one line: why nothing better is used; empty when everything is in use
}
