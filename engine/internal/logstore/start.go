package logstore

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/internal/invariants"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments"
	"pagecache/segments/format"
)

// zeroAfter is the age at which a segment is slow enough for the next one to be zeroed ahead: 8 MiB in that time is 80
// MiB/s.
const zeroAfter = 100 * time.Millisecond

// Start begins a new generation, opens the device, moves the tail, frees the slots without valid contents and starts
// the log. A read-only store only takes over the recovered state.
func (s *Store) Start(r *Recovered) error {
	if s.c.ReadOnly {
		return s.startReadOnly(r)
	}
	if err := s.openDevice(); err != nil {
		return err
	}
	fileSize, err := s.file.Size()
	if err != nil {
		return err
	}
	clean := s.Super.Clean
	// Nothing was changed up to here. The generation is durable before the first write of this opening
	// (format.Generation).
	if err := s.writeSuper(s.nextSuper(r)); err != nil {
		return err
	}
	if fileSize, err = s.wholeSlots(r, fileSize); err != nil {
		return err
	}
	o := s.spaceOptions(r, fileSize)
	o.Background, o.Zero, o.ZeroAfter, o.Opened = !s.c.Foreground, s.zero, zeroAfter, s.c.OnSegment
	o.Reserve, o.ReservePer = s.reserved()
	s.Space = segments.NewSpace(o)
	spare := append(slices.Clone(r.Scan.Zero), r.Scan.Free...)
	// The messages of an open batch that was cut off still follow the end (trap 7).
	if r.tail != nil && !(clean && !r.Scan.Torn && int64(r.Scan.End)%int64(s.dev.Block()) == 0) {
		if len(spare) == 0 && len(r.discard) > 0 {
			// An opening that was cut off here left the tail in two slots, and there may be no room for a third.
			if err := s.markDiscarded(r); err != nil {
				return err
			}
			spare, r.discard = r.discard, nil
		}
		if spare, err = s.moveTail(r, spare); err != nil {
			return fmt.Errorf("write the log's tail anew: %w", err)
		}
	}
	if err := s.markDiscarded(r); err != nil {
		return err
	}
	s.Space.Ready(append(spare, r.discard...), r.Scan.Zero)
	return s.startLog(r)
}

// openDevice allocates the io buffers and opens the device that writes from them.
func (s *Store) openDevice() (err error) {
	size := s.Super.SegmentSize
	for range s.c.IOBuffers {
		b, err := allocBuffer(size)
		if err != nil {
			return fmt.Errorf("allocate an io buffer of %d bytes: %w", size, err)
		}
		s.bufs = append(s.bufs, b)
	}
	o := s.c.Device
	o.Buffers = s.bufs
	if s.dev, s.report, err = s.file.OpenDevice(o); err != nil {
		return fmt.Errorf("open device: %w", err)
	}
	if block := s.dev.Block(); size%block != 0 {
		return fmt.Errorf("segment size of %d bytes is not a multiple of the device's block of %d bytes", size, block)
	}
	if s.report.Reason != "" {
		s.c.Logger.Info("log device is not the fastest", "dir", s.Dir, "use", DeviceLine(s.report))
	}
	return nil
}

// nextSuper returns the superblock of this opening: a new generation, not closed cleanly.
func (s *Store) nextSuper(r *Recovered) format.Superblock {
	sb := s.Super
	sb.Clean, sb.End, sb.NextPage = false, 0, 0
	sb.Generation = max(sb.Generation, r.Scan.MaxGeneration) + 1
	sb.NextID, sb.IDInterval = r.NextID, s.c.IDInterval
	return sb
}

func (s *Store) spaceOptions(r *Recovered, fileSize int64) segments.Options {
	size := s.Super.SegmentSize
	return segments.Options{File: s.file, SegmentSize: size, Slots: int(fileSize / int64(size)), Store: s.Super.Store,
		Generation: s.Super.Generation, Recycled: r.Scan.Recycled}
}

// LeastGain returns how many bytes of a segment cleaning it must free when the file cannot grow. Each such segment
// needs a flush, which costs a block; PaddingAllowance pays for more flushes.
func (s *Store) LeastGain() int {
	return max(s.Super.SegmentSize/64, s.dev.Block())
}

// PaddingAllowance returns how many bytes flushes may pad while such a segment is cleaned: LeastGain without a block
// for the flush at the end, and one for a flush that has just begun. So what a segment gains is never lost to flushes.
func (s *Store) PaddingAllowance() int { return max(0, s.LeastGain()-2*s.dev.Block()) }

