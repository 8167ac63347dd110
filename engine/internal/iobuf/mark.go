package iobuf

import (
	"pagecache/segments"
	"pagecache/segments/format"
)

// Every message carries the durable end that was known when it was committed, so what was acknowledged is proven once a
// later message is durable (rule 13, L8). If no message follows, the flusher appends a mark: a pad that carries the
// durable end. It flushes everything before it, and nobody waits for it. It acknowledges nothing, so it needs no mark
// itself, and an idle log falls silent after one.
//
//	          acknowledgedLocked             markDue: nothing was acknowledged
//	Proven ───────────────────────▶ Armed ─────────────────────────────────────▶ Proven
//	                                 │  ▲
//	                                 └──┘ markDue: something was acknowledged, or padding is limited
//
// Proven: markArmed is false. Armed: markArmed is true, and the flusher has a timer, or l.arm is full.

// unproven reports whether an acknowledgement of lsn needs a mark.
func (l *Log) unproven(lsn format.LSN) bool { return int64(lsn) >= l.proven.Load() }

// acknowledge notes that a caller has learned that the message at lsn is durable.
func (l *Log) acknowledge(lsn format.LSN) {
	if l.unproven(lsn) && !l.markArmed.Load() {
		l.state.mu.Lock()
		l.acknowledgedLocked()
		l.state.mu.Unlock()
	}
}

// acknowledgedLocked notes that a caller has learned that a message is durable that is not proven.
func (l *Log) acknowledgedLocked() {
	if l.markAfter <= 0 || l.state.err != nil {
		return
	}
	if l.state.acked = l.markArmed.Load(); l.state.acked {
		return
	}
	l.markArmed.Store(true)
	select {
	case l.arm <- struct{}{}:
	default: // cannot be: the flusher emptied it before it disarmed
	}
}

// markDue decides, markAfter after the last look, whether a mark is to be written now or perhaps later. The flusher
// calls it.
func (l *Log) markDue() (now, later bool) {
	s := &l.state
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false, false
	}
	// While padding is limited, a mark would use up what the cleaner gains (L7).
	if s.acked || l.padding.Load() < unlimited/2 {
		s.acked = false
		return false, true
	}
	l.markArmed.Store(false) // before the mark takes the durable end: an acknowledgement from here on asks for another
	return true, false
}

// mark appends a mark and makes it durable. It gives up if the mark would need a slot that is reserved for urgent
// writers, a buffer that is not free, or room that the disk does not have: the next acknowledgement asks for another.
// The flusher calls it.
func (l *Log) mark() {
	lsn, n := l.placeMark()
	if n == 0 && l.tryRotate() {
		lsn, n = l.placeMark()
	}
	if n == 0 {
		return
	}
	l.state.mu.Lock()
	l.state.stats.BytesPadded += int64(n)
	l.state.wanted = max(l.state.wanted, lsn)
	l.state.mu.Unlock()
	l.tryLead()
}

// placeMark commits a mark in the active buffer. It returns a length of 0 if it must not use that, or finds no room.
func (l *Log) placeMark() (lsn format.LSN, n int) {
	b := l.active.Load()
	if b == nil || urgencyOf(b.least.Load()) > uint64(segments.UrgencyOrdinary) {
		return 0, 0
	}
	k := l.known()
	if lsn, n = b.mark(l.block, k); n > 0 {
		l.proven.Store(int64(k.Durable))
	}
	l.filled(anyCommit) // it may also have sealed the segment
	return lsn, n
}
