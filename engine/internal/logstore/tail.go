package logstore

import (
	"errors"

	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// loadTail returns the valid part of the last segment, up to a block boundary, in the io buffer that Recover or
// planTail has read it to, as it will be in its new slot. Recover has verified every message there, or loadTail does,
// except below the snapshot's From: a message that is corrupt or cannot be read there is corrupt in the new slot too,
// and all others are served. loadTail returns nil if there is no tail, or it stays where it is. It changes nothing on
// the disk.
func (s *Store) loadTail(r *Recovered) ([]byte, error) {
	if r.tail == nil {
		return nil, nil
	}
	old := *r.tail
	if r.moves {
		old = s.tail.from
	}
	buf := s.tailBuffer()
	if r.keeps {
		clear(buf) // a free io buffer is all zero
		return nil, nil
	}
	used, n := int(r.Scan.End-old.Base), int(r.end-old.Base)
	seed := format.MakeSeed(s.Super.Store, r.tail.Generation, r.tail.Slot)
	if err := s.reseal(buf[:used], old, seed, r.base.From); err != nil {
		return nil, errors.Join(err, r.lost)
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
// messages keep the durable ends that they carry. A header that is written before shows the opening before.
func (s *Store) moveTail(r *Recovered, buf []byte, before writer) error {
	size, block, slot := s.Super.SegmentSize, s.dev.Block(), r.tail.Slot
	off := int64(slot.Offset(size))
	h := s.tailHeader(r)
	h.State, h.Base, h.Stable = format.SegmentStateFree, 0, r.Scan.Stable
	h.Timeline, h.Generation = before.timeline, before.generation
	// The slot has no header that counts until the messages are durable. If blocks are longer than format.SegmentStart,
	// the first write replaces the header by another that says free.
	h.Put(buf)
	first := format.SegmentStart &^ (block - 1)
	if err := writeTo(s.dev, buf[min(first, len(buf)):], off+int64(first)); err != nil {
		return err
	}
	s.tailHeader(r).Put(buf)
	return writeTo(s.dev, buf[:max(block, first)], off)
}

// tailHeader returns the header of the tail as this opening writes it.
func (s *Store) tailHeader(r *Recovered) format.SegmentHeader {
	return format.SegmentHeader{
		State: format.SegmentStateInUse, SegmentSize: s.Super.SegmentSize, BlockSize: s.dev.Block(),
		Generation: r.tail.Generation, Base: r.tail.Base, Stable: r.Scan.End - 1, Slot: r.tail.Slot,
		Store: s.Super.Store, Timeline: r.tail.Timeline, Ledger: s.Space.Ledger(),
	}
}

// reseal computes the checksums of the messages in buf anew, for their new slot and generation. Bytes below from that
// are no message stay as they are, and are none in the new slot either: no page shows an older state in their place.
func (s *Store) reseal(buf []byte, old recovery.Segment, seed format.Seed, from format.LSN) error {
	decode := format.DecodeMessage
	if old.InTail { // verified
		decode = func(src []byte, lsn format.LSN, _ format.Seed) (format.Header, []byte, error) {
			h, err := format.DecodeHeader(src, len(src), lsn)
			return h, nil, err
		}
	}
	oldSeed := format.MakeSeed(s.Super.Store, old.Generation, old.Slot)
	effort := format.SearchEffort * len(buf)
	for pos := format.SegmentStart; len(buf)-pos >= format.HeaderSize; {
		lsn := old.Base + format.LSN(pos)
		h, body, err := decode(buf[pos:], lsn, oldSeed)
		if err == nil && h.Kind.IsGroup() && !old.InTail {
			_, err = format.CheckGroup(h.Kind, body, lsn, oldSeed)
		}
		if err != nil && lsn < from {
			end := int(min(from-old.Base, format.LSN(len(buf))))
			pos += format.Align
			pos += format.NextMessage(buf[pos:end], lsn+format.Align, oldSeed, &effort)
			continue
		}
		if err != nil {
			ptr := format.DiskPtr{Off: old.Slot.Offset(s.Super.SegmentSize) + format.Offset(pos), Len: uint32(h.Len)}
			return s.CorruptMessage(lsn, ptr, err)
		}
		if h.Kind.IsGroup() {
			format.ResealGroup(buf[pos:], h, seed)
		}
		format.PutCRC(buf[pos:], format.MakeWord(h.Kind, h.Len), seed)
		pos += format.AlignUp(h.Len)
	}
	return nil
}

// readTail reads the messages of the tail to their place in buf. Bytes beyond the end of the file stay zero: they are
// part of a pad, or the caller's decoding reports them. So do those that the disk does not return; unread is the error
// of the first.
func (s *Store) readTail(g recovery.Segment, buf []byte) (unread, err error) {
	off := g.Slot.Offset(s.Super.SegmentSize)
	unread, err = s.readAround(buf[format.SegmentStart:], int64(off)+format.SegmentStart)
	if err != nil && vfs.IsUnreadable(err) { // it takes too long
		unread, err = err, nil
	}
	if unread != nil {
		s.c.Report.Corruption("a part of the log's tail cannot be read", unread)
	}
	return unread, s.CorruptMessage(g.Base, format.DiskPtr{Off: off, Len: uint32(len(buf))}, err)
}

// writeTo makes one durable write through a device that nothing else uses. It does nothing if b is empty.
func writeTo(dev vfs.Device, b []byte, off int64) error {
	if len(b) == 0 {
		return nil
	}
	return vfs.WriteAll(dev, []vfs.Write{{Off: off, Buf: b}})
}
