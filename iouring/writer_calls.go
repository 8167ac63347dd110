//go:build linux

package iouring

import (
	"errors"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calls is the queue of system calls. Enter makes the pushed writes one by one with pwritev2 and RWF_DSYNC. If the
// kernel does not know that flag, it makes them with pwrite and fdatasync, both of which must succeed.
type calls struct {
	target  int
	dsync   bool // the kernel knows RWF_DSYNC, as far as is known
	pushed  []call
	done    []call
	pwritev func(fd int, buf []byte, off int64) (int, unix.Errno) // seams for tests
	pwrite  func(fd int, buf []byte, off int64) (int, error)
	sync    func(fd int) error
}

type call struct {
	id  uint64
	off int64
	buf []byte
	res int32
}

func newCalls(fd, depth int) *calls {
	return &calls{target: fd, dsync: true, pushed: make([]call, 0, depth), done: make([]call, 0, depth),
		pwritev: pwritevDsync, pwrite: unix.Pwrite, sync: unix.Fdatasync}
}

func (c *calls) Push(id uint64, off int64, buf []byte) {
	c.pushed = append(c.pushed, call{id: id, off: off, buf: buf})
}

func (c *calls) Pending() bool { return len(c.pushed) > 0 }

func (c *calls) Enter(int) error {
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
		n, errno := c.pwritev(c.target, x.buf, x.off)
		if errno != unix.EOPNOTSUPP && errno != unix.ENOSYS {
			return result(n, errno)
		}
		c.dsync = false
	}
	n, err := c.pwrite(c.target, x.buf, x.off)
	if err == nil {
		// A failed sync fails the write, however much was written. After an interrupted one (EINTR) the Writer makes
		// the whole write again, so that the next sync covers all of it.
		err = c.sync(c.target)
	}
	if err == nil {
		return int32(n)
	}
	var errno unix.Errno
	if !errors.As(err, &errno) || errno == 0 {
		errno = unix.EIO
	}
	return -int32(errno)
}

func result(n int, errno unix.Errno) int32 {
	if errno != 0 {
		return -int32(errno)
	}
	return int32(n)
}

func (c *calls) Pop() (uint64, int32, bool) {
	if len(c.done) == 0 {
		return 0, 0, false
	}
	x := c.done[len(c.done)-1]
	c.done = c.done[:len(c.done)-1]
	return x.id, x.res, true
}

// Await does not wait: Enter makes the calls and does not fail, so nothing is under way outside of it.
func (c *calls) Await(time.Duration) error {
	if len(c.done) > 0 {
		return nil
	}
	return os.ErrDeadlineExceeded
}

func (c *calls) Close() error { return nil }

// pwritevDsync writes once. unix.Pwritev2 would allocate.
func pwritevDsync(fd int, buf []byte, off int64) (int, unix.Errno) {
	iov := unix.Iovec{Base: unsafe.SliceData(buf)}
	iov.SetLen(len(buf))
	// The offset is passed in two halves. 64-bit kernels ignore the higher one.
	n, _, errno := unix.Syscall6(unix.SYS_PWRITEV2, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 1, uintptr(off),
		uintptr(uint64(off)>>32), unix.RWF_DSYNC)
	return int(n), errno
}
