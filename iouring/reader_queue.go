//go:build linux

package iouring

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

// wakeAll wakes the callers, whose requests are done. From then on the requests are theirs.
func (l *requests) wakeAll() {
	for l.head != nil {
		l.take().wake <- true
	}
}

// All methods below are called with mu held. They add requests that are done to a list, whose callers are woken after
// mu is released.

func (r *Reader) queue(q *request) {
	if q.queued = true; q.long {
		r.long.add(q)
	} else {
		r.short.add(q)
	}
}

// waiting returns a request of which something is not in flight yet, nil if there is none.
func (r *Reader) waiting() *request {
	if r.short.head != nil {
		return r.short.head
	}
	return r.long.head
}

// fill moves reads from the queues to the ring, the short ones first; but a piece of a long one goes next once
// shortsFirst short ones have gone before it (R6). Long requests get one piece each, in turn.
func (r *Reader) fill(done *requests) {
	for len(r.free) > 0 {
		long := r.longs < longPieces && r.long.head != nil
		switch {
		case r.short.head != nil && (!long || r.passed < shortsFirst):
			if long {
				r.passed++
			}
			if q := r.short.head; r.launchNext(q) {
				r.short.take()
				r.launched(q, done)
			}
		case long:
			r.passed = 0
			if q := r.long.take(); r.launchNext(q) {
				r.launched(q, done)
			} else {
				r.long.add(q)
			}
		default:
			return
		}
	}
}

// launched records that nothing of a request is left to launch.
func (r *Reader) launched(q *request, done *requests) {
	if q.queued = false; q.inFlight == 0 {
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
	off, n := sameBlocks(x.Off+int64(q.at), min(pieceBytes, x.Len-q.at))
	r.launch(readInFlight{q: q, fd: q.fd, off: off, n: n, long: q.long})
	q.inFlight++
	if q.at += pieceBytes; q.at >= x.Len {
		q.ranges, q.at = q.ranges[1:], 0
	}
	return len(q.ranges) == 0
}

// launch puts a read in the ring. There is a free id.
func (r *Reader) launch(f readInFlight) {
	id := r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	if f.long {
		r.longs++
	}
	if f.q == nil {
		r.ahead++
	}
	r.inFlight[id] = f
	r.count.Reads++
	r.push(id)
}

func (r *Reader) push(id uint64) {
	f := &r.inFlight[id]
	r.ring.Read(id, f.fd, f.off, r.scratch[:f.n])
}

// dropQueued ends every request that is queued, with err unless it has an error already.
func (r *Reader) dropQueued(err error, done *requests) {
	for _, l := range []*requests{&r.short, &r.long} {
		for l.head != nil {
			q := l.take()
			if q.err == nil {
				q.err = err
			}
			q.ranges = nil
			r.launched(q, done)
		}
	}
}
