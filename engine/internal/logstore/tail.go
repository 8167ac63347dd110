package logstore

import (
	"io"

	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// moveTail copies the valid part of the last segment to another slot, under this opening's generation: the body first,
// durably, then the header that makes it count. The old slot counts until the new header is durable; from then on the
// new slot counts and the old one holds nothing. So stable bytes are never written over (rule 1), whatever the crash
// left behind them is never read again (trap 7), and everything that is shown is on the disk (rule 11). It returns the
// slots of spare that it did not use.
func (s *Store) moveTail(r *Recovered, spare []format.SegmentID) ([]format.SegmentID, error) {
	size, block := s.Super.SegmentSize, s.dev.Block()
	old, buf := *r.tail, s.bufs[0]
	used := int(int64(r.Scan.End) % int64(size))
	n := (used + block - 1) &^ (block - 1)
	if n-used > 0 && n-used < format.HeaderSize { // too short for a pad
		n = min(n+block, size)
	}
	if err := s.readTail(old, buf[:used]); err != nil {
		return nil, err
	}
	slot, spare, err := s.spareSlot(spare)
	if err != nil {
		return nil, err
	}
	seed := format.MakeSeed(s.Super.Store, s.Super.Generation, slot)
	if err := s.reseal(buf[:used], old, seed); err != nil {
		return nil, err
	}
	stable := r.Scan.End - 1
	if n-used >= format.HeaderSize {
		format.PutWord(buf[used:], format.PutPad(buf[used:], r.Scan.End, stable, n-used, seed))
	}
	h := format.SegmentHeader{
		State: format.SegmentStateFree, SegmentSize: size, BlockSize: block, Generation: s.Super.Generation,
		Stable: r.Scan.Stable, Recycled: r.Scan.Recycled, Slot: slot,
	}
	off := int64(slot.Offset(size))
	// The first write carries a header that says free. When the right header is written below, the rest of its block
	// does not change, so a write that is torn by sectors leaves a free slot or a whole one. It carries a header at all
	// because the free header that was there may be the only one that knows how many segments were recycled, and how
	// far the log is known to be stable.
	h.Put(buf)
	if err := writeTo(s.dev, buf[:n], off); err != nil {
		return nil, err
	}
	h.State, h.Base, h.Stable = format.SegmentStateInUse, old.Base, stable
	h.Put(buf)
	if err := writeTo(s.dev, buf[:block], off); err != nil {
		return nil, err
	}
	r.discard = append(r.discard, old.Slot)
	r.tail.Slot, r.tail.Generation = slot, s.Super.Generation // in Scan too, so that Apply points to the new place
	r.end = old.Base + format.LSN(n)
	clear(buf) // not after an error: the write may still be in flight, and the buffer is not used again
	return spare, nil
}

// reseal computes the checksums of the messages in buf anew, for their new slot and generation.
func (s *Store) reseal(buf []byte, old recovery.Segment, seed format.Seed) error {
	oldSeed := format.MakeSeed(s.Super.Store, old.Generation, old.Slot)
	for pos := format.SegmentHeaderSize; len(buf)-pos >= format.HeaderSize; {
		lsn := old.Base + format.LSN(pos)
		h, _, err := format.DecodeMessage(buf[pos:], lsn, oldSeed)
		if err != nil {
			ptr := format.DiskPtr{Off: old.Slot.Offset(s.Super.SegmentSize) + format.Offset(pos), Len: uint32(h.Len)}
			return s.CorruptMessage(lsn, ptr, err)
		}
		format.PutCRC(buf[pos:], format.MakeWord(h.Kind, h.Len), seed)
		pos += format.AlignUp(h.Len)
	}
	return nil
}

// readTail reads the valid part of the tail. Bytes beyond the end of the file stay zero: they are part of a pad, or the
// caller's decoding reports them.
func (s *Store) readTail(g recovery.Segment, buf []byte) error {
	_, err := s.file.ReadAt(buf, int64(g.Slot.Offset(s.Super.SegmentSize)))
	if err == io.EOF {
		return nil
	}
	return err
}

// spareSlot takes a slot whose space is reserved: from spare, or else from the end of the file.
func (s *Store) spareSlot(spare []format.SegmentID) (format.SegmentID, []format.SegmentID, error) {
	if len(spare) > 0 {
		return spare[0], spare[1:], nil
	}
	slot, err := s.Space.Append()
	return slot, nil, markNoSpace(err)
}

// writeTo makes one durable write through a device that nothing else uses.
func writeTo(dev vfs.Device, b []byte, off int64) error {
	return vfs.WriteAll(dev, []vfs.Write{{Off: off, Buf: b}})
}
