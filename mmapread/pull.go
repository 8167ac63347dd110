package mmapread

import (
	"errors"
	"fmt"
	"runtime/debug"

	"pagecache/segments/format"
)

// ErrPointer says that a message is not as long as the pointer to it says, or that the pointer leaves its segment.
var ErrPointer = errors.New("message does not fit the pointer to it")

// addresser is what the runtime's panic for a fault outside the Go heap implements, beside error.
type addresser interface{ Addr() uintptr }

// Guard calls f and turns a fault on mapped memory into an error that wraps ErrFault. It costs a few nanoseconds and
// covers the calling goroutine only. Other panics go on.
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

// Pull verifies the message at ptr and returns its header and body. The body aliases the view, and is as good as that
// is. lsn is the LSN that the message must carry, seed its segment's, and room how many bytes are left in the segment
// from ptr.Off on. Errors wrap format.ErrCRC and the like, ErrPointer, ErrFault, or what View returned. Pull allocates
// nothing unless it fails.
func Pull(v Viewer, ptr format.DiskPtr, lsn format.LSN, seed format.Seed, room int) (h format.Header, body []byte, err error) {
	n := int(ptr.Len)
	if n < format.HeaderSize || n > room {
		return h, nil, fmt.Errorf("pull %v, %d bytes left in the segment: %w", ptr, room, ErrPointer)
	}
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			h, body, err = format.Header{}, nil, fmt.Errorf("pull %v: %w", ptr, asFault(p))
		}
	}()
	src, err := v.View(int64(ptr.Off), n)
	if err != nil {
		return h, nil, fmt.Errorf("pull %v: %w", ptr, err)
	}
	touch(src)
	h, body, err = format.DecodeMessage(src, lsn, seed)
	if err != nil {
		return h, nil, fmt.Errorf("pull %v: %w", ptr, err)
	}
	if h.Len != n {
		return h, nil, fmt.Errorf("pull %v: %w: it is %d bytes long", ptr, ErrPointer, h.Len)
	}
	return h, body, nil
}

// touch has the processor fetch all lines of a message at once, instead of one after another as they are decoded and summed: a third less for 1 KiB from cold memory.
//
//go:noinline
func touch(b []byte) (sum byte) {
	const line, most = 64, 8 << 10
	for i := 0; i < min(len(b), most); i += line {
		sum += b[i]
	}
	return sum
}

// Pull is the function Pull on this map.
func (m *Map) Pull(ptr format.DiskPtr, lsn format.LSN, seed format.Seed, room int) (format.Header, []byte, error) {
	return Pull(m, ptr, lsn, seed, room)
}
