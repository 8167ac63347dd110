//go:build linux && race

package iouring

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const pageSize = 4096

// AllocBuffer returns n zeroed bytes, aligned to a page. Under the race detector they lie on the Go heap, since it sees
// nothing else; heap objects do not move, and the writer holds a reference while the kernel reads.
func AllocBuffer(n int) ([]byte, error) {
	if n <= 0 {
		return nil, unix.EINVAL
	}
	b := make([]byte, n+pageSize)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (pageSize - 1)
	return b[skip : skip+n : skip+n], nil
}

// FreeBuffer gives a buffer of AllocBuffer back.
func FreeBuffer([]byte) {}

// raceRelease stands for the hand-over of b to the kernel, raceAcquire for its return. The kernel's reading is put down as
// reads at either end, so that a write to b in between is seen as the race that it is.
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
