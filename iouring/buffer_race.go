//go:build linux && race

package iouring

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const pageSize = 4096

// AllocBuffer returns n zeroed bytes, aligned to a page. Under the race detector they lie on the Go heap, because it
// observes nothing else. Heap objects do not move, and the Writer holds a reference while the kernel reads.
func AllocBuffer(n int) ([]byte, error) {
	if n <= 0 {
		return nil, unix.EINVAL
	}
	b := make([]byte, n+pageSize)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (pageSize - 1)
	return b[skip : skip+n : skip+n], nil
}

// UseHugePages does nothing under the race detector.
func UseHugePages([]byte) {}

// FreeBuffer frees a buffer from AllocBuffer.
func FreeBuffer([]byte) {}

// raceRelease tells the race detector that b goes to the kernel, raceAcquire that it comes back. The kernel's reading
// is recorded as a read at either end, so that a write to b in between is reported as a race.
func raceRelease(b []byte) {
	p := unsafe.Pointer(unsafe.SliceData(b))
	runtime.RaceReadRange(p, len(b))
	runtime.RaceReleaseMerge(p)
}

func raceAcquire(b []byte) {
	p := unsafe.Pointer(unsafe.SliceData(b))
	runtime.RaceAcquire(p)
	runtime.RaceReadRange(p, len(b))
}