// reserved returns the number of slots that are kept for making room when the file cannot grow, and the number of slots
// of the file for each of which one more is kept. The cleaner needs some to move live data into, and frees need two.
// After scattered frees, a share of LeastGain must be dead before any segment is worth cleaning, and a quarter of the
// gain pays for the messages that say so: enough for pages of 72 bytes and more.
func (s *Store) reserved() (n, per int) {
	if !s.c.Cleaned { // nothing makes room by writing, but the store must open after a crash
		return 1, 0
	}
	return segments.KeptForCleaning + 2, 4 * s.Super.SegmentSize / s.LeastGain()
}

// markDiscarded durably frees the slots without valid contents.
func (s *Store) markDiscarded(r *Recovered) error {
	for _, slot := range r.discard {
		h := format.SegmentHeader{State: format.SegmentStateFree, Stable: r.Scan.Stable, Recycled: r.Scan.Recycled}
		if err := s.markSlots(s.dev, s.bufs[0], []format.SegmentID{slot}, h); err != nil {
			return err
		}
	}
	return nil
}

// wholeSlots repairs a file whose length is not a multiple of the segment size, as a crash during growth leaves it. It
// truncates the partial slot, or extends it if it holds part of the log. It returns the new length.
func (s *Store) wholeSlots(r *Recovered, fileSize int64) (int64, error) {
	size := int64(s.Super.SegmentSize)
	slot := format.SegmentID(fileSize / size)
	if fileSize%size == 0 {
		return fileSize, nil
	}
	if slices.ContainsFunc(r.Scan.Segments, func(g recovery.Segment) bool { return g.Slot == slot }) {
		if err := s.file.Allocate(int64(slot)*size, size); err != nil {
			return 0, markNoSpace(err)
		}
		return int64(slot+1) * size, s.file.Sync()
	}
	for _, ids := range []*[]format.SegmentID{&r.Scan.Zero, &r.Scan.Free, &r.discard} {
		*ids = slices.DeleteFunc(*ids, func(id format.SegmentID) bool { return id == slot })
	}
	if err := s.file.Truncate(int64(slot) * size); err != nil {
		return 0, err
	}
	return int64(slot) * size, s.file.Sync()
}

// startReadOnly takes over the log as it was found. If the store was not closed cleanly, Recover has made everything
// that is shown durable (rule 11).
func (s *Store) startReadOnly(r *Recovered) error {
	fileSize, err := s.file.Size()
	if err != nil {
		return err
	}
	s.Space = segments.NewSpace(s.spaceOptions(r, fileSize))
	for _, g := range r.Scan.Segments {
		s.Space.Adopt(g.Slot, g.Base, format.MakeSeed(s.Super.Store, g.Generation, g.Slot), segments.StateInactive)
	}
	s.Log = iobuf.NewReadOnly(r.end)
	return nil
}

// startLog tells the space which slots hold the log, and starts the log at its end.
func (s *Store) startLog(r *Recovered) (err error) {
	partial := int64(r.end)%int64(s.Super.SegmentSize) != 0
	for i, g := range r.Scan.Segments {
		state := segments.StateInactive
		if partial && i == len(r.Scan.Segments)-1 {
			state = segments.StateActive
		}
		s.Space.Adopt(g.Slot, g.Base, format.MakeSeed(s.Super.Store, g.Generation, g.Slot), state)
	}
	c := iobuf.Config{
		Device: s.dev, Space: s.Space, Buffers: s.bufs, Store: s.Super.Store, Generation: s.Super.Generation,
		FlushEvery: s.c.FlushEvery, End: r.end, ListPages: s.c.Cleaned,
	}
	if partial {
		off := int64(r.tail.Slot.Offset(s.Super.SegmentSize))
		c.Slot, c.Seed = r.tail.Slot, format.MakeSeed(s.Super.Store, r.tail.Generation, r.tail.Slot)
		c.Fill = func(mem []byte) error {
			_, err := s.file.ReadAt(mem, off)
			return err
		}
	}
	if invariants.Enabled {
		c.Space = unprotecting{s.Space, s.View, s.Super.SegmentSize}
	}
	s.Log, err = iobuf.New(c)
	return err
}

// DeviceLine describes in one line how a device writes, and why not in a faster way.
func DeviceLine(r vfs.DeviceReport) string {
	use := []string{"system calls", "through the page cache with RWF_DSYNC"}
	if r.Ring {
		use[0] = "io_uring"
	}
	if r.Direct {
		use[1] = "O_DIRECT with RWF_DSYNC"
	}
	if r.FixedFile {
		use = append(use, "registered file")
	}
	if r.FixedBuffer {
		use = append(use, "registered buffers")
	}
	line := fmt.Sprintf("%s, blocks of %d", strings.Join(use, ", "), r.Block)
	if r.Reason != "" {
		line += " (" + r.Reason + ")"
	}
	return line
}
