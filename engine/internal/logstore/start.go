package logstore

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/internal/invariants"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// markAfter is the time from the last acknowledgement to the mark that proves it (rule 13).
const markAfter = 20 * time.Millisecond

// batchPatience is the longest time that a batch waits for older ones to end before it begins (rule 18).
const batchPatience = 100 * time.Millisecond

// Start carries out what Prepare has planned: it begins a new generation, moves the tail, frees the slots without valid
// contents and starts the log. It is the first to write. Before that, it may still refuse the opening: if a message of
// the tail has become corrupt since it was read, or if there is no space. A read-only store is ready after Prepare.
func (s *Store) Start(r *Recovered) error {
	if s.c.ReadOnly {
		if r.Beside != nil {
			r.Beside()
		}
		return nil
	}
	tail, err := s.loadTail(r)
	if err != nil {
		return fmt.Errorf("read the log's tail: %w", err)
	}
	if err := s.distrust.awaitDrop(); err != nil {
		return err
	}
	if err := s.fitFile(r); err != nil {
		return err
	}
	before := writer{s.Super.Timeline, s.Super.Generation}
	// The generation is durable before the first write of this opening to the log (format.Generation), and so is the
	// end of the state of being closed cleanly.
	if err := s.saveSuper(r.super); err != nil {
		return err
	}
	s.Super = s.super.current()
	await := s.besideStart(r, tail)
	defer await()
	// The tail's header is the first to show the new timeline: once any header does, the tail is this opening's, and a
	// later opening accepts no older one.
	if err := s.markDiscarded(r, &r.first, before); err != nil {
		return err
	}
	if r.moves {
		if err := s.moveTail(r, tail, before); err != nil {
			return fmt.Errorf("write the log's tail anew: %w", s.avoid(r.tail.Slot, err))
		}
	}
	now := writer{s.Timeline, s.Super.Generation}
	for _, slots := range []*[]format.SegmentID{&r.discard, &r.outOfUse} {
		if err := s.markDiscarded(r, slots, now); err != nil {
			return err
		}
	}
	if err := s.leaveOut(r.failed, r.outOfUse); err != nil {
		return err
	}
	free, bad, err := s.testSuspects(r, slices.Concat(r.spare, r.discard, r.outOfUse))
	if err != nil {
		return err
	}
	s.Space.LeaveOut(len(r.unread) + len(r.failed) + bad)
	if err := s.readySlots(r, free); err != nil {
		return err
	}
	await()
	return s.startLog(r, tail)
}

// besideStart begins what does not wait for the writes of Start: Recovered.Beside, and the listing of the tail. await
// waits until that has ended; before, nothing changes the messages in tail. With Config.Foreground, it has ended when
// besideStart returns.
func (s *Store) besideStart(r *Recovered, tail []byte) (await func()) {
	if s.Super.Log && r.moves {
		s.resumed, s.resumedAt = tail, r.tail.Base
	}
	var wg sync.WaitGroup
	run := func(f func()) { wg.Go(f) }
	if s.c.Foreground {
		run = func(f func()) { f() }
	}
	if r.Beside != nil {
		run(r.Beside)
	}
	if s.resumed != nil {
		run(func() { r.listing = iobuf.List(tail, r.tail.Base) })
	}
	return wg.Wait
}

// readySlots gives the free slots to the Space. It reserves disk space for those that are kept for urgent writes, if
// there is room. Of the others it is not known whether they have space, and it is looked into when they are needed.
func (s *Store) readySlots(r *Recovered, free []format.SegmentID) error {
	slices.Sort(free)
	before, err := s.file.Occupied()
	if err != nil {
		return err
	}
	var solid, hollow []format.SegmentID
	kept := s.Space.Kept()
	for _, slot := range free {
		if len(solid) < kept {
			if err = s.allocateSlot(slot, s.Super.SegmentSize); err == nil {
				solid = append(solid, slot)
				continue
			} else if !IsNoSpace(err) {
				return err
			}
		}
		hollow = append(hollow, slot)
	}
	after, err := s.file.Occupied()
	if err == nil && after != before {
		err = s.file.Sync()
	}
	s.Space.Ready(solid, slices.DeleteFunc(slices.Clone(r.Scan.Zero), s.isSuspect))
	s.Space.ReadyHollow(hollow)
	return err
}

// fitFile makes the file as long as it was planned, durably (trap 13): it makes slots, or removes a partial one, as a
// crash during growth leaves it. The length must be durable before the superblock says that the store is in use, since
// from then on a file that ends inside a slot was cut short. An opening that was killed here may have left a length
// that is not durable. If the store was not closed cleanly, Distrust has synced the file; if it was, it is synced
// before the tail moves. Otherwise a clean opening syncs nothing.
func (s *Store) fitFile(r *Recovered) error {
	from, to := r.fileSize-r.fileSize%int64(s.Super.SegmentSize), s.planned(r)
	switch {
	case r.fileSize < to:
		n := to - from
		if r.short > 0 { // the tail moves to the last slot
			n += int64(r.short - s.Super.SegmentSize)
		}
		if err := s.file.Allocate(from, n); err != nil {
			return markNoSpace(err)
		}
		if r.short > 0 {
			if err := s.file.Truncate(to); err != nil {
				return markNoSpace(err)
			}
		}
	case r.fileSize > to:
		if err := s.file.Truncate(to); err != nil {
			return err
		}
	case (!s.Super.Clean || !r.moves) && !r.filled:
		return nil
	}
	return s.file.Sync()
}

