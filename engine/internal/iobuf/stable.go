package iobuf

import (
	"context"
	"fmt"
	"slices"

	"pagecache/segments/format"
)

// waiter is a goroutine that waits for the log. It is in state.waiters until it is woken or gives up.
type waiter struct {
	lsn       format.LSN
	level     waitLevel
	woken     bool      // guarded by state.mu: lsn has reached the level, or the log has stopped
	mayGiveUp bool      // such a waiter does not lead, because the device may hang
	ch        chan wake // room for one wakeLead and one other, so that sending never blocks
}

// waitLevel is the property of an LSN that a waiter waits for.
type waitLevel uint8

const (
	waitStable  waitLevel = iota
	waitDurable           // unlike waitStable, also inside an open batch
)

// String returns the name of the level.
func (v waitLevel) String() string {
	if names := [...]string{"stable", "durable"}; int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("waitLevel(%d)", uint8(v))
}

// wake is a message to a waiter.
type wake uint8

const (
	wakeDone   wake = iota // the LSN is stable or durable; no other follows
	wakeFailed             // the log has stopped; no other follows
	wakeLead               // the waiter is the leader now
)

// String returns the name of the message.
func (k wake) String() string {
	if names := [...]string{"done", "failed", "lead"}; int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("wake(%d)", uint8(k))
}

// wake ends the wait of w. The caller holds state.mu and removes w from state.waiters.
func (w *waiter) wake(k wake) {
	w.woken = true
	w.ch <- k
}

// MakeStable waits until the message at lsn is stable. If lsn was never reserved, it waits for everything reserved so
// far. If lsn is at or above the beginning of an open batch, it waits for the batch to end.
func (l *Log) MakeStable(lsn format.LSN) error { return l.wait(context.Background(), lsn, waitStable) }

// MakeStableContext is MakeStable that gives up, with an error that wraps the context's, when ctx ends. If ctx can end,
// the caller never drives the device, which may hang; the flusher does.
func (l *Log) MakeStableContext(ctx context.Context, lsn format.LSN) error {
	return l.wait(ctx, lsn, waitStable)
}

// MakeDurable waits until the message at lsn, and all before it, is durable. Unlike MakeStable it does not wait for
// batches to end.
func (l *Log) MakeDurable(lsn format.LSN) error {
	return l.wait(context.Background(), lsn, waitDurable)
}

// Flush makes everything reserved so far stable.
func (l *Log) Flush() error { return l.FlushContext(context.Background()) }

// FlushContext is Flush that gives up, with an error that wraps the context's, when ctx ends.
func (l *Log) FlushContext(ctx context.Context) error {
	tail := l.Tail()
	if l.active.Load() == nil || tail <= l.StableEnd() {
		l.acknowledge(tail - 1)
		if err := l.Err(); err != ErrReadOnly {
			return err
		}
		return nil
	}
	return l.wait(ctx, tail-1, waitStable)
}

// wait waits until lsn has reached the level, or ctx ends.
func (l *Log) wait(ctx context.Context, lsn format.LSN, level waitLevel) error {
	if level == waitStable && l.StableEnd() > lsn {
		l.acknowledge(lsn)
		return nil
	}
	lsn = min(lsn, l.Tail()-1)
	s := &l.state
	s.mu.Lock()
	if l.reachedLocked(lsn, level) {
		if l.unproven(lsn) {
			l.acknowledgedLocked()
		}
		s.mu.Unlock()
		return nil
	}
	if s.err != nil {
		defer s.mu.Unlock()
		if s.err == ErrReadOnly {
			return nil // everything reserved is stable
		}
		return s.err
	}
	w, _ := l.waiters.Get().(*waiter)
	if w == nil {
		w = &waiter{ch: make(chan wake, 2)}
	}
	w.lsn, w.level, w.woken, w.mayGiveUp = lsn, level, false, ctx.Done() != nil
	s.waiters = append(s.waiters, w)
	if level == waitStable {
		s.batches.awaited = max(s.batches.awaited, lsn)
		lsn = s.batches.needed(lsn)
	}
	s.wanted = max(s.wanted, lsn)
	lead, parked := s.takeLeadLocked(), s.parked.Load()
	if !lead && level == waitStable { // a flush is under way: the next one must not be without the end of the group
		s.batches.asked = s.batches.awaited
		l.setFenceLocked()
	}
	s.mu.Unlock()
	switch {
	case lead && w.mayGiveUp:
		l.handoff <- struct{}{} // has room: see passLocked
	case lead:
		l.leader.lead(w)
	case parked: // while somebody waits, the leader waits in the kernel
		l.parker.Unpark()
	}
	return l.await(ctx, w)
}

// await waits until w is woken for the last time, or ctx ends. It leads when w is made the leader.
func (l *Log) await(ctx context.Context, w *waiter) error {
	for {
		select {
		case k := <-w.ch:
			switch k {
			case wakeLead:
				l.leader.lead(w)
				continue
			case wakeFailed:
				l.release(w)
				return l.Err()
			}
			l.release(w)
			return nil
		case <-ctx.Done():
			l.state.mu.Lock()
			l.state.waiters = slices.DeleteFunc(l.state.waiters, func(x *waiter) bool { return x == w })
			l.state.mu.Unlock()
			err := fmt.Errorf("LSN %d is not %v yet: %w", w.lsn, w.level, context.Cause(ctx))
			l.release(w)
			return err
		}
	}
}

// release returns a waiter that is no longer in state.waiters to the pool. A waiter that was woken for the last time
// has an empty channel, since wakeLead comes before that. A waiter that gave up never leads, and may have been woken
// meanwhile.
func (l *Log) release(w *waiter) {
	select {
	case <-w.ch:
	default:
	}
	l.waiters.Put(w)
}

// reachedLocked reports whether lsn has reached the level.
func (l *Log) reachedLocked(lsn format.LSN, level waitLevel) bool {
	if level == waitDurable {
		return lsn < l.state.durable
	}
	return lsn < l.StableEnd()
}

// settleLocked moves the stable LSN as far as durability and batches allow, and wakes the waiters that this satisfies.
func (l *Log) settleLocked() {
	s := &l.state
	if end := s.batches.limit(s.durable); end > l.StableEnd() {
		l.stable.Store(int64(end))
	}
	s.batches.asked = s.batches.awaited
	l.setFenceLocked()
	waiting := len(s.waiters)
	s.waiters = slices.DeleteFunc(s.waiters, func(w *waiter) bool {
		if !l.reachedLocked(w.lsn, w.level) {
			return false
		}
		w.wake(wakeDone)
		return true
	})
	if len(s.waiters) < waiting {
		l.acknowledgedLocked()
	}
}
