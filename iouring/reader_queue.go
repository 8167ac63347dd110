//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// requests is a list of requests, first in, first out.
type requests struct{ head, tail *request }

func (l *requests) add(q *request) {
	if q.next = nil; l.head == nil {
		l.head = q
	} else {
		l.tail.next = q
	}
	l.tail = q
}

func (l *requests) take() *request {
	q := l.head
	l.head, q.next = q.next, nil
	return q
}

// wakeAll tells the callers that they are done. From then on the requests are theirs.
func (l *requests) wakeAll() {
	for l.head != nil {
		l.take().wake <- true
	}
}

func (r *Reader) queue(q *request) {
	if q.queued = true; q.long {
		r.long.add(q)
	} else {
		r.short.add(q)
	}
}

// fill moves reads from the queues to the ring, the short ones first. Long requests get a piece each, in turn.
func (r *Reader) fill(done *requests) {
	for len(r.free) > 0 && r.short.head != nil {
		if q := r.short.head; r.launchNext(q) {
			r.short.take()
			r.end(q, done)
		}
	}
	for len(r.free) > 0 && r.longs < longFlights && r.long.head != nil {
		if q := r.long.take(); r.launchNext(q) {
			r.end(q, done)
		} else {
			r.long.add(q)
		}
	}
}

// end says that nothing of a request is left to launch.
func (r *Reader) end(q *request, done *requests) {
	if q.queued = false; q.flying == 0 {
		done.add(q)
	}
}

// launchNext launches the next piece of a request, and reports whether that was the last. There is a free id.
func (r *Reader) launchNext(q *request) bool {
	for len(q.ranges) > 0 && (q.at >= q.ranges[0].Len || q.ranges[0].Off < 0) {
		q.ranges, q.at = q.ranges[1:], 0
	}
	if len(q.ranges) == 0 {
		return true
	}
	x := q.ranges[0]
	off, n := least(x.Off+int64(q.at), min(pieceBytes, x.Len-q.at))
	r.launch(readFlight{q: q, fd: q.fd, off: off, n: n, long: q.long})
	q.flying++
	if q.at += pieceBytes; q.at >= x.Len {
		q.ranges, q.at = q.ranges[1:], 0
	}
	return len(q.ranges) == 0
}

// launch puts a read in the ring. There is a free id.
func (r *Reader) launch(f readFlight) {
	id := r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	if f.long {
		r.longs++
	}
	if f.q == nil {
		r.started++
	}
	r.flights[id] = f
	r.count.Reads++
	r.push(id)
}

func (r *Reader) push(id uint64) {
	f := &r.flights[id]
	r.ring.read(id, f.fd, f.off, r.scratch[:f.n])
}

// waiting returns a request of which something is not in flight yet, if there is one.
func (r *Reader) waiting() *request {
	if r.short.head != nil {
		return r.short.head
	}
	return r.long.head
}

// lead submits what is queued and takes what completes, until there is nothing to submit. The caller has set leading; on return it is not set any
// more, or another caller has been told to lead. The loop ends because a caller leads for so many turns only while others wait to be served.
func (r *Reader) lead() {
	for turn := 0; ; turn++ {
		var done requests
		r.mu.Lock()
		r.land(&done)
		if q := r.waiting(); q != nil && turn >= leadTurns && !r.ring.pending() {
			q.wake <- false // it is queued until somebody leads
			r.mu.Unlock()
			done.wakeAll()
			return
		}
		if !r.broken.Load() {
			r.fill(&done)
		}
		more := r.ring.pending() && !r.broken.Load()
		if more {
			r.count.Submissions++
		}
		r.leading.Store(more)
		r.mu.Unlock()
		done.wakeAll()
		if !more {
			return
		}
		if err := r.ring.enter(0); err != nil {
			r.fail(err)
		}
	}
}

// reap takes what has completed. The poller calls it when there is something; it reports whether that was the last time.
func (r *Reader) reap() bool {
	var done requests
	r.mu.Lock()
	r.land(&done)
	broken := r.broken.Load()
	lead := !broken && !r.leading.Load() && (r.ring.pending() || r.waiting() != nil)
	if lead {
		r.leading.Store(true)
	}
	r.mu.Unlock()
	done.wakeAll()
	if lead {
		r.lead()
	}
	return broken
}

