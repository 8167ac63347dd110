//go:build linux && !race

package iouring

import "golang.org/x/sys/unix"

// AllocBuffer returns n zeroed bytes, aligned to a page, outside the Go heap. They belong to the caller until
// FreeBuffer. It does not ask for huge pages: log bandwidth was about a tenth higher with them, but opening a store on
// the measured machine took 50 ms longer (open-many in docs/BENCHMARKS.md).
func AllocBuffer(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
}

// FreeBuffer frees a buffer from AllocBuffer.
func FreeBuffer(b []byte) {
	_ = unix.Munmap(b) // fails only for memory that AllocBuffer did not return
}

func raceRelease([]byte) {}

func raceAcquire([]byte) {}
