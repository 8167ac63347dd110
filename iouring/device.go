package iouring

import "errors"

// Write is one durable write of a Device.
type Write struct {
	Off int64  // file offset in bytes, a multiple of the device's block
	Buf []byte // aligned in memory and a multiple of the block in length; not touched until the completion
	Tag uint64 // comes back in the completion
}

// Completion says how a Write ended. Err nil means that all of it is durable.
type Completion struct {
	Tag uint64
	Err error
}

// ErrInFlight is that writes did not end: the kernel may still be reading their buffers, and what they write may come late.
var ErrInFlight = errors.New("writes did not end")

// Device is what the log is written to: durable writes (each is on stable storage when it completes), several in
// flight, completing in any order. One goroutine at a time may use it.
type Device interface {
	// Do starts writes (as many as Depth allows beside those in flight; the caller keeps within it), waits until at
	// least min of the writes in flight have completed (0: does not wait) and appends the completions to dst.
	// A short write is finished by the device before it completes. A failed write is a Completion with Err; the
	// error returned beside them means that the device itself is unusable.
	Do(writes []Write, min int, dst []Completion) ([]Completion, error)
	// Depth is the greatest number of writes in flight.
	Depth() int
	// Block is the smallest unit of writing, in bytes: offsets, lengths and memory are multiples of it.
	Block() int
	// Close waits for the writes in flight, then releases everything but the file. After ErrInFlight not all have ended.
	Close() error
}
