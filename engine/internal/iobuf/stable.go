package iobuf

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"pagecache/segments/format"
)

// waiter is a goroutine that waits for the log, in Log.waiters until it is woken.
type waiter struct {
	lsn   format.LSN
	level waitLevel
	woken bool      // under Log.mu: what it waits for has come, or the log has stopped
	hasty bool      // it waits for so long at most, and so does not lead: the device may hang
	ch    chan wake // room for one wakeLead and one other, so that sending never blocks
}

type waitLevel uint8

const (
	waitStable  waitLevel = iota // until the LSN is stable
	waitDurable                  // until it is durable, batches or not
)

type wake uint8

const (
	wakeDone   wake = iota // stable, or durable
	wakeFailed             // the log has stopped
	wakeLead               // lead
)

var waiters = sync.Pool{New: func() any { return &waiter{ch: make(chan wake, 2)} }}

func (w *waiter) wake(k wake) {
	w.woken = true
	w.ch <- k
}

// MakeStable waits until the message at lsn is stable. An lsn that was never reserved stands for all that is reserved
// now. Behind an open batch it waits for the batch to end.
func (l *Log) MakeStable(lsn format.LSN) error { return l.wait(lsn, waitStable, 0) }

// MakeStableWithin is MakeStable that gives up, with an error, after some time.
func (l *Log) MakeStableWithin(lsn format.LSN, limit time.Duration) error {
	return l.wait(lsn, waitStable, limit)
}

// MakeDurable waits until the message at lsn, and all before it, is durable. Unlike MakeStable it does not wait for
// batches.
func (l *Log) MakeDurable(lsn format.LSN) error { return l.wait(lsn, waitDurable, 0) }

// Flush makes everything reserved so far stable.
func (l *Log) Flush() error {
	tail := l.Tail()
	if l.active.Load() == nil || tail <= l.StableEnd() {
		if err := l.Err(); err != ErrReadOnly {
			return err
		}
		return nil
	}
	return l.MakeStable(tail - 1)
}

func (l *Log) wait(lsn format.LSN, level waitLevel, limit time.Duration) error {
	if level == waitStable && l.StableEnd() > lsn {
		return nil
	}
	lsn = min(lsn, l.Tail()-1) // above what is reserved: take what there is
	l.mu.Lock()
	if l.reachedLocked(lsn, level) {
		l.mu.Unlock()
		return nil
	}
	if l.err != nil {
		defer l.mu.Unlock()
		if l.err == ErrReadOnly {
			return nil // nothing is reserved that is not stable
		}
		return l.err
	}
	w := waiters.Get().(*waiter)
	w.lsn, w.level, w.woken, w.hasty = lsn, level, false, limit > 0
	l.waiters = append(l.waiters, w)
	if level == waitStable {
		lsn = l.wholeLocked(lsn)
	}
	l.wanted = max(l.wanted, lsn)
	lead := !l.leading
	l.leading = true
	l.mu.Unlock()
	switch {
	case lead && w.hasty:
		l.handoff <- struct{}{} // has room: see passLocked
	case lead:
		l.lead(w)
	}
	return l.await(w, limit)
}

// await receives until w has what it waits for. It leads when it is told to.
func (l *Log) await(w *waiter, limit time.Duration) error {
	var late <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		late = t.C
	}
	for {
		select {
		case k := <-w.ch:
			switch k {
			case wakeLead:
				l.lead(w)
				continue
			case wakeFailed:
				// A wakeLead may still be in the channel, so the waiter is not used again.
				l.disown(w)
				return l.Err()
			}
			l.disown(w)
			return nil
		case <-late:
			l.mu.Lock()
			l.waiters = slices.DeleteFunc(l.waiters, func(x *waiter) bool { return x == w })
			l.mu.Unlock()
			l.disown(w)
			return fmt.Errorf("waited %v for LSN %d to become durable", limit, w.lsn)
		}
	}
}

// disown gives a waiter back that is not in the list any more. If it was told to lead meanwhile, it leads: as it is
// woken, it passes the lead on at once.
func (l *Log) disown(w *waiter) {
	select {
	case k := <-w.ch:
		if k == wakeLead {
			l.mu.Lock()
			w.woken = true
			l.mu.Unlock()
			l.lead(w)
		}
	default:
	}
	select {
	case <-w.ch:
	default:
		waiters.Put(w)
	}
}

