package logstore

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments"
	"pagecache/segments/format"
)

// zeroAfter is the age at which a segment is slow enough for the next one to be zeroed ahead: 8 MiB in that time is 160
// MiB/s.
const zeroAfter = 50 * time.Millisecond

// plan is what Start will do.
type plan struct {
	super    format.Superblock
	fileSize int64              // before Start
	slots    int                // that the file will hold
	moves    bool               // there is a tail: it moves to another slot
	keeps    bool               // there is a tail: it stays where it is, and the log goes on in the next segment
	end      format.LSN         // where the log goes on: Scan.End, or above it if there is a tail
	first    []format.SegmentID // slots to be marked as free before the tail moves
	spare    []format.SegmentID // slots that hold nothing, and may have no disk space
	short    int                // bytes with disk space of the only segment, if it is a short one; else 0
	filled   bool               // space was reserved for a slot within the file: it is not durable yet
	ends     format.EndList     // where segments end early
}

// tailMove is a plan to move the tail that has not been carried out yet: its slot in the Space and in pointers is the
// one that it moves to.
type tailMove struct {
	planned bool
	from    recovery.Segment // as it is on the disk
	to      format.SegmentID
}

// Prepare opens the device, decides what Start will write, and fills the Space. It writes nothing; it reserves disk
// space for the slot that the tail moves to. Whatever may refuse the opening does so here, or in the checks that the
// caller makes between Prepare and Start (rule 17). Meanwhile all pointers to messages are those that hold after Start,
// and Read works.
func (s *Store) Prepare(r *Recovered) (err error) {
	if r.fileSize, err = s.file.Size(); err != nil {
		return err
	}
	if s.c.ReadOnly {
		s.prepareReadOnly(r)
		return nil
	}
	if err := s.awaitDevice(); err != nil {
		return err
	}
	// Once the tail has moved, the messages by which segments left may be cut off, so their slots are marked before.
	r.first = slices.Clone(r.Scan.Gone)
	r.spare = slices.Concat(r.Scan.Zero, r.Scan.Free, r.first)
	s.planSlots(r)
	if err := s.planTail(r); err != nil {
		return err
	}
	if r.slots > segments.MaxSlots {
		return fmt.Errorf("%w: the log has %d segments, the most there can be", ErrNoSpace, segments.MaxSlots)
	}
	r.super = s.nextSuper(r)
	o := s.spaceOptions(r)
	o.Generation, o.Timeline, o.Shrinks = r.super.Generation, s.Timeline, r.super.Extent.Shrinks
	o.Background, o.Zero, o.ZeroAfter, o.Opened = !s.c.Foreground, s.zero, zeroAfter, s.c.OnSegment
	o.Reserve, o.ReservePer = s.reserved()
	o.Full, o.Failed, o.Short = s.reportFull, s.reportFailed, r.short
	if !r.super.Begun {
		o.File = beginning{s.file, s}
	}
	s.Space = segments.NewSpace(o)
	s.adopt(r)
	return nil
}

// prepareReadOnly takes over the log as it was found. If the store was not closed cleanly, Recover has made everything
// that is shown durable (rule 11).
func (s *Store) prepareReadOnly(r *Recovered) {
	r.slots, r.end = int(r.fileSize/int64(s.Super.SegmentSize)), r.Scan.End
	s.Space = segments.NewSpace(s.spaceOptions(r))
	s.Space.LeaveOut(len(r.outOfUse) + len(r.unread))
	s.adopt(r)
	s.Log = iobuf.NewReadOnly(r.end)
}

// adopt tells the Space which slots hold the log.
func (s *Store) adopt(r *Recovered) {
	for i, g := range r.Scan.Segments {
		state := segments.StateInactive
		if s.tail.planned && i == len(r.Scan.Segments)-1 {
			state = segments.StateActive
		}
		s.Space.Adopt(segments.Found{
			Slot: g.Slot, Base: g.Base, Seed: format.MakeSeed(s.Super.Store, g.Generation, g.Slot),
			Identity: g.Identity, State: state, Unread: g.Unread,
		})
	}
}

// beginning is the log file of a store whose log has not begun. Once the first slot is part of the file, durably, and
// before anything is written to it, the superblock says that the log has begun. A file without a slot is an empty log
// before, and one that was cut short from then on. Only the first segment of a store waits for this.
type beginning struct {
	segments.File
	s *Store
}

