package segments

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"pagecache/segments/format"
)

// Candidate is a segment that may be worth cleaning.
type Candidate struct {
	ID   format.SegmentID
	Base format.LSN
	Live int64 // bytes
	Age  int   // number of segments opened since
}

// Inactive calls visit with every Inactive segment in the order of the slots, without the Space's lock. It omits the
// newest segment, which marks the end of the log.
func (s *Space) Inactive(visit func(Candidate)) {
	s.mu.Lock()
	slots, newest := s.table.slots, s.table.newest
	s.mu.Unlock()
	for i := range slots {
		id := format.SegmentID(i)
		g := s.table.segment(id)
		if g.State() != StateInactive {
			continue
		}
		if base := g.Base(); base < newest {
			age := int64(newest-base) / int64(s.table.segmentSize)
			visit(Candidate{ID: id, Base: base, Live: g.Live(), Age: int(age)})
		}
	}
}

// Drain makes an Inactive segment without live bytes Draining, and returns false for any other.
func (s *Space) Drain(id format.SegmentID) bool { return s.table.segment(id).drain() }

// Leaving returns what the message says by which Draining segments leave. Nothing changes yet.
func (s *Space) Leaving(ids []format.SegmentID) (format.Leave, error) {
	l := format.Leave{Segments: make([]format.Identity, len(ids))}
	for i, id := range ids {
		g := s.table.segment(id)
		if g.State() != StateDraining || g.Live() != 0 {
			return l, fmt.Errorf("recycle slot %v: it is %v with %d live bytes", id, g.State(), g.Live())
		}
		l.Segments[i] = g.identity // constant while the slot is Draining
		l.Left += l.Segments[i]
	}
	ledger := s.Ledger()
	l.Left += ledger.Left
	l.Recycled = ledger.Recycled + uint64(len(ids))
	return l, nil
}

// BeginLeave notes the LSN of the message by which segments leave, before the message is complete: until their slots
// are marked as free, a scan of the log must find it (see Census).
func (s *Space) BeginLeave(at format.LSN) {
	s.mu.Lock()
	s.table.leaving = at
	s.mu.Unlock()
}

// Leave takes segments out of the ledger. The message l is durable: from now on, all headers may say so.
func (s *Space) Leave(l format.Leave) {
	s.mu.Lock()
	s.table.ledger.Left, s.table.ledger.Recycled = l.Left, l.Recycled
	s.mu.Unlock()
}

// Recycle makes the slots of segments that have left Free. Their headers say so, durably (rule 4d).
func (s *Space) Recycle(ids []format.SegmentID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.leaving = 0
	s.table.recycle(ids)
	for _, id := range ids {
		if s.free.partial[id] {
			s.free.putPartial(id)
		} else {
			s.free.put(id)
		}
	}
	if s.free.len() > s.kept(UrgencyOrdinary) {
		s.growth.setFull(nil)
	}
	s.changed.Broadcast()
}

// Retire makes the slots of segments that have left Free, but never hands them out: they cannot be written. It is known
// by other means than their headers, durably, that they hold nothing.
func (s *Space) Retire(ids []format.SegmentID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.leaving = 0
	s.table.recycle(ids)
	s.table.outOfUse += len(ids)
}

// LeaveOut counts n slots as left out of use that no list of free slots has.
func (s *Space) LeaveOut(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.outOfUse += n
}

// Ledger returns the ledger of the set of segments: those that are not Free, less those that have left.
func (s *Space) Ledger() format.Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.table.ledger
	l.Slots = uint32(s.table.slots)
	return l
}

// JoinedBelow returns what Ledger.Joined is without the segments from LSN end on.
func (s *Space) JoinedBelow(end format.LSN) format.Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	joined := s.table.ledger.Joined
	for base := s.table.newest; base >= end; base -= format.LSN(s.table.segmentSize) {
		if id, ok := s.table.index[base]; ok {
			joined -= s.table.segment(id).identity
		}
	}
	return joined
}

// Usage returns the bytes of all slots that are not Free, and the live bytes in them.
func (s *Space) Usage() (used, live int64) {
	_, n, live := s.Totals()
	return int64(n) * int64(s.table.segmentSize), live
}

// Totals returns the number of slots of the file, how many of them are not Free, and the live bytes in all of them.
func (s *Space) Totals() (slots, used int, live int64) {
	s.mu.Lock()
	slots, used = s.table.slots, s.table.used
	s.mu.Unlock()
	for i := range slots {
		live += s.table.segment(format.SegmentID(i)).Live()
	}
	return slots, used, live
}

// OutOfUse returns the number of slots that are not used, since a part of them could not be written, or their headers
// could not be read.
func (s *Space) OutOfUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.outOfUse
}

// First returns the lowest base from which on segments follow one another without a gap up to the newest, 0 if there
// is no segment. Segments below it are left over from a DropBelow of a standalone log that a crash interrupted;
// nothing else makes gaps in such a log, and recovery knows that what is missing was recycled.
func (s *Space) First() format.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.first()
}

// Below returns the segments that are not Free and begin below LSN end, in the order of the log.
func (s *Space) Below(end format.LSN) (found []Found) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for base, id := range s.table.index {
		if base < end {
			g := s.table.segment(id)
			found = append(found, Found{Slot: id, Base: base, Seed: g.Seed(), Identity: g.identity, State: g.State()})
		}
	}
	slices.SortFunc(found, func(a, b Found) int { return cmp.Compare(a.Base, b.Base) })
	return found
}

// Census returns the bases of the segments that are not Free, and their ledger, for a snapshot that the log completes
// from LSN from on. It returns a lower LSN if the log must be read from there to find the message by which segments
// leave whose slots are not marked as free yet.
func (s *Space) Census(from format.LSN) ([]format.LSN, format.Ledger, format.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.table.leaving; at > 0 {
		from = min(from, at)
	}
	return slices.Collect(maps.Keys(s.table.index)), s.table.ledger, from
}
