package logstore

import (
	"fmt"
	"slices"

	"pagecache/segments/format"
)

// Suspects are slots that the disk has not taken a write to. The log stops at such a write (rule 8). If the slot were
// used again, the log would stop again at the same place. So the superblock lists it, and once it holds no part of the
// log, nothing is written to it until an opening has written all of it.

// suspect notes, durably, that a write to a slot has failed, if the disk has refused it.
func (s *Store) suspect(slot format.SegmentID, cause error) {
	if !isBadSector(cause) {
		return
	}
	s.c.Report.Corruption(fmt.Sprintf("slot %v is a suspect: the disk did not take a write to it", slot), cause)
	if err := s.super.suspect([]format.SegmentID{slot}, nil); err != nil {
		s.c.Report.Corruption(fmt.Sprintf("slot %v is not noted as a suspect", slot), err)
	}
}

// isSuspect reports whether Open found that a slot is a suspect.
func (s *Store) isSuspect(id format.SegmentID) bool {
	return slices.Contains(s.Super.Suspects.Slots(), id)
}

// recycle makes slots free that are marked so, but does not use suspects again.
func (s *Store) recycle(ids []format.SegmentID) {
	sb := s.super.current()
	suspects := sb.Suspects.Slots()
	var good, bad []format.SegmentID
	for _, id := range ids {
		if slices.Contains(suspects, id) {
			bad = append(bad, id)
		} else {
			good = append(good, id)
		}
	}
	s.Space.Recycle(good)
	if len(bad) > 0 {
		s.Space.Retire(bad)
	}
}

// testSuspects writes the suspects among free slots, header and all, and returns those of the free slots that can be
// used, and the number of the others. Those that it could write are no suspects any more. They have headers from then
// on.
func (s *Store) testSuspects(r *Recovered, free []format.SegmentID) (usable []format.SegmentID, bad int, err error) {
	var tested []format.SegmentID
	for _, id := range free {
		if !s.isSuspect(id) {
			usable = append(usable, id)
			continue
		}
		h := s.freeHeader(r.Scan.Stable, s.Space.Ledger())
		err := s.markSlots(s.dev, s.bufs[0], []format.SegmentID{id}, h)
		badHeader := isBadSector(err)
		if err == nil {
			block := s.dev.Block()
			err = writeTo(s.dev, s.bufs[0][block:], int64(id.Offset(s.Super.SegmentSize)+format.Offset(block)))
		}
		switch {
		case err == nil:
			tested = append(tested, id)
			continue
		case badHeader:
			if err := s.leaveOut([]format.SegmentID{id}, nil); err != nil {
				return nil, 0, err
			}
		case isBadSector(err): // it stays a suspect
			s.c.Report.Corruption(fmt.Sprintf("slot %v is left out of use, since it cannot be written", id), err)
		case IsNoSpace(err): // it stays one for an opening with room. Some file systems take new space for each write
		default:
			return nil, 0, fmt.Errorf("test slot %v: %w", id, err)
		}
		bad++
	}
	if len(tested) > 0 {
		if err := s.super.suspect(nil, tested); err != nil {
			return nil, 0, err
		}
	}
	return append(usable, tested...), bad, nil
}
