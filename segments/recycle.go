package segments

import (
	"fmt"

	"pagecache/segments/format"
)

// minShrink is the smallest number of slots for which the file's length is changed.
const minShrink = 4

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

// Recycle makes the slots of Draining segments Free. It calls mark, which writes the headers of the slots durably with
// the given count of recycled segments, before any of them can be used again (rule 4d). If mark fails the slots stay
// Draining, and the caller must not recycle any more: the count on the disk is unknown. One call runs at a time.
func (s *Space) Recycle(ids []format.SegmentID, mark func(recycled uint64) error) error {
	for _, id := range ids {
		if g := s.table.segment(id); g.State() != StateDraining || g.Live() != 0 {
			return fmt.Errorf("recycle slot %v: it is %v with %d live bytes", id, g.State(), g.Live())
		}
	}
	if err := mark(s.Recycled()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.recycle(ids)
	for _, id := range ids {
		s.free.put(id, true)
	}
	if s.free.len() > s.kept(UrgencyOrdinary) {
		s.growth.diskFull.Store(false)
	}
	s.changed.Broadcast()
	return nil
}

// Shrink removes free slots at the end of the file, all but keep of them, if enough can be removed. It calls mark
// first, which writes a free header with the given count of recycled segments, durably, to a slot that stays: the
// headers in the removed slots may be the only ones with that count. Shrink reports whether the file has become
// shorter. No slot is handed out meanwhile.
func (s *Space) Shrink(keep int, mark func(slot format.SegmentID, recycled uint64) error) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// With fewer free slots than these the file would grow again at once.
	spare := max(keep, s.growth.stride(), s.kept(UrgencyOrdinary)+1)
	drop := s.free.atEnd(s.table.slots) - spare
	if drop < max(minShrink, s.table.slots/16) || s.atWork() || s.growth.broken != nil {
		return false, nil
	}
	marked := s.free.next()
	if err := mark(marked, s.table.recycled); err != nil {
		return false, err
	}
	s.free.written[marked] = true // zeroing would destroy the header
	s.free.dropHighest(drop)
	s.table.slots -= drop
	if err := s.options.File.Truncate(int64(s.table.slots) * int64(s.table.segmentSize)); err != nil {
		// The file is longer than necessary, which is harmless.
		return false, fmt.Errorf("truncate log by %d slots: %w", drop, err)
	}
	return true, nil
}

// Recycled returns the number of segments that have been recycled over the life of the store.
func (s *Space) Recycled() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.recycled
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

// First returns the lowest base from which on segments follow one another without a gap up to the newest, 0 if there
// is no segment. Segments below it are left over from a DropBelow of a standalone log that a crash interrupted;
// nothing else makes gaps in such a log, and recovery has counted them as recycled.
func (s *Space) First() format.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.first()
}

// Census returns the bases of the segments that are not Free, and the number of segments recycled over the life of the
// store except those that began at or above the segment of from.
func (s *Space) Census(from format.LSN) (bases []format.LSN, recycled uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.census(from)
}