// Sync implements segments.File.
func (b beginning) Sync() error {
	if err := b.File.Sync(); err != nil {
		return err
	}
	return b.s.super.begin()
}

// beginDevice begins to open the device of a standalone log, while Distrust and Recover wait for the disk: they need a
// few segments of a log, and making the io buffers known to the kernel takes as long. It writes nothing.
func (s *Store) beginDevice() {
	if !s.Super.Log || s.c.ReadOnly || s.c.Foreground || s.allocBuffers() != nil {
		return // openDevice fails again
	}
	opening := make(chan error, 1)
	s.opening = opening
	go func() { opening <- s.openDevice() }()
}

// awaitDevice returns once the device is open, or has failed to open. It begins to open it unless beginDevice did.
func (s *Store) awaitDevice() error {
	if s.opening == nil {
		return s.openDevice()
	}
	opening := s.opening
	s.opening = nil
	return <-opening
}

// allocBuffers allocates the io buffers unless that was done.
func (s *Store) allocBuffers() error {
	for size := s.Super.SegmentSize; len(s.bufs) < s.c.IOBuffers; {
		b, err := allocBuffer(size)
		if err != nil {
			return fmt.Errorf("allocate an io buffer of %d bytes: %w", size, err)
		}
		s.bufs = append(s.bufs, b)
	}
	return nil
}

// tailBuffer returns the io buffer for the log's tail. The first one is for markSlots.
func (s *Store) tailBuffer() []byte { return s.bufs[len(s.bufs)-1] }

// openDevice opens the device that writes from the io buffers.
func (s *Store) openDevice() (err error) {
	size := s.Super.SegmentSize
	if err := s.allocBuffers(); err != nil {
		return err
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
		s.c.Report.Degraded("log device", useOf(s.report), s.report.Reason)
	}
	return nil
}

// nextSuper returns the superblock of this opening: a new generation and timeline, not closed cleanly. The floor is the
// end that recovery has decided on, and not the block boundary where the log goes on: until the tail has moved, the
// next recovery finds the same end.
func (s *Store) nextSuper(r *Recovered) format.Superblock {
	sb := s.Super
	sb.Clean, sb.End, sb.NextPage, sb.Joined = false, 0, 0, 0
	sb.Name = cmp.Or(sb.Name, s.c.Format)
	sb.Generation++
	sb.NextID, sb.IDInterval = r.NextID, s.c.IDInterval
	sb.Begun = r.slots > 0
	sb.Floor = r.Scan.End
	if slots := uint32(r.slots); slots < max(sb.Extent.Slots, r.Scan.Slots) { // cut after a clean close
		sb.Extent.Shrinks++
	}
	sb.Extent.Slots = uint32(r.slots)
	// If there are too many that cannot be read, those stay as they are, which may keep a later opening from the log.
	sb.OutOfUse, _ = format.MakeSlotList(r.outOfUse)
	if l, ok := format.MakeSlotList(slices.Concat(r.outOfUse, r.unread)); ok {
		sb.OutOfUse = l
	}
	sb.Suspects, _ = format.MakeSlotList(slices.DeleteFunc(sb.Suspects.Slots(), func(id format.SegmentID) bool {
		return int(id) >= r.slots // cut off
	}))
	branch := r.Scan.End
	if r.keeps { // the tail's header does not show the new timeline
		branch = r.end
	}
	sb.Ends = r.ends
	sb.Descend(s.Timeline, branch, r.base.Timeline, func(t format.Timeline) bool {
		return r.Scan.Timelines[t] || slices.Contains(r.base.Others, t)
	})
	return sb
}

func (s *Store) spaceOptions(r *Recovered) segments.Options {
	return segments.Options{File: s.file, SegmentSize: s.Super.SegmentSize, Slots: r.slots, Store: s.Super.Store,
		Generation: s.Super.Generation, Recycled: r.Scan.Recycled, Left: r.Scan.Left,
		Shrinks: s.Super.Extent.Shrinks}
}

