package engine

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"pagecache/engine/internal/iobuf"
	"pagecache/internal/invariants"
	"pagecache/internal/vfs"
	"pagecache/iouring"
	"pagecache/recovery"
	"pagecache/segments"
	"pagecache/segments/format"
)

// recovered is what recovery found in the log, and where the log goes on.
type recovered struct {
	scan     *recovery.Result
	discard  []format.SegmentID // in use, but nothing in them counts any more
	end      format.LSN         // where the log goes on: scan.End, or a block boundary after it once the tail has moved
	tail     *recovery.Segment  // the partly filled one, if scan.End lies inside a segment
	nextPage format.PageID      // the first that was never allocated, if the store was closed cleanly with no batch open
	nextID   uint64
	idLimit  uint64 // ids at and above it must not be handed out before a higher one is durable
}

// bulkSegment is from what size of segments on they are read past the page cache, which is twice as fast for 8 MiB, as fast for 1 MiB, and slower for less, since
// nothing is read ahead.
const bulkSegment = 1 << 20

// recover reads the log. Rule 11: after anything but a clean close, what the page cache holds is not believed; the file is synced, its
// cached pages are dropped, and the tail is written anew (moveTail) before anything is shown.
func (s *store) recover() (*recovered, error) {
	size, err := s.file.Size()
	if err != nil {
		return nil, err
	}
	if !s.super.Clean && size > 0 {
		if err := s.file.Sync(); err != nil {
			return nil, fmt.Errorf("sync log before reading it: %w", err)
		}
		if err := s.file.DropCache(0, size); err != nil {
			return nil, fmt.Errorf("drop cached pages of the log: %w", err)
		}
	}
	if slots := (size-1)/int64(s.super.SegmentSize) + 1; slots > segments.MaxSlots {
		return nil, damagedFile(filepath.Join(s.dir, logName), fmt.Sprintf("%d bytes are %d segments, more than there can be", size, slots), nil)
	}
	if err := s.findSnapshot(); err != nil {
		return nil, err
	}
	o := recovery.Options{Store: s.super.Store, SegmentSize: s.super.SegmentSize,
		Generation: s.super.Generation, Clean: s.super.Clean, End: s.super.End, File: filepath.Join(s.dir, logName)}
	if snap := s.snaps.base; snap != nil {
		o.From, o.Stable, o.Counter, o.Recycled = snap.From, snap.High, snap.Counter, snap.Recycled
		for _, g := range snap.Segments {
			o.Known = append(o.Known, g.Base)
		}
	}
	if s.view, err = s.file.OpenMap(vfs.PatternRandom, s.reader); err != nil {
		return nil, err
	}
	if !s.super.Clean && s.super.SegmentSize >= bulkSegment { // else what is in the page cache counts
		bulk := s.file.OpenBulk()
		defer func() { _ = bulk.Close() }()
		o.Bulk = bulk
	}
	s.bringInHeaders(size)
	_ = s.file.Advise(vfs.PatternSequential) // a hint, like the one below
	res, err := recovery.Scan(s.file, o)
	if err != nil {
		return nil, err
	}
	_ = s.file.Advise(vfs.PatternRandom)
	if res.Torn {
		s.opts.Logger.Warn("log ends in a torn tail", "dir", s.dir, "end", res.End, "why", res.Why)
	}
	r := &recovered{scan: res, end: res.End}
	if !res.Torn { // else it counts the pages of a batch that is dropped, of which nothing is in the log from now on: apply
		r.nextPage = s.super.NextPage
	}
	r.discard = append(slices.Clone(res.Void), res.Corrupt...)
	if int64(res.End)%int64(s.super.SegmentSize) != 0 {
		r.tail = &r.scan.Segments[len(r.scan.Segments)-1]
	}
	return r, r.ids(s)
}

// bringInHeaders brings in the headers of all segments at once, if they are many: read one by one, a few at a time, they would wait for the disk.
func (s *store) bringInHeaders(fileSize int64) {
	const few = 32
	size := int64(s.super.SegmentSize)
	if fileSize < few*size {
		return
	}
	const together = 1024
	ranges := make([]vfs.Range, 0, together)
	for off := int64(0); off < fileSize-format.SegmentHeaderSize; off += size {
		ranges = append(ranges, vfs.Range{Off: off, Len: format.SegmentHeaderSize})
		if len(ranges) == together || off+size >= fileSize-format.SegmentHeaderSize {
			_, _ = s.view.Warm(ranges) // what could not be read is found out by the scan
			ranges = ranges[:0]
		}
	}
}