// land takes completions, and adds the requests that are done to a list. What must be read on or again is pushed.
func (r *Reader) land(done *requests) {
	if r.broken.Load() {
		return
	}
	for {
		id, res, ok := r.ring.pop()
		if !ok {
			return
		}
		if id >= uint64(len(r.flights)) || r.flights[id].n == 0 {
			continue // not a read of ours
		}
		f := &r.flights[id]
		err, landed := r.decide(f, res)
		if !landed {
			r.push(id)
			continue
		}
		r.free = append(r.free, id)
		r.landed(f, err, done)
	}
}

// landed ends a flight.
func (r *Reader) landed(f *readFlight, err error, done *requests) {
	if f.long {
		r.longs--
	}
	q := f.q
	*f = readFlight{}
	if q == nil {
		r.started--
		return
	}
	if q.err == nil {
		q.err = err
	}
	if q.flying--; q.flying == 0 && !q.queued {
		done.add(q)
	}
}

// decide says whether a read has ended, and how. One that nobody waits for has ended in any case: its descriptor may be another file's by now (R2).
func (r *Reader) decide(f *readFlight, res int32) (err error, landed bool) {
	switch v := judge(res, f.n); {
	case res == 0, v == verdictDone: // 0: the end of the file
		r.count.Bytes += int64(res)
		return nil, true
	case v == verdictMore:
		r.count.Bytes += int64(res)
		f.off, f.n, f.tries = f.off+int64(res), f.n-int(res), 0
	case v != verdictAgain, f.tries >= readTries:
		return fmt.Errorf("read %d bytes at %d: %w", f.n, f.off, unix.Errno(max(0, -res))), true
	default:
		f.tries++
	}
	if r.closed {
		return errReader, true
	}
	return nil, f.q == nil
}

// abandoned is memory that the kernel may still write to.
var abandoned struct {
	sync.Mutex
	scratch [][]byte
}

// fail gives the ring up: all callers are woken, and go on with system calls.
func (r *Reader) fail(err error) {
	var done requests
	r.mu.Lock()
	r.broken.Store(true)
	if r.started > 0 {
		r.lost = time.Now()
	}
	r.report.Ring, r.report.Reason = false, fmt.Sprintf("io_uring failed: %v", err)
	r.dropQueued(err, &done)
	for i := range r.flights {
		if f := &r.flights[i]; f.n > 0 {
			r.landed(f, err, &done)
		}
	}
	abandoned.Lock()
	abandoned.scratch = append(abandoned.scratch, r.scratch)
	abandoned.Unlock()
	r.mu.Unlock()
	done.wakeAll()
}

// dropQueued ends what is not in flight.
func (r *Reader) dropQueued(err error, done *requests) {
	for _, l := range []*requests{&r.short, &r.long} {
		for l.head != nil {
			q := l.take()
			if q.err == nil {
				q.err = err
			}
			q.ranges = nil
			r.end(q, done)
		}
	}
}

// Close waits for the reads in flight, wakes everybody and releases everything. Its error says that not all of it ended in time. A second Close
// does nothing.
func (r *Reader) Close() error {
	var done requests
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	r.dropQueued(errReader, &done)
	r.mu.Unlock()
	done.wakeAll()
	if r.ring == nil {
		return nil
	}
	err := r.drain()
	perr := r.poll.Close()
	<-r.gone
	if err != nil {
		r.fail(err)
		return err // the queues stay mapped: the kernel, or who leads, may still be at work on them
	}
	r.mu.Lock()
	r.broken.Store(true) // for who comes late (attend)
	r.mu.Unlock()
	return errors.Join(perr, r.ring.close())
}

// drain waits until nothing is in flight and nobody uses the ring.
func (r *Reader) drain() error {
	for end := time.Now().Add(r.drainLimit); ; time.Sleep(50 * time.Microsecond) {
		var done requests
		r.mu.Lock()
		r.land(&done)
		flying, idle := len(r.flights)-len(r.free), !r.leading.Load() && r.users.Load() == 0
		broken := r.broken.Load()
		r.mu.Unlock()
		done.wakeAll()
		switch {
		case broken:
			return fmt.Errorf("%s", r.Report().Reason)
		case flying == 0 && idle:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("%d reads did not end: %w", flying, unix.ETIMEDOUT)
		}
	}
}
