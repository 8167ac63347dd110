package iouring

import "errors"

// Errors of this package, found by errors.Is.
var (
	// ErrInFlight reports that writes are still outstanding: the kernel may still read their buffers, and the data may
	// reach the disk later.
	ErrInFlight error = sentinel("writes did not end")
	// ErrLinuxOnly is the error of every call on other systems.
	ErrLinuxOnly = errors.New("pagecache works on Linux only")
)

// sentinel is an error that errors.Is matches with every error of the same text, so that a package which does not
// import this one can declare an equal error.
type sentinel string

func (s sentinel) Error() string { return string(s) }

// Is implements errors.Is.
func (s sentinel) Is(target error) bool { return target.Error() == string(s) }
