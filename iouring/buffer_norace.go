//go:build linux && !race

package iouring

import "golang.org/x/sys/unix"

// AllocBuffer returns n zeroed bytes, aligned to a page, outside the Go heap. They are the caller's until FreeBuffer. Huge pages are not asked for: log bandwidth
// was about a tenth higher with them, but openings on the measured machine took 50 ms longer (open-many in docs/BENCHMARKS.md).
func AllocBuffer(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
}

// FreeBuffer gives a buffer of AllocBuffer back.
func FreeBuffer(b []byte) {
	_ = unix.Munmap(b) // can fail only for memory that AllocBuffer did not return
}

func raceRelease([]byte) {}

func raceAcquire([]byte) {}
