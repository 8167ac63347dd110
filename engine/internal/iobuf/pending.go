package iobuf

import (
	"time"

	"pagecache/segments/format"
)

// Pending is something in the log that has begun and not ended. The zero Pending is none.
type Pending struct {
	LSN format.LSN
	Age time.Duration
}

// OldestBatch returns the open batch that began first, and how many batches are open. It takes some nanoseconds, and
// state.mu. Safe for concurrent use.
func (l *Log) OldestBatch() (p Pending, open int) {
	l.state.mu.Lock()
	defer l.state.mu.Unlock()
	if open = len(l.state.batches.open); open > 0 {
		b := l.state.batches.open[0]
		p = Pending{b.lsn, time.Since(l.began) - b.since}
	}
	return p, open
}

// OldestReservation returns the first place in the log that was reserved and is not committed. Nobody notes when a
// reservation begins, so its age is counted from when it was first found: by a leader that waited for it, as each flush
// does, or by this call. It looks at the messages that are not durable, or only at those after the last answer. Safe
// for concurrent use, until the io buffers are released.
func (l *Log) OldestReservation() Pending {
	s := &l.state
	s.mu.Lock()
	queue, start := s.queue, max(s.durable, s.stuck.lsn) // both are message boundaries
	s.mu.Unlock()
	for _, b := range queue {
		if lsn, found := b.uncommitted(start); found {
			s.mu.Lock()
			defer s.mu.Unlock()
			return Pending{lsn, l.stuckLocked(lsn)}
		}
	}
	return Pending{}
}

// stuckLocked notes that the message at lsn is not committed, and returns for how long that has been known.
func (l *Log) stuckLocked(lsn format.LSN) time.Duration {
	now := time.Since(l.began)
	if s := &l.state.stuck; s.lsn != lsn {
		s.lsn, s.since = lsn, now
	}
	return now - l.state.stuck.since
}

// stuck is a message that was reserved and not committed when somebody looked.
type stuck struct {
	lsn   format.LSN
	since time.Duration // since Log.began
}

// uncommitted returns the first message of the buffer at or above start that is reserved and not committed. start is a
// message boundary, or lies in another segment.
func (b *buffer) uncommitted(start format.LSN) (format.LSN, bool) {
	b.read.RLock() // the base does not change meanwhile
	defer b.read.RUnlock()
	base := format.LSN(b.base.Load())
	if base < 0 || start >= base+format.LSN(len(b.mem)) {
		return 0, false
	}
	end, pos := b.reserved(), format.SegmentStart
	if at := int(b.sealedAt.Load()); at != 0 {
		end = at // the leader writes the rest
	}
	if start > base {
		pos = max(pos, int(start-base))
	}
	for pos < end && len(b.mem)-pos >= format.HeaderSize {
		w := b.word(pos)
		if w == 0 {
			return base + format.LSN(pos), true
		}
		pos += format.AlignUp(w.Len())
	}
	return 0, false
}
