//go:build linux

package iouring

import (
	"fmt"

	"golang.org/x/sys/unix"

	"pagecache/iouring/internal/ring"
)

// lead submits the queued reads and takes completions until there is nothing to submit. The caller has set leading; on
// return it is no longer set, or another caller was made leader. The loop ends because one caller leads for leaderTurns
// only while others wait.
func (r *Reader) lead() {
	for turn := 0; ; turn++ {
		var done requests
		r.mu.Lock()
		r.takeCompletions(&done)
		if q := r.waiting(); q != nil && turn >= leaderTurns && !r.ring.Pending() {
			q.wake <- false // it stays queued until it is led
			r.mu.Unlock()
			done.wakeAll()
			return
		}
		if !r.broken.Load() {
			r.fill(&done)
		}
		more := r.ring.Pending() && !r.broken.Load()
		if more {
			r.count.Submissions++
		}
		r.leading.Store(more)
		if !more {
			r.change()
		}
		r.mu.Unlock()
		done.wakeAll()
		if !more {
			return
		}
		if err := r.ring.Enter(0); err != nil {
			r.fail(err)
		}
	}
}

// reap takes completions, and leads if something is left to submit without a leader. The reaper calls it for each
// signal of the ring. It reports whether the ring no longer works.
func (r *Reader) reap() bool {
	var done requests
	r.mu.Lock()
	r.takeCompletions(&done)
	broken := r.broken.Load()
	lead := !broken && !r.leading.Load() && (r.ring.Pending() || r.waiting() != nil)
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

// takeCompletions takes all completions, and adds the requests that are done to a list. It pushes again the reads that
// are not finished. mu is held.
func (r *Reader) takeCompletions(done *requests) {
	if r.broken.Load() {
		return
	}
	for {
		id, res, ok := r.ring.Pop()
		if !ok {
			return
		}
		if id >= uint64(len(r.inFlight)) || r.inFlight[id].n == 0 {
			continue // a probe's
		}
		f := &r.inFlight[id]
		err, ended := r.decide(f, res)
		if !ended {
			r.push(id)
			continue
		}
		r.free = append(r.free, id)
		r.complete(f, err, done)
	}
}

// complete ends a read that was in flight. mu is held.
func (r *Reader) complete(f *readInFlight, err error, done *requests) {
	r.change()
	if f.long {
		r.longs--
	}
	q := f.q
	*f = readInFlight{}
	if q == nil {
		r.ahead--
		return
	}
	if q.err == nil {
		q.err = err
	}
	if q.inFlight--; q.inFlight == 0 && !q.queued {
		done.add(q)
	}
}

// decide reports whether a read has ended, and with which error. Read ahead has ended in any case: its descriptor may
// by now belong to another file (R2). mu is held.
func (r *Reader) decide(f *readInFlight, res int32) (err error, ended bool) {
	switch v := ring.Judge(res, f.n); {
	case res == 0, v == ring.VerdictDone: // 0: the end of the file
		r.count.Bytes += int64(res)
		return nil, true
	case v == ring.VerdictMore:
		r.count.Bytes += int64(res)
		f.off, f.n, f.retries = f.off+int64(res), f.n-int(res), 0
	case v != ring.VerdictAgain, f.retries >= readRetries:
		return fmt.Errorf("read %d bytes at %d: %w", f.n, f.off, unix.Errno(max(0, -res))), true
	default:
		f.retries++
	}
	if r.closed {
		return errReaderClosed, true
	}
	return nil, f.q == nil
}
