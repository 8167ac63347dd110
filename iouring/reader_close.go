//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// abandoned keeps memory alive that the kernel may still write to.
var abandoned struct {
	sync.Mutex
	scratch [][]byte
}

// fail abandons the ring: it wakes all callers, which go on with system calls.
func (r *Reader) fail(err error) {
	var done requests
	r.mu.Lock()
	r.broken.Store(true)
	if r.ahead > 0 {
		r.brokenAt = time.Now()
	}
	r.report.Ring, r.report.Reason = false, fmt.Sprintf("io_uring failed: %v", err)
	r.dropQueued(err, &done)
	for i := range r.inFlight {
		if f := &r.inFlight[i]; f.n > 0 {
			r.complete(f, err, &done)
		}
	}
	abandoned.Lock()
	abandoned.scratch = append(abandoned.scratch, r.scratch)
	abandoned.Unlock()
	r.change()
	degraded, reason := r.degraded, r.report.Reason
	r.degraded = nil // it is called once
	r.mu.Unlock()
	done.wakeAll()
	if degraded != nil {
		degraded(reason)
	}
}

// Close waits for the reads in flight, in bounded time, wakes all callers and releases everything. Its error says that
// not all reads ended in time. A second Close does nothing.
func (r *Reader) Close() error {
	var done requests
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	r.dropQueued(errReaderClosed, &done)
	r.mu.Unlock()
	done.wakeAll()
	if r.ring == nil {
		return nil
	}
	err := r.drain()
	perr := r.poll.Close()
	<-r.reaped
	if err != nil {
		r.fail(err)
		return err // the queues stay mapped: the kernel or a leader may still use them
	}
	r.mu.Lock()
	r.broken.Store(true) // for the timer of pollAlone, which may still run
	r.mu.Unlock()
	return errors.Join(perr, r.ring.Close())
}

// drain waits until nothing is in flight and no caller uses the ring. The reaper takes the completions meanwhile: every
// read that is in flight without a caller that polls has a signal (see signal and pollAlone).
func (r *Reader) drain() error {
	r.draining.Store(true)
	t := time.NewTimer(r.drainLimit)
	defer t.Stop()
	for late := false; ; {
		r.mu.Lock()
		left, idle := len(r.inFlight)-len(r.free), !r.leading.Load() && r.users.Load() == 0
		broken, changed := r.broken.Load(), r.nextChange()
		r.mu.Unlock()
		switch {
		case broken:
			return fmt.Errorf("close reader: %s", r.Report().Reason)
		case left == 0 && idle:
			return nil
		case late:
			return fmt.Errorf("close reader: %d reads did not end: %w", left, os.ErrDeadlineExceeded)
		}
		late = expires(t, changed)
	}
}

// expires waits for a change or the end of the limit, and reports whether it was the latter.
func expires(limit *time.Timer, changed <-chan struct{}) bool {
	select {
	case <-changed:
		return false
	case <-limit.C:
		return true
	}
}

// nextChange returns a channel that is closed by the next change. mu is held.
func (r *Reader) nextChange() <-chan struct{} {
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}

// change wakes the goroutines that wait for reads to end, or for users of the ring to leave. mu is held.
func (r *Reader) change() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// leave takes a call off the users of the ring.
func (r *Reader) leave() {
	if r.users.Add(-1) == 0 && r.draining.Load() {
		r.mu.Lock()
		r.change()
		r.mu.Unlock()
	}
}
