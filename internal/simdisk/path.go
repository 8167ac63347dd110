package simdisk

import (
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"pagecache/internal/vfs"
)

// The methods below are for tests. They do by path what the methods of vfs.Dir do in an open directory.

// parent returns the directory in which a clean path lies.
func (d *Disk) parent(op, path string) (*folder, error) {
	if d.crashed.Load() {
		return nil, ErrCrashed
	}
	return d.folder(op, filepath.Dir(path))
}

// Open is vfs.Dir.Open.
func (d *Disk) Open(name string, flag vfs.Flag) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Clean(name)
	in, err := d.parent("open", name)
	if err != nil {
		return nil, err
	}
	return d.open(in, name, flag)
}

// Rename is vfs.Dir.Rename, also of a directory.
func (d *Disk) Rename(oldname, newname string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	oldname, newname = filepath.Clean(oldname), filepath.Clean(newname)
	in, err := d.parent("rename", oldname)
	if err == nil && filepath.Dir(oldname) != filepath.Dir(newname) {
		err = &fs.PathError{Op: "rename", Path: oldname, Err: errors.ErrUnsupported}
	}
	if err != nil {
		return err
	}
	return d.rename(in, oldname, newname)
}

// Remove is vfs.Dir.Remove, also of an empty directory.
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Clean(name)
	in, err := d.parent("remove", name)
	if err != nil {
		return err
	}
	return d.remove(in, name)
}

// RemoveAll removes a directory with everything in it.
func (d *Disk) RemoveAll(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Clean(name)
	in, err := d.parent("remove", name)
	if err != nil {
		return err
	}
	return d.removeAll(in, name)
}

func (d *Disk) removeAll(in *folder, path string) error {
	if f, ok := in.now[filepath.Base(path)].(*folder); ok {
		for _, name := range slices.Sorted(maps.Keys(f.now)) {
			if err := d.removeAll(f, filepath.Join(path, name)); err != nil {
				return err
			}
		}
	}
	return d.remove(in, path)
}

// ReadDir is vfs.Dir.ReadDir.
func (d *Disk) ReadDir(name string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed.Load() {
		return nil, ErrCrashed
	}
	f, err := d.folder("readdir", filepath.Clean(name))
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(f.now)), nil
}

// SyncDir is vfs.Dir.Sync.
func (d *Disk) SyncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed.Load() {
		return ErrCrashed
	}
	f, err := d.folder("sync", filepath.Clean(name))
	if err != nil {
		return err
	}
	return d.syncFolder(f, filepath.Clean(name))
}
