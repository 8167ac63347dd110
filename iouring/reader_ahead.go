//go:build linux

package iouring

import (
	"fmt"
	"os"
	"runtime"
	"time"
)

// ReadAhead starts to read the ranges and does not wait for them. It is a hint: once half the ring is in use it drops
// the rest. It returns the number of ranges that it took. fd may be closed afterwards.
func (r *Reader) ReadAhead(fd int, ranges []Range) int {
	if r.ring == nil || r.broken.Load() {
		return 0
	}
	taken := 0
	r.mu.Lock()
	if !r.closed {
		r.signal(true) // before anything can complete
	}
	for taken < len(ranges) && r.startRange(fd, ranges[taken]) {
		taken++
	}
	if taken == 0 {
		r.mu.Unlock()
		return 0
	}
	r.users.Add(1)
	defer r.leave()
	end := r.ring.Tail()
	lead := !r.leading.Load()
	r.leading.Store(true)
	r.mu.Unlock()
	if lead {
		r.lead()
	}
	// R2: until the kernel has taken the entries, they name the file by its descriptor. The leader submits them next.
	for !r.ring.Taken(end) && !r.broken.Load() {
		runtime.Gosched()
	}
	return taken
}

// startRange puts all pieces of a range in the ring, or none. mu is held.
func (r *Reader) startRange(fd int, x Range) bool {
	if r.closed || r.broken.Load() || r.settling > 0 || x.Len <= 0 || x.Off < 0 {
		return false
	}
	pieces := (x.Len + pieceBytes - 1) / pieceBytes
	long := pieces > 1
	if len(r.free) < len(r.inFlight)/2+pieces || long && r.longs+pieces > longPieces {
		return false
	}
	for at := 0; at < x.Len; at += pieceBytes {
		off, n := sameBlocks(x.Off+int64(at), min(pieceBytes, x.Len-at))
		r.launch(readInFlight{fd: fd, off: off, n: n, long: long})
	}
	r.count.Started++
	return true
}

// Settle waits until no read that ReadAhead started is in flight, so that those ranges can be overwritten past the page
// cache. It waits for limit at most, then returns an error. Meanwhile ReadAhead takes nothing. If the ring has failed
// with read ahead in flight, no completion will come, and Settle gives those reads that long to end.
func (r *Reader) Settle(limit time.Duration) error {
	if r.ring == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settling++
	defer func() { r.settling-- }()
	if rest := time.Until(r.brokenAt.Add(limit)); !r.brokenAt.IsZero() && rest > 0 {
		r.mu.Unlock()
		time.Sleep(rest)
		r.mu.Lock()
	}
	if r.ahead == 0 {
		return nil
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	for late := false; r.ahead > 0; {
		if late {
			return fmt.Errorf("settle: %d reads ahead did not end: %w", r.ahead, os.ErrDeadlineExceeded)
		}
		changed := r.nextChange()
		r.mu.Unlock()
		late = expires(t, changed)
		r.mu.Lock()
	}
	return nil
}
