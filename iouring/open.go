//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const defaultDepth = 8

// opener is one OpenWriter under way. Its functions are seams for tests.
type opener struct {
	fd      int // the caller's, buffered
	opts    Options
	file    *os.File // the descriptor with O_DIRECT, if any
	scratch *scratch // nil where none can be made
	report  Report
	reasons []string

	kernel     kernel
	openDirect func(fd int) (*os.File, error)
	newScratch func(fd int, direct bool, block int) (*scratch, error)
	newCalls   func(fd, depth int) *calls
}

func newOpener(fd int, o Options) *opener {
	if o.Depth <= 0 {
		o.Depth = defaultDepth
	}
	return &opener{fd: fd, opts: o, kernel: linux, openDirect: openDirect, newScratch: newScratch, newCalls: newCalls}
}

// OpenWriter opens a Writer of the file fd, which is open for reading and writing and stays the caller's; no
// byte of it is touched. Open takes the best that Options allow and the machine lets work, which it finds out by durable writes to a
// nameless file beside the log; the Report says what, and why nothing better. Each step is bounded in time. Errors: a ModeOn
// that does not work.
func OpenWriter(fd int, o Options) (*Writer, Report, error) {
	p := newOpener(fd, o)
	w, err := p.open()
	if err != nil {
		return nil, Report{}, err
	}
	return w, p.report, nil
}

func (o *opener) open() (w *Writer, err error) {
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
	return newWriter(q, o.file, o.report.Block, o.opts.Depth), nil
}

func (o *opener) because(format string, args ...any) {
	o.reasons = append(o.reasons, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", ", "))
}

// target is the descriptor to write through.
func (o *opener) target() int {
	if o.file != nil {
		return int(o.file.Fd())
	}
	return o.fd
}

// direct opens the file once more with O_DIRECT, if that is wanted and works, and makes the scratch file.
func (o *opener) direct() error {
	err := errors.New("it is switched off")
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

// prepare fixes the block and makes the scratch file for the descriptor that is the target now.
func (o *opener) prepare() {
	o.report.Direct = o.file != nil
	o.report.Block = blockSize(o.target())
	var err error
	if o.scratch, err = o.newScratch(o.fd, o.report.Direct, o.report.Block); err != nil {
		o.scratch = nil
	}
}

// queue sets up a ring, or the system calls.
func (o *opener) queue() (queue, error) {
	err := errors.New("it is switched off")
	if o.opts.Ring != ModeOff {
		var r *ring
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
		// Whatever else is wrong, the first write of the log will say.
		if _ = o.scratch.tryCalls(c); !c.dsync {
			o.because("no RWF_DSYNC: each write is followed by fdatasync")
		}
	}
	return c, nil
}

// ring sets up a ring, tries it, and registers with it what may be registered. Where memory is short it tries half the depth, down to two.
func (o *opener) ring() (*ring, error) {
	depth := o.opts.Depth
	r, err := newRing(o.kernel, o.target(), depth)
	for errors.Is(err, unix.ENOMEM) && depth > 2 {
		depth /= 2
		r, err = newRing(o.kernel, o.target(), depth)
	}
	if err != nil {
		return nil, explain(err)
	}
	if o.scratch == nil {
		err = tryNop(r)
	} else {
		err = o.scratch.tryRing(r, o.scratch.buf)
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	if depth < o.opts.Depth {
		o.because("%d writes in flight instead of %d: memory is short", depth, o.opts.Depth)
		o.opts.Depth = depth
	}
	if len(o.opts.Buffers) > 0 {
		o.registerBuffers(r)
	}
	if err := r.registerFile(); err != nil {
		o.because("file not registered: %v", err)
	} else {
		o.report.FixedFile = true
	}
	return r, nil
}

// registerBuffers registers the buffers if that is allowed and a write out of the first one works.
func (o *opener) registerBuffers(r *ring) {
	err := r.registerBuffers(o.opts.Buffers)
	if err != nil {
		o.because("buffers not registered: %v%s", err, memlockHint(err))
		return
	}
	if first := o.opts.Buffers[0]; o.scratch != nil && len(first) >= o.report.Block {
		if err := o.scratch.tryRing(r, first[:o.report.Block]); err != nil {
			r.unregisterBuffers()
			o.because("buffers not registered: %v", err)
			return
		}
	}
	o.report.FixedBuffer = true
}