// LeastGain returns how many bytes of a segment cleaning it must free when the file cannot grow. Each such segment
// needs a flush, which costs a block; PaddingAllowance pays for more flushes. The message by which a segment leaves
// shares the flush of the next one.
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
	switch {
	case s.c.Log:
		// One for notes and truncations of streams. Two for drops: a message says what is dropped, notes are carried
		// forward, and then segments leave. One to open after a crash.
		return segments.KeptForCleaning + 1, 0
	case !s.c.Cleaned: // one to open after a crash, and one for the messages by which segments leave
		return 2, 0
	}
	return segments.KeptForCleaning + 2, 4 * s.Super.SegmentSize / s.LeastGain()
}

// planned returns the length of the file after Start in bytes.
func (s *Store) planned(r *Recovered) int64 { return int64(r.slots) * int64(s.Super.SegmentSize) }

// planSlots plans the length of a file that ends inside a slot. A slot that holds a part of the log will be made whole.
// Any other one will be cut off, unless the tail moves there.
func (s *Store) planSlots(r *Recovered) {
	size := int64(s.Super.SegmentSize)
	r.slots = int(r.fileSize / size)
	if r.fileSize%size == 0 {
		return
	}
	last := format.SegmentID(r.slots)
	if slices.ContainsFunc(r.Scan.Segments, func(g recovery.Segment) bool { return g.Slot == last }) {
		r.slots++
		return
	}
	for _, ids := range []*[]format.SegmentID{&r.Scan.Zero, &r.spare, &r.first, &r.discard, &r.outOfUse, &r.unread} {
		*ids = slices.DeleteFunc(*ids, func(id format.SegmentID) bool { return id == last })
	}
}

// planTail reads the tail and decides where it moves to. It moves after a clean close, too: a copy of the store would
// go on in the same segment, and only the header tells the two apart (rule 14). A header that is written again where it
// is may be torn, and would take stable messages with it.
//
// If the disk does not return a part of the tail, that may change, so the only copy of these bytes must not be given
// up. Then the tail stays where it is, and the log goes on in the next segment: the superblock says where the tail's
// messages end. Nothing is written to the slot, since no block with stable bytes is written again (rule 1), and a disk
// that does not return a part of it may not take another one.
func (s *Store) planTail(r *Recovered) error {
	r.end = r.Scan.End
	ends := s.endsOf(r.Scan.Segments)
	r.ends, _ = format.MakeEndList(ends)
	s.keepScanned(r)
	if r.tail == nil {
		if r.end == 0 {
			r.short = s.shortFor(0)
		}
		return nil
	}
	size, block := s.Super.SegmentSize, s.dev.Block()
	used := int(int64(r.end) % int64(size))
	var err error
	if !r.tail.InTail {
		if r.lost, err = s.readTail(*r.tail, s.tailBuffer()[:used]); err != nil {
			return fmt.Errorf("read the log's tail: %w", err)
		}
	}
	if l, ok := format.MakeEndList(append(ends, r.Scan.End)); ok && r.lost != nil && !r.tail.Unread {
		r.keeps, r.ends, r.end = true, l, r.tail.Base+format.LSN(size)
		return nil
	}
	if r.tail.Base == 0 && r.lost == nil && !r.tail.Unread && len(r.Scan.Segments) == 1 {
		r.short = s.shortFor(used)
	}
	solid, err := s.fillSpare(r)
	if err != nil {
		return err
	}
	s.tail = tailMove{planned: true, from: *r.tail}
	r.tail.Timeline = s.Timeline // in Scan too, so that Apply points to the new place
	defer func() {
		r.tail.Identity = format.MakeIdentity(s.Super.Store, s.Timeline, r.tail.Generation, r.tail.Slot, r.tail.Base)
	}()
	r.moves = true
	good := func(id format.SegmentID) bool { return !s.isSuspect(id) }
	switch j := slices.IndexFunc(r.discard, good); {
	case solid >= 0:
		s.tail.to, r.spare = r.spare[solid], slices.Delete(slices.Clone(r.spare), solid, solid+1)
	case j >= 0:
		// An opening that was cut off here left the tail in two slots, and there may be no room for a third.
		s.tail.to = r.discard[j]
		r.first = append(r.first, r.discard...)
		r.spare, r.discard = append(r.spare, slices.Delete(r.discard, j, j+1)...), nil
	default:
		s.tail.to = format.SegmentID(r.slots)
		r.slots++
	}
	if !r.tail.Unread { // else to write the header may fail; the header of the new slot is what counts
		r.discard = append(r.discard, r.tail.Slot)
	}
	r.tail.Slot, r.tail.Generation, r.tail.Unread = s.tail.to, s.Super.Generation+1, false
	n := (used + block - 1) &^ (block - 1)
	if n-used > 0 && n-used < format.HeaderSize { // too short for a pad
		n = min(n+block, size)
	}
	r.end += format.LSN(n - used)
	return nil
}

