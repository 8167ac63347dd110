package simdisk

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"syscall"

	"pagecache/internal/vfs"
)

// dir is an open directory.
type dir struct {
	d      *Disk
	f      *folder
	path   string // by which it was opened
	in     *dir   // the directory through which it was opened; nil: by its path
	closed bool
}

func (h *dir) Name() string { return h.path }

func (h *dir) join(name string) string { return filepath.Join(h.path, name) }

// enter locks the disk, and says why there can be no call with these names. The caller unlocks it in any case.
func (h *dir) enter(op string, names ...string) error {
	h.d.mu.Lock()
	for _, name := range names {
		if err := vfs.CheckName(op, h.path, name); err != nil {
			return err
		}
	}
	if h.closed {
		return &fs.PathError{Op: op, Path: h.path, Err: fs.ErrClosed}
	}
	if h.d.crashed.Load() {
		return ErrCrashed
	}
	return nil
}

func (h *dir) Open(name string, flag vfs.Flag) (vfs.File, error) {
	err := h.enter("open", name)
	defer h.d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return h.d.open(h.f, h.join(name), flag)
}

func (h *dir) OpenDir(name string) (vfs.Dir, error) {
	err := h.enter("open", name)
	defer h.d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	switch n := h.f.now[name].(type) {
	case *folder:
		return &dir{d: h.d, f: n, path: h.join(name), in: h}, nil
	case *inode:
		return nil, fmt.Errorf("open %s: not a directory", h.join(name))
	}
	return nil, &fs.PathError{Op: "open", Path: h.join(name), Err: fs.ErrNotExist}
}

func (h *dir) Mkdir(name string) error {
	err := h.enter("mkdir", name)
	defer h.d.mu.Unlock()
	if err == nil {
		_, err = h.d.op(Op{Kind: OpMkdir, Name: h.join(name)})
	}
	switch {
	case err != nil:
		return err
	case h.f.removed:
		return &fs.PathError{Op: "mkdir", Path: h.join(name), Err: fs.ErrNotExist}
	case h.f.now[name] != nil:
		return &fs.PathError{Op: "mkdir", Path: h.join(name), Err: fs.ErrExist}
	}
	h.d.change(entryOp{in: h.f, name: name, node: h.d.newFolder()})
	return nil
}

func (h *dir) Rename(oldname, newname string) error {
	err := h.enter("rename", oldname, newname)
	defer h.d.mu.Unlock()
	if err != nil {
		return err
	}
	return h.d.rename(h.f, h.join(oldname), h.join(newname))
}

func (h *dir) Remove(name string) error {
	err := h.enter("remove", name)
	defer h.d.mu.Unlock()
	if err != nil {
		return err
	}
	if _, ok := h.f.now[name].(*folder); ok {
		return &fs.PathError{Op: "remove", Path: h.join(name), Err: syscall.EISDIR}
	}
	return h.d.remove(h.f, h.join(name))
}

func (h *dir) Unlink() error {
	err := h.enter("remove")
	defer h.d.mu.Unlock()
	if err != nil {
		return err
	}
	var in *folder
	if h.in != nil {
		in = h.in.f
	} else if in, err = h.d.folder("remove", filepath.Dir(h.path)); err != nil {
		return err
	}
	switch in.now[filepath.Base(h.path)] {
	case nil:
		return &fs.PathError{Op: "remove", Path: h.path, Err: fs.ErrNotExist}
	case h.f:
		return h.d.remove(in, h.path)
	}
	return fmt.Errorf("remove %s: this is another directory now", h.path)
}

func (h *dir) ReadDir() ([]string, error) {
	err := h.enter("readdir")
	defer h.d.mu.Unlock()
	if err == nil && h.f.removed {
		err = &fs.PathError{Op: "readdir", Path: h.path, Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(h.f.now)), nil
}

func (h *dir) Identify(name string) (vfs.Identity, error) {
	err := h.enter("stat", name)
	defer h.d.mu.Unlock()
	if err != nil {
		return vfs.Identity{}, err
	}
	n := h.f.now[name]
	if n == nil {
		return vfs.Identity{}, &fs.PathError{Op: "stat", Path: h.join(name), Err: fs.ErrNotExist}
	}
	return n.identity(), nil
}

func (h *dir) Sync() error {
	err := h.enter("sync")
	defer h.d.mu.Unlock()
	if err != nil {
		return err
	}
	return h.d.syncFolder(h.f, h.path)
}

func (h *dir) Close() error {
	err := h.enter("close")
	defer h.d.mu.Unlock()
	h.closed = true
	if errors.Is(err, ErrCrashed) {
		return nil
	}
	return err
}

// open opens the file with this path in a directory.
func (d *Disk) open(in *folder, path string, flag vfs.Flag) (vfs.File, error) {
	n := in.now[filepath.Base(path)]
	if _, ok := n.(*folder); ok {
		return nil, fmt.Errorf("open %s: not a regular file", path)
	}
	f, _ := n.(*inode)
	if f == nil && (flag&vfs.FlagCreate == 0 || flag&vfs.FlagWrite == 0 || in.removed) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	if _, err := d.op(Op{Kind: OpOpen, Name: path}); err != nil {
		return nil, err
	}
	if f == nil {
		f = d.newInode()
		d.change(entryOp{in: in, name: filepath.Base(path), node: f})
	}
	if flag&vfs.FlagTrunc != 0 && flag&vfs.FlagWrite != 0 {
		f.resize(0)
	}
	return &file{d: d, name: path, f: f, write: flag&vfs.FlagWrite != 0}, nil
}

// rename renames a file or directory within a directory. It is one change: both names survive, or neither.
func (d *Disk) rename(in *folder, oldpath, newpath string) error {
	if _, err := d.op(Op{Kind: OpRename, Name: newpath}); err != nil {
		return err
	}
	oldname, newname := filepath.Base(oldpath), filepath.Base(newpath)
	n, old := in.now[oldname], in.now[newname]
	fail := func(err error) error { return &fs.PathError{Op: "rename", Path: newpath, Err: err} }
	_, isDir := n.(*folder)
	over, overDir := old.(*folder)
	switch {
	case n == nil:
		return &fs.PathError{Op: "rename", Path: oldpath, Err: fs.ErrNotExist}
	case n == old:
		return nil
	case isDir && old != nil && !overDir:
		return fail(syscall.ENOTDIR)
	case !isDir && overDir:
		return fail(syscall.EISDIR)
	case overDir && len(over.now) > 0:
		return fail(syscall.ENOTEMPTY)
	}
	d.change(entryOp{in, newname, n, oldname})
	return nil
}

// remove removes a file or an empty directory.
func (d *Disk) remove(in *folder, path string) error {
	if _, err := d.op(Op{Kind: OpRemove, Name: path}); err != nil {
		return err
	}
	n := in.now[filepath.Base(path)]
	if n == nil {
		return &fs.PathError{Op: "remove", Path: path, Err: fs.ErrNotExist}
	}
	if f, ok := n.(*folder); ok && len(f.now) > 0 {
		return &fs.PathError{Op: "remove", Path: path, Err: syscall.ENOTEMPTY}
	}
	d.change(entryOp{in: in, name: filepath.Base(path)})
	return nil
}

// syncFolder makes the entries of a directory durable.
func (d *Disk) syncFolder(f *folder, path string) error {
	_, err := d.op(Op{Kind: OpSyncDir, Name: path})
	if isLie(err) {
		return nil
	}
	if err != nil {
		return err
	}
	d.settle(f)
	return nil
}
