package iouring

// Write is one durable write of a Writer. It is an alias of an unnamed type so that a package which does not import this one can name it.
type Write = struct {
	Off int64  // file offset in bytes, a multiple of the writer's block
	Buf []byte // a multiple of the block in length and aligned to it in memory; the caller must not touch it until the completion
	Tag uint64 // returned in the completion
}

// Completion says how a Write ended. If Err is nil, all of it is durable. It is an alias like Write.
type Completion = struct {
	Tag uint64
	Err error
}

// ErrInFlight reports that writes are still outstanding: the kernel may still read their buffers, and the data may reach the disk later.
var ErrInFlight error = sentinel("writes did not end")

// sentinel is an error that errors.Is matches with every error of the same text, so that a package which does not import this one can declare
// an equal error.
type sentinel string

func (s sentinel) Error() string { return string(s) }

// Is implements errors.Is.
func (s sentinel) Is(target error) bool { return target.Error() == string(s) }
