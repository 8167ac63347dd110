package simdisk

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"pagecache/internal/vfs"
)

const (
	chunkSize  = 16 << 10
	sectorSize = 512
)

// content is the bytes of a file, in chunks that are made when they are first written.
type content struct {
	chunks [][]byte // nil: zeros
	size   int64
}

// write puts b at off; size is not changed.
func (c *content) write(b []byte, off int64) {
	for len(b) > 0 {
		i, at := int(off/chunkSize), int(off%chunkSize)
		for len(c.chunks) <= i {
			c.chunks = append(c.chunks, nil)
		}
		if c.chunks[i] == nil {
			c.chunks[i] = make([]byte, chunkSize)
		}
		n := copy(c.chunks[i][at:], b)
		b, off = b[n:], off+int64(n)
	}
}

// read fills b from off; beyond what was written there are zeros.
func (c *content) read(b []byte, off int64) []byte {
	for rest := b; len(rest) > 0; {
		i, at := int(off/chunkSize), int(off%chunkSize)
		n := min(len(rest), chunkSize-at)
		if i < len(c.chunks) && c.chunks[i] != nil {
			copy(rest[:n], c.chunks[i][at:])
		} else {
			clear(rest[:n])
		}
		rest, off = rest[n:], off+int64(n)
	}
	return b
}

func (c *content) clone() content {
	n := content{chunks: slices.Clone(c.chunks), size: c.size}
	for i, b := range n.chunks {
		n.chunks[i] = slices.Clone(b)
	}
	return n
}

// cut zeroes everything from size on.
func (c *content) cut(size int64) {
	if end := int64(len(c.chunks)) * chunkSize; size < end {
		c.write(make([]byte, end-size), size)
	}
	c.size = size
}

// inode is a file.
type inode struct {
	now     content // what reads and maps show
	durable content // what is on the medium
	pending []dirty // what Sync would make durable, in order
	locks   map[*file]bool
}

// dirty is a change that is not durable: bytes at off, or a new size.
type dirty struct {
	off  int64
	data []byte // nil: a new size
	size int64
	tag  uint64 // of a device write, so that its completion finds it; else 0
}

func (f *inode) put(b []byte, off int64) {
	f.now.size = max(f.now.size, off+int64(len(b)))
	f.now.write(b, off)
}

func (f *inode) resize(size int64) {
	if size < f.now.size {
		f.now.cut(size)
	}
	f.now.size = size
	f.pending = append(f.pending, dirty{size: size})
}

// settle makes one change durable.
func (c *content) settle(p dirty) {
	if p.data == nil {
		if p.size < c.size {
			c.cut(p.size)
		}
		c.size = p.size
		return
	}
	c.size = max(c.size, p.off+int64(len(p.data)))
	c.write(p.data, p.off)
}

// crash returns the file after a crash: S1.
func (f *inode) crash(rng *rand.Rand) *inode {
	c := f.durable.clone()
	for _, p := range f.pending {
		switch k := rng.IntN(4); {
		case k == 0 || p.data == nil && k == 1:
			c.settle(p)
		case k == 1: // torn in any sectors
			for i := 0; i < len(p.data); i += sectorSize {
				if rng.IntN(2) == 0 {
					c.settle(dirty{off: p.off + int64(i), data: p.data[i:min(i+sectorSize, len(p.data))]})
				}
			}
		case k == 2 && p.data != nil: // torn at one place
			if n := rng.IntN(len(p.data)/sectorSize+1) * sectorSize; n > 0 {
				c.settle(dirty{off: p.off, data: p.data[:min(n, len(p.data))]})
			}
		}
	}
	return &inode{now: c, durable: c.clone()}
}

// file is an open file.
type file struct {
	d     *Disk
	name  string
	f     *inode
	write bool
}

func (h *file) Name() string { return h.name }

func (h *file) ReadAt(p []byte, off int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.crashed.Load() {
		return 0, ErrCrashed
	}
	if h.d.fault != nil {
		if err := h.d.fault(Op{OpRead, h.name, off, len(p)}); err != nil {
			return 0, err
		}
	}
	n := int(max(0, min(int64(len(p)), h.f.now.size-off)))
	h.f.now.read(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

var errReadOnly = errors.New("simulated file is open for reading only")

func (h *file) WriteAt(p []byte, off int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if !h.write {
		return 0, errReadOnly
	}
	last, err := h.d.op(Op{OpWrite, h.name, off, len(p)})
	if err != nil && !last {
		return 0, err
	}
	h.f.put(p, off)
	h.f.pending = append(h.f.pending, dirty{off: off, data: slices.Clone(p)})
	return len(p), err
}

func (h *file) Close() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	delete(h.f.locks, h)
	return nil
}

func (h *file) Size() (int64, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.crashed.Load() {
		return 0, ErrCrashed
	}
	return h.f.now.size, nil
}

func (h *file) Truncate(size int64) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	last, err := h.d.op(Op{Kind: OpTruncate, Name: h.name, Off: size})
	if err == nil || last {
		h.f.resize(size)
	}
	return err
}

