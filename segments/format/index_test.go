package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"
)

// indexed returns a segment that ends with an index of its messages, its header, and the offset of the index. The index
// takes more bytes than it needs.
func indexed(more int) (seg []byte, h SegmentHeader, at int) {
	h = SegmentHeader{State: SegmentStateInUse, SegmentSize: MinSegmentSize, BlockSize: 4096, Generation: 3,
		Base: 5 * MinSegmentSize, Stable: 5*MinSegmentSize - 1, Slot: 2}
	seg = make([]byte, MinSegmentSize)
	h.Put(seg)
	seed := MakeSeed(testStore, h.Generation, h.Slot)
	pos := SegmentStart
	var x Index
	put := func(k Kind, body []byte) {
		msg := seg[pos:]
		w := MakeWord(k, HeaderSize+len(body))
		PutHeader(msg, h.Base+LSN(pos), 0, h.Base)
		copy(msg[HeaderSize:], body)
		PutCRC(msg, w, seed)
		PutWord(msg, w)
		x.Add(k, pos, msg)
		pos += AlignUp(w.Len())
	}
	begin := h.Base + LSN(pos)
	put(KindBatchBegin, nil)
	put(KindData, []byte("one"))
	put(KindFailed, []byte("gone"))
	put(KindBatchEnd, Manifest{Begin: begin}.Append(nil))
	put(KindBatchEnd, Manifest{Begin: 4096}.Append(nil)) // begun in the first segment
	put(KindData, make([]byte, 100))
	put(KindBatchBegin, nil)
	at = MinSegmentSize - x.Len() - more
	k := Known{Durable: h.Base + 4096, Stable: h.Base + 4095}
	PutWord(seg[pos:], PutPad(seg[pos:], h.Base+LSN(pos), k, at-pos, seed))
	PutWord(seg[at:], x.Put(seg[at:], h.Base+LSN(at), k, seed))
	return seg, h, at
}

// listed is what an index says.
type listed struct {
	off  int
	kind Kind
}

// decodeIndexOf decodes the index at offset at of a segment.
func decodeIndexOf(seg []byte, h SegmentHeader, at int) (IndexView, error) {
	seed := MakeSeed(testStore, h.Generation, h.Slot)
	m, body, err := DecodeMessage(seg[at:], h.Base+LSN(at), seed)
	if err != nil {
		return IndexView{}, err
	}
	return DecodeIndex(body, m, len(seg), seed)
}

// An index lists the records and batch markers of its segment, also if it is longer than it needs to be. Its room is
// what IndexRoom says. The bytes are those of the golden file.
func TestIndexListsMessages(t *testing.T) {
	for _, more := range []int{0, 8, 16} {
		seg, h, at := indexed(more)
		v, err := decodeIndexOf(seg, h, at)
		if err != nil {
			t.Fatal(err)
		}
		var got []listed
		for i := range v.Len() {
			off, k := v.Entry(i)
			got = append(got, listed{off, k})
		}
		want := []listed{{4096, KindBatchBegin}, {4120, KindData}, {4184, KindBatchEnd}, {4216, KindBatchEnd},
			{4248, KindData}, {4376, KindBatchBegin}}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		var marks []LSN
		for lsn, begin := range v.Markers() {
			marks = append(marks, lsn-h.Base, begin)
		}
		if want := []LSN{4096, 0, 4184, h.Base + 4096, 4216, 4096, 4376, 0}; !slices.Equal(marks, want) {
			t.Errorf("markers %v, want %v", marks, want)
		}
		if v.Stable != h.Base+4095 {
			t.Errorf("stable %v", v.Stable)
		}
		for range v.Markers() {
			break
		}
		if more == 8 {
			golden(t, "segment-index.txt", AnnotateSegment(nil, seg, testView(2, math.MaxInt)))
		}
	}
	units := 0
	for k, n := range map[Kind]int{KindData: 2, KindBatchBegin: 2, KindBatchEnd: 2, KindFailed: 1, KindPad: 1} {
		units += n * IndexUnits(k)
	}
	if _, _, at := indexed(0); MinSegmentSize-at != IndexRoom(units) {
		t.Errorf("an index of %d bytes, the room is %d", MinSegmentSize-at, IndexRoom(units))
	}
	var x Index
	if x.Len() != IndexRoom(0) || x.Reset().entries != nil {
		t.Errorf("an empty index takes %d bytes", x.Len())
	}
}

