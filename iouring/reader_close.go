//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
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

// drain waits until nothing is in flight and no caller uses the ring.
func (r *Reader) drain() error {
	for end := time.Now().Add(r.drainLimit); ; time.Sleep(50 * time.Microsecond) {
		var done requests
		r.mu.Lock()
		r.takeCompletions(&done)
		left, idle := len(r.inFlight)-len(r.free), !r.leading.Load() && r.users.Load() == 0
		broken := r.broken.Load()
		r.mu.Unlock()
		done.wakeAll()
		switch {
		case broken:
			return fmt.Errorf("close reader: %s", r.Report().Reason)
		case left == 0 && idle:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("close reader: %d reads did not end: %w", left, unix.ETIMEDOUT)
		}
	}
}
