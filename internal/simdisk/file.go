package simdisk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"pagecache/internal/vfs"
)

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
	o := Op{OpRead, h.name, off, len(p)}
	h.d.awaitStall(o)
	if h.d.crashed.Load() {
		return 0, ErrCrashed
	}
	if h.d.fault != nil {
		if err := h.d.fault(o); err != nil {
			return 0, err
		}
	}
	n := int(max(0, min(int64(len(p)), h.f.now.size-off)))
	if ok := int(h.f.readable(off, int64(n))); ok < n {
		h.f.now.read(p[:ok], off)
		return ok, &fs.PathError{Op: "read", Path: h.name, Err: syscall.EIO}
	}
	h.f.now.read(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

var errReadOnly = errors.New("simulated file is open for reading only")

func (h *file) WriteAt(p []byte, off int64) (int, error) {
	h.d.rest()
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if !h.write {
		return 0, errReadOnly
	}
	last, err := h.d.op(Op{OpWrite, h.name, off, len(p)})
	if err != nil && !last && !isLie(err) {
		return 0, err
	}
	if made, ok := h.d.made(h.f, p, off, err); ok {
		h.f.put(made.data, made.off)
		h.f.pending = append(h.f.pending, made)
	}
	if isLie(err) {
		err = nil
	}
	return len(p), err
}

func (h *file) Close() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	delete(h.f.locks, h)
	return nil
}

func (h *file) Identity() (vfs.Identity, error) {
	if h.d.crashed.Load() {
		return vfs.Identity{}, ErrCrashed
	}
	return h.f.identity(), nil
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
	grow, missing := max(0, off+n-h.f.now.size), h.f.now.missing(off, n)
	if !h.d.hasRoom(grow + missing) {
		return fmt.Errorf("allocate %s: %w", h.name, syscall.ENOSPC)
	}
	if grow > 0 {
		h.f.resize(off + n)
	}
	if missing > 0 {
		h.f.now.fill(off, n)
		h.f.pending = append(h.f.pending, dirty{change: changeSpace, off: off, size: n})
	}
	return err
}

func (h *file) Punch(off, n int64) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if off%holeSize != 0 || n%holeSize != 0 || n <= 0 {
		return fmt.Errorf("punch %s: [%d, %d): %w", h.name, off, off+n, syscall.EINVAL)
	}
	last, err := h.d.op(Op{OpPunch, h.name, off, int(n)})
	if err == nil || last {
		h.f.now.punch(off, n)
		h.f.pending = append(h.f.pending, dirty{change: changeHole, off: off, size: n})
	}
	return err
}

// Clone implements vfs.Cloner. The bytes are copied: they take space, and a crash tears them as those of WriteAt.
func (h *file) Clone(from vfs.File, off, n int64) error {
	if h.d.opts.NoClone {
		return fmt.Errorf("clone %s: %w", from.Name(), errors.ErrUnsupported)
	}
	if off%vfs.BulkAlign != 0 || n%vfs.BulkAlign != 0 {
		return fmt.Errorf("clone %s: [%d, %d): %w", from.Name(), off, off+n, syscall.EINVAL)
	}
	b := make([]byte, n)
	if _, err := from.ReadAt(b, off); err != nil {
		return fmt.Errorf("clone %s: %w", from.Name(), err)
	}
	_, err := h.WriteAt(b, off)
	return err
}

func (h *file) Occupied() (int64, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.crashed.Load() {
		return 0, ErrCrashed
	}
	return h.f.now.space(), nil
}

// hasRoom reports whether the disk has room for n bytes more.
func (d *Disk) hasRoom(n int64) bool {
	c := d.opts.Capacity
	return n <= 0 || c <= 0 || d.used()+n <= c
}

func (d *Disk) used() int64 {
	n := int64(0)
	d.root.files(shown, "/", func(_ string, f *inode) { n += f.now.space() })
	return n
}

func (h *file) Sync() error {
	h.d.rest()
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	_, err := h.d.op(Op{Kind: OpSync, Name: h.name})
	if isLie(err) {
		return nil
	}
	if err != nil {
		if h.d.opts.ForgetOnFailedSync {
			h.f.pending, h.f.differs = nil, true
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

// DropCache evicts clean bytes: the file then shows the bytes on the disk, with the pending changes over them.
func (h *file) DropCache(int64, int64) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.crashed.Load() {
		return ErrCrashed
	}
	if len(h.f.pending) == 0 && !h.f.differs {
		return nil
	}
	c := h.f.durable.clone()
	for _, p := range h.f.pending {
		c.settle(p)
	}
	h.f.now = c
	return nil
}

// OpenDevice is vfs.File.OpenDevice.
func (h *file) OpenDevice(o vfs.DeviceOptions) (vfs.Device, vfs.DeviceReport, error) {
	r := vfs.DeviceReport{Block: h.d.opts.Block}
	r.Ring = o.Ring != vfs.ModeOff && !h.d.opts.NoRing
	r.Direct = o.Direct != vfs.ModeOff && !h.d.opts.NoDirect
	if o.Ring == vfs.ModeOn && !r.Ring || o.Direct == vfs.ModeOn && !r.Direct {
		return nil, vfs.DeviceReport{}, errors.New("open simulated device: io_uring or O_DIRECT does not work")
	}
	if !r.Ring || !r.Direct {
		r.Reason = "simulated"
	}
	return &device{h: h}, r, nil
}