// Every flipped bit of an index is found, and either end of it still shows that it is one. Proves F1, rule 12.
func TestFlippedBitOfIndex(t *testing.T) {
	seg, h, at := indexed(8)
	seed := MakeSeed(testStore, h.Generation, h.Slot)
	end := len(seg) - IndexTrailerSize
	for bit := at * 8; bit < len(seg)*8; bit++ {
		seg[bit/8] ^= 1 << (bit % 8)
		if _, err := decodeIndexOf(seg, h, at); err == nil {
			t.Errorf("flipped bit %d of byte %d is accepted", bit%8, bit/8-at)
		}
		if !IndexBegins(seg[at:], seg[end:], h.Base+LSN(at), len(seg), seed) {
			t.Errorf("flipped bit %d of byte %d hides the index", bit%8, bit/8-at)
		}
		seg[bit/8] ^= 1 << (bit % 8)
	}
	for pos := SegmentStart; pos < at; pos += Align {
		if IndexBegins(seg[pos:], seg[end:], h.Base+LSN(pos), len(seg), seed) {
			t.Errorf("an index begins at %d", pos)
		}
	}
	// A trailer that is left over from an earlier segment in the slot is none.
	if _, err := DecodeIndexTrailer(seg[end:], h.Base, len(seg), seed); err != nil {
		t.Error(err)
	}
	for _, base := range []LSN{0, h.Base - MinSegmentSize, h.Base + 1<<40} {
		if _, err := DecodeIndexTrailer(seg[end:], base, len(seg), seed); !errors.Is(err, ErrNoIndex) {
			t.Errorf("a trailer of another segment: %v", err)
		}
	}
	clear(seg[at : at+HeaderSize])
	clear(seg[end:])
	if IndexBegins(seg[at:], seg[end:], h.Base+LSN(at), len(seg), seed) {
		t.Error("an index begins where both ends are missing")
	}
}

// resum makes the checksums of the index at offset at, and of its trailer, right.
func resum(seg []byte, h SegmentHeader, at int) {
	seed := MakeSeed(testStore, h.Generation, h.Slot)
	t := seg[len(seg)-IndexTrailerSize:]
	binary.LittleEndian.PutUint32(t[20:], trailerCRC(t, h.Base+LSN(len(seg)), seed))
	PutCRC(seg[at:], MakeWord(KindIndex, len(seg)-at), seed)
}

