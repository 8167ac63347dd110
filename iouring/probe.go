//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const probeID = ^uint64(0) // the id of a probe; no write's

// probePatience bounds each step of a probe.
const probePatience = 5 * time.Second

var errDead = errors.New("probe: no answer")

// scratch is a nameless file in the log's directory with room for one block, opened as the log is, and a block of zeros to write.
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
	if err != nil && err != unix.EOPNOTSUPP {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

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
	c.target = int(s.file.Fd())
	defer func() { c.target = old }()
	for range maxAgain {
		c.push(probeID, 0, s.buf)
		if err := c.enter(1); err != nil {
			return err
		}
		_, res, ok := c.pop()
		if err := probed(ok, res, len(s.buf)); !transient(err) {
			return err
		}
	}
	return errDead
}

// transient says of the answer to a probe that it may be another the next time.
func transient(err error) bool {
	var errno unix.Errno
	return errors.As(err, &errno) && judge(-int32(errno), 1) == verdictAgain
}

// tryRing makes a durable write of buf to the scratch file through the ring, before the log's file is registered.
func (s *scratch) tryRing(r *ring, buf []byte) error {
	old := r.target
	defer func() { r.target = old }()
	r.target = int(s.file.Fd())
	for range maxAgain {
		r.push(probeID, 0, buf)
		if err := answered(r, len(buf)); !transient(err) {
			return err
		}
	}
	return errDead
}

// tryNop has the ring answer to nothing, which must do where no scratch file can be made.
func tryNop(r *ring) error {
	r.nop(probeID)
	return answered(r, 0)
}

// answered waits for the answer to a probe, not in io_uring_enter, which has no limit of its own.
func answered(r *ring, want int) error {
	stall := r.patience
	r.patience = probePatience
	defer func() { r.patience = stall }()
	if err := r.enter(0); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if err := r.await(probePatience); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	id, res, ok := r.pop()
	return probed(ok && id == probeID, res, want)
}

// probed says whether an answer to a probe shows that writing works. A full file system is no fault of the way of writing.
func probed(ok bool, res int32, want int) error {
	switch {
	case !ok:
		return errDead
	case res == int32(want):
		return nil
	case res >= 0:
		return fmt.Errorf("probe: wrote %d bytes of %d", res, want)
	case judge(res, max(want, 1)) == verdictSpace:
		return nil
	}
	return fmt.Errorf("probe: %w", unix.Errno(-res))
}

// openDirect opens the file behind fd a second time, for the same access, with O_DIRECT.
func openDirect(fd int) (*os.File, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, err
	}
	d, err := retryOpen(procName(fd), flags&unix.O_ACCMODE|unix.O_DIRECT|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
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

// fallbackBlock is the unit where the file system does not say, and the least that is used. The reason is safety and not speed:
// disks report logical sectors of 512 bytes on physical ones of 4096 (as the measured one does), so that a smaller write
// has the disk rewrite stable neighbours, and so does writeback without O_DIRECT; rule 1 forbids it. Writes of 512 bytes
// would save log space and some time on fresh space. Medians of 11 rounds of pwritev2 with RWF_DSYNC and O_DIRECT, ext4 on a virtio disk of a busy
// machine, 512 against 4096 bytes: fresh space 178 to 227 µs alone, 496 to 599 µs with four in flight; overwriting 202
// to 174 µs and 225 to 234 µs, which is within the noise.
const fallbackBlock = 4096

// blockSize is the unit of writing: what statx says that direct I/O needs, but at least fallbackBlock.
func blockSize(fd int) int {
	var st unix.Statx_t
	block := uint32(fallbackBlock)
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st); err == nil && st.Mask&unix.STATX_DIOALIGN != 0 {
		block = max(block, st.Dio_offset_align, st.Dio_mem_align)
	}
	return int(block)
}

// explain adds to an error of io_uring_setup what usually causes it.
func explain(err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.ENOSYS):
		hint = "the kernel has none, or a seccomp filter hides it"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		hint = "forbidden by a seccomp filter or by sysctl kernel.io_uring_disabled"
		if b, rerr := os.ReadFile("/proc/sys/kernel/io_uring_disabled"); rerr == nil {
			hint += " (which is " + strings.TrimSpace(string(b)) + ")"
		}
	case errors.Is(err, unix.ENOMEM):
		hint = "RLIMIT_MEMLOCK or memory is short"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		hint = "descriptors are used up"
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, hint)
}

// memlockHint names the limit where it may be the cause.
func memlockHint(err error) string {
	var l unix.Rlimit
	if !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.EPERM) || unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l) != nil {
		return ""
	}
	return fmt.Sprintf(" (RLIMIT_MEMLOCK is %d bytes)", l.Cur)
}
