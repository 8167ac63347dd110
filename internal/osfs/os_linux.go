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

// retry calls f until it is not interrupted.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

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
	// O_NONBLOCK: opening a FIFO does not wait for its other end. O_NOFOLLOW: a link in place of a file is refused.
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
	// Only now that it is known to be ours to empty.
	if flag&vfs.FlagTrunc != 0 && flag&vfs.FlagWrite != 0 {
		if err := f.Truncate(0); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// regular refuses what is not a regular file of one name.
func (f *osFile) regular(write bool) error {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(f.fd, &st) }); err != nil {
		return pathError("stat", f.Name(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("open %s: not a regular file", f.Name())
	}
	if write && st.Nlink > 1 {
		return fmt.Errorf("open %s: the file has %d hard links; writing would change it under its other names", f.Name(), st.Nlink)
	}
	return nil
}

func (osFS) Rename(oldname, newname string) error { return os.Rename(oldname, newname) }

func (osFS) Remove(name string) error { return os.Remove(name) }

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

type osFile struct {
	*os.File
	fd        int
	fallocate func(fd int, mode uint32, off, n int64) error // seam
}

func (f *osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (f *osFile) Allocate(off, n int64) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	err = retry(func() error { return f.fallocate(f.fd, 0, off, n) })
	if err == unix.EOPNOTSUPP {
		err = f.writeZeros(size, off, n)
	}
	if err == nil {
		return nil
	}
	// ext4 takes space extent by extent and, when there is no more, leaves the file grown over what it got.
	return errors.Join(pathError("allocate", f.Name(), err), f.Truncate(size))
}

// writeZeros reserves space where the file system cannot do so by itself: past the file's size, what is below it stays as it is.
func (f *osFile) writeZeros(size, off, n int64) error {
	zeros := make([]byte, min(n, 1<<20))
	for done := max(0, size-off); done < n; done += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), n-done)], off+done); err != nil {
			return err
		}
	}
	return nil
}

func (f *osFile) Lock(kind vfs.LockKind) error {
	how := unix.LOCK_SH
	if kind == vfs.LockExclusive {
		how = unix.LOCK_EX
	}
	err := retry(func() error { return unix.Flock(f.fd, how|unix.LOCK_NB) })
	if err == unix.EWOULDBLOCK {
		return fmt.Errorf("lock %s: %w", f.Name(), vfs.ErrLocked)
	}
	return pathError("lock", f.Name(), err)
}

func (f *osFile) DropCache(off, n int64) error {
	return pathError("fadvise", f.Name(), retry(func() error { return unix.Fadvise(f.fd, off, n, unix.FADV_DONTNEED) }))
}

func (f *osFile) Advise(p vfs.Pattern) error {
	advice := unix.FADV_SEQUENTIAL
	if p == vfs.PatternRandom {
		advice = unix.FADV_RANDOM
	}
	return pathError("fadvise", f.Name(), retry(func() error { return unix.Fadvise(f.fd, 0, 0, advice) }))
}
