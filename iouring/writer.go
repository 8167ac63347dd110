//go:build linux

package iouring

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/iouring/internal/ring"
)

const (
	// maxRetries is the limit on retries of one write without progress. Each retry after the first quickRetries is
	// preceded by retryPause.
	maxRetries, quickRetries = 10_000, 10
	retryPause               = 100 * time.Microsecond
	// maxPartial is the limit on rewrites of one block of which the kernel took only a part.
	maxPartial = 3
	// drainLimit is the time for which Close waits for the next completion of a write in flight. After a failure of the
	// queue it looks for it again and again, since waiting in the kernel fails.
	drainLimit = 5 * time.Second
)

// Writer makes durable writes to a file: each is on stable storage when it completes. Several writes are in flight at
// once and complete in any order. One goroutine at a time may use it, beside one that is in Park. W1 to W4 of the
// package comment are its guarantees.
//
//	id:  free ──Do──▶ in flight ──complete──▶ free
//	                   ▲     │
//	                   └─────┘ push again: the rest of a short write, or all of an interrupted one
type Writer struct {
	q        queue
	file     *os.File // the Writer's own descriptor, with O_DIRECT; nil if it uses the caller's
	block    int
	unit     int        // a short write is continued at a multiple of this: the block with O_DIRECT, otherwise one byte
	inFlight []inFlight // by id; len is the depth
	free     []uint64   // ids that are not in flight
	parker   *parker    // nil: Park cannot wait
	failed   error      // why no more writes are possible
	closed   bool

	pause, drainLimit time.Duration // retryPause and drainLimit; tests change them
}

// inFlight is a write in flight. It keeps the buffer referenced until the kernel has finished with it.
type inFlight struct {
	w       Write
	done    int // bytes written so far, a multiple of the unit
	retries int // since then
}

func newWriter(q queue, file *os.File, block, depth int) *Writer {
	w := &Writer{q: q, file: file, block: block, unit: 1, pause: retryPause, drainLimit: drainLimit,
		inFlight: make([]inFlight, depth), free: make([]uint64, depth)}
	if file != nil {
		w.unit = block
	}
	for i := range w.free {
		w.free[i] = uint64(i)
	}
	return w
}

// Depth returns the greatest number of writes in flight.
func (w *Writer) Depth() int { return len(w.inFlight) }

// Block returns the unit of writing in bytes: offsets, lengths and memory addresses are multiples of it.
func (w *Writer) Block() int { return w.block }

var errTooMany = errors.New("more writes than the writer's depth")

// Do starts writes, waits until at least need of the writes in flight have completed (0: it does not wait), and appends
// the completions to dst. The caller never has more than Depth writes in flight. A short write is finished before it
// completes. A failed write is a Completion with Err; the error that Do returns means that the Writer itself is
// unusable. A write that is not made of whole blocks is refused before any is started.
//
// The loop ends because each turn completes a write, waits in the kernel for one, or retries one, and retries are
// limited.
func (w *Writer) Do(writes []Write, need int, dst []Completion) ([]Completion, error) {
	if w.failed != nil {
		return dst, w.failed
	}
	if len(writes) > len(w.free) {
		return dst, fmt.Errorf("%w: %d beside %d in flight", errTooMany, len(writes), len(w.inFlight)-len(w.free))
	}
	for i := range writes {
		if err := w.aligned(&writes[i]); err != nil {
			return dst, err
		}
	}
	for _, x := range writes {
		id := w.free[len(w.free)-1]
		w.free = w.free[:len(w.free)-1]
		w.inFlight[id] = inFlight{w: x}
		raceRelease(x.Buf)
		w.push(id)
	}
	need = min(need, len(w.inFlight)-len(w.free))
	for first := len(dst); ; {
		dst = w.reap(dst)
		wait := max(need-(len(dst)-first), 0)
		if wait == 0 && !w.q.Pending() {
			return dst, nil
		}
		if err := w.q.Enter(wait); err != nil {
			w.failed = err
			return w.reap(dst), err
		}
	}
}

// Park waits until a write in flight may have completed. Where Do blocks a thread, and keeps the goroutine's processor
// from others for up to 20 ms, Park leaves both to them; but a goroutine that has parked may wait for a processor when
// it goes on. Use it where others have work to do, and Do where the time until the completion matters most. Park may
// return early, and takes no completion. It returns false if it cannot wait: then call Do. While one goroutine is in
// Park, another may use the Writer. If nothing is in flight then, Park returns after 64 ms at most, or by Unpark.
func (w *Writer) Park() bool {
	return w.parker != nil && w.parker.park()
}

// Unpark makes Park return soon: the present call, or else perhaps the next one. It does not block, and is safe for
// concurrent use with every other method.
func (w *Writer) Unpark() {
	if w.parker != nil {
		w.parker.unpark()
	}
}

