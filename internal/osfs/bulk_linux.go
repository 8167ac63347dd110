package osfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"pagecache/internal/vfs"
)

// bulk reads past the page cache: nothing is copied, and nothing that is of use is pushed out for what is looked at once.
type bulk struct {
	f      *osFile
	direct io.ReaderAt // with O_DIRECT; nil where that cannot be opened
	close  func() error
}

func (f *osFile) OpenBulk() vfs.Bulk {
	name := fmt.Sprintf("/proc/self/fd/%d", f.fd)
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Open(name, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return bulk{f: f, close: func() error { return nil }}
	}
	direct := os.NewFile(uintptr(fd), f.Name())
	return bulk{f, direct, direct.Close}
}

func (b bulk) ReadAt(p []byte, off int64) (n int, err error) {
	if b.direct != nil {
		if n, err = b.direct.ReadAt(p, off); !errors.Is(err, unix.EINVAL) {
			return n, err
		}
	}
	// What is not in whole blocks, such as the rest after the file's last one, or all of it where O_DIRECT can be opened but not used.
	m, err := b.f.ReadAt(p[n:], off+int64(n))
	return n + m, err
}

// Buffer asks for huge pages: the disk then has few pieces to write to, not one each 4 KiB, which is twice as fast.
func (b bulk) Buffer(n int) (buf []byte, free func(), err error) {
	const huge = 2 << 20
	mem, err := unix.Mmap(-1, 0, n+huge, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, fmt.Errorf("%d bytes to read %s into: %w", n, b.f.Name(), err)
	}
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // there may be none
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))) & (huge - 1)
	return mem[skip : skip+n : skip+n], func() { _ = unix.Munmap(mem) }, nil // can fail only for memory that is not mapped
}

func (b bulk) Close() error { return b.close() }
