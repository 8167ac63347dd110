package format

import (
	"bytes"
	"flag"
	"math"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files again")

// golden compares got with a file in testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the bytes on disk have changed (run go test -update if this is intended):\n%s", path, got)
	}
}

var testStore = StoreID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

func testSuper() Superblock {
	return Superblock{Sequence: 7, Store: testStore, SegmentSize: 8 << 20, Generation: 3, Clean: true, Begun: true,
		End: 0x12340, NextID: 5_000_000, NextPage: 77, IDInterval: 1_000_000, Floor: 0x12000,
		Timeline: 0xfedcba9876543210, Branch: 0x12000, Joined: 0x1122334455667788, Listed: 0x4000,
		Ancestors: [MaxAncestors]Ancestor{{0x0123456789abcdef, 0x8000}, {0x42, 0x4000}},
		OutOfUse:  SlotList{4, 18}, Ends: EndList{0x11008}, Suspects: SlotList{9}}
}

// testSegment returns a segment with a message of every kind, and its header. If full is set, a pad fills all of the
// segment, else the first block.
func testSegment(full bool) ([]byte, SegmentHeader) {
	h := SegmentHeader{State: SegmentStateInUse, SegmentSize: MinSegmentSize, BlockSize: 4096, Generation: 3,
		Base: 5 * MinSegmentSize, Stable: 5*MinSegmentSize - 1, Slot: 2,
		Store: testStore, Timeline: 0xfedcba9876543210,
		Ledger: Ledger{Joined: 0x8877665544332211, Left: 0x42, Recycled: 1}}
	seg := make([]byte, MinSegmentSize)
	h.Put(seg)
	seed := MakeSeed(testStore, h.Generation, h.Slot)
	pos := SegmentStart
	durable := NoLSN // known to the first message
	put := func(k Kind, page PageID, body []byte) {
		msg := seg[pos:]
		w := MakeWord(k, HeaderSize+len(body))
		PutHeader(msg, h.Base+LSN(pos), page, durable)
		copy(msg[HeaderSize:], body)
		PutCRC(msg, w, seed)
		PutWord(msg, w)
		pos += AlignUp(w.Len())
		durable = h.Base
	}
	put(KindFailed, 9, []byte("gone"))
	begin := h.Base + LSN(pos)
	put(KindBatchBegin, 0, nil)
	delta := func(prev LSN, rest []byte) []byte {
		body := make([]byte, PrevSize+len(rest))
		copy(PutPrev(body, prev), rest)
		return body
	}
	whole := h.Base + LSN(pos)
	put(KindCompact, 2, []byte("a whole page"))
	put(KindAppend, 2, delta(whole, []byte("a delta, longer than a line of hex is")))
	put(KindAppendBlob, 3, delta(5000, MakeBlobPtr(7, []byte("contents")).Append(nil)))
	put(KindCompactBlob, 4, MakeBlobPtr(8, nil).Append(nil))
	put(KindFree, 4, nil)
	put(KindBatchEnd, 0, Manifest{Begin: begin}.Append(nil))
	put(KindCounter, CounterPage, AppendCounter(nil, 1_000_000))
	put(KindRoot, 6, AppendRoot(nil, Root{Name: "accounts", Target: 300}))
	put(KindData, 0, []byte("a record"))
	put(KindAppendZstd, 5, delta(begin, []byte{4, 0, 0, 0, 'z', 's', 't', 'd'}))
	put(KindCompactZstd, 5, []byte{4, 0, 0, 0, 'z', 's', 't', 'd'})
	pos += putGroup(seg[pos:], h.Base+LSN(pos), seed, []Kind{KindCompact, KindFree}, []byte("of a group"), nil)
	first := h.Base + LSN(pos)
	pos += putPart(seg[pos:], partAt{first, GroupHead{Left: 1}}, seed, []Kind{KindFree}, nil)
	last := h.Base + LSN(pos)
	pos += putPart(seg[pos:], partAt{last, GroupHead{First: first}}, seed, []Kind{KindCompact, KindFree},
		[]byte("later"), nil)
	decided := make([]byte, DecisionsSize(1))
	PutDecisions(decided, []Decision{{First: first, Last: last}})
	put(KindDecided, 0, decided)
	PutWord(seg[pos:], PutPad(seg[pos:], h.Base+LSN(pos), Known{h.Base, h.Base - 1}, HeaderSize, seed))
	pos += HeaderSize
	end := SegmentStart + 4096
	if full {
		end = MinSegmentSize - 16
	}
	PutWord(seg[pos:], PutPad(seg[pos:], h.Base+LSN(pos), Known{h.Base + LSN(pos), h.Base - 1}, end-pos, seed))
	return seg, h
}

// testView shows all messages of a segment in the given slot.
func testView(slot SegmentID, body int) SegmentView {
	return SegmentView{Store: testStore, Slot: slot, SegmentSize: MinSegmentSize, Body: body}
}

// The bytes of every structure, as annotated hex, are those of the golden files.
func TestBytesMatchGoldens(t *testing.T) {
	super := testSuper().Append(nil)
	golden(t, "superblock.txt", AnnotateSuperblock(nil, super))
	super[9] ^= 1
	golden(t, "superblock-torn.txt", AnnotateSuperblock(nil, super))
	super[SuperCopySize+9] ^= 1
	golden(t, "superblock-corrupt.txt", AnnotateSuperblock(nil, super))
	named := testSuper()
	named.Sequence, named.Name = named.Sequence+1, "a name longer than a line"
	copy(super, named.Append(nil)[:SuperCopySize])
	copy(super[SuperCopySize:], testSuper().Append(nil))
	golden(t, "superblock-older.txt", AnnotateSuperblock(nil, super[:SuperblockSize]))
	seg, h := testSegment(false)
	golden(t, "segment.txt", AnnotateSegment(nil, seg, testView(2, math.MaxInt)))
	full, _ := testSegment(true)
	golden(t, "segment-full.txt", AnnotateSegment(nil, full, testView(2, 8)))
	seg[SegmentStart+HeaderSize] ^= 1
	golden(t, "segment-torn.txt", AnnotateSegment(nil, seg, testView(2, 8)))
	golden(t, "segment-misplaced.txt", AnnotateSegment(nil, seg, testView(3, 8)))
	h.State = SegmentStateFree
	h.Put(seg)
	golden(t, "segment-free.txt", AnnotateSegment(nil, seg, testView(2, 8)))
	golden(t, "segment-zero.txt", AnnotateSegment(nil, make([]byte, MinSegmentSize), testView(2, 8)))
}
