package osfs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"pagecache/internal/vfs"
)

// whole is a file with O_DIRECT that reads only whole blocks, from the start of a block.
type whole struct{ f vfs.File }

func (w whole) ReadAt(p []byte, off int64) (int, error) {
	const block = 4096
	if off%block != 0 || len(p) < block {
		return 0, unix.EINVAL
	}
	n, err := w.f.ReadAt(p[:len(p)/block*block], off)
	if err == nil && n < len(p) {
		err = unix.EINVAL
	}
	return n, err
}

type refusing struct{}

func (refusing) ReadAt([]byte, int64) (int, error) { return 0, unix.EINVAL }

// Reason returns the first reason why reading is not the fastest.
func TestBulkReason(t *testing.T) {
	b := bulk{why: new(atomic.Pointer[string])}
	if b.Reason() != "" {
		t.Errorf("%q without a reason", b.Reason())
	}
	b.because("no huge pages", unix.EINVAL)
	b.because("later", unix.EINVAL)
	if want := "no huge pages: invalid argument"; b.Reason() != want {
		t.Errorf("%q, want %q", b.Reason(), want)
	}
}

// Bulk reads the same as ReadAt, whether or not O_DIRECT works and can read parts of blocks.
func TestBulkContents(t *testing.T) {
	const size = 3<<20 + 777
	f := mustOpen(t, filepath.Join(t.TempDir(), "file"), writable)
	want := make([]byte, size)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range want {
		want[i] = byte(rng.Uint32())
	}
	if _, err := f.WriteAt(want, 0); err != nil { // not on the disk yet: O_DIRECT reads what the page cache holds
		t.Fatal(err)
	}
	before := descriptors(t)
	b := f.OpenBulk()
	of := f.(*osFile)
	none := new(atomic.Pointer[string])
	for name, b := range map[string]vfs.Bulk{"bulk": b, "blocks": bulk{of, whole{f}, nil, none},
		"refusing": bulk{of, refusing{}, nil, none}, "none": bulk{f: of, why: none}} {
		buf, free, err := b.Buffer(size + 5000)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ skip, n, off int }{
			{0, 1 << 20, 0}, {0, 10_000, 4096}, {0, 3 << 20, 0}, {0, size + 5000, 0}, {0, 8192, 3 << 20},
			{0, 8192, size + 10_000}, {0, 4096, size}, {1, 4096, 4096}, {0, 4095, 0}, {512, 10_000, 3}, {0, 0, 0},
		} {
			clear(buf)
			n, err := b.ReadAt(buf[c.skip:][:c.n], int64(c.off))
			rest := want[min(size, c.off):]
			wantN := min(c.n, len(rest))
			if n != wantN || (n < c.n) != (err == io.EOF) || n == c.n && err != nil {
				t.Errorf("%s: %+v: %d bytes of %d, %v", name, c, n, wantN, err)
			} else if !bytes.Equal(buf[c.skip:][:n], rest[:n]) {
				t.Errorf("%s: %+v: wrong bytes", name, c)
			}
		}
		free()
	}
	if err := b.Close(); err != nil || descriptors(t) != before {
		t.Errorf("%v, %d descriptors, %d before", err, descriptors(t), before)
	}
}

// Bulk puts nothing into the page cache.
func TestBulkBypassesPageCache(t *testing.T) {
	const size = 4 << 20
	f := mustOpen(t, filepath.Join(t.TempDir(), "file"), writable)
	if _, err := f.WriteAt(make([]byte, size), 0); err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(f.(*osFile).fd, 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	resident := func() (n int) {
		vec := make([]byte, size/os.Getpagesize())
		at, out := uintptr(unsafe.Pointer(&m[0])), uintptr(unsafe.Pointer(&vec[0]))
		if _, _, e := unix.Syscall(unix.SYS_MINCORE, at, size, out); e != 0 {
			t.Fatal(e)
		}
		for _, b := range vec {
			n += int(b & 1)
		}
		return n
	}
	if err := errors.Join(f.Sync(), f.DropCache(0, size)); err != nil {
		t.Fatal(err)
	}
	b := f.OpenBulk()
	defer b.Close()
	if n := resident(); n > 0 || b.(bulk).direct == nil {
		t.Skipf("this file system has no O_DIRECT, or keeps everything in memory: %d pages", n)
	}
	var st unix.Statx_t
	err = unix.Statx(f.(*osFile).fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	known := err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_mem_align > 0
	if b.Direct() != known {
		t.Errorf("direct %v, and statx says %v", b.Direct(), known)
	}
	buf, free, err := b.Buffer(size)
	if err != nil {
		t.Fatal(err)
	}
	defer free()
	if n, err := b.ReadAt(buf, 0); n != size || err != nil {
		t.Fatal(n, err)
	}
	if n := resident(); n > 0 {
		t.Errorf("%d pages were read into the page cache", n)
	}
}
