package iobuf

import (
	"context"
	"runtime/pprof"
	"time"
)

// flusherLabels are the profiling labels of the flusher; it would have those of the goroutine that started it.
var flusherLabels = pprof.WithLabels(context.Background(), pprof.Labels("pagecache", "flusher"))

// flusher leads when no other goroutine does: for full chunks, every so often while something is written, for marks,
// and when the lead is handed to it. It ends after Close. An idle log does not wake it.
func (l *Log) flusher(every time.Duration) {
	pprof.SetGoroutineLabels(flusherLabels)
	defer close(l.done)
	due, tick := time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	due.Stop()
	tick.Stop()
	var written <-chan struct{} // while tick is stopped
	if every > 0 {
		written = l.NextWrite()
		if l.unflushed() {
			tick.Reset(every)
		}
	}
	for {
		select {
		case <-l.quit:
			due.Stop()
			l.drain()
			return
		case <-l.arm:
			due.Reset(l.markAfter)
		case <-due.C:
			if now, later := l.markDue(); now {
				l.mark()
			} else if later {
				due.Reset(l.markAfter)
			}
		case <-l.handoff:
			l.leader.lead(nil)
		case <-l.kick:
			l.tryLead()
		case <-written:
			written = nil
			tick.Reset(every)
		case <-tick.C:
			l.flushAll()
			if !l.unflushed() {
				written = l.NextWrite() // the look below follows it, or a write in between would be forgotten
			}
			if l.unflushed() {
				written = nil
				tick.Reset(every)
			}
		}
	}
}

// unflushed reports whether something was written that is not durable, and may become so.
func (l *Log) unflushed() bool {
	return l.active.Load() != nil && l.Tail() > l.DurableEnd() && !l.stopped.Load()
}

// flushAll makes everything reserved so far durable, unless another goroutine leads, which then does that.
func (l *Log) flushAll() {
	if !l.unflushed() {
		return
	}
	tail := l.Tail()
	l.state.mu.Lock()
	l.state.wanted = max(l.state.wanted, tail-1)
	l.state.mu.Unlock()
	l.tryLead()
}

// tryLead leads unless another goroutine does, or the log has stopped.
func (l *Log) tryLead() {
	l.state.mu.Lock()
	lead := l.state.err == nil && l.state.takeLeadLocked()
	l.state.mu.Unlock()
	if lead {
		l.leader.lead(nil)
	}
}

// drain takes the lead for ever, once the log has stopped, and waits for everything in flight. It gives up if it does
// not get the lead within CloseTimeout: then the device does not complete a write, and cannot be closed.
func (l *Log) drain() {
	if !l.takeLeadWithin(CloseTimeout) {
		return
	}
	ld := &l.leader
	for len(ld.pending) > 0 {
		var err error
		if ld.comps, err = l.dev.Do(nil, 1, ld.comps[:0]); err != nil {
			return
		}
		ld.reap()
	}
	l.drained.Store(true)
}

// takeLeadWithin makes the flusher the leader, or returns false after the limit. The log has stopped, so the leader, if
// there is one, soon resigns or hands on.
func (l *Log) takeLeadWithin(limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	for { // ends: each turn follows a resignation
		l.state.mu.Lock()
		lead := l.state.takeLeadLocked()
		l.state.mu.Unlock()
		if lead {
			return true
		}
		select {
		case <-l.handoff:
			return true
		case <-l.resigned:
		case <-t.C:
			return false
		}
	}
}

// kickFlusher wakes the flusher, unless a kick is already under way. It never blocks.
func (l *Log) kickFlusher() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}
