//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"pagecache/iouring/internal/ring"
)

// scratch is a nameless file in the directory of the log, opened in the same mode, with room for one block, and a block
// of zeros to write.
type scratch struct {
	file *os.File
	buf  []byte
}

func newScratch(logFD int, direct bool, block int) (*scratch, error) {
	name, err := os.Readlink(procName(logFD))
	if err != nil {
		return nil, err
	}
	flags := unix.O_TMPFILE | unix.O_RDWR | unix.O_CLOEXEC
	if direct {
		flags |= unix.O_DIRECT
	}
	fd, err := retryOpen(filepath.Dir(name), flags)
	if err != nil {
		return nil, err
	}
	s := &scratch{file: os.NewFile(uintptr(fd), "probe")}
	if s.buf, err = AllocBuffer(block); err == nil {
		err = unix.Fallocate(fd, 0, 0, int64(block))
	}
	var errno unix.Errno
	if errors.As(err, &errno) && (errno == unix.EOPNOTSUPP || ring.Judge(-int32(errno), 1) == ring.VerdictDiskFull) {
		err = nil // a full disk shows in the probe's write, and is no fault of the way of writing
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *scratch) fd() int { return int(s.file.Fd()) }

func (s *scratch) close() error {
	if s == nil {
		return nil
	}
	if s.buf != nil {
		FreeBuffer(s.buf)
	}
	return s.file.Close()
}

// tryCalls makes a durable write to the scratch file by system calls.
func (s *scratch) tryCalls(c *calls) error {
	old := c.target
	c.target = s.fd()
	defer func() { c.target = old }()
	for range ring.ProbeTries {
		c.Push(ring.ProbeID, 0, s.buf)
		if err := c.Enter(1); err != nil {
			return err
		}
		_, res, ok := c.Pop()
		if !ok {
			return ring.ErrNoAnswer
		}
		if err := ring.ProbeResult(res, len(s.buf)); !ring.Transient(err) {
			return err
		}
	}
	return ring.ErrNoAnswer
}

// openDirect opens the file behind fd a second time, for the same access, with O_DIRECT, and marks the descriptor.
func openDirect(fd int) (*os.File, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, err
	}
	d, err := retryOpen(procName(fd), flags&unix.O_ACCMODE|unix.O_DIRECT|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := mark(d); err != nil {
		return nil, errors.Join(err, unix.Close(d))
	}
	return os.NewFile(uintptr(d), procName(fd)), nil
}

func procName(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

func retryOpen(name string, flags int) (int, error) {
	for {
		if fd, err := unix.Open(name, flags, 0o600); err != unix.EINTR {
			return fd, err
		}
	}
}

// minBlock is the smallest block size, and the block size if the file system does not report one. The reason is safety
// and not speed: disks report logical sectors of 512 bytes on physical ones of 4096 (the measured one does), so that a
// smaller write makes the disk rewrite stable neighbours, and writeback without O_DIRECT does the same; rule 1 forbids
// it. Writes of 512 bytes would save log space, and some time on fresh space. Medians of 11 rounds of pwritev2 with
// RWF_DSYNC and O_DIRECT, ext4 on a virtio disk of a busy machine, 512 against 4096 bytes: on fresh space 178 to 227 µs
// alone, 496 to 599 µs with four in flight; overwriting 202 to 174 µs and 225 to 234 µs, which is within the noise.
const minBlock = 4096

// blockSize returns the unit of writing: the one that statx reports for direct I/O, but at least minBlock.
func blockSize(fd int) int {
	var st unix.Statx_t
	block := uint32(minBlock)
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 {
		block = max(block, st.Dio_offset_align, st.Dio_mem_align)
	}
	return int(block)
}

// memlockHint names the limit on locked memory if that may be the cause of err.
func memlockHint(err error) string {
	if !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.EPERM) {
		return ""
	}
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l) != nil {
		return ""
	}
	return fmt.Sprintf(" (RLIMIT_MEMLOCK is %d bytes)", l.Cur)
}

// memlockAllows returns an error that wraps ENOMEM if the limit on locked memory is too low for registering the
// buffers. The limit applies to processes without CAP_IPC_LOCK. Others of the same user may have used a part of it.
func memlockAllows(bufs [][]byte) error {
	var l unix.Rlimit
	n := uint64(0)
	for _, b := range bufs {
		n += uint64(len(b))
	}
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l) != nil || n <= l.Cur {
		return nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if unix.Capget(&header, &caps[0]) != nil || caps[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0 {
		return nil
	}
	return fmt.Errorf("%d bytes: %w", n, unix.ENOMEM)
}