// ids decides where the id counter goes on. Ids are handed out below the sum of the last durable note and
// twice the interval, so that is where a crashed store goes on: ids never repeat. What would make them do so is damage (rule 12).
func (r *recovered) ids(s *store) error {
	if max(s.super.NextID, r.scan.Counter) > maxID || s.super.IDInterval > maxID/4 {
		return damagedFile(filepath.Join(s.dir, superName), fmt.Sprintf("next id %d, noted %d, interval %d: out of bounds", s.super.NextID,
			r.scan.Counter, s.super.IDInterval), nil)
	}
	r.nextID = s.super.NextID
	if s.found && !s.super.Clean {
		r.nextID = max(r.nextID, r.scan.Counter) + 2*max(s.super.IDInterval, s.opts.IDPersistInterval)
	}
	r.idLimit = r.nextID + 2*s.opts.IDPersistInterval
	return nil
}

// start begins a new generation, opens the device, moves the tail, frees the slots that hold nothing and starts the log.
func (s *store) start(r *recovered) (err error) {
	sb := s.super
	clean := sb.Clean
	sb.Clean, sb.End, sb.NextPage = false, 0, 0
	sb.Generation = max(sb.Generation, r.scan.MaxGeneration) + 1
	sb.NextID, sb.IDInterval = r.nextID, s.opts.IDPersistInterval
	size := sb.SegmentSize
	for range s.opts.IOBuffers {
		b, err := iouring.AllocBuffer(size)
		if err != nil {
			return fmt.Errorf("io buffer of %d bytes: %w", size, err)
		}
		s.bufs = append(s.bufs, b)
	}
	o := s.opts.device()
	o.Buffers = s.bufs
	if s.dev, s.report, err = s.file.OpenDevice(o); err != nil {
		return fmt.Errorf("open device: %w", err)
	}
	if block := s.dev.Block(); size%block != 0 {
		return fmt.Errorf("segments of %d bytes cannot be written in the device's blocks of %d", size, block)
	}
	if s.report.Reason != "" {
		s.opts.Logger.Info("log device", "dir", s.dir, "use", deviceLine(s.report))
	}
	fileSize, err := s.file.Size()
	if err != nil {
		return err
	}
	// Up to here nothing was changed. The generation is durable before the first write of this opening (format.Generation).
	if err := s.writeSuper(sb); err != nil {
		return err
	}
	if fileSize, err = s.wholeSlots(r, fileSize); err != nil {
		return err
	}
	reserve, per := s.reserved()
	s.space = segments.NewSpace(segments.Options{File: s.file, SegmentSize: size, Slots: int(fileSize / int64(size)), Store: sb.Store,
		Generation: sb.Generation, Background: !s.opts.foreground, Zero: s.zero, ZeroAfter: zeroAfter, Recycled: r.scan.Recycled,
		Opened: s.kickCleaner, Reserve: reserve, ReservePer: per})
	spare := append(slices.Clone(r.scan.Zero), r.scan.Free...)
	// Where an open batch was cut off, its messages still follow the end: trap 7.
	if r.tail != nil && !(clean && !r.scan.Torn && int64(r.scan.End)%int64(s.dev.Block()) == 0) {
		if len(spare) == 0 && len(r.discard) > 0 { // an opening that was cut off here has left the tail in two slots, and there may be no room for a third
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
	s.space.Ready(append(spare, r.discard...), r.scan.Zero)
	return s.startLog(r)
}

// markDiscarded makes the slots free, durably, that hold nothing which counts.
func (s *store) markDiscarded(r *recovered) error {
	for _, slot := range r.discard {
		h := format.SegmentHeader{State: format.SegmentStateFree, Stable: r.scan.Stable, Recycled: r.scan.Recycled}
		if err := s.markSlots(s.dev, s.bufs[0], []format.SegmentID{slot}, h); err != nil {
			return err
		}
	}
	return nil
}

// wholeSlots makes a file that ends inside a slot, as growing leaves it that was cut off, end at one: shorter, or longer if a part of the log lies in that
// slot. It returns the length.
func (s *store) wholeSlots(r *recovered, fileSize int64) (int64, error) {
	size := int64(s.super.SegmentSize)
	slot := format.SegmentID(fileSize / size)
	if fileSize%size == 0 {
		return fileSize, nil
	}
	if slices.ContainsFunc(r.scan.Segments, func(g recovery.Segment) bool { return g.Slot == slot }) {
		if err := s.file.Allocate(int64(slot)*size, size); err != nil {
			return 0, noSpace(err)
		}
		return int64(slot+1) * size, s.file.Sync()
	}
	for _, ids := range []*[]format.SegmentID{&r.scan.Zero, &r.scan.Free, &r.discard} {
		*ids = slices.DeleteFunc(*ids, func(id format.SegmentID) bool { return id == slot })
	}
	if err := s.file.Truncate(int64(slot) * size); err != nil {
		return 0, err
	}
	return int64(slot) * size, s.file.Sync()
}

// startToRead takes the log as it was found. What is shown was made durable by recover, if the store was not closed cleanly (rule 11).
func (s *store) startToRead(r *recovered) (err error) {
	fileSize, err := s.file.Size()
	if err != nil {
		return err
	}
	size := s.super.SegmentSize
	s.space = segments.NewSpace(segments.Options{File: s.file, SegmentSize: size, Slots: int(fileSize / int64(size)), Store: s.super.Store,
		Generation: s.super.Generation, Recycled: r.scan.Recycled})
	for _, g := range r.scan.Segments {
		s.space.Adopt(g.Slot, g.Base, format.MakeSeed(s.super.Store, g.Generation, g.Slot), false)
	}
	s.log = iobuf.NewReadOnly(r.end)
	return nil
}

func (s *store) startLog(r *recovered) (err error) {
	partial := int64(r.end)%int64(s.super.SegmentSize) != 0
	for i, g := range r.scan.Segments {
		s.space.Adopt(g.Slot, g.Base, format.MakeSeed(s.super.Store, g.Generation, g.Slot), partial && i == len(r.scan.Segments)-1)
	}
	c := iobuf.Config{Device: s.dev, Space: s.space, Buffers: s.bufs, Store: s.super.Store, Generation: s.super.Generation,
		FlushEvery: max(0, s.opts.FlushEvery), End: r.end, ListPages: s.opts.SegmentMode == GC && !s.super.Log}
	if partial {
		off := int64(r.tail.Slot.Offset(s.super.SegmentSize))
		c.Slot, c.Seed = r.tail.Slot, format.MakeSeed(s.super.Store, r.tail.Generation, r.tail.Slot)
		c.Fill = func(mem []byte) error {
			_, err := s.file.ReadAt(mem, off)
			return err
		}
	}
	if invariants.Enabled {
		c.Space = unprotecting{s.space, s.view, s.super.SegmentSize}
	}
	s.log, err = iobuf.New(c)
	return err
}

// moveTail copies the valid part of the last segment to another slot, under this opening's generation: the body
// first, durably, then the header that makes it count. Until the header is durable the old slot counts; from then on the new one does, and the old
// one holds nothing. Stable bytes are never written over (rule 1), whatever the crash left after them is never read again
// (trap 7), and what is shown is on the disk (rule 11).
func (s *store) moveTail(r *recovered, spare []format.SegmentID) ([]format.SegmentID, error) {
	size, block := s.super.SegmentSize, s.dev.Block()
	old, buf := *r.tail, s.bufs[0]
	used := int(int64(r.scan.End) % int64(size))
	n := (used + block - 1) &^ (block - 1)
	if n-used > 0 && n-used < format.HeaderSize {
		n = min(n+block, size)
	}
	if err := s.readTail(old, buf[:used]); err != nil {
		return nil, err
	}
	slot, spare, err := s.spareSlot(spare)
	if err != nil {
		return nil, err
	}
	seed := format.MakeSeed(s.super.Store, s.super.Generation, slot)
	oldSeed := format.MakeSeed(s.super.Store, old.Generation, old.Slot)
	pos := format.SegmentHeaderSize
	for used-pos >= format.HeaderSize {
		h, _, err := format.DecodeMessage(buf[pos:used], old.Base+format.LSN(pos), oldSeed)
		if err != nil {
			return nil, s.corrupt(old.Base+format.LSN(pos), format.DiskPtr{Off: old.Slot.Offset(size) + format.Offset(pos), Len: uint32(h.Len)}, h, err)
		}
		format.PutCRC(buf[pos:], format.MakeWord(h.Kind, h.Len), seed)
		pos += format.AlignUp(h.Len)
	}
	stable := r.scan.End - 1
	if n-used >= format.HeaderSize {
		format.PutWord(buf[used:], format.PutPad(buf[used:], r.scan.End, stable, n-used, seed))
	}
	off := int64(slot.Offset(size))
	// First with a header that says free: when the right one is written below, the rest of its block does not change, so a write that is torn by
	// sectors leaves a slot that is free, or a whole one. Not without a header: the free one that was there may be the only one that
	// knows how many segments were recycled, and how far the log is known to be stable.
	format.SegmentHeader{State: format.SegmentStateFree, SegmentSize: size, BlockSize: block, Generation: s.super.Generation,
		Stable: r.scan.Stable, Recycled: r.scan.Recycled, Slot: slot}.Put(buf)
	if err := s.writeDurably(buf[:n], off); err != nil {
		return nil, err
	}
	format.SegmentHeader{State: format.SegmentStateInUse, SegmentSize: size, BlockSize: block, Generation: s.super.Generation,
		Base: old.Base, Stable: stable, Recycled: r.scan.Recycled, Slot: slot}.Put(buf)
	if err := s.writeDurably(buf[:block], off); err != nil {
		return nil, err
	}
	r.discard = append(r.discard, old.Slot)
	r.tail.Slot, r.tail.Generation = slot, s.super.Generation // in scan too, so that Apply points to the new place
	r.end = old.Base + format.LSN(n)
	clear(buf) // not after an error: it may still be on its way, and is not used again
	return spare, nil
}

// readTail reads the valid part of the tail. Bytes that the file does not have stay zeros: a pad's, or the caller's decoding finds it out.
func (s *store) readTail(g recovery.Segment, buf []byte) error {
	_, err := s.file.ReadAt(buf, int64(g.Slot.Offset(s.super.SegmentSize)))
	if err == io.EOF {
		return nil
	}
	return err
}

// spareSlot takes a slot whose space is reserved from spare, or from the end of the file.
func (s *store) spareSlot(spare []format.SegmentID) (format.SegmentID, []format.SegmentID, error) {
	if len(spare) > 0 {
		return spare[0], spare[1:], nil
	}
	slot, err := s.space.Append()
	return slot, nil, noSpace(err)
}

// markSlots writes the headers of slots that hold nothing any more, durably, so that no later scan takes their contents for the log (rule 4d).
// The rest of each block is written as it was: torn by sectors, the write leaves the segment whole or the slot free. buf is a block
// of dev's for each, zero before and after.
func (s *store) markSlots(dev vfs.Device, buf []byte, slots []format.SegmentID, h format.SegmentHeader) error {
	block := dev.Block()
	buf = buf[:block*len(slots)]
	inFlight := false
	defer func() {
		if !inFlight { // else zeros would be written, and the device writes nothing more
			clear(buf)
		}
	}()
	h.SegmentSize, h.BlockSize, h.Generation = s.super.SegmentSize, block, s.super.Generation
	writes := make([]vfs.Write, len(slots))
	for i, slot := range slots {
		b, off := buf[i*block:(i+1)*block], int64(slot.Offset(s.super.SegmentSize))
		if _, err := s.file.ReadAt(b, off); err != nil && err != io.EOF { // a slot that was cut short
			return fmt.Errorf("mark %v free: %w", slot, err)
		}
		// What was read must not stay cached, or it would be shown instead of what is written next (rule 2).
		if err := s.file.DropCache(off, int64(s.super.SegmentSize)); err != nil {
			return fmt.Errorf("mark %v free: %w", slot, err)
		}
		h.Slot = slot
		h.Put(b)
		writes[i] = vfs.Write{Off: off, Buf: b, Tag: uint64(i)}
	}
	if err := writeAll(dev, writes); err != nil {
		inFlight = errors.Is(err, vfs.ErrInFlight)
		return fmt.Errorf("mark %v free: %w", slots, err)
	}
	return nil
}

// writeDurably is one write through the device, before the log runs.
func (s *store) writeDurably(b []byte, off int64) error { return writeTo(s.dev, b, off) }

// writeTo is one write through a device that nothing else is using.
func writeTo(dev vfs.Device, b []byte, off int64) error {
	return writeAll(dev, []vfs.Write{{Off: off, Buf: b}})
}

// writeAll does writes through a device that nothing else is using. Where the device itself fails, which is
// for good, that is ErrInFlight: some may still be on their way.
func writeAll(dev vfs.Device, writes []vfs.Write) (err error) {
	for some := range slices.Chunk(writes, dev.Depth()) {
		comps, doErr := dev.Do(some, len(some), nil)
		for doErr == nil && len(comps) < len(some) {
			comps, doErr = dev.Do(nil, 1, comps)
		}
		if doErr != nil {
			err = errors.Join(err, fmt.Errorf("%w: %w", vfs.ErrInFlight, doErr))
		}
		for _, c := range comps {
			err = errors.Join(err, c.Err)
		}
	}
	return err
}

func pull(v vfs.Map, ptr format.DiskPtr, lsn format.LSN, seed format.Seed) (format.Header, []byte, error) {
	return pullMessage(v, ptr, lsn, seed, int(ptr.Len))
}
