package format

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"
)

// streamSegment returns a segment with messages of streams, its header, the offset of its index, and the offsets of the
// records and notes.
func streamSegment(unlist bool) (seg []byte, h SegmentHeader, at int, offsets []int, notes []Seq) {
	h = SegmentHeader{State: SegmentStateInUse, SegmentSize: MinSegmentSize, BlockSize: 4096, Generation: 3,
		Base: 4 * MinSegmentSize, Stable: 4*MinSegmentSize - 1, Slot: 2, Store: testStore, Timeline: 9}
	seg = make([]byte, MinSegmentSize)
	h.Put(seg)
	seed := MakeSeed(testStore, h.Generation, h.Slot)
	pos := SegmentStart
	var x Index
	put := func(k Kind, stream StreamID, body []byte) {
		lsn := h.Base + LSN(pos)
		PutHeader(seg[pos:], lsn, PageID(stream), h.Base)
		copy(seg[pos+HeaderSize:], body)
		w := MakeWord(k, HeaderSize+len(body))
		PutCRC(seg[pos:], w, seed)
		PutWord(seg[pos:], w)
		x.Add(k, pos, seg[pos:])
		switch k {
		case KindRecord, KindLongRecord:
			offsets = append(offsets, pos)
		case KindNote:
			notes = append(notes, Seq(pos))
		}
		pos += AlignUp(HeaderSize + len(body))
	}
	record := func(stream StreamID, q Seq) {
		body := append(make([]byte, RecordHeadSize), "abc"...)
		PutSeq(body, q)
		put(KindRecord, stream, body)
	}
	cut := func(stream StreamID, c Cut) {
		body := make([]byte, CutSize)
		c.Put(body)
		put(KindTruncate, stream, body)
	}
	note := func(stream StreamID, name, value string) {
		n := Note{Name: []byte(name), Value: []byte(value), Set: value != ""}
		body := make([]byte, n.Size())
		n.Put(body)
		put(KindNote, stream, body)
	}
	record(0, 5)
	record(7, 1)
	record(0, 6)
	put(KindData, 0, []byte("no stream"))
	record(0, 9)
	cut(0, Cut{Last: 6})
	record(0, 7)
	record(7, 2)
	put(KindRecordPart, 7, []byte("abc"))
	long := LongRecord{Seq: 3, Len: 3, Parts: []LSN{h.Base + LSN(pos-AlignUp(HeaderSize+3))}}
	body := make([]byte, LongRecordSize(1))
	long.Put(body)
	put(KindLongRecord, 7, body)
	record(7, 4)
	cut(7, Cut{First: 2, Last: math.MaxUint64})
	note(7, "vote", "a")
	record(0, 8)
	note(7, "term", "")
	note(0, "vote", "b")
	note(7, "vote", "cd")
	record(MaxStreamID, MaxSeq)
	if unlist {
		x.Unlist()
	}
	at = MinSegmentSize - x.Len()
	k := Known{Durable: h.Base + 4096, Stable: h.Base + 4095}
	PutWord(seg[pos:], PutPad(seg[pos:], h.Base+LSN(pos), k, at-pos, seed))
	PutWord(seg[at:], x.Put(seg[at:], h.Base+LSN(at), k, seed))
	return seg, h, at, offsets, notes
}

