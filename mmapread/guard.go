package mmapread

import (
	"fmt"
	"runtime/debug"
)

// addresser is implemented by the runtime's panic for a fault outside the Go heap, beside error.
type addresser interface{ Addr() uintptr }

// Guard calls f and returns its error. If f faults on mapped memory, Guard returns an error that wraps ErrFault; other
// panics go on. Guard covers the calling goroutine only, costs a few nanoseconds, and allocates nothing unless f
// faults.
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

// asFault returns the error for a recovered panic. It panics again if that is not a fault.
func asFault(p any) error {
	if a, ok := p.(addresser); ok {
		return fmt.Errorf("%w: address %#x", ErrFault, a.Addr())
	}
	panic(p)
}
