package iouring

// Mode chooses one of several ways.
type Mode int

// The modes: Auto takes the best that works; On insists (an error where it does not work); Off never.
const (
	ModeAuto Mode = iota
	ModeOn
	ModeOff
)

// Options say how to open a Writer or a Reader. The zero value takes the best that works.
type Options struct {
	Ring    Mode     // io_uring; Off uses system calls
	Direct  Mode     // O_DIRECT
	Depth   int      // writes in flight; 0: 8
	Buffers [][]byte // memory that writes will come from; registered with the ring if the limits allow it
	Park    bool     // of a Reader beside another: callers park at once, even one who reads alone, and it is of that depth or none
}

// Report says which ways of writing a Writer uses, and why none better.
type Report struct {
	Ring        bool   // io_uring, else system calls
	Direct      bool   // O_DIRECT, else through the page cache with RWF_DSYNC
	FixedFile   bool   // the file is registered with the ring
	FixedBuffer bool   // the buffers are registered with the ring
	Block       int    // block size in bytes
	Reason      string // one line: why not better; empty when everything is in use
}
