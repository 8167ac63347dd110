package mmapread

import (
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"unsafe"
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

// mapped is the range of addresses in which all windows lie that this process has ever mapped. The kernel puts them
// close together and far from the Go heap. It only grows.
var mapped struct {
	mu sync.Mutex // held to change the range
	// low and high are written before a window is published, so a goroutine that has a view finds it inside. Both are
	// zero before the first window. They publish nothing.
	low, high atomic.Uintptr
}

// noteWindow adds a window to the range.
func noteWindow(b []byte) {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	mapped.mu.Lock()
	defer mapped.mu.Unlock()
	if low := mapped.low.Load(); low == 0 || at < low {
		mapped.low.Store(at)
	}
	if end := at + uintptr(len(b)); end > mapped.high.Load() {
		mapped.high.Store(end)
	}
}

// MayView returns false if b is certainly no view of any Map of this process, so that reading it needs no Guard. It
// looks at two numbers, whatever the number of maps.
func MayView(b []byte) bool {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return at < mapped.high.Load() && at >= mapped.low.Load()
}
