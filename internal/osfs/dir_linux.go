package osfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"pagecache/internal/vfs"
)

// dirMode is how directories are opened. fsync needs a descriptor that is open for reading.
const dirMode = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC

// osDir is an open directory. An os.Root would follow symbolic links below the directory.
type osDir struct {
	f    *os.File // its name is the path by which the directory was opened
	in   *osDir   // the directory through which it was opened; nil: by its path
	base string   // its name in that one
}

func (d *osDir) Name() string { return d.f.Name() }

func (d *osDir) path(name string) string { return filepath.Join(d.Name(), name) }

// do calls f with the descriptor, which stays open meanwhile, again for as long as a signal interrupts it.
func (d *osDir) do(f func(fd int) error) error {
	conn, err := d.f.SyscallConn()
	if err != nil {
		return fs.ErrClosed
	}
	if closed := conn.Control(func(fd uintptr) { err = retry(func() error { return f(int(fd)) }) }); closed != nil {
		return fs.ErrClosed
	}
	return err
}

// at calls f with the descriptor if name is the name of an entry. op is for the error.
func (d *osDir) at(op, name string, f func(fd int) error) error {
	if err := vfs.CheckName(op, d.Name(), name); err != nil {
		return err
	}
	return pathError(op, d.path(name), d.do(f))
}

func (d *osDir) Open(name string, flag vfs.Flag) (vfs.File, error) {
	// O_NONBLOCK: opening a FIFO does not wait for its other end. O_NOFOLLOW: a symbolic link is refused.
	mode := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	if flag&vfs.FlagWrite != 0 {
		mode |= unix.O_RDWR
		if flag&vfs.FlagCreate != 0 {
			mode |= unix.O_CREAT
		}
	}
	var fd int
	err := d.at("open", name, func(at int) (err error) {
		fd, err = unix.Openat(at, name, mode, 0o644)
		return err
	})
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("open %s: it is a symbolic link, not a regular file", d.path(name))
	}
	if err != nil {
		return nil, err
	}
	f := &osFile{File: os.NewFile(uintptr(fd), d.path(name)), fd: fd, fallocate: unix.Fallocate}
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

func (d *osDir) OpenDir(name string) (vfs.Dir, error) {
	var fd int
	err := d.at("open", name, func(at int) (err error) {
		fd, err = unix.Openat(at, name, dirMode|unix.O_NOFOLLOW, 0)
		return err
	})
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("open %s: it is not a directory, or it is a symbolic link to one", d.path(name))
	}
	if err != nil {
		return nil, err
	}
	return &osDir{f: os.NewFile(uintptr(fd), d.path(name)), in: d, base: name}, nil
}

func (d *osDir) Mkdir(name string) error {
	return d.at("mkdir", name, func(at int) error { return unix.Mkdirat(at, name, 0o755) })
}

func (d *osDir) Rename(oldname, newname string) error {
	if err := vfs.CheckName("rename", d.Name(), oldname); err != nil {
		return err
	}
	return d.at("rename", newname, func(at int) error { return unix.Renameat(at, oldname, at, newname) })
}

func (d *osDir) Remove(name string) error {
	return d.at("remove", name, func(at int) error { return unix.Unlinkat(at, name, 0) })
}

// Unlink is vfs.Dir.Unlink. Nothing keeps the path from being changed between the comparison and the removal. Then
// another directory is removed, but only if it is empty.
func (d *osDir) Unlink() error {
	open, err := d.identity()
	if err != nil {
		return err
	}
	var named vfs.Identity
	if d.in != nil {
		named, err = d.in.Identify(d.base)
	} else {
		var st unix.Stat_t
		err = pathError("stat", d.Name(), retry(func() error { return unix.Lstat(d.Name(), &st) }))
		named = identity(&st)
	}
	if err != nil {
		return err
	}
	if named != open {
		return fmt.Errorf("remove %s: this is another directory now", d.Name())
	}
	if d.in != nil {
		return d.in.at("remove", d.base, func(at int) error { return unix.Unlinkat(at, d.base, unix.AT_REMOVEDIR) })
	}
	return pathError("remove", d.Name(), retry(func() error { return unix.Rmdir(d.Name()) }))
}

// ReadDir is vfs.Dir.ReadDir. The position of reading belongs to a descriptor, so each call opens one of its own.
func (d *osDir) ReadDir() ([]string, error) {
	var fd int
	err := d.do(func(at int) (err error) {
		fd, err = unix.Openat(at, ".", dirMode, 0)
		return err
	})
	if err != nil {
		return nil, pathError("open", d.Name(), err)
	}
	f := os.NewFile(uintptr(fd), d.Name())
	names, err := f.Readdirnames(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

func (d *osDir) Identify(name string) (vfs.Identity, error) {
	var st unix.Stat_t
	err := d.at("stat", name, func(at int) error { return unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return identity(&st), err
}

func (d *osDir) identity() (vfs.Identity, error) {
	var st unix.Stat_t
	err := d.do(func(fd int) error { return unix.Fstat(fd, &st) })
	return identity(&st), pathError("stat", d.Name(), err)
}

func identity(st *unix.Stat_t) vfs.Identity {
	return vfs.Identity{Device: uint64(st.Dev), Inode: uint64(st.Ino)}
}

func (d *osDir) Sync() error { return d.f.Sync() }

func (d *osDir) Close() error { return d.f.Close() }
