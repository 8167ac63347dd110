//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	defaultDepth = 8
	// fallbackBlock is the unit where the file system does not say, and the least that is used: smaller direct writes than a
	// file system's block make it serialize writes and fill in the rest of the block itself.
	fallbackBlock = 4096
	probeID       = ^uint64(0) // the id of a probe; no write's
)

// opener is one Open under way. Its functions are seams for tests.
type opener struct {
	fd      int // the caller's, buffered
	opts    Options
	report  Report
	reasons []string

	newRing         func(fd, depth int) (*ring, error)
	registerFile    func(r *ring, fd int) error
	registerBuffers func(r *ring, bufs [][]byte) error
	openDirect      func(fd int) (*os.File, error)
}

func newOpener(fd int, o Options) *opener {
	if o.Depth <= 0 {
		o.Depth = defaultDepth
	}
	return &opener{fd: fd, opts: o, newRing: newRing, openDirect: openDirect,
		registerFile:    (*ring).registerFile,
		registerBuffers: (*ring).registerBuffers}
}

// Open opens the device for durable writes of the file fd, which is open for reading and writing and stays the caller's. It takes the
// best that Options allow and the machine lets work, which it finds out by a real durable write to a nameless file beside
// the log; the Report says what, and why nothing better. Errors: a Mode of On that does not work.
func Open(fd int, o Options) (Device, Report, error) { return newOpener(fd, o).open() }

func (o *opener) open() (Device, Report, error) {
	file, err := o.direct()
	if err != nil {
		return nil, Report{}, err
	}
	target := o.fd
	if file != nil {
		target = int(file.Fd())
	}
	o.report.Direct = file != nil
	o.report.Block = blockSize(target)
	q, err := o.queue(target)
	if err != nil {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
		return nil, Report{}, err
	}
	o.report.Reason = strings.Join(o.reasons, "; ")
	return newWriter(q, file, o.report.Block, o.opts.Depth), o.report, nil
}

// direct opens the file once more with O_DIRECT, nil where that is not wanted or does not work.
func (o *opener) direct() (*os.File, error) {
	if o.opts.Direct == Off {
		o.because("O_DIRECT is switched off")
		return nil, nil
	}
	file, err := o.openDirect(o.fd)
	if err == nil {
		return file, nil
	}
	if o.opts.Direct == On {
		return nil, fmt.Errorf("O_DIRECT does not work here: %w", err)
	}
	o.because("no O_DIRECT: %v", err)
	return nil, nil
}

func (o *opener) because(format string, args ...any) {
	o.reasons = append(o.reasons, fmt.Sprintf(format, args...))
}

// queue sets up a ring, or the system calls.
func (o *opener) queue(target int) (queue, error) {
	if o.opts.Ring == Off {
		o.because("io_uring is switched off")
		return newCalls(target, o.opts.Depth), nil
	}
	r, err := o.ring(target)
	if err == nil {
		o.report.Ring = true
		return r, nil
	}
	if o.opts.Ring == On {
		return nil, fmt.Errorf("io_uring does not work here: %w", err)
	}
	o.because("no io_uring: %v", err)
	return newCalls(target, o.opts.Depth), nil
}

// ring sets up a ring and tries it. Where memory is short it tries half the depth, down to two.
func (o *opener) ring(target int) (*ring, error) {
	r, err := o.newRing(target, o.opts.Depth)
	for errors.Is(err, unix.ENOMEM) && o.opts.Depth > 2 {
		o.opts.Depth /= 2
		r, err = o.newRing(target, o.opts.Depth)
	}
	if err != nil {
		return nil, explain(err)
	}
	if err := o.try(r); err != nil {
		return nil, errors.Join(err, r.close())
	}
	if err := o.registerFile(r, target); err != nil {
		o.because("file not registered: %v", err)
	} else {
		o.report.FixedFile = true
	}
	if len(o.opts.Buffers) > 0 {
		if err := o.registerBuffers(r, o.opts.Buffers); err != nil {
			o.because("buffers not registered: %v%s", err, memlockHint(err))
		} else {
			o.report.FixedBuffer = true
		}
	}
	return r, nil
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

func memlockHint(err error) string {
	var l unix.Rlimit
	if !errors.Is(err, unix.ENOMEM) || unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l) != nil {
		return ""
	}
	return fmt.Sprintf(" (RLIMIT_MEMLOCK is %d bytes)", l.Cur)
}

// try makes a durable write through the ring as the log's will be, to a file without a name in the log's directory. Where no such file can be
// made it is enough that the ring answers.
func (o *opener) try(r *ring) error {
	tmp, buf, err := o.scratch()
	if err != nil {
		r.nop(probeID)
		return answered(r, 0)
	}
	defer tmp.Close()
	defer FreeBuffer(buf)
	old := r.target
	r.target = int32(tmp.Fd())
	r.push(probeID, 0, buf)
	r.target = old
	return answered(r, int32(len(buf)))
}

func answered(r *ring, want int32) error {
	if err := r.enter(1); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	switch id, res, ok := r.pop(); {
	case !ok || id != probeID:
		return errors.New("probe: no answer")
	case res < 0:
		return fmt.Errorf("probe: %w", unix.Errno(-res))
	case res != want:
		return fmt.Errorf("probe: wrote %d bytes of %d", res, want)
	}
	return nil
}

// scratch returns a nameless file in the log's directory with room for one block, opened as the log is, and a block to write.
func (o *opener) scratch() (*os.File, []byte, error) {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", o.fd))
	if err != nil {
		return nil, nil, err
	}
	flags := unix.O_TMPFILE | unix.O_RDWR | unix.O_CLOEXEC
	if o.report.Direct {
		flags |= unix.O_DIRECT
	}
	fd, err := unix.Open(filepath.Dir(name), flags, 0o600)
	if err != nil {
		return nil, nil, err
	}
	tmp := os.NewFile(uintptr(fd), "probe")
	buf, err := AllocBuffer(o.report.Block)
	if err == nil {
		err = unix.Fallocate(fd, 0, 0, int64(len(buf)))
	}
	if err != nil {
		return nil, nil, errors.Join(err, tmp.Close())
	}
	return tmp, buf, nil
}

// openDirect opens the file behind fd a second time, with O_DIRECT.
func openDirect(fd int) (*os.File, error) {
	name := fmt.Sprintf("/proc/self/fd/%d", fd)
	for {
		d, err := unix.Open(name, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(d), name), nil
	}
}

// blockSize is the unit of writing: what statx says that direct I/O needs, but at least fallbackBlock.
func blockSize(fd int) int {
	var st unix.Statx_t
	block := uint32(fallbackBlock)
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st); err == nil && st.Mask&unix.STATX_DIOALIGN != 0 {
		block = max(block, st.Dio_offset_align, st.Dio_mem_align)
	}
	return int(block)
}
