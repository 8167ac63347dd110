package segments

import (
	"errors"
	"fmt"

	"pagecache/segments/format"
)

// minShrink is the smallest number of slots for which the file's length is changed.
const minShrink = 4

// Shrink removes free slots at the end of the file if enough can be removed. keep of the slots with space stay, and at
// least those that the next segment needs. It calls note first, which makes the new extent of the file durable: a
// shorter file would be taken for one that was cut. It reports whether the file has become shorter. No slot is handed
// out meanwhile.
func (s *Space) Shrink(keep int, note func(format.Extent) error) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	drop := s.free.atEnd(s.table.slots, max(keep, s.kept(UrgencyOrdinary)+1))
	if drop < max(minShrink, s.table.slots/16) || s.atWork() || s.growth.broken != nil {
		return false, nil
	}
	e := format.Extent{Slots: uint32(s.table.slots - drop), Shrinks: s.table.ledger.Shrinks + 1}
	if err := note(e); err != nil {
		return false, err
	}
	s.table.slots -= drop
	s.free.dropFrom(format.SegmentID(s.table.slots))
	s.table.ledger.Shrinks = e.Shrinks
	if err := s.options.File.Truncate(int64(s.table.slots) * int64(s.table.segmentSize)); err != nil {
		// The file is longer than necessary, which is harmless.
		return false, fmt.Errorf("truncate log by %d slots: %w", drop, err)
	}
	return true, nil
}

// Stride returns the number of slots that the file grows by.
func (s *Space) Stride() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.growth.stride()
}

// punchAtOnce is the most slots whose space is given back together: segments that are opened meanwhile wait.
const punchAtOnce = 16

// GiveBack gives the disk space of free slots back, except for those that are kept for urgent writes. It reports
// whether it did anything. A slot keeps its first block, and with it the header that says that the slot is free: so it
// does not matter to recovery which part of the other bytes comes back after a power cut (rule 4d). The goroutine that
// calls Shrink calls it.
func (s *Space) GiveBack() (did bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.giveBack(s.free.len())
}

// GiveBackUnused is GiveBack for as many slots as were free ever since the last call.
func (s *Space) GiveBackUnused() (did bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.giveBack(s.free.low)
}

// giveBack gives the space of all but a part of n free slots back, and that of the hollow slots that may have some. mu
// is held, but not while the disk works.
func (s *Space) giveBack(n int) (did bool, err error) {
	f, keep := &s.free, s.kept(UrgencyOrdinary)
	n = min(n, f.len()) - keep
	for n > 0 && err == nil && !s.noPunch && !s.atWork() && s.growth.broken == nil {
		ids := f.takeHighest(min(n, punchAtOnce))
		err = s.punch(ids)
		did = did || !s.noPunch
		n = min(n-len(ids), f.len()-keep)
	}
	f.low = f.len()
	for err == nil && !s.noPunch && !s.atWork() && s.growth.broken == nil {
		ids := f.takeUnsure(punchAtOnce)
		if len(ids) == 0 {
			break
		}
		err = s.punch(ids)
		did = did || !s.noPunch
	}
	return did, err
}

// punch gives the space of slots back that were taken out of the free list, and puts them back. mu is held, but not
// meanwhile.
func (s *Space) punch(ids []format.SegmentID) (err error) {
	f, size, done := &s.free, s.table.segmentSize, 0
	s.punching = true
	s.mu.Unlock()
	for ; done < len(ids) && err == nil; done++ {
		off := int64(ids[done].Offset(size))
		err = s.options.File.Punch(off+format.SegmentStart, int64(size-format.SegmentStart))
	}
	s.mu.Lock()
	s.punching, s.noPunch = false, err != nil
	if errors.Is(err, errors.ErrUnsupported) {
		done, err = done-1, nil
	}
	for i, id := range ids {
		switch {
		case i < done: // one that failed may have lost some of its space
			delete(f.blank, id)
			delete(f.unsure, id)
			f.putHollow(id)
		case f.unsure[id]:
			f.putHollow(id)
		default:
			f.put(id)
		}
	}
	s.changed.Broadcast()
	if err != nil {
		return fmt.Errorf("give space of slot %v back: %w", ids[done-1], err)
	}
	return nil
}

// A Tail is the last slot of the file that is not free.
type Tail struct {
	Candidate
	State  State
	Newest bool // the segment was opened last
}

// Last returns the last slot of the file that is not free, and false if no free slot with space lies before it: then
// the next segment would lie behind.
func (s *Space) Last() (t Tail, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free.len() == 0 {
		return t, false
	}
	for n := s.table.slots - 1; n > int(s.free.next()); n-- {
		id := format.SegmentID(n)
		g := s.table.segment(id)
		if t.State = g.State(); t.State == StateFree || g.keep {
			continue
		}
		t.Candidate = Candidate{ID: id, Base: g.Base(), Live: g.Live(), Age: 1}
		t.Newest = t.Base == s.table.newest
		return t, true
	}
	return t, false
}
