package recovery

import (
	"encoding/binary"
	"errors"
	"testing"

	"pagecache/segments/format"
)

// FuzzScan changes a log of four slots, repairs the checksums that the change breaks (so that the checks behind them
// are reached), and scans. Proves V4, rule 12.
func FuzzScan(f *testing.F) {
	f.Add([]byte{}, false, int64(0))
	f.Add([]byte{0, 16, 6, 1, 0, 17, 32, 9}, true, int64(0)) // offset 4096 is the first message
	f.Add([]byte{1, 0, 24, 255, 2, 0, 40, 127}, false, int64(testSize))
	f.Add([]byte{1, 0, 80, 1, 2, 0, 88, 3, 3, 0, 14, 3, 0, 0, 48, 1}, false, int64(0)) // timelines and ledgers
	f.Add([]byte{0, 16, 0, 0, 0, 16, 1, 255, 0, 16, 2, 255}, false, int64(100))
	f.Fuzz(func(t *testing.T, edits []byte, clean bool, lsn int64) {
		b := threeSegments()
		b.group(true, []byte("one"), nil, make([]byte, 40))
		b.part(b.part(0, 1, true), 0, true)
		b.open(3, 0, format.SegmentStateFree)
		for ; len(edits) >= 4; edits = edits[4:] {
			at := int(edits[0]&3)*testSize + int(binary.BigEndian.Uint16(edits[1:]))%testSize
			b.file[at] ^= edits[3]
			if edits[0]&4 == 0 {
				repair(b.file, at/testSize)
			}
		}
		o := b.options()
		o.Clean, o.End, o.From = clean, format.LSN(lsn), format.LSN(lsn)
		if !clean {
			o.End = 0
		} else {
			o.From, o.Joined = 0, b.joined(o.End)
		}
		r, err := Scan(b.file, o)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && lsn >= 0 {
				t.Fatal(err)
			}
			return
		}
		last := format.LSN(0)
		if err := r.Apply(func(m Message) error {
			if m.LSN <= last || m.LSN >= r.End || int64(m.Ptr.Off)+int64(m.Ptr.Len) > int64(len(b.file)) {
				t.Fatalf("message %+v after LSN %v", m, last)
			}
			last = m.LSN
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if r.End > r.Tip || r.Durable > r.Tip || !clean && r.Stable >= r.End && r.End < r.Tip {
			t.Fatalf("%+v", r)
		}
	})
}

// repairGroup corrects the checksums of the messages in a group, or a part of one, of kind k, up to the first invalid
// length.
func repairGroup(k format.Kind, group []byte, seed format.Seed) {
	for pos := format.HeaderSize + k.GroupHeadSize(); len(group)-pos >= format.HeaderSize; {
		w := format.Word(binary.LittleEndian.Uint32(group[pos:]))
		if w.Len() < format.HeaderSize || w.Len() > len(group)-pos {
			return
		}
		format.PutCRC(group[pos:], w, seed)
		pos += format.AlignUp(w.Len())
	}
}

// repair corrects the checksums of a segment's header and of its messages, up to the first invalid length.
func repair(f file, slot int) {
	seg := f[slot*testSize : (slot+1)*testSize]
	h := format.SegmentHeader{
		State: format.SegmentState(seg[14]), SegmentSize: testSize, BlockSize: 512, Slot: format.SegmentID(slot),
		Generation: format.Generation(binary.LittleEndian.Uint64(seg[24:])),
		Base:       format.LSN(binary.LittleEndian.Uint64(seg[32:])),
		Stable:     format.LSN(binary.LittleEndian.Uint64(seg[40:])),
		Store:      format.StoreID(seg[64:80]),
		Timeline:   format.Timeline(binary.LittleEndian.Uint64(seg[80:])),
		Ledger: format.Ledger{
			Joined:   format.Identity(binary.LittleEndian.Uint64(seg[88:])),
			Left:     format.Identity(binary.LittleEndian.Uint64(seg[96:])),
			Recycled: binary.LittleEndian.Uint64(seg[48:]),
		},
	}
	h.Put(seg)
	seed := format.MakeSeed(testStore, h.Generation, h.Slot)
	for pos := format.SegmentStart; len(seg)-pos >= format.HeaderSize; {
		w := format.Word(binary.LittleEndian.Uint32(seg[pos:]))
		if w.Len() < format.HeaderSize || w.Len() > len(seg)-pos {
			return
		}
		if w.Kind().IsGroup() {
			repairGroup(w.Kind(), seg[pos:pos+w.Len()], seed)
		}
		format.PutCRC(seg[pos:], w, seed)
		pos += format.AlignUp(w.Len())
	}
}
