package logstore

import (
	"fmt"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// markAfter is the time from the last acknowledgement to the mark that proves it (rule 13).
const markAfter = 20 * time.Millisecond

// Start carries out what Prepare has planned: it begins a new generation, moves the tail, frees the slots without valid
// contents and starts the log. It is the first to write. Before that, it may still refuse the opening: if a message of
// the tail has become corrupt since it was read, or if there is no space. A read-only store is ready after Prepare.
func (s *Store) Start(r *Recovered) error {
	if s.c.ReadOnly {
		return nil
	}
	var tail []byte
	if r.moves {
		var err error
		if tail, err = s.loadTail(r); err != nil {
			return fmt.Errorf("read the log's tail: %w", err)
		}
	}
	if err := s.growFile(r); err != nil {
		return err
	}
	if err := s.cutFile(r); err != nil {
		return err
	}
	// The generation is durable before the first write of this opening to the log (format.Generation), and so is the
	// end of the state of being closed cleanly.
	if err := s.saveSuper(r.super); err != nil {
		return err
	}
	if err := s.markDiscarded(r, r.first); err != nil {
		return err
	}
	if r.moves {
		if err := s.moveTail(r, tail); err != nil {
			return fmt.Errorf("write the log's tail anew: %w", err)
		}
	}
	if err := s.markDiscarded(r, r.discard); err != nil {
		return err
	}
	s.Space.Ready(append(r.spare, r.discard...), r.Scan.Zero)
	return s.startLog(r)
}

// growFile makes the file as long as it was planned, durably (trap 13).
func (s *Store) growFile(r *Recovered) error {
	from, to := r.fileSize-r.fileSize%int64(s.Super.SegmentSize), s.planned(r)
	if r.fileSize >= to {
		return nil
	}
	if err := s.file.Allocate(from, to-from); err != nil {
		return markNoSpace(err)
	}
	return s.file.Sync()
}

// cutFile removes a partial slot, as a crash during growth leaves it.
func (s *Store) cutFile(r *Recovered) error {
	if r.fileSize <= s.planned(r) {
		return nil
	}
	if err := s.file.Truncate(s.planned(r)); err != nil {
		return err
	}
	return s.file.Sync()
}

// markDiscarded durably frees slots without valid contents.
func (s *Store) markDiscarded(r *Recovered, slots []format.SegmentID) error {
	for _, slot := range slots {
		h := format.SegmentHeader{State: format.SegmentStateFree, Stable: r.Scan.Stable, Recycled: r.Scan.Recycled}
		if err := s.markSlots(s.dev, s.bufs[0], []format.SegmentID{slot}, h); err != nil {
			return err
		}
	}
	return nil
}

// startLog starts the log at its end.
func (s *Store) startLog(r *Recovered) (err error) {
	c := iobuf.Config{
		Device: s.dev, Space: s.Space, Buffers: s.bufs, Store: s.Super.Store, Generation: s.Super.Generation,
		FlushEvery: s.c.FlushEvery, MarkAfter: markAfter, End: r.end, ListPages: s.c.Cleaned,
	}
	if s.c.Foreground {
		c.MarkAfter = 0
	}
	if int64(r.end)%int64(s.Super.SegmentSize) != 0 {
		off := int64(r.tail.Slot.Offset(s.Super.SegmentSize))
		c.Slot, c.Seed = r.tail.Slot, format.MakeSeed(s.Super.Store, r.tail.Generation, r.tail.Slot)
		c.Fill = func(mem []byte) error {
			_, err := s.file.ReadAt(mem, off)
			return s.CorruptMessage(r.tail.Base, format.DiskPtr{Off: format.Offset(off), Len: uint32(len(mem))}, err)
		}
	} else if r.tail != nil { // a pad fills the segment
		s.Space.SealSegment(r.tail.Slot, r.tail.Base, nil)
	}
	if invariants.Enabled {
		c.Space = unprotecting{s.Space, s.View, s.Super.SegmentSize}
	}
	s.tail.planned = false
	s.Log, err = iobuf.New(c)
	return err
}