// keepScanned makes the buffer of the tail all zero, as a free io buffer is, except for the messages of the tail if the
// scan has read them to it.
func (s *Store) keepScanned(r *Recovered) {
	filled := s.tailBuffer()[:r.Scan.TailFilled]
	if r.tail != nil && r.tail.InTail {
		clear(filled[:format.SegmentStart])
		filled = filled[min(int(r.Scan.End-r.tail.Base), len(filled)):]
	}
	clear(filled)
}

// reportFull reports that the file cannot grow because of err, or, if err is nil, that there is room again.
func (s *Store) reportFull(err error) {
	if err != nil {
		s.c.Report.DiskFull("log", err)
	} else {
		s.c.Report.Room("log")
	}
}

// reportFailed reports an error of work ahead of need.
func (s *Store) reportFailed(doing string, err error) {
	if !errors.Is(err, errStopped) {
		s.c.Report.Background(doing, s.LogFile(), err)
	}
}

// fillSpare reserves disk space for the first spare slot for which there is room, and returns its index, −1 if there is
// none. The space of free slots may have been given back. A slot that has space takes no more, so on a full disk one of
// those that are kept is found.
func (s *Store) fillSpare(r *Recovered) (int, error) {
	before, err := s.file.Occupied()
	if err != nil {
		return -1, err
	}
	for i, slot := range r.spare {
		if s.isSuspect(slot) {
			continue
		}
		if err := s.allocateSlot(slot, cmp.Or(r.short, s.Super.SegmentSize)); IsNoSpace(err) {
			continue
		} else if err != nil {
			return -1, err
		}
		after, err := s.file.Occupied()
		r.filled = after != before
		return i, err
	}
	return -1, nil
}

// shortStep is the length of the first segment of a page store in bytes. It has no disk space beyond that.
const shortStep = 512 << 10

// shortFor returns the length of a short segment that a log of used bytes can go on in, 0 if it needs a whole one.
func (s *Store) shortFor(used int) int {
	step, block := s.c.FirstStep, s.dev.Block()
	if step == 0 && s.Super.SegmentSize >= 2*shortStep {
		step = shortStep
	}
	step = step &^ (max(block, format.SegmentStart) - 1)
	if s.Super.Log || used+2*block > step || step >= s.Super.SegmentSize {
		return 0
	}
	return step
}

// allocateSlot reserves disk space for the first n bytes of a free slot within the file. If the disk is full, the part
// that was reserved is given back.
func (s *Store) allocateSlot(slot format.SegmentID, n int) error {
	size, off := int64(s.Super.SegmentSize), int64(slot.Offset(s.Super.SegmentSize))
	err := s.file.Allocate(off, int64(n))
	if IsNoSpace(err) {
		_ = s.file.Punch(off+format.SegmentStart, size-format.SegmentStart) // if it fails, the slot keeps its space
	}
	return err
}

// endsOf returns where segments end early, of those that the log still has.
func (s *Store) endsOf(segs []recovery.Segment) []format.LSN {
	return slices.DeleteFunc(s.Super.Ends.Ends(), func(lsn format.LSN) bool {
		base := lsn - lsn%format.LSN(s.Super.SegmentSize)
		return !slices.ContainsFunc(segs, func(g recovery.Segment) bool { return g.Base == base })
	})
}

// DeviceLine describes in one line how a device writes, and why not in a faster way.
func DeviceLine(r vfs.DeviceReport) string {
	line := useOf(r)
	if r.Reason != "" {
		line += " (" + r.Reason + ")"
	}
	return line
}

// useOf describes how a device writes.
func useOf(r vfs.DeviceReport) string {
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
	return fmt.Sprintf("%s, blocks of %d", strings.Join(use, ", "), r.Block)
}
