package segments

import (
	"fmt"
	"slices"

	"pagecache/segments/format"
)

// Candidate is a segment that may be worth cleaning.
type Candidate struct {
	ID   format.SegmentID
	Base format.LSN
	Live int64 // bytes
	Age  int   // segments opened since
}

// Inactive calls visit with every segment that is wholly durable, by slot. The newest is left out: where the log ends is known by it.
func (s *Space) Inactive(visit func(Candidate)) {
	s.mu.Lock()
	slots, newest := s.slots, s.newest
	s.mu.Unlock()
	for i := range slots {
		id := format.SegmentID(i)
		g := s.Segment(id)
		if g.State() != Inactive {
			continue
		}
		if base := g.Base(); base < newest {
			visit(Candidate{ID: id, Base: base, Live: g.Live(), Age: int(int64(newest-base) / int64(s.o.SegmentSize))})
		}
	}
}

// Usage returns the bytes of all slots that are not Free, and the live bytes in them.
func (s *Space) Usage() (used, live int64) {
	_, n, live := s.Totals()
	return int64(n) * int64(s.o.SegmentSize), live
}

// Drain has an Inactive segment in which nothing is live wait to be recycled; false: it is another.
func (s *Space) Drain(id format.SegmentID) bool {
	g := s.Segment(id)
	return g.Live() == 0 && g.state.CompareAndSwap(uint32(Inactive), uint32(Draining))
}

// Recycle makes the slots of Draining segments Free. mark writes their headers durably, with the count given, before which none is used
// again (rule 4d); after an error the slots stay as they are, and no others may be recycled: the count on the disk is not known.
func (s *Space) Recycle(ids []format.SegmentID, mark func(recycled uint64) error) error {
	for _, id := range ids {
		if g := s.Segment(id); g.State() != Draining || g.Live() != 0 {
			return fmt.Errorf("recycle %v, which is %v with %d live bytes", id, g.State(), g.Live())
		}
	}
	if err := mark(s.Recycled()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		g := s.Segment(id)
		delete(s.index, g.Base())
		g.base.Store(int64(format.NoLSN))
		g.pages.Store(nil)
		g.state.Store(uint32(Free))
		s.zeroed[id] = true // written before, which is what zeroing is for
		s.put(id)
	}
	if len(s.free) > s.kept(Ordinary) {
		s.tight.Store(false)
	}
	s.recycled += uint64(len(ids))
	s.used -= len(ids)
	s.moved.Broadcast()
	return nil
}

// Shrink gives back free slots at the end of the file, if that is worth it: all but keep of them. mark writes a free header with the count
// given to a slot that stays, durably, before those that are given back take theirs along. It reports whether the file has become shorter. Slots are
// not handed out meanwhile.
func (s *Space) Shrink(keep int, mark func(slot format.SegmentID, recycled uint64) error) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := 0
	for end < len(s.free) && int(s.free[end]) == s.slots-1-end { // free is sorted, the highest first
		end++
	}
	drop := end - max(keep, s.stride(), s.kept(Ordinary)+1) // else it would grow again at once
	if drop < max(minShrink, s.slots/16) || s.growing || s.zeroing || s.broken != nil {
		return false, nil
	}
	kept := s.free[len(s.free)-1]
	if err := mark(kept, s.recycled); err != nil {
		return false, err
	}
	s.zeroed[kept] = true // not to be wiped
	for _, id := range s.free[:drop] {
		delete(s.zeroed, id)
	}
	s.free = slices.Delete(s.free, 0, drop)
	s.slots -= drop
	if err := s.o.File.Truncate(int64(s.slots) * int64(s.o.SegmentSize)); err != nil {
		return false, fmt.Errorf("shrink log by %d segments: %w", drop, err) // it is longer than need be
	}
	return true, nil
}

// minShrink is how many slots are worth a change of the file's length.
const minShrink = 4

// First returns the lowest base from which on segments follow one another without a gap up to the newest; 0 if there is none. Those below it are what is left of a
// standalone log where a crash cut dropping off: only that makes gaps in one, and recovery has counted them.
func (s *Space) First() format.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := format.LSN(s.o.SegmentSize)
	first := max(s.newest, 0)
	for {
		if _, ok := s.index[first-size]; !ok {
			return first
		}
		first -= size
	}
}

// Census returns the bases of the segments that are not Free, and how many were recycled, without those that began at or above from.
func (s *Space) Census(from format.LSN) (bases []format.LSN, recycled uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := format.LSN(s.o.SegmentSize)
	first := from - from%size
	later := format.LSN(0) // of the segments from there on, those in use
	for base := range s.index {
		bases = append(bases, base)
		if base >= first {
			later++
		}
	}
	if s.newest >= first { // segments are opened one after another
		recycled = s.recycled - uint64((s.newest-first)/size+1-later)
	} else {
		recycled = s.recycled
	}
	return bases, recycled
}