// An index with the right checksum and impossible contents is rejected. Proves F1, rule 12.
func TestHostileIndexIsRejected(t *testing.T) {
	put32, put64 := binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	for name, change := range map[string]func(entries, begins, trailer []byte){
		"below the first message":  func(e, _, _ []byte) { put32(e, 64) },
		"out of order":             func(e, _, _ []byte) { put32(e[4:], 4096) },
		"beyond the index":         func(e, _, _ []byte) { put32(e[20:], MinSegmentSize-8|1) },
		"far away":                 func(e, _, _ []byte) { put32(e[20:], math.MaxUint32&^7) },
		"unknown type":             func(e, _, _ []byte) { put32(e, 4096|4) },
		"more ends than begins":    func(e, _, _ []byte) { put32(e, 4096|2) },
		"fewer ends than begins":   func(e, _, _ []byte) { put32(e[8:], 4184) },
		"batch begins at 0":        func(_, b, _ []byte) { put64(b, 0) },
		"batch begins at its end":  func(_, b, _ []byte) { put64(b, 5*MinSegmentSize+4184) },
		"batch begins far away":    func(_, b, _ []byte) { put64(b, math.MaxUint64) },
		"too many entries":         func(_, _, t []byte) { put32(t[8:], 1000) },
		"many entries":             func(_, _, t []byte) { put32(t[8:], math.MaxUint32) },
		"too many begins":          func(_, _, t []byte) { put32(t[12:], 7) },
		"many begins":              func(_, _, t []byte) { put32(t[12:], math.MaxUint32) },
		"length of 0":              func(_, _, t []byte) { put32(t[16:], 0) },
		"length of another":        func(_, _, t []byte) { put32(t[16:], 256) },
		"length of a segment":      func(_, _, t []byte) { put32(t[16:], MinSegmentSize) },
		"length that is unaligned": func(_, _, t []byte) { put32(t[16:], 108) },
	} {
		seg, h, at := indexed(8)
		b := seg[at+HeaderSize:]
		change(b, b[24:], seg[len(seg)-IndexTrailerSize:])
		resum(seg, h, at)
		if _, err := decodeIndexOf(seg, h, at); !errors.Is(err, ErrIndex) && !errors.Is(err, ErrNoIndex) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// An index that does not end where the segment ends is none.
	seg, h, at := indexed(8)
	seed := MakeSeed(testStore, h.Generation, h.Slot)
	PutCRC(seg[at:], MakeWord(KindIndex, len(seg)-at-8), seed)
	PutWord(seg[at:], MakeWord(KindIndex, len(seg)-at-8))
	if _, err := decodeIndexOf(seg, h, at); !errors.Is(err, ErrIndex) {
		t.Error(err)
	}
	if _, err := DecodeIndex(nil, Header{LSN: h.Base, Len: len(seg)}, len(seg), seed); !errors.Is(err, ErrIndex) {
		t.Error(err)
	}
	if _, err := DecodeIndexTrailer(seg[:10], h.Base, len(seg), seed); !errors.Is(err, ErrNoIndex) {
		t.Error(err)
	}
}

// FuzzIndex puts any bytes in place of the body of an index and makes the checksums right.
func FuzzIndex(f *testing.F) {
	seg, _, at := indexed(8)
	f.Add(seg[at+HeaderSize:])
	seg[at+HeaderSize] ^= 1
	f.Add(seg[at+HeaderSize:])
	f.Add(make([]byte, IndexTrailerSize))
	f.Fuzz(func(t *testing.T, body []byte) {
		seg, h, _ := indexed(8)
		body = bytes.Clone(body)
		for len(body) < IndexTrailerSize || len(body)%Align != 0 {
			body = append(body, 0)
		}
		at := len(seg) - HeaderSize - len(body)
		if at < SegmentStart {
			return
		}
		copy(seg[at+HeaderSize:], body)
		binary.LittleEndian.PutUint32(seg[len(seg)-8:], uint32(len(seg)-at)) // else few get further
		seed := MakeSeed(testStore, h.Generation, h.Slot)
		PutHeader(seg[at:], h.Base+LSN(at), 0, h.Base)
		PutWord(seg[at:], MakeWord(KindIndex, len(seg)-at))
		resum(seg, h, at)
		AnnotateSegment(nil, seg, testView(2, 16))
		if !IndexBegins(seg[at:], seg[len(seg)-IndexTrailerSize:], h.Base+LSN(at), len(seg), seed) {
			t.Fatal("the header says that it is an index")
		}
		v, err := decodeIndexOf(seg, h, at)
		if err != nil {
			return
		}
		var x Index
		for i := range v.Len() {
			off, k := v.Entry(i)
			if off < SegmentStart || off > at-HeaderSize || i > 0 && off <= int(x.entries[i-1]&^indexMark) {
				t.Fatalf("entry %d is at offset %d", i, off)
			}
			var msg [HeaderSize + ManifestSize]byte
			if k == KindBatchEnd {
				copy(msg[HeaderSize:], v.begins[len(x.begins)*indexBeginSize:][:indexBeginSize])
			}
			x.Add(k, off, msg[:])
		}
		for lsn, begin := range v.Markers() {
			if begin >= lsn || begin < 0 {
				t.Fatalf("the batch that ends at %v begins at %v", lsn, begin)
			}
		}
		again := make([]byte, len(seg)-at)
		x.Put(again, h.Base+LSN(at), Known{Durable: h.Base, Stable: v.Stable}, seed)
		n := len(x.entries)*indexEntrySize + len(x.begins)*indexBeginSize
		if !bytes.Equal(again[HeaderSize:][:n], seg[at+HeaderSize:][:n]) {
			t.Fatalf("%x became %x", seg[at:], again)
		}
	})
}
