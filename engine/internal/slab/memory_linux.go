//go:build linux && !race

package slab

import (
	"os"

	"golang.org/x/sys/unix"
)

// supported reports whether values can live in slabs on this system.
func supported() bool { return os.Getpagesize() == pageSize }

// reserve returns n bytes of untouched memory that begin at a multiple of chunkSize. n is a multiple of chunkSize.
func reserve(n int) ([]byte, error) {
	b, err := unix.MmapPtr(-1, 0, nil, uintptr(n+chunkSize), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	all := unsafeBytes(b, n+chunkSize)
	skip := -int(address(all)) & (chunkSize - 1)
	// The memory before and behind was never handed out, so its addresses may go.
	unmap(all[:skip])
	unmap(all[skip+n:])
	return all[skip : skip+n : skip+n], nil
}

func unmap(b []byte) {
	if len(b) > 0 {
		_ = unix.MunmapPtr(pointer(b), uintptr(len(b))) // else it stays untouched, which costs nothing but addresses
	}
}

// useHugePages asks for huge pages, or for none, in memory that was not touched. It is a hint.
func useHugePages(b []byte, yes bool) {
	advice := unix.MADV_NOHUGEPAGE
	if yes {
		advice = unix.MADV_HUGEPAGE
	}
	_ = unix.Madvise(b, advice)
}

// giveBack gives memory back to the system. It reads as zeros then, and may be touched again.
func giveBack(b []byte) error { return unix.Madvise(b, unix.MADV_DONTNEED) }