func (l *Log) reachedLocked(lsn format.LSN, level waitLevel) bool {
	if level == waitDurable {
		return lsn < l.durable
	}
	return lsn < l.StableEnd()
}

// settleLocked moves the stable LSN as far as durability and batches allow and wakes whom that satisfies.
func (l *Log) settleLocked() {
	if s := l.batchBound(); s > l.StableEnd() {
		l.stable.Store(int64(s))
		n := 0
		for _, b := range l.batches {
			if b.end == 0 || b.end > s {
				l.batches[n] = b
				n++
			}
		}
		clear(l.batches[n:])
		l.batches = l.batches[:n]
	}
	l.waiters = slices.DeleteFunc(l.waiters, func(w *waiter) bool {
		if !l.reachedLocked(w.lsn, w.level) {
			return false
		}
		w.wake(wakeDone)
		return true
	})
}

// batchBound is how far the log may be called stable: below the beginning of every batch whose end is not durable, and of
// every batch that such a bound cuts in two. Recovery cuts a log in the same way. It ends because each turn
// lowers the bound to the beginning of another batch.
func (l *Log) batchBound() format.LSN {
	bound := l.durable
	for again := true; again; {
		again = false
		for _, b := range l.batches {
			if b.begin < bound && (b.end == 0 || b.end > bound) {
				bound, again = b.begin, true
			}
		}
	}
	return bound
}

// wholeLocked is how far the log must be durable for the message at lsn to be stable: to the end of every batch that has
// ended and in which that lies, or the end of such another. An open one calls for its end itself (End). It ends because
// each turn raises lsn to the end of another batch.
func (l *Log) wholeLocked(lsn format.LSN) format.LSN {
	for again := true; again; {
		again = false
		for _, b := range l.batches {
			if b.begin <= lsn && b.end-1 > lsn {
				lsn, again = b.end-1, true
			}
		}
	}
	return lsn
}

// batch is an entry of Log.batches. Both fields are under Log.mu.
type batch struct {
	begin format.LSN // of the begin marker
	end   format.LSN // the first byte after the end marker; 0 while the batch is open
}

// Batch is an open batch. Its methods are safe for concurrent use.
type Batch struct {
	l *Log
	b *batch
	// lsn is the begin marker's.
	lsn format.LSN
}

// BeginBatch writes a begin marker. Everything written from then on, by anyone, becomes stable, and is recovered, only together
// with the end marker.
func (l *Log) BeginBatch() (*Batch, error) {
	r, err := l.Reserve(format.KindBatchBegin, 0, 0)
	if err != nil {
		return nil, err
	}
	b := &batch{begin: r.LSN()}
	l.mu.Lock() // before the commit: until then durability cannot pass the marker
	l.batches = append(l.batches, b)
	l.mu.Unlock()
	r.Complete()
	return &Batch{l: l, b: b, lsn: b.begin}, nil
}

// LSN is the begin marker's LSN.
func (b *Batch) LSN() format.LSN { return b.lsn }

// End writes the end marker and returns its LSN. After an error the batch is still open and End may be tried again;
// ErrBatch: it had ended already.
func (b *Batch) End() (format.LSN, error) {
	l := b.l
	l.mu.Lock()
	ended := b.b.end != 0
	l.mu.Unlock()
	if ended {
		return 0, ErrBatch
	}
	r, err := l.Reserve(format.KindBatchEnd, 0, format.ManifestSize)
	if err != nil {
		return 0, err
	}
	format.Manifest{Begin: b.lsn}.Append(r.Body()[:0])
	lsn := r.LSN()
	l.mu.Lock()
	if b.b.end != 0 {
		l.mu.Unlock()
		r.Abort()
		return 0, ErrBatch
	}
	b.b.end = r.End()
	waited := len(l.waiters) > 0
	if waited {
		l.wanted = max(l.wanted, lsn)
	}
	l.mu.Unlock()
	r.Complete()
	if waited {
		l.kickFlusher()
	}
	return lsn, nil
}
