//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxAgain bounds how often one write is tried again without progress; after the first fewAgain there is a pause before each.
	maxAgain, fewAgain = 10_000, 10
	againPause         = 100 * time.Microsecond
	// maxStump bounds how often one block is written anew after less than a block of it was taken.
	maxStump = 3
	// drainLimit bounds Close once the queue has failed: what is in flight then is waited for by looking, not in the kernel.
	drainLimit = 5 * time.Second
)

// Writer makes durable writes to a file: each is on stable storage when it completes. Several writes are in flight at once and complete in any
// order. One goroutine at a time may use it.
//
//	id:  free ──Do──▶ in flight ──land──▶ free
//	                   ▲     │
//	                   └─────┘ push again: the rest of a short write, or all of an interrupted one
type Writer struct {
	q      queue
	file   *os.File // a descriptor of its own for O_DIRECT; nil if the caller's is used
	block  int
	unit   int      // a short write goes on at a multiple of this: the block with O_DIRECT, else one byte
	flight []flying // by id; len is the depth
	free   []uint64 // ids that are not in flight
	failed error    // why nothing more can be written
	closed bool

	pause, drainLimit time.Duration // againPause and drainLimit, save in tests
}

// flying is a write in flight. It keeps the buffer referenced until the kernel has done with it.
type flying struct {
	w     Write
	done  int // bytes written so far, a multiple of the unit
	again int // tries since then
}

func newWriter(q queue, file *os.File, block, depth int) *Writer {
	w := &Writer{q: q, file: file, block: block, unit: 1, flight: make([]flying, depth), free: make([]uint64, depth),
		pause: againPause, drainLimit: drainLimit}
	if file != nil {
		w.unit = block
	}
	for i := range w.free {
		w.free[i] = uint64(i)
	}
	return w
}

// Depth returns the greatest number of writes in flight.
func (w *Writer) Depth() int { return len(w.flight) }

// Block returns the unit of writing in bytes: offsets, lengths and memory are multiples of it.
func (w *Writer) Block() int { return w.block }

var errTooMany = errors.New("more writes than the device's depth")

// Do starts writes (as many as Depth allows beside those in flight; the caller keeps within it), waits until at least min of the writes in
// flight have completed (0: does not wait) and appends the completions to dst. A short write is finished before it completes. A failed write is
// a Completion with Err; the error returned beside them means that the Writer itself is unusable.
//
// The loop ends because every turn completes a write, waits in the kernel for one, or tries one again, for which
// there is a bound.
func (w *Writer) Do(writes []Write, min int, dst []Completion) ([]Completion, error) {
	if w.failed != nil {
		return dst, w.failed
	}
	if len(writes) > len(w.free) {
		return dst, fmt.Errorf("%w: %d beside %d in flight", errTooMany, len(writes), len(w.flight)-len(w.free))
	}
	for i := range writes {
		if err := w.aligned(&writes[i]); err != nil {
			return dst, err
		}
	}
	for _, x := range writes {
		id := w.free[len(w.free)-1]
		w.free = w.free[:len(w.free)-1]
		w.flight[id] = flying{w: x}
		raceRelease(x.Buf)
		w.push(id)
	}
	if inFlight := len(w.flight) - len(w.free); min > inFlight {
		min = inFlight
	}
	for first := len(dst); ; {
		dst = w.reap(dst)
		wait := max(min-(len(dst)-first), 0)
		if wait == 0 && !w.q.pending() {
			return dst, nil
		}
		if err := w.q.enter(wait); err != nil {
			w.failed = err
			return w.reap(dst), err
		}
	}
}

func (w *Writer) aligned(x *Write) error {
	if len(x.Buf) == 0 || len(x.Buf)%w.block != 0 || x.Off < 0 || x.Off%int64(w.block) != 0 {
		return fmt.Errorf("write of %d bytes at %d: want whole blocks of %d", len(x.Buf), x.Off, w.block)
	}
	return nil
}

func (w *Writer) push(id uint64) {
	f := &w.flight[id]
	w.q.push(id, f.w.Off+int64(f.done), f.w.Buf[f.done:])
}

// reap takes what has completed. What must be written again is pushed.
func (w *Writer) reap(dst []Completion) []Completion {
	for {
		id, res, ok := w.q.pop()
		if !ok {
			return dst
		}
		if id >= uint64(len(w.flight)) || w.flight[id].w.Buf == nil {
			continue // not a write of ours
		}
		if err, landed := w.decide(id, res); landed {
			dst = append(dst, w.land(id, err))
		}
	}
}

// decide says whether a write has ended, and how; if not, it has been pushed again.
func (w *Writer) decide(id uint64, res int32) (err error, landed bool) {
	f := &w.flight[id]
	switch judge(res, len(f.w.Buf)-f.done) {
	case verdictDone:
		return nil, true
	case verdictMore:
		// O_DIRECT takes whole blocks only: of a block in part, all is written again, the same bytes.
		n := int(res) / w.unit * w.unit
		if f.again++; n > 0 {
			f.done, f.again = f.done+n, 0
		}
		if f.again > maxStump {
			return w.mark(f, io.ErrShortWrite), true
		}
	case verdictAgain:
		if f.again++; f.again > maxAgain {
			return w.mark(f, unix.Errno(-res)), true
		}
		if f.again > fewAgain {
			time.Sleep(w.pause)
		}
	case verdictSpace, verdictFail:
		if res >= 0 {
			return w.mark(f, io.ErrShortWrite), true
		}
		return w.mark(f, unix.Errno(-res)), true
	}
	if w.failed != nil {
		return w.mark(f, w.failed), true
	}
	w.push(id)
	return nil, false
}

func (w *Writer) mark(f *flying, err error) error {
	return fmt.Errorf("write of %d bytes at %d: %w", len(f.w.Buf), f.w.Off, err)
}

func (w *Writer) land(id uint64, err error) Completion {
	f := &w.flight[id]
	raceAcquire(f.w.Buf)
	c := Completion{Tag: f.w.Tag, Err: err}
	*f = flying{}
	w.free = append(w.free, id)
	return c
}

// Close waits for the writes in flight, then releases everything but the file. After ErrInFlight not all have ended. Its error covers writes that failed while it waited. A second Close does nothing.
func (w *Writer) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	err := w.drain()
	w.failed = fmt.Errorf("log device: %w", os.ErrClosed)
	err = errors.Join(err, w.q.close())
	if w.file != nil {
		err = errors.Join(err, w.file.Close())
	}
	return err
}

// drain waits for the writes in flight. After a failure of the queue the kernel may still be reading their buffers, which the
// caller is about to free; what can no longer be waited for is looked for.
func (w *Writer) drain() error {
	comps := make([]Completion, 0, len(w.flight))
	var failed error
	for len(w.free) < len(w.flight) && w.failed == nil {
		comps, _ = w.Do(nil, 1, comps[:0]) // its error is w.failed
		for _, c := range comps {
			failed = errors.Join(failed, c.Err)
		}
	}
	for end := time.Now().Add(w.drainLimit); len(w.free) < len(w.flight); time.Sleep(time.Millisecond) {
		if comps = w.reap(comps[:0]); time.Now().After(end) {
			return errors.Join(failed, fmt.Errorf("%w: %d of them: %w", ErrInFlight, len(w.flight)-len(w.free), w.failed))
		}
	}
	return failed
}
