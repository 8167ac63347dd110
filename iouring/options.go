package iouring

// Mode says whether to use a feature of the machine.
type Mode int

// The modes.
const (
	ModeAuto Mode = iota // use it if it works
	ModeOn               // use it; if it does not work, opening fails
	ModeOff              // do not use it
)

func (m Mode) String() string {
	switch m {
	case ModeAuto:
		return "auto"
	case ModeOn:
		return "on"
	case ModeOff:
		return "off"
	}
	return "invalid mode"
}

// WriterOptions say how to open a Writer. The zero value takes the best that works.
type WriterOptions struct {
	Ring   Mode // io_uring; ModeOff uses system calls
	Direct Mode // O_DIRECT
	Depth  int  // writes in flight; 0: 8
	// Buffers are memory that writes will come from. Each is registered with the ring, if the limits allow it, when it
	// was filled for the first time.
	Buffers [][]byte
}

// WriterReport says which ways of writing a Writer uses, and why none better.
type WriterReport struct {
	Ring        bool   // io_uring; if false, system calls
	Direct      bool   // O_DIRECT; if false, through the page cache with RWF_DSYNC
	FixedFile   bool   // the file is registered with the ring
	FixedBuffer bool   // the buffers are registered with the ring, each when it was filled for the first time
	Block       int    // block size in bytes
	Reason      string // one line: why nothing better is used; empty when everything is in use
}

// ReaderOptions say how to open a Reader. The zero value takes the best that works.
type ReaderOptions struct {
	Ring  Mode // io_uring; ModeOff uses system calls
	Depth int  // reads in flight; 0: 128
	// Park is for a Reader beside another one: every caller parks at once, even one that reads alone, and opening fails
	// if there is no memory for a ring of Depth.
	Park bool
	// Degraded, if not nil, is called at most once, with the reason, if the Reader goes on with system calls because
	// io_uring does not work, at once or at any later time. It must not block or call the Reader. It is not called if
	// Ring is ModeOff.
	Degraded func(reason string)
}

// ReaderReport says how a Reader reads.
type ReaderReport struct {
	Ring   bool   // io_uring; if false, system calls
	Reason string // one line: why there is no ring; empty with one
}