// A writer is an opening for writing. Each timeline has one generation: where a header cannot be read, recovery finds
// one by the other.
type writer struct {
	timeline   format.Timeline
	generation format.Generation
}

// markDiscarded durably frees slots without valid contents. Their headers show the opening w. It removes those from the
// list that the disk does not let it write to, and notes them in r.failed.
func (s *Store) markDiscarded(r *Recovered, slots *[]format.SegmentID, w writer) error {
	marked := (*slots)[:0:0]
	for _, slot := range *slots {
		h := s.freeHeader(r.Scan.Stable, s.Space.Ledger())
		h.Timeline, h.Generation = w.timeline, w.generation
		switch err := s.markSlots(s.dev, s.bufs[0], []format.SegmentID{slot}, h); {
		case err == nil:
			marked = append(marked, slot)
		case r.moves && slot == r.tail.Slot:
			return s.avoid(slot, err)
		case isBadSector(err):
			s.c.Report.Corruption("a slot is left out of use, since its header cannot be written", err)
			r.failed = append(r.failed, slot)
			r.spare = slices.DeleteFunc(r.spare, func(id format.SegmentID) bool { return id == slot })
		default:
			return err
		}
	}
	*slots = marked
	return nil
}

// isBadSector reports whether the disk has refused a write, and has nothing in flight.
func isBadSector(err error) bool { return vfs.IsUnreadable(err) && !errors.Is(err, vfs.ErrInFlight) }

// avoid returns err. If it says that the slot which the log's tail was to move to cannot be written, the next opening
// takes another one.
func (s *Store) avoid(slot format.SegmentID, err error) error {
	if isBadSector(err) {
		err = errors.Join(err, s.leaveOut([]format.SegmentID{slot}, nil))
		s.suspect(slot, err) // its header may be all that can be written
	}
	return err
}

// leaveOut changes the list of slots that hold no part of the log, whatever is in them: it adds some and removes
// others, whose headers say so by now, durably.
func (s *Store) leaveOut(add, remove []format.SegmentID) error {
	if len(add)+len(remove) == 0 {
		return nil
	}
	if err := s.super.leaveOut(add, remove); err != nil {
		return fmt.Errorf("leave slots %v out of use: %w", add, err)
	}
	return nil
}

// Resumed returns the contents of the segment that the log goes on in, from its beginning to the end of the log, if it
// is the one with this base; else nil. All messages there were verified. Only Recovered.Beside may look at the
// memory, which is an io buffer.
func (s *Store) Resumed(base format.LSN) []byte {
	if base != s.resumedAt {
		return nil
	}
	return s.resumed
}

// startLog starts the log at its end. tail is what loadTail has returned.
func (s *Store) startLog(r *Recovered, tail []byte) (err error) {
	c := iobuf.Config{
		// The last buffer, tailBuffer, is the first that is used.
		Device: s.dev, Space: s.Space, Buffers: s.bufs, Store: s.Super.Store, Generation: s.Super.Generation,
		Timeline: s.Timeline, FlushEvery: s.c.FlushEvery, MarkAfter: markAfter, Patience: batchPatience, End: r.end,
		ListPages: s.c.Cleaned, Index: s.Super.Log, Report: s.c.Report, SlowWrite: s.c.SlowWrite, BadWrite: s.suspect,
		ZeroStep: s.c.ZeroStep,
	}
	if s.c.Foreground {
		c.MarkAfter, c.Patience = 0, 0
	}
	if int64(r.end)%int64(s.Super.SegmentSize) != 0 {
		c.Slot, c.Seed = r.tail.Slot, format.MakeSeed(s.Super.Store, r.tail.Generation, r.tail.Slot)
		c.Listing = r.listing
		c.Fill = func(mem []byte) error {
			if &mem[0] != &tail[0] {
				copy(mem, tail)
				clear(tail) // a free io buffer is all zero
			}
			return nil
		}
	} else if clear(tail); r.moves { // a pad fills the segment
		s.Space.SealSegment(r.tail.Slot, r.tail.Base, nil)
	}
	if invariants.Enabled {
		c.Space = unprotecting{s.Space, s.View, s.Super.SegmentSize}
	}
	if c.Limit = r.short; !s.c.Foreground || s.c.ZeroStep > 0 {
		c.Zero = func(off, n int64) error { return s.zero(off, n, nil) }
	}
	for _, b := range s.bufs { // not before: opening touches a few blocks only
		useHugePages(b)
	}
	s.tail.planned, s.looked = false, time.Now()
	s.Log, err = iobuf.New(c)
	return err
}
