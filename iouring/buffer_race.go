//go:build linux && race

package iouring

import (
	"runtime"
	"unsafe"
)

const pageSize = 4096

// AllocBuffer returns n zeroed bytes, aligned to a page. Under the race detector they lie on the Go heap, since it sees
// nothing else; heap objects do not move, and the writer holds a reference while the kernel reads.
func AllocBuffer(n int) ([]byte, error) {
	b := make([]byte, n+pageSize)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (pageSize - 1)
	return b[skip : skip+n : skip+n], nil
}

// FreeBuffer gives a buffer of AllocBuffer back.
func FreeBuffer([]byte) {}

// raceRelease stands for the hand-over of b to the kernel, raceAcquire for its return.
func raceRelease(b []byte) { runtime.RaceReleaseMerge(unsafe.Pointer(unsafe.SliceData(b))) }

func raceAcquire(b []byte) { runtime.RaceAcquire(unsafe.Pointer(unsafe.SliceData(b))) }