func (w *Writer) aligned(x *Write) error {
	if len(x.Buf) == 0 || len(x.Buf)%w.block != 0 || x.Off < 0 || x.Off%int64(w.block) != 0 {
		return fmt.Errorf("write %d bytes at %d: not whole blocks of %d", len(x.Buf), x.Off, w.block)
	}
	return nil
}

func (w *Writer) push(id uint64) {
	f := &w.inFlight[id]
	w.q.Push(id, f.w.Off+int64(f.done), f.w.Buf[f.done:])
}

// reap takes all completions from the queue. It pushes again the writes that are not finished.
func (w *Writer) reap(dst []Completion) []Completion {
	for {
		id, res, ok := w.q.Pop()
		if !ok {
			return dst
		}
		if id >= uint64(len(w.inFlight)) || w.inFlight[id].w.Buf == nil {
			continue // a probe's
		}
		if err, ended := w.decide(id, res); ended {
			dst = append(dst, w.complete(id, err))
		}
	}
}

// decide reports whether a write has ended, and with which error. If it has not ended, decide has pushed it again.
func (w *Writer) decide(id uint64, res int32) (err error, ended bool) {
	f := &w.inFlight[id]
	switch ring.Judge(res, len(f.w.Buf)-f.done) {
	case ring.VerdictDone:
		return nil, true
	case ring.VerdictMore:
		// O_DIRECT takes whole blocks only: a block of which a part was written is written again as a whole, with the
		// same bytes.
		n := int(res) / w.unit * w.unit
		if f.retries++; n > 0 {
			f.done, f.retries = f.done+n, 0
		}
		if f.retries > maxPartial {
			return f.failed(io.ErrShortWrite), true
		}
	case ring.VerdictAgain:
		if f.retries++; f.retries > maxRetries {
			return f.failed(unix.Errno(-res)), true
		}
		if f.retries > quickRetries {
			time.Sleep(w.pause)
		}
	case ring.VerdictDiskFull, ring.VerdictFailed:
		if res >= 0 {
			return f.failed(io.ErrShortWrite), true
		}
		return f.failed(unix.Errno(-res)), true
	}
	if w.failed != nil {
		return f.failed(w.failed), true
	}
	w.push(id)
	return nil, false
}

func (f *inFlight) failed(err error) error {
	return fmt.Errorf("write %d bytes at %d: %w", len(f.w.Buf), f.w.Off, err)
}

func (w *Writer) complete(id uint64, err error) Completion {
	f := &w.inFlight[id]
	raceAcquire(f.w.Buf)
	c := Completion{Tag: f.w.Tag, Err: err}
	*f = inFlight{}
	w.free = append(w.free, id)
	return c
}

// Close waits for the writes in flight, in bounded time, then releases everything but the caller's file. Its error
// covers writes that failed while it waited. If some did not end it wraps ErrInFlight, and their buffers must not be
// freed. A second Close does nothing.
func (w *Writer) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	err := w.drain()
	w.failed = fmt.Errorf("writer: %w", os.ErrClosed)
	err = errors.Join(err, w.q.Close(), w.parker.close())
	if w.file != nil {
		if len(w.free) == len(w.inFlight) {
			unmark(w.file)
		}
		err = errors.Join(err, w.file.Close())
	}
	return err
}

// drain waits for the writes in flight, for drainLimit after the last one that has completed. After a failure of the
// queue it waits for them all the same, since the kernel may still be reading their buffers, which the caller is about
// to free.
func (w *Writer) drain() error {
	comps := make([]Completion, 0, len(w.inFlight))
	var failed error
	for end, late := time.Now().Add(w.drainLimit), false; len(w.free) < len(w.inFlight); {
		if late {
			left := len(w.inFlight) - len(w.free)
			return errors.Join(failed, fmt.Errorf("%w: %d of them: %w", ErrInFlight, left,
				cmp.Or(w.failed, errNoAnswer)))
		}
		before := len(w.free)
		if comps = comps[:0]; w.failed == nil {
			comps, _ = w.Do(nil, 0, comps) // makes what is to be made again; its error is w.failed
		}
		for _, c := range comps {
			failed = errors.Join(failed, c.Err)
		}
		if len(w.free) == before {
			late = w.q.Await(time.Until(end)) != nil // the limit, or a ring that cannot be waited for
			comps = w.reap(comps[:0])
			for _, c := range comps {
				failed = errors.Join(failed, c.Err)
			}
		}
		if len(w.free) > before {
			end, late = time.Now().Add(w.drainLimit), false
		}
	}
	return failed
}

var errNoAnswer = errors.New("the disk does not answer")
