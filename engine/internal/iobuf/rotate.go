package iobuf

import (
	"cmp"
	"context"
	"errors"
	"runtime/pprof"
	"slices"

	"pagecache/internal/invariants"
	"pagecache/segments"
	"pagecache/segments/format"
)

// checkRoom asks whether a writer of urgency u may use the active buffer b, whose segment lies in a slot that is
// reserved for more urgent ones. least is what b.least was. If the buffer has been opened for another segment
// meanwhile, the writer gets one place in it, and asks again for the next.
func (l *Log) checkRoom(b *buffer, least uint64, u segments.Urgency) error {
	if err := l.space.Room(u); err != nil {
		return l.spaceError(err)
	}
	lowered := b.least.CompareAndSwap(least, withUrgency(least, u))
	invariants.Sometimes("iobuf: the buffer changes its segment while a writer asks for room", !lowered)
	return nil
}

// spaceError returns err, an error of Space, if it is lack of room, which fails one reservation. Any other error
// stops the log.
func (l *Log) spaceError(err error) error {
	if !errors.Is(err, segments.ErrNoRoom) {
		l.fail(err)
		return l.Err()
	}
	return err
}

// rotate opens the next segment if the active one is full. It waits for a free buffer.
func (l *Log) rotate(u segments.Urgency) error {
	if l.chunkFilled.Load() {
		l.help() // with the rest of the segment, before this goroutine waits for a buffer
	}
	l.rotation.mu.Lock()
	defer l.rotation.mu.Unlock()
	opened := l.hasActive()
	invariants.Sometimes("iobuf: another writer opens the next segment", opened)
	if opened {
		return nil
	}
	return l.openNext(u)
}

// EndSegment ends the active segment, of which the rest holds nothing, and opens the next one with the urgency of the
// cleaner. It waits for a free buffer. Errors: as for Reserve.
func (l *Log) EndSegment() error {
	l.SealFrom(0)
	if l.stopped.Load() {
		return l.Err()
	}
	return l.rotate(segments.UrgencyCleaning)
}

// SealFrom ends the active segment, of which the rest holds nothing, if at least n bytes of it are reserved. It opens
// no other one. The loop ends because each failed compare-and-swap means that a writer has moved the tail on, or that
// the segment has ended.
func (l *Log) SealFrom(n int) {
	for b := l.active.Load(); b != nil; {
		t := tailWord(b.tail.Load())
		if b.full(t) || t.off() < n {
			return
		}
		if b.tail.CompareAndSwap(uint64(t), uint64(makeTail(len(b.mem)+1, t.units()))) {
			l.sealRest(b, t.off()) // which is the caller's
			return
		}
	}
}

// hasActive reports whether there is an active buffer that is not sealed.
func (l *Log) hasActive() bool {
	b := l.active.Load()
	return b != nil && !b.sealed()
}

// tryRotate is rotate for the flusher, which must not wait for a buffer, since it may be the one that frees it. It
// returns false if it could not open the next segment now.
func (l *Log) tryRotate() bool {
	if !l.rotation.mu.TryLock() {
		return false
	}
	defer l.rotation.mu.Unlock()
	if l.hasActive() {
		return true
	}
	l.state.mu.Lock()
	waits := len(l.state.free)+len(l.state.used) == 0 // beside rotation.mu only the clearer takes one, for a moment
	l.state.mu.Unlock()
	return !waits && l.openNext(segments.UrgencyOrdinary) == nil
}

