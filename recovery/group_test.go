package recovery

import (
	"encoding/binary"
	"testing"

	"pagecache/segments/format"
)

// group writes a group of deltas of page 7, which Apply must return if whole is set.
func (b *builder) group(whole bool, bodies ...[]byte) (lsn format.LSN) {
	lsn = b.lsn()
	seed := format.MakeSeed(testStore, b.gen, b.slot)
	dst := b.file[b.at(b.pos):]
	at := format.GroupStep
	for _, body := range bodies {
		w := format.MakeWord(format.KindCompact, format.HeaderSize+len(body))
		msg := dst[at:]
		format.PutHeader(msg, lsn+format.LSN(at), 7, b.durable)
		copy(msg[format.HeaderSize:], body)
		format.PutCRC(msg, w, seed)
		format.PutWord(msg, w)
		if whole {
			off := b.slot.Offset(testSize) + format.Offset(b.pos+at)
			b.want = append(b.want, Message{Kind: format.KindCompact, LSN: lsn + format.LSN(at), Page: 7,
				Ptr: format.DiskPtr{Off: off, Len: uint32(w.Len())}})
		}
		at += format.AlignUp(w.Len())
	}
	format.PutGroupHead(dst[format.HeaderSize:], len(bodies))
	w := format.MakeWord(format.KindGroup, at)
	format.PutHeader(dst, lsn, 0, b.durable)
	format.PutCRC(dst, w, seed)
	format.PutWord(dst, w)
	b.pos += at
	return lsn
}

// A group is recovered whole, or the log ends at its beginning, whichever of its bytes were not written. Proves V2,
// trap 1.
func TestGroupIsWholeOrAbsent(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.pages(2, 10)
	b.group(true, make([]byte, 20), nil, make([]byte, 300))
	b.pages(1, 10)
	b.scanned(t, b.options(), b.lsn())

	for cut := format.Align; ; cut += format.Align {
		b := newBuilder().open(0, 0, format.SegmentStateInUse)
		b.pages(2, 10)
		lsn := b.group(false, []byte("first"), make([]byte, 60), []byte("last"))
		n := int(b.lsn() - lsn)
		if cut >= n {
			break
		}
		clear(b.file[b.at(b.pos-cut):b.at(b.pos)]) // the end was not written
		b.scanned(t, b.options(), lsn)
	}
}

// A group whose own checksum is right, but that holds something that no group holds, ends the log, and nothing of it is
// there. Proves rule 12.
func TestInvalidGroupEndsTheLog(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.pages(2, 10)
	lsn := b.group(false, []byte("first"), []byte("second"))
	msg, seed := b.file[b.at(int(lsn)):], format.MakeSeed(testStore, b.gen, b.slot)
	second := msg[format.GroupStep+format.AlignUp(format.HeaderSize+5):]
	w := format.MakeWord(format.KindCounter, format.HeaderSize+6) // a counter has 8 bytes
	format.PutCRC(second, w, seed)
	format.PutWord(second, w)
	format.PutCRC(msg, format.Word(binary.LittleEndian.Uint32(msg)), seed)
	b.scanned(t, b.options(), lsn)
}
