//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxAgain bounds how often one write is tried again without progress.
const maxAgain = 10_000

// writer is the Device over a queue.
type writer struct {
	q      queue
	file   *os.File // a descriptor of its own for O_DIRECT; nil if the caller's is used
	block  int
	flight []flying // by id; len is the depth
	free   []uint64 // ids that are not in flight
	pushed bool     // something was pushed and not entered
}

// flying is a write in flight. It keeps the buffer referenced, which under the race detector lies on the Go heap: heap
// objects do not move, and this reference keeps them from being freed while the kernel reads.
type flying struct {
	w     Write
	done  int // bytes written so far, a multiple of the block
	again int
}

func newWriter(q queue, file *os.File, block, depth int) *writer {
	w := &writer{q: q, file: file, block: block, flight: make([]flying, depth), free: make([]uint64, depth)}
	for i := range w.free {
		w.free[i] = uint64(i)
	}
	return w
}

func (w *writer) Depth() int { return len(w.flight) }

func (w *writer) Block() int { return w.block }

var errTooMany = errors.New("more writes than the device's depth")

// Do is Device.Do. The loop ends because every turn either completes a write or waits in the kernel for one.
func (w *writer) Do(writes []Write, min int, dst []Completion) ([]Completion, error) {
	if len(writes) > len(w.free) {
		return dst, fmt.Errorf("%w: %d beside %d in flight", errTooMany, len(writes), len(w.flight)-len(w.free))
	}
	for _, x := range writes {
		if err := w.aligned(x); err != nil {
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
	first := len(dst)
	for {
		wait := min - (len(dst) - first)
		if !w.pushed && wait <= 0 {
			return w.reap(dst), nil
		}
		w.pushed = false
		if err := w.q.enter(max(wait, 0)); err != nil {
			return dst, err
		}
		dst = w.reap(dst)
	}
}

func (w *writer) aligned(x Write) error {
	if len(x.Buf) == 0 || len(x.Buf)%w.block != 0 || x.Off < 0 || x.Off%int64(w.block) != 0 {
		return fmt.Errorf("write of %d bytes at %d: want whole blocks of %d", len(x.Buf), x.Off, w.block)
	}
	return nil
}

func (w *writer) push(id uint64) {
	f := &w.flight[id]
	w.q.push(id, f.w.Off+int64(f.done), f.w.Buf[f.done:])
	w.pushed = true
}

// reap takes what has completed. What must be written again is pushed.
func (w *writer) reap(dst []Completion) []Completion {
	for {
		id, res, ok := w.q.pop()
		if !ok {
			return dst
		}
		if id >= uint64(len(w.flight)) {
			continue // not a write of ours: a probe's
		}
		f := &w.flight[id]
		switch judge(res, len(f.w.Buf)-f.done) {
		case verdictMore:
			// O_DIRECT takes whole blocks only: a part of one is written again, with the same bytes.
			if n := int(res) &^ (w.block - 1); n > 0 {
				f.done, f.again = f.done+n, 0
				w.push(id)
				continue
			}
			fallthrough
		case verdictAgain:
			if f.again++; f.again <= maxAgain {
				w.push(id)
				continue
			}
			res = -int32(unix.EAGAIN)
			fallthrough
		case verdictFail:
			dst = append(dst, w.land(id, resError(res)))
		case verdictDone:
			dst = append(dst, w.land(id, nil))
		}
	}
}

func (w *writer) land(id uint64, err error) Completion {
	f := &w.flight[id]
	raceAcquire(f.w.Buf)
	c := Completion{Tag: f.w.Tag, Err: err}
	*f = flying{}
	w.free = append(w.free, id)
	return c
}

func resError(res int32) error {
	if res >= 0 {
		return io.ErrShortWrite
	}
	return unix.Errno(-res)
}

// Close is Device.Close.
func (w *writer) Close() error {
	comps := make([]Completion, 0, len(w.flight))
	var err error
	for len(w.free) < len(w.flight) && err == nil {
		comps, err = w.Do(nil, 1, comps[:0])
	}
	err = errors.Join(err, w.q.close())
	if w.file != nil {
		err = errors.Join(err, w.file.Close())
	}
	return err
}
