//go:build linux && !race

package iouring

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// AllocBuffer returns n zeroed bytes, aligned to a page, outside the Go heap, in huge pages if it fills some and there are any: of small ones the disk
// reads many pieces, which costs a tenth of the bandwidth. They are the caller's until FreeBuffer.
func AllocBuffer(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	const huge = 2 << 20
	if err == nil && (n|int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))))%huge == 0 { // else registering it would count more than n against RLIMIT_MEMLOCK
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	}
	return b, err
}

// FreeBuffer gives a buffer of AllocBuffer back.
func FreeBuffer(b []byte) {
	_ = unix.Munmap(b) // can fail only for memory that AllocBuffer did not return
}

func raceRelease([]byte) {}

func raceAcquire([]byte) {}
