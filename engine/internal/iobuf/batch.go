package iobuf

import (
	"context"
	"slices"
	"sort"
	"time"

	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// Batches that overlap form a group: the part of the log from the earliest begin marker to the last end marker. No byte
// inside a group is stable before the whole group is durable, since recovery would cut the log at its beginning. If
// batches began without a pause, a group would never end. So a fence closes, and from then on BeginBatch waits until
// all batches of the group have ended (rule 18, trap 38). It closes as soon as the beginning of the open group is
// durable, and sooner if a goroutine waits for something in it to become stable: at the end of the next flush, or at
// once if the leader is at work then, since that goroutine waits for the flush that follows.
//
//	                 begin                 durable or awaited, see fenced
//	       ┌──────┐         ┌──────┐                                   ┌────────┐
//	       │ None │ ──────▶ │ Open │ ────────────────────────────────▶ │ Fenced │
//	       └──────┘         └──────┘                                   └────────┘
//	          ▲                 │          the last batch ends          │  │  ▲
//	          └─────────────────┴───────────────────────────────────────┘  │  │ the last slow batch ends
//	          │                                                            ▼  │
//	          │                 the last batch ends                    ┌────────┐
//	          └─────────────────────────────────────────────────────── │ Slow   │
//	                                                                   └────────┘
//
// A BeginBatch may be nested in a batch, and then the group cannot end while it waits. So a wait ends after
// Config.Patience. The batches that were open all that time are slow: nobody waits for them any more (Slow), but once
// they have ended, the fence closes again for those that have begun meanwhile.
//
// So a waiter for stability waits for the longest batch, for one more that passed the fence as it closed, and for two
// flushes, as long as batches take less than that patience or begin after a pause. Longer batches can overlap without
// end, in whatever order they begin: while one goroutine pauses for the patience, the batch of another can last.
// Nothing that was written meanwhile can be stable, because recovery keeps or drops all that lies between two markers.

// group is the part of the log that overlapping batches cover.
type group struct {
	begin format.LSN // the earliest begin marker
	end   format.LSN // the first byte after the last end marker so far; 0 before the first
}

// batches is the state of all batches. Log.state.mu guards it.
type batches struct {
	groups []group      // those that are not wholly stable, in the order of the log. They do not overlap
	open   []*openBatch // the batches that have not ended, by LSN. All of them are in the last group
	// slowBelow is the LSN below which open batches are slow.
	slowBelow format.LSN
	until     time.Time     // when the open batches become slow; zero if no BeginBatch has waited for them
	left      chan struct{} // closed when no batch is open any more, and when waiting is over; nil if nobody waits
	refused   bool          // no batch may begin any more
	// awaited is the highest LSN whose stability a goroutine has waited for, and asked is what that was when a flush
	// ended last, or a waiter found that another goroutine leads; NoLSN before the first.
	awaited, asked format.LSN
}

// begin adds a batch. Begin markers are reserved before they are added, so the order may be another.
func (s *batches) begin(b *openBatch) {
	i := len(s.groups)
	g := group{begin: b.lsn}
	for i > 0 && s.groups[i-1].begin > b.lsn {
		i--
		g.end = max(g.end, s.groups[i].end)
	}
	// If a group of open batches is among those that follow b, the one before has ended.
	if i > 0 && (s.groups[i-1].end > b.lsn || i == len(s.groups) && len(s.open) > 0) {
		i--
		g.begin, g.end = s.groups[i].begin, max(g.end, s.groups[i].end)
	}
	s.groups = append(s.groups[:i], g)
	at := len(s.open)
	for at > 0 && s.open[at-1].lsn > b.lsn {
		at--
	}
	s.open = slices.Insert(s.open, at, b)
}

// ended removes an open batch whose end marker ends at end. It returns the LSN that must be durable for the batch to be
// stable, or NoLSN if that is not known yet, since the group has not ended. A flush before that would make nothing
// stable, and the one that does might have to wait for it.
func (s *batches) ended(b *openBatch, end format.LSN) format.LSN {
	b.ended = true
	i := slices.Index(s.open, b)
	s.open = slices.Delete(s.open, i, i+1)
	g := &s.groups[len(s.groups)-1]
	g.end = max(g.end, end)
	if len(s.open) == 0 {
		s.until = time.Time{}
		s.wake()
		return g.end - 1
	}
	return format.NoLSN
}

// wake ends all waits for batches.
func (s *batches) wake() {
	if s.left != nil {
		close(s.left)
		s.left = nil
	}
}

// wait returns the channel that wake closes.
func (s *batches) wait() <-chan struct{} {
	if s.left == nil {
		s.left = make(chan struct{})
	}
	return s.left
}

// limit returns the first byte that must not be stable if all below durable is durable: durable, or the beginning of
// the group that contains it. It forgets the groups below.
func (s *batches) limit(durable format.LSN) format.LSN {
	n := 0
	for n < len(s.groups) && s.groups[n].end <= durable && !(n == len(s.groups)-1 && len(s.open) > 0) {
		n++
	}
	s.groups = slices.Delete(s.groups, 0, n)
	if len(s.groups) > 0 {
		return min(durable, s.groups[0].begin)
	}
	return durable
}

// needed returns the LSN that must be durable for the message at lsn to be stable: the last byte of its group if that
// has ended, else lsn. A batch that is still open asks for its end itself (Batch.End).
func (s *batches) needed(lsn format.LSN) format.LSN {
	i := sort.Search(len(s.groups), func(i int) bool { return s.groups[i].begin > lsn }) - 1
	if i < 0 || i == len(s.groups)-1 && len(s.open) > 0 {
		return lsn
	}
	return max(lsn, s.groups[i].end-1)
}

// fenced reports whether a batch that begins now has to wait for the open ones: their group is older than a flush, or a
// goroutine that waits for it to become stable would otherwise wait for a third one.
func (s *batches) fenced(durable format.LSN) bool {
	if len(s.open) == 0 || s.open[0].lsn < s.slowBelow {
		return false
	}
	begin := s.groups[len(s.groups)-1].begin
	return begin < durable || begin <= s.asked
}

// setFenceLocked sets the hint fenced.
func (l *Log) setFenceLocked() {
	s := &l.state
	if f := s.batches.refused || s.batches.fenced(s.durable); f != l.fenced.Load() {
		l.fenced.Store(f)
	}
}

// Batch is an open batch. It ends in one successful call of End. Its methods are safe for concurrent use.
type Batch struct {
	tracker invariants.Tracker // first: then it takes no memory in a normal build
	l       *Log
	b       *openBatch
}

// openBatch is what the log knows of a batch. It is not the Batch itself: a Batch that its user has dropped becomes
// garbage, and the tracker reports it.
type openBatch struct {
	lsn      format.LSN    // the begin marker
	since    time.Duration // when it began, since Log.began
	ended    bool          // guarded by Log.state.mu
	reported bool          // as open for long; guarded by Log.state.mu
}

// BeginBatch writes a begin marker. Everything that any goroutine writes from then on becomes stable, and is recovered,
// only together with the end marker. It waits, for Config.Patience at most, until the batches that overlap with an
// older one have ended. Errors as for Reserve, and ErrClosed after RefuseBatches.
func (l *Log) BeginBatch() (*Batch, error) {
	if l.fenced.Load() {
		l.awaitGroup()
	}
	r, err := l.Reserve(format.KindBatchBegin, 0, 0)
	if err != nil {
		return nil, err
	}
	b := &Batch{tracker: invariants.Track("iobuf.Batch", &l.stopped), l: l,
		b: &openBatch{lsn: r.LSN(), since: l.sinceBegan()}}
	l.state.mu.Lock() // before the commit: until then durability cannot pass the marker
	if l.state.batches.refused {
		l.state.mu.Unlock()
		b.tracker.Done()
		r.Abort()
		return nil, ErrClosed
	}
	l.state.batches.begin(b.b)
	l.setFenceLocked()
	l.lookLocked(batchPatience)
	l.state.mu.Unlock()
	r.Complete()
	return b, nil
}

// awaitGroup waits until the open group has ended, if its beginning is durable, for Config.Patience at most.
func (l *Log) awaitGroup() {
	s, b := &l.state, &l.state.batches
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || b.refused || !b.fenced(s.durable) {
		return
	}
	now := time.Now()
	if b.until.IsZero() {
		b.until = now.Add(l.patience)
	}
	until, left := b.until, b.wait()
	s.mu.Unlock()
	t := time.NewTimer(until.Sub(now))
	select {
	case <-left:
	case <-t.C:
	}
	t.Stop()
	s.mu.Lock()
	if b.until.Equal(until) { // nobody has found out before
		b.until, b.slowBelow = time.Time{}, b.open[len(b.open)-1].lsn+1
		b.wake()
		l.setFenceLocked()
	}
}

// RefuseBatches lets no batch begin any more. Open ones can still end.
func (l *Log) RefuseBatches() {
	l.state.mu.Lock()
	l.state.batches.refused = true
	l.state.batches.wake()
	l.setFenceLocked()
	l.state.mu.Unlock()
}

// AwaitBatches waits until no batch is open, the log has stopped, or ctx ends.
func (l *Log) AwaitBatches(ctx context.Context) {
	s := &l.state
	for {
		s.mu.Lock()
		if len(s.batches.open) == 0 || s.err != nil {
			s.mu.Unlock()
			return
		}
		left := s.batches.wait()
		s.mu.Unlock()
		select {
		case <-left:
		case <-ctx.Done():
			return
		}
	}
}

// MissingFrom returns the LSN from which on recovery would drop everything, since a batch is open. ok is false if none
// is.
func (l *Log) MissingFrom() (lsn format.LSN, ok bool) {
	l.state.mu.Lock()
	defer l.state.mu.Unlock()
	b := &l.state.batches
	if len(b.open) == 0 {
		return 0, false
	}
	return b.groups[len(b.groups)-1].begin, true
}

// LSN returns the LSN of the begin marker.
func (b *Batch) LSN() format.LSN { return b.b.lsn }

// End writes the end marker and returns its LSN. It fails with ErrBatchEnded if the batch had ended already; after any
// other error, as for Reserve, the batch is still open and End may be tried again.
func (b *Batch) End() (format.LSN, error) {
	s := &b.l.state
	s.mu.Lock()
	ended := b.b.ended
	flushed := len(s.batches.open) == 1 && !s.leading && len(s.waiters) > 0 // the flusher comes at once
	s.mu.Unlock()
	if ended {
		return 0, ErrBatchEnded
	}
	r, err := b.l.Reserve(format.KindBatchEnd, 0, format.ManifestSize)
	if err != nil {
		return 0, err
	}
	format.Manifest{Begin: b.b.lsn}.Append(r.Body()[:0])
	lsn := r.LSN()
	if flushed {
		b.l.padBehind(&r)
	}
	s.mu.Lock()
	ended = b.b.ended
	invariants.Sometimes("iobuf: another goroutine ends the batch first", ended)
	if ended {
		s.mu.Unlock()
		r.Abort()
		return 0, ErrBatchEnded
	}
	needed := s.batches.ended(b.b, r.End())
	b.l.setFenceLocked()
	waited := len(s.waiters) > 0 && needed != format.NoLSN
	if waited {
		s.wanted = max(s.wanted, needed)
	}
	s.mu.Unlock()
	b.tracker.Done()
	r.Complete()
	if waited {
		b.l.kickFlusher()
	}
	return lsn, nil
}

// padBehind pads the block behind the end of a group that is flushed at once. The leader would do it, but meanwhile the
// batches that wait for the group begin: their markers would be in the same block, and not be committed yet.
func (l *Log) padBehind(r *Reservation) {
	if l.padding.Load() <= 0 {
		return
	}
	n := r.b.padTail(r.off, l.block, l.known())
	l.filled(anyCommit) // it may also have sealed the segment
	l.padding.Add(int64(-n))
	l.state.mu.Lock()
	l.state.stats.BytesPadded += int64(n)
	l.state.mu.Unlock()
}
