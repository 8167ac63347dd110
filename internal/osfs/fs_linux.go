package osfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"pagecache/internal/vfs"
)

// OS is the file system of the operating system.
var OS vfs.FS = osFS{}

type osFS struct{}

func (osFS) MkdirAll(dir string) error {
	dir = filepath.Clean(dir)
	st, err := os.Stat(dir)
	if err == nil {
		if !st.IsDir() {
			return pathError("mkdir", dir, unix.ENOTDIR)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := OS.MkdirAll(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return OS.SyncDir(parent)
}

func (osFS) Open(name string, flag vfs.Flag) (vfs.File, error) {
	// O_NONBLOCK: opening a FIFO does not wait for its other end. O_NOFOLLOW: a symbolic link is refused.
	mode := unix.O_RDONLY
	if flag&vfs.FlagWrite != 0 {
		mode = unix.O_RDWR
		if flag&vfs.FlagCreate != 0 {
			mode |= unix.O_CREAT
		}
	}
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Open(name, mode|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644)
		return err
	})
	if err == unix.ELOOP {
		return nil, fmt.Errorf("open %s: it is a symbolic link, not a regular file", name)
	}
	if err != nil {
		return nil, pathError("open", name, err)
	}
	f := &osFile{File: os.NewFile(uintptr(fd), name), fd: fd, fallocate: unix.Fallocate}
	if err := f.regular(flag&vfs.FlagWrite != 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// Not by O_TRUNC: the file is emptied only after it is known to be a regular one.
	if flag&vfs.FlagTrunc != 0 && flag&vfs.FlagWrite != 0 {
		if err := f.Truncate(0); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

func (osFS) Rename(oldname, newname string) error { return os.Rename(oldname, newname) }

func (osFS) Remove(name string) error { return os.Remove(name) }

func (osFS) Abs(name string) (string, error) { return filepath.Abs(name) }

func (osFS) ReadDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
