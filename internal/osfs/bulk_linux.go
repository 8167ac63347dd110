package osfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"pagecache/internal/vfs"
)

// bulk reads past the page cache: the kernel copies nothing, and evicts no useful blocks for bytes that are read once.
type bulk struct {
	f      *osFile
	direct io.ReaderAt // with O_DIRECT; nil if the file system does not support it
	close  func() error
	// why says why reading is not the fastest: nil in it if it is, or if that has not turned out yet. Written once.
	why *atomic.Pointer[string]
}

// Reason returns why reading is not the fastest, as far as it has turned out; empty if it is.
func (b bulk) Reason() string {
	if why := b.why.Load(); why != nil {
		return *why
	}
	return ""
}

// because notes why reading is not the fastest, unless a reason was noted before.
func (b bulk) because(what string, err error) {
	why := fmt.Sprintf("%s: %v", what, err)
	b.why.CompareAndSwap(nil, &why) // the first reason stays
}

func (f *osFile) OpenBulk() vfs.Bulk {
	name := fmt.Sprintf("/proc/self/fd/%d", f.fd)
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Open(name, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		b := bulk{f: f, close: func() error { return nil }, why: new(atomic.Pointer[string])}
		b.because("no O_DIRECT", err)
		return b
	}
	direct := os.NewFile(uintptr(fd), f.Name())
	return bulk{f, direct, direct.Close, new(atomic.Pointer[string])}
}

func (b bulk) ReadAt(p []byte, off int64) (n int, err error) {
	if b.direct != nil {
		if n, err = b.direct.ReadAt(p, off); !errors.Is(err, unix.EINVAL) {
			return n, err
		}
	}
	// The part that is not whole blocks, such as the end of the file; or all of it, if O_DIRECT can be opened but not
	// used.
	m, err := b.f.ReadAt(p[n:], off+int64(n))
	return n + m, err
}

// Buffer asks for huge pages. The disk then transfers to a few large pieces of memory and not to one for each 4 KiB,
// which is twice as fast.
func (b bulk) Buffer(n int) (buf []byte, free func(), err error) {
	const huge = 2 << 20
	mem, err := unix.Mmap(-1, 0, n+huge, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, fmt.Errorf("allocate %d bytes for reading %s: %w", n, b.f.Name(), err)
	}
	if err := unix.Madvise(mem, unix.MADV_HUGEPAGE); err != nil { // a hint
		b.because("no huge pages", err)
	}
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))) & (huge - 1)
	free = func() { _ = unix.Munmap(mem) } // fails only for memory that is not mapped
	return mem[skip : skip+n : skip+n], free, nil
}

// Direct trusts statx (Linux 6.1): some file systems accept O_DIRECT and read through the page cache.
func (b bulk) Direct() bool {
	if b.direct == nil {
		return false
	}
	var st unix.Statx_t
	err := retry(func() error { return unix.Statx(b.f.fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st) })
	return err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_mem_align > 0 && st.Dio_offset_align > 0 &&
		max(st.Dio_mem_align, st.Dio_offset_align) <= vfs.BulkAlign
}

func (b bulk) Close() error { return b.close() }
