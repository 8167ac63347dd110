package osfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/internal/vfs"
	"pagecache/iouring"
)

// retryPatience is the time for which a system call that signals interrupt is repeated.
const retryPatience = 10 * time.Second

// retry calls f again while a signal interrupts it, for retryPatience at most.
func retry(f func() error) error {
	var start time.Time
	for {
		err := f()
		if err != unix.EINTR {
			return err
		}
		if start.IsZero() {
			start = time.Now()
		} else if time.Since(start) > retryPatience {
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

type osFile struct {
	*os.File
	fd        int
	fallocate func(fd int, mode uint32, off, n int64) error // seam for tests
}

// regular checks that the file is a regular one, and for writing that it has only one name.
func (f *osFile) regular(write bool) error {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(f.fd, &st) }); err != nil {
		return pathError("stat", f.Name(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("open %s: not a regular file", f.Name())
	}
	if write && st.Nlink > 1 {
		return fmt.Errorf("open %s: the file has %d hard links, and writing would change it under its other names",
			f.Name(), st.Nlink)
	}
	return nil
}

func (f *osFile) Identity() (vfs.Identity, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstat(f.fd, &st) })
	return identity(&st), pathError("stat", f.Name(), err)
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
	// ext4 reserves space extent by extent. If the disk is full it leaves the file extended over what it has reserved.
	return errors.Join(pathError("allocate", f.Name(), err), f.Truncate(size))
}

func (f *osFile) Punch(off, n int64) error {
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	return pathError("punch", f.Name(), retry(func() error { return f.fallocate(f.fd, mode, off, n) }))
}

// Clone implements vfs.Cloner.
func (f *osFile) Clone(from vfs.File, off, n int64) error {
	src, ok := from.(*osFile)
	if !ok {
		return fmt.Errorf("clone %s: %w", from.Name(), errors.ErrUnsupported)
	}
	err := retry(func() error {
		return unix.IoctlFileCloneRange(f.fd, &unix.FileCloneRange{Src_fd: int64(src.fd), Src_offset: uint64(off),
			Src_length: uint64(n), Dest_offset: uint64(off)})
	})
	switch err {
	case unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS, unix.EXDEV, unix.EINVAL, unix.EPERM, unix.ETXTBSY:
		err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return pathError("clone", f.Name(), err)
}

func (f *osFile) Occupied() (int64, error) {
	st, err := f.Stat() // which is safe beside Close
	if err != nil {
		return 0, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return st.Size(), nil
	}
	return sys.Blocks * 512, nil
}

// writeZeros reserves space on file systems without fallocate: it writes zeros past size, the file's size, and changes
// nothing below it.
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
	if err == nil {
		var marked bool
		if marked, err = iouring.Marked(f.fd); err == nil && !marked {
			return nil
		}
		// The owner of the lock has ended, and its last writes have not (trap 19).
		_ = unix.Flock(f.fd, unix.LOCK_UN)
		if marked {
			err = unix.EWOULDBLOCK
		}
	}
	if err == unix.EWOULDBLOCK {
		return fmt.Errorf("lock %s: %w", f.Name(), vfs.ErrLocked)
	}
	return pathError("lock", f.Name(), err)
}

func (f *osFile) DropCache(off, n int64) error {
	err := retry(func() error { return unix.Fadvise(f.fd, off, n, unix.FADV_DONTNEED) })
	return pathError("fadvise", f.Name(), err)
}

func (f *osFile) Advise(p vfs.Pattern) error {
	advice := unix.FADV_SEQUENTIAL
	if p == vfs.PatternRandom {
		advice = unix.FADV_RANDOM
	}
	return pathError("fadvise", f.Name(), retry(func() error { return unix.Fadvise(f.fd, 0, 0, advice) }))
}