// openNext opens the next segment. It waits for a free buffer. The caller holds rotation.mu, and the active buffer, if
// there is one, is sealed.
func (l *Log) openNext(u segments.Urgency) error {
	b, err := l.takeFree()
	if err != nil {
		return err
	}
	base := l.rotation.next
	slot, least, err := l.space.OpenSegment(base, u)
	if err != nil {
		l.giveFree(b)
		return l.spaceError(err)
	}
	b.least.Store(leastOf(base, least))
	b.slot, b.seed = slot, format.MakeSeed(l.store, l.generation, slot)
	format.SegmentHeader{
		State: format.SegmentStateInUse, SegmentSize: l.segmentSize, BlockSize: l.block, Generation: l.generation,
		Base: base, Stable: l.StableLSN(), Slot: slot, Store: l.store, Timeline: l.timeline, Ledger: l.space.Ledger(),
	}.Put(b.mem)
	b.progress = progress{walked: format.SegmentStart, boundary: format.SegmentStart &^ (l.block - 1),
		pages: b.progress.pages[:0], listed: l.listPages, blank: l.space.Blank(),
		index: b.progress.index.Reset(), known: b.indexed}
	b.sealedAt.Store(0)
	l.rotation.next += format.LSN(l.segmentSize)
	l.open(b, base, makeTail(format.SegmentStart, 0))
	l.kickFlusher()
	return nil
}

// open makes b the active buffer, with the given tail. It holds state.mu throughout: b may be the active buffer
// already, retired, and its new base with its old tail would look as if the whole segment were reserved (Tail).
func (l *Log) open(b *buffer, base format.LSN, tail tailWord) {
	l.state.mu.Lock()
	defer l.state.mu.Unlock()
	b.read.Lock()
	b.base.Store(int64(base))
	b.read.Unlock()
	l.state.queue = append(l.state.queue, b)
	invariants.Jitter()
	b.tail.Store(uint64(tail)) // after the base, which reservations use from here on
	l.active.Store(b)
}

// takeFree takes a free buffer, or else a used one, which it clears. It waits until there is one or the log stops:
// clearUsed wakes it, and stopLocked.
func (l *Log) takeFree() (*buffer, error) {
	s := &l.state
	s.mu.Lock()
	defer s.mu.Unlock()
	waits := len(s.free)+len(s.used) == 0
	invariants.Sometimes("iobuf: a writer waits for a free buffer", waits)
	if waits {
		s.stats.BufferWaits++
		l.bufferWaiters.Add(1) // before the kick below: the flusher leads until there is a buffer
		defer l.bufferWaiters.Add(-1)
	}
	for len(s.free)+len(s.used) == 0 && s.err == nil {
		l.kickFlusher()
		s.freed.Wait()
	}
	if s.err != nil {
		return nil, s.err
	}
	if len(s.free) == 0 {
		b := s.takeUsedLocked()
		s.mu.Unlock()
		b = b.clear()
		s.mu.Lock()
		return b, nil
	}
	b := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	return b, nil
}

// takeUsedLocked takes a used buffer. The caller then clears it without mu.
func (s *state) takeUsedLocked() *buffer {
	b := s.used[len(s.used)-1]
	s.used = s.used[:len(s.used)-1]
	return b
}

// clearerLabels are the profiling labels of clearUsed; it would have those of the goroutine that started it.
var clearerLabels = pprof.WithLabels(context.Background(), pprof.Labels("pagecache", "clearer"))

// clearUsed makes all used buffers free. It runs in a goroutine of its own, one at a time.
func (l *Log) clearUsed() {
	pprof.SetGoroutineLabels(clearerLabels)
	s := &l.state
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.used) > 0 && s.err == nil {
		b := s.takeUsedLocked()
		s.clears = true
		s.mu.Unlock()
		b = b.clear()
		s.mu.Lock()
		s.clears = false
		s.free = append(s.free, b)
		s.freed.Broadcast()
	}
	s.clearing = false
}

// clear makes all bytes of a used buffer zero, and returns the buffer to use them in. Those of a hole are zero, since
// nobody has written to the pad's filler.
func (b *buffer) clear() *buffer {
	if h := b.progress.hole; h.to > 0 {
		if invariants.Enabled && slices.ContainsFunc(b.mem[h.from:h.to], func(c byte) bool { return c != 0 }) {
			panic("iobuf: the filler of a pad is not zero")
		}
		clear(b.mem[:h.from])
		clear(b.mem[h.to:])
	} else {
		clear(b.mem)
	}
	return cmp.Or(b.later, b)
}

// giveFree returns a buffer that takeFree took.
func (l *Log) giveFree(b *buffer) {
	l.state.mu.Lock()
	l.state.free = append(l.state.free, b)
	l.state.mu.Unlock()
	l.state.freed.Broadcast()
}
