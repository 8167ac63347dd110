package mmapread

import (
	"fmt"
	"runtime/debug"
)

// addresser is what the runtime's panic for a fault outside the Go heap implements, beside error.
type addresser interface{ Addr() uintptr }

// Guard calls f and turns a fault on mapped memory into an error that wraps ErrFault. It costs a few nanoseconds, allocates nothing, and covers
// the calling goroutine only. Other panics go on.
func Guard(f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			err = asFault(p)
		}
	}()
	return f()
}

// asFault returns the error for a recovered panic, and panics on with any that is not a fault.
func asFault(p any) error {
	if a, ok := p.(addresser); ok {
		return fmt.Errorf("%w: address %#x", ErrFault, a.Addr())
	}
	panic(p)
}
