//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"pagecache/iouring/internal/ring"
)

const writeDepth = 8

// errDisabled is the reason for not using a way that the options switch off.
var errDisabled = errors.New("disabled by the options")

// writerOpener is one OpenWriter under way. Its functions are seams for tests.
type writerOpener struct {
	fd      int // the caller's, without O_DIRECT
	opts    WriterOptions
	file    *os.File // the descriptor with O_DIRECT, if any
	scratch *scratch // nil if it cannot be created
	report  WriterReport
	reasons []string

	kernel     ring.Kernel
	openDirect func(fd int) (*os.File, error)
	newScratch func(fd int, direct bool, block int) (*scratch, error)
	newCalls   func(fd, depth int) *calls
}

func newWriterOpener(fd int, o WriterOptions) *writerOpener {
	if o.Depth <= 0 {
		o.Depth = writeDepth
	}
	return &writerOpener{fd: fd, opts: o, kernel: ring.Linux,
		openDirect: openDirect, newScratch: newScratch, newCalls: newCalls}
}

// OpenWriter opens a Writer of the file fd, which is open for reading and writing and stays the caller's. It changes no
// byte of the file. It finds out what works by durable writes to a nameless file in the same directory, takes the best
// that the options allow, and reports what it took and why nothing better. Each step is bounded in time. It fails if a
// ModeOn does not work.
func OpenWriter(fd int, o WriterOptions) (*Writer, WriterReport, error) {
	p := newWriterOpener(fd, o)
	w, err := p.open()
	if err != nil {
		return nil, WriterReport{}, err
	}
	return w, p.report, nil
}

func (o *writerOpener) open() (w *Writer, err error) {
	defer func() {
		if cerr := o.scratch.close(); err == nil && cerr != nil {
			o.because("probe: %v", cerr)
		}
		if err != nil && o.file != nil {
			err = errors.Join(err, o.file.Close())
		}
		o.report.Reason = strings.Join(o.reasons, "; ")
	}()
	if err := o.direct(); err != nil {
		return nil, err
	}
	q, err := o.queue()
	if err != nil {
		return nil, err
	}
	w = newWriter(q, o.file, o.report.Block, o.opts.Depth)
	if r, ok := q.(*ring.Ring); ok {
		w.parker = newParker(r)
	}
	return w, nil
}

// because adds a reason for not using something better.
func (o *writerOpener) because(format string, args ...any) {
	o.reasons = append(o.reasons, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", ", "))
}

// target returns the descriptor to write through.
func (o *writerOpener) target() int {
	if o.file != nil {
		return int(o.file.Fd())
	}
	return o.fd
}

// direct opens the file a second time with O_DIRECT, if the options allow it and it works, and creates the scratch
// file.
func (o *writerOpener) direct() error {
	err := errDisabled
	if o.opts.Direct != ModeOff {
		if o.file, err = o.openDirect(o.fd); err == nil {
			o.prepare()
			if o.scratch == nil {
				return nil
			}
			if err = o.scratch.tryCalls(o.newCalls(o.target(), o.opts.Depth)); err == nil {
				return nil
			}
			err = errors.Join(err, o.file.Close(), o.scratch.close())
			o.file, o.scratch = nil, nil
		}
	}
	if o.opts.Direct == ModeOn {
		return fmt.Errorf("O_DIRECT does not work here: %w", err)
	}
	o.because("no O_DIRECT: %v", err)
	o.prepare()
	return nil
}

// prepare sets the block size and creates the scratch file for the current target.
func (o *writerOpener) prepare() {
	o.report.Direct = o.file != nil
	o.report.Block = blockSize(o.target())
	var err error
	if o.scratch, err = o.newScratch(o.fd, o.report.Direct, o.report.Block); err != nil {
		o.scratch = nil
	}
}

// queue sets up a ring, or the system calls.
func (o *writerOpener) queue() (queue, error) {
	err := errDisabled
	if o.opts.Ring != ModeOff {
		var r *ring.Ring
		if r, err = o.ring(); err == nil {
			o.report.Ring = true
			return r, nil
		}
	}
	if o.opts.Ring == ModeOn {
		return nil, fmt.Errorf("io_uring does not work here: %w", err)
	}
	o.because("no io_uring: %v", err)
	c := o.newCalls(o.target(), o.opts.Depth)
	if o.scratch != nil {
		// The first write of the log reports every other fault.
		if _ = o.scratch.tryCalls(c); !c.dsync {
			o.because("no RWF_DSYNC: each write is followed by fdatasync")
		}
	}
	return c, nil
}

// ring sets up a ring, tries it, and registers the file and the buffers with it. If memory is short the ring has less
// depth than requested.
func (o *writerOpener) ring() (*ring.Ring, error) {
	r, err := ring.NewAtMost(o.kernel, o.target(), o.opts.Depth)
	if err != nil {
		return nil, err
	}
	if o.scratch == nil {
		err = r.ProbeNop()
	} else {
		err = r.ProbeWrite(o.scratch.fd(), o.scratch.buf)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if r.Depth() < o.opts.Depth {
		o.because("%d writes in flight instead of %d: memory is short", r.Depth(), o.opts.Depth)
		o.opts.Depth = r.Depth()
	}
	if len(o.opts.Buffers) > 0 {
		o.registerBuffers(r)
	}
	if err := r.RegisterFile(); err != nil {
		o.because("file not registered: %v", err)
	} else {
		o.report.FixedFile = true
	}
	return r, nil
}

// registerBuffers lets the ring register the buffers if the limits allow it and a write from registered memory works.
func (o *writerOpener) registerBuffers(r *ring.Ring) {
	probe := func(b []byte) error {
		if o.scratch == nil {
			return nil
		}
		return r.ProbeWrite(o.scratch.fd(), b)
	}
	err := memlockAllows(o.opts.Buffers)
	if err == nil {
		err = r.RegisterBuffers(o.opts.Buffers, o.report.Block, probe)
	}
	if err != nil {
		o.because("buffers not registered: %v%s", err, memlockHint(err))
		return
	}
	o.report.FixedBuffer = true
}
