//go:build linux

package iouring

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calls is the queue of system calls: each write is done when it is entered, with pwritev2 and RWF_DSYNC, or, on a file system that does not
// know the flag, with pwrite and fdatasync, both of which must succeed.
type calls struct {
	fd      int
	dsync   bool // RWF_DSYNC is known
	pushed  []call
	done    []call
	pwritev func(fd int, buf []byte, off int64) (int, unix.Errno) // seams
	sync    func(fd int) error
}

type call struct {
	id  uint64
	off int64
	buf []byte
	res int32
}

func newCalls(fd, depth int) *calls {
	return &calls{fd: fd, dsync: true, pushed: make([]call, 0, depth), done: make([]call, 0, depth), pwritev: pwritevDsync, sync: unix.Fdatasync}
}

func (c *calls) push(id uint64, off int64, buf []byte) {
	c.pushed = append(c.pushed, call{id: id, off: off, buf: buf})
}

func (c *calls) enter(int) error {
	for _, x := range c.pushed {
		x.res = c.write(x)
		x.buf = nil
		c.done = append(c.done, x)
	}
	clear(c.pushed)
	c.pushed = c.pushed[:0]
	return nil
}

func (c *calls) write(x call) int32 {
	if c.dsync {
		n, errno := c.pwritev(c.fd, x.buf, x.off)
		if errno != unix.EOPNOTSUPP && errno != unix.ENOSYS {
			return result(n, errno)
		}
		c.dsync = false
	}
	n, err := unix.Pwrite(c.fd, x.buf, x.off)
	if err == nil {
		err = c.sync(c.fd)
	}
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) {
		errno = unix.EIO
	}
	if errno == unix.EINTR && n > 0 {
		errno = unix.EIO // the sync was cut short: what it covered is not known
	}
	return result(n, errno)
}

func result(n int, errno unix.Errno) int32 {
	if errno != 0 {
		return -int32(errno)
	}
	return int32(n)
}

func (c *calls) pop() (uint64, int32, bool) {
	if len(c.done) == 0 {
		return 0, 0, false
	}
	x := c.done[len(c.done)-1]
	c.done = c.done[:len(c.done)-1]
	return x.id, x.res, true
}

func (c *calls) close() error { return nil }

func pwritevDsync(fd int, buf []byte, off int64) (int, unix.Errno) {
	iov := unix.Iovec{Base: unsafe.SliceData(buf)}
	iov.SetLen(len(buf))
	n, _, errno := unix.Syscall6(unix.SYS_PWRITEV2, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 1, uintptr(off), 0, unix.RWF_DSYNC)
	return int(n), errno
}