func (h *file) Allocate(off, n int64) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	last, err := h.d.op(Op{OpAllocate, h.name, off, int(n)})
	if err != nil && !last {
		return err
	}
	if grow := off + n - h.f.now.size; grow > 0 {
		if c := h.d.opts.Capacity; c > 0 && h.d.used()+grow > c {
			return fmt.Errorf("allocate %s: %w", h.name, syscall.ENOSPC)
		}
		h.f.resize(off + n)
	}
	return err
}

func (d *Disk) used() int64 {
	n := int64(0)
	for _, f := range d.files {
		n += f.now.size
	}
	return n
}

func (h *file) Sync() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if _, err := h.d.op(Op{Kind: OpSync, Name: h.name}); err != nil {
		if h.d.opts.ForgetOnFailedSync {
			h.f.pending = nil
		}
		return err
	}
	for _, p := range h.f.pending {
		h.f.durable.settle(p)
	}
	h.f.pending = nil
	return nil
}

func (h *file) Lock(kind vfs.LockKind) error {
	exclusive := kind == vfs.LockExclusive
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	for other, ex := range h.f.locks {
		if other != h && (ex || exclusive) {
			return fmt.Errorf("lock %s: %w", h.name, vfs.ErrLocked)
		}
	}
	if h.f.locks == nil {
		h.f.locks = map[*file]bool{}
	}
	h.f.locks[h] = exclusive
	return nil
}

// DropCache forgets what is clean: the medium shows through, with what is pending over it.
func (h *file) DropCache(int64, int64) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.crashed.Load() {
		return ErrCrashed
	}
	c := h.f.durable.clone()
	for _, p := range h.f.pending {
		c.settle(p)
	}
	h.f.now = c
	return nil
}

// OpenMap is vfs.File.OpenMap.
func (h *file) OpenMap(vfs.Pattern, vfs.Reader) (vfs.Map, error) { return &view{h}, nil }

// Advise is vfs.File.Advise. It changes nothing.
func (h *file) Advise(vfs.Pattern) error { return nil }

// OpenBulk is vfs.File.OpenBulk. It reads what ReadAt does.
func (h *file) OpenBulk() vfs.Bulk { return bulk{h} }

type bulk struct{ h *file }

func (b bulk) ReadAt(p []byte, off int64) (int, error) { return b.h.ReadAt(p, off) }

func (bulk) Buffer(n int) ([]byte, func(), error) { return make([]byte, n), func() {}, nil }

func (bulk) Close() error { return nil }

// OpenReader is vfs.FS.OpenReader. Nothing is cold here.
func (d *Disk) OpenReader(vfs.Mode) vfs.Reader { return reader{} }

type reader struct{}

func (reader) Report() (r vfs.ReaderReport, c vfs.ReaderCounts) { return }

func (reader) Settle(time.Duration) error { return nil }

func (reader) Close() error { return nil }

// view is a map of a file.
type view struct{ h *file }

func (v *view) View(off int64, n int) ([]byte, error) {
	d, c := v.h.d, &v.h.f.now
	d.mu.Lock()
	defer d.mu.Unlock()
	if off < 0 || n < 0 || off+int64(n) > c.size {
		return nil, fmt.Errorf("view of %d bytes at %d of %s, which has %d: %w", n, off, v.h.name, c.size, vfs.ErrBounds)
	}
	i, at := int(off/chunkSize), int(off%chunkSize)
	if at+n <= chunkSize && i < len(c.chunks) && c.chunks[i] != nil {
		return c.chunks[i][at : at+n : at+n], nil
	}
	return c.read(make([]byte, n), off), nil
}

// Holds is vfs.Map.Holds. It is not looked at.
func (v *view) Holds([]byte) bool { return true }

// Drop is vfs.Map.Drop: what is shown is what was written last.
func (v *view) Drop(int64, int64) error { return nil }

// Warm is vfs.Map.Warm. Nothing is cold.
func (v *view) Warm([]vfs.Range) (int, error) { return 0, nil }

// IsWarm is vfs.Map.IsWarm.
func (v *view) IsWarm(vfs.Range) bool { return true }

// ReadAhead is vfs.Map.ReadAhead.
func (v *view) ReadAhead([]vfs.Range) {}

// Protect is vfs.Map.Protect. The views are on the heap.
func (v *view) Protect(int64, int64) error { return nil }

// Unprotect is vfs.Map.Unprotect.
func (v *view) Unprotect(int64, int64) error { return nil }

// Counts is vfs.Map.Counts.
func (v *view) Counts() (c vfs.MapCounts) { return }

func (v *view) Close() error { return nil }

// OpenDevice is vfs.File.OpenDevice.
func (h *file) OpenDevice(o vfs.DeviceOptions) (vfs.Device, vfs.DeviceReport, error) {
	r := vfs.DeviceReport{Ring: o.Ring != vfs.ModeOff && !h.d.opts.NoRing, Direct: o.Direct != vfs.ModeOff && !h.d.opts.NoDirect, Block: h.d.opts.Block}
	if o.Ring == vfs.ModeOn && !r.Ring || o.Direct == vfs.ModeOn && !r.Direct {
		return nil, vfs.DeviceReport{}, errors.New("simulated device: what is insisted on does not work")
	}
	if !r.Ring || !r.Direct {
		r.Reason = "simulated"
	}
	return &device{h: h}, r, nil
}
