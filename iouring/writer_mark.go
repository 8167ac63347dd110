//go:build linux

package iouring

import (
	"os"

	"golang.org/x/sys/unix"
)

// A write with O_DIRECT belongs to a descriptor of its own. If the process is killed, its other descriptors are closed
// and their locks are released at once, while the kernel may still write. So the descriptor carries a mark: a shared
// lock of one byte, far behind the end of any file, that belongs to the open file description. The kernel removes it
// with the last reference, when the last write has ended (trap 19).

// markByte is the byte that is locked.
const markByte = 1 << 62

// mark marks d. A file system without such locks has no marks.
func mark(d int) error {
	l := unix.Flock_t{Type: unix.F_RDLCK, Start: markByte, Len: 1}
	if err := unix.FcntlFlock(uintptr(d), unix.F_OFD_SETLK, &l); err != nil && !noMarks(err) {
		return err
	}
	return nil
}

// unmark removes the mark of d: no write is in flight. Without this, a ring could keep it for some milliseconds more.
func unmark(d *os.File) {
	l := unix.Flock_t{Type: unix.F_UNLCK, Start: markByte, Len: 1}
	_ = unix.FcntlFlock(d.Fd(), unix.F_OFD_SETLK, &l) // the mark goes with d at the latest
}

// Marked reports whether a Writer may still write to the file behind fd with O_DIRECT, also one of a process that has
// ended. The caller excludes new Writers, with a lock.
func Marked(fd int) (bool, error) {
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: markByte, Len: 1}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &l); err != nil && !noMarks(err) {
		return false, err
	}
	return l.Type == unix.F_RDLCK, nil
}

// noMarks reports whether err says that the file system has no locks of bytes.
func noMarks(err error) bool {
	switch err {
	case unix.EINVAL, unix.ENOSYS, unix.ENOLCK, unix.EOPNOTSUPP:
		return true
	}
	return false
}
