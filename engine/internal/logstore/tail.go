package logstore

import (
	"io"

	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// loadTail returns the valid part of the last segment as it will be in its new slot, up to a block boundary, in an io
// buffer. It verifies every message, and changes nothing on the disk.
func (s *Store) loadTail(r *Recovered) ([]byte, error) {
	old, buf := s.tail.from, s.bufs[1] // markSlots needs the first one
	used, n := int(r.Scan.End-old.Base), int(r.end-old.Base)
	if err := s.readTail(old, buf[:used]); err != nil {
		return nil, err
	}
	seed := format.MakeSeed(s.Super.Store, r.tail.Generation, r.tail.Slot)
	if err := s.reseal(buf[:used], old, seed); err != nil {
		return nil, err
	}
	k := format.Known{Durable: r.Scan.End, Stable: r.Scan.End - 1}
	if n-used >= format.HeaderSize {
		format.PutWord(buf[used:], format.PutPad(buf[used:], r.Scan.End, k, n-used, seed))
	}
	return buf[:n], nil
}

// moveTail writes buf, from loadTail, to the slot that the tail moves to, under this opening's generation: the body
// first, durably, then the header that makes it count. The old slot counts until the new header is durable; from then
// on the new slot counts and the old one holds nothing. So stable bytes are never written over (rule 1), whatever the
// crash left behind them is never read again (trap 7), and everything that is shown is on the disk (rule 11). The
// messages keep the durable ends that they carry.
func (s *Store) moveTail(r *Recovered, buf []byte) error {
	size, block, slot := s.Super.SegmentSize, s.dev.Block(), r.tail.Slot
	h := format.SegmentHeader{
		State: format.SegmentStateFree, SegmentSize: size, BlockSize: block, Generation: r.tail.Generation,
		Stable: r.Scan.Stable, Recycled: r.Scan.Recycled, Slot: slot,
	}
	off := int64(slot.Offset(size))
	// The header that was there stays until the messages are durable: it may be the only one that knows how many
	// segments were recycled. It lies in blocks of its own, unless these are longer than format.SegmentStart; then the
	// first write replaces it by another that says free.
	h.Put(buf)
	first := format.SegmentStart &^ (block - 1)
	if err := writeTo(s.dev, buf[min(first, len(buf)):], off+int64(first)); err != nil {
		return err
	}
	h.State, h.Base, h.Stable = format.SegmentStateInUse, r.tail.Base, r.Scan.End-1
	h.Put(buf)
	if err := writeTo(s.dev, buf[:max(block, first)], off); err != nil {
		return err
	}
	clear(buf) // not after an error: the write may still be in flight, and the buffer is not used again
	return nil
}

// reseal computes the checksums of the messages in buf anew, for their new slot and generation.
func (s *Store) reseal(buf []byte, old recovery.Segment, seed format.Seed) error {
	oldSeed := format.MakeSeed(s.Super.Store, old.Generation, old.Slot)
	for pos := format.SegmentStart; len(buf)-pos >= format.HeaderSize; {
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

// readTail reads the messages of the tail to their place in buf. Bytes beyond the end of the file stay zero: they are
// part of a pad, or the caller's decoding reports them.
func (s *Store) readTail(g recovery.Segment, buf []byte) error {
	off := g.Slot.Offset(s.Super.SegmentSize)
	_, err := s.file.ReadAt(buf[format.SegmentStart:], int64(off)+format.SegmentStart)
	if err == io.EOF {
		return nil
	}
	return s.CorruptMessage(g.Base, format.DiskPtr{Off: off, Len: uint32(len(buf))}, err)
}

// writeTo makes one durable write through a device that nothing else uses. It does nothing if b is empty.
func writeTo(dev vfs.Device, b []byte, off int64) error {
	if len(b) == 0 {
		return nil
	}
	return vfs.WriteAll(dev, []vfs.Write{{Off: off, Buf: b}})
}