// An index lists the messages of streams by runs: a run ends where the numbers do not rise, and at a Cut of its stream.
// Of each note, the newest message is listed.
func TestIndexListsStreams(t *testing.T) {
	seg, h, at, offs, notes := streamSegment(false)
	golden(t, "segment-streams.txt", AnnotateSegment(nil, seg, testView(2, math.MaxInt)))
	v, err := decodeIndexOf(seg, h, at)
	if err != nil || !v.Listed() {
		t.Fatal(v.Listed(), err)
	}
	part, err := DecodeHeader(seg[offs[6]-32:], 32, h.Base+LSN(offs[6]-32))
	partAt := part.LSN
	if err != nil || part.Kind != KindRecordPart {
		t.Fatal(part, err)
	}
	want := []Run{
		{Stream: 0, Count: 3, First: 5, Last: 9},
		{Stream: 7, Count: 2, First: 1, Last: 2},
		{Stream: 0, Type: RunCut, First: 0, Last: 6},
		{Stream: 0, Count: 2, First: 7, Last: 8},
		{Stream: 7, Type: RunLong, Count: 1, First: 3, Last: Seq(partAt)},
		{Stream: 7, Count: 1, First: 4, Last: 4},
		{Stream: 7, Type: RunCut, First: 2, Last: math.MaxUint64},
		{Stream: 7, Type: RunNote, First: notes[3]},
		{Stream: 7, Type: RunNote, First: notes[1]},
		{Stream: 0, Type: RunNote, First: notes[2]},
		{Stream: MaxStreamID, Count: 1, First: MaxSeq, Last: MaxSeq},
	}
	var got []Run
	for i := range v.Runs() {
		got = append(got, v.Run(i))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	wantOffsets := []int{offs[0], offs[2], offs[3], offs[1], offs[5], offs[4], offs[8], offs[6], offs[7], offs[9]}
	var gotOffsets []int
	for b := v.Offsets(); len(b) > 0; b = b[4:] {
		gotOffsets = append(gotOffsets, int(binary.LittleEndian.Uint32(b)))
	}
	if !slices.Equal(gotOffsets, wantOffsets) {
		t.Errorf("offsets %v, want %v", gotOffsets, wantOffsets)
	}
	seed := MakeSeed(testStore, h.Generation, h.Slot)
	trailer, err := DecodeIndexTrailer(seg[len(seg)-IndexTrailerSize:], h.Base, len(seg), seed)
	first := binary.LittleEndian.Uint32(seg[at+trailer.OffsetsAt():])
	if err != nil || int(first) != wantOffsets[0] {
		t.Errorf("the offsets begin with %d, want %d: %v", first, wantOffsets[0], err)
	}
	if v.Len() != 1 {
		t.Errorf("%d entries, want that of the record without a stream", v.Len())
	}
	seg, h, at, _, _ = streamSegment(true)
	if v, err = decodeIndexOf(seg, h, at); err != nil || v.Listed() || v.Runs() != 0 || v.Len() != 1 {
		t.Errorf("without lists: %v, %d runs, %d entries: %v", v.Listed(), v.Runs(), v.Len(), err)
	}
}

// No bytes of an index with right checksums make a reader look outside of the segment, or panic. Proves F2.
func TestHostileRuns(t *testing.T) {
	seg, h, at, _, _ := streamSegment(false)
	seed := MakeSeed(testStore, h.Generation, h.Slot)
	refused := 0
	for i := at + HeaderSize; i < len(seg)-4; i++ {
		for _, b := range []byte{0, 1, 0x7f, 0x80, 0xff} {
			old := seg[i]
			seg[i] = b
			trailer := seg[len(seg)-IndexTrailerSize:]
			binary.LittleEndian.PutUint32(trailer[trailerSummed:],
				trailerCRC(trailer, h.Base+MinSegmentSize, seed))
			PutCRC(seg[at:], MakeWord(KindIndex, len(seg)-at), seed)
			v, err := decodeIndexOf(seg, h, at)
			if err != nil && !errors.Is(err, ErrIndex) && !errors.Is(err, ErrNoIndex) {
				t.Fatalf("byte %d is %#x: %v", i, b, err)
			}
			if err != nil {
				refused++
			}
			n := 0
			for j := 0; err == nil && j < v.Runs(); j++ {
				n += v.Run(j).Count
			}
			if err == nil && n*4 != len(v.Offsets()) {
				t.Fatalf("byte %d is %#x: %d records, %d bytes of offsets", i, b, n, len(v.Offsets()))
			}
			for o := v.Offsets(); err == nil && len(o) > 0; o = o[4:] {
				if off := int(binary.LittleEndian.Uint32(o)); off < SegmentStart || off+HeaderSize > at {
					t.Fatalf("byte %d is %#x: offset %d", i, b, off)
				}
			}
			seg[i] = old
		}
	}
	if refused < 100 {
		t.Errorf("%d changed indexes were refused", refused)
	}
}

// Bodies of messages of streams with a wrong length or number are refused. Proves F2.
func TestStreamBodies(t *testing.T) {
	body := make([]byte, RecordHeadSize)
	for q, ok := range map[Seq]bool{0: false, 1: true, MaxSeq: true, MaxSeq + 1: false} {
		PutSeq(body, q)
		if got, rest, err := CutSeq(body); (err == nil) != ok || ok && (got != q || len(rest) != 0) {
			t.Errorf("number %d: %d, %v, %v", q, got, rest, err)
		}
	}
	if err := CheckStream(KindRecord, body[1:], 0); !errors.Is(err, ErrRecord) {
		t.Error(err)
	}
	for n := range CutSize + 2 {
		if err := CheckStream(KindTruncate, make([]byte, n), 0); (err == nil) != (n == CutSize) {
			t.Errorf("a cut of %d bytes: %v", n, err)
		}
	}
	for _, n := range []Note{{Name: []byte("a")}, {Name: []byte("a"), Set: true}, {Name: make([]byte, MaxNoteName),
		Value: make([]byte, MaxNoteValue), Set: true}} {
		b := make([]byte, n.Size())
		n.Put(b)
		got, err := DecodeNote(b)
		if err != nil || string(got.Name) != string(n.Name) || string(got.Value) != string(n.Value) ||
			got.Set != n.Set {
			t.Errorf("%+v is %+v: %v", n, got, err)
		}
	}
	for _, b := range []string{"", "\x00\x01", "\x01", "\x01\x01", "\x02\x01a", "\x01\x02a", "\x01\x00ab",
		"\x01\x01a" + string(make([]byte, MaxNoteValue+1))} {
		if err := CheckStream(KindNote, []byte(b), 0); !errors.Is(err, ErrRecord) {
			t.Errorf("note %.10q: %v", b, err)
		}
	}
	for _, r := range []struct {
		LongRecord
		lsn LSN
		ok  bool
	}{
		{LongRecord{1, 10, []LSN{4096}}, 8192, true},
		{LongRecord{1, 10, []LSN{4096, 4104}}, 8192, true},
		{LongRecord{1, 10, nil}, 8192, false},
		{LongRecord{0, 10, []LSN{4096}}, 8192, false},
		{LongRecord{1, 10, []LSN{8192}}, 8192, false},
		{LongRecord{1, 10, []LSN{4100}}, 8192, false},
		{LongRecord{1, 10, []LSN{4104, 4096}}, 8192, false},
		{LongRecord{1, 10, []LSN{-8}}, 8192, false},
		{LongRecord{1, 4096, []LSN{4096}}, 8192, true},
		{LongRecord{1, 4097, []LSN{4096}}, 8192, false},
		{LongRecord{1, math.MaxUint64, []LSN{4096, 5000}}, 8192, false},
	} {
		b := make([]byte, LongRecordSize(len(r.Parts)))
		r.Put(b)
		if got, err := DecodeLongRecord(b, r.lsn); (err == nil) != r.ok || r.ok && (got.Seq != r.Seq ||
			got.Len != r.Len || !slices.Equal(got.Parts, r.Parts)) {
			t.Errorf("%+v is %+v: %v", r, got, err)
		}
		if err := CheckStream(KindLongRecord, b[1:], r.lsn); !errors.Is(err, ErrRecord) {
			t.Error(err)
		}
	}
}
