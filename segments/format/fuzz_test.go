package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// All fuzz tests prove F1 and F2, rule 12: a decoder accepts any bytes without a panic and without exceeding a limit,
// and a value that it accepts survives encoding and decoding.

func FuzzMessage(f *testing.F) {
	seg, h := testSegment(false)
	seed := MakeSeed(testStore, h.Generation, h.Slot)
	for pos := SegmentStart; pos < SegmentStart+800; pos += 8 {
		f.Add(seg[pos:pos+100], int64(h.Base)+int64(pos), uint32(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte, lsn int64, seed uint32) {
		_, _, _ = DecodeMessage(b, LSN(lsn), Seed(seed))
		if len(b) < HeaderSize {
			return
		}
		// With the right LSN and checksum, the checks after those are reached.
		b = bytes.Clone(b)
		w := MakeWord(Kind(b[3]), min(int(b[0])|int(b[1])<<8, len(b)))
		durable := LSN(binary.LittleEndian.Uint64(b[16:]))
		PutHeader(b, LSN(lsn), PageID(b[16]), durable)
		if w.Len() >= HeaderSize {
			PutCRC(b, w, Seed(seed))
		}
		PutWord(b, w)
		m, body, err := DecodeMessage(b, LSN(lsn), Seed(seed))
		if ok := w.Kind().Valid() && w.Len() >= HeaderSize; ok != (err == nil) {
			t.Fatalf("word %x: %v", w, err)
		}
		if err == nil && (m.Len != HeaderSize+len(body) || m.Len > len(b) || m.LSN != LSN(lsn) || m.Page > MaxPageID) {
			t.Fatalf("%+v", m)
		}
		if prev, rest, cut := CutPrev(m.Kind, body); err == nil && cut == nil && m.Kind.Delta() {
			if at := prev.Below(m.LSN); len(rest) != len(body)-PrevSize || at != NoLSN && PrevOf(at) != prev {
				t.Fatalf("%v of %d bytes at LSN %d: %d bytes follow LSN %d", m.Kind, len(body), lsn, len(rest), at)
			}
		}
		got := m.Durable()
		if err == nil && lsn >= 0 && got != NoLSN && (got > durable || got > m.LSN || durable-got >= Align) {
			t.Fatalf("durable end %v became %v", durable, got)
		}
	})
}

func FuzzSegmentHeader(f *testing.F) {
	seg, _ := testSegment(false)
	f.Add(seg[:SegmentHeaderSize], uint32(2), MinSegmentSize)
	f.Add(make([]byte, SegmentHeaderSize), uint32(0), MinSegmentSize)
	f.Fuzz(func(t *testing.T, b []byte, slot uint32, size int) {
		if size < MinSegmentSize || size > MaxSegmentSize {
			return
		}
		h, err := DecodeSegmentHeader(b, SegmentID(slot), size)
		if err != nil {
			return
		}
		again := make([]byte, SegmentHeaderSize)
		h.Put(again)
		if got, err := DecodeSegmentHeader(again, SegmentID(slot), size); err != nil || got != h {
			t.Fatalf("%+v: %+v, %v", h, got, err)
		}
	})
}

func FuzzSegment(f *testing.F) {
	seg, _ := testSegment(false)
	f.Add(seg, uint32(2))
	seg[SegmentStart+HeaderSize] ^= 1
	f.Add(seg, uint32(2))
	f.Add(seg[:10], uint32(2))
	f.Fuzz(func(t *testing.T, b []byte, slot uint32) {
		AnnotateSegment(nil, b, testView(SegmentID(slot), 16))
		if len(b) < SegmentHeaderSize {
			return
		}
		h := SegmentHeader{State: SegmentStateInUse, SegmentSize: MinSegmentSize, Slot: SegmentID(slot)}
		b = bytes.Clone(b)
		h.Put(b)
		AnnotateSegment(nil, b, testView(SegmentID(slot), 16))
	})
}

func FuzzSuperblock(f *testing.F) {
	f.Add(testSuper().Append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		AnnotateSuperblock(nil, b)
		s, err := DecodeSuperblock(b)
		if err != nil {
			return
		}
		if got, err := DecodeSuperblock(s.Append(nil)); err != nil || got != s {
			t.Fatalf("%+v: %+v, %v", s, got, err)
		}
	})
}

func FuzzLongRecord(f *testing.F) {
	seed := make([]byte, LongRecordSize(2))
	LongRecord{Seq: 1, Len: 10, Parts: []LSN{4096, 4200}}.Put(seed)
	f.Add(seed, int64(8192))
	f.Fuzz(func(t *testing.T, b []byte, lsn int64) {
		r, err := DecodeLongRecord(b, LSN(lsn))
		if err != nil {
			return
		}
		got := make([]byte, LongRecordSize(len(r.Parts)))
		if r.Put(got); !bytes.Equal(got, b) || r.Len > uint64(lsn) || len(r.Parts) == 0 || r.Seq.IsZero() {
			t.Fatalf("%x became %+v", b, r)
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add(Manifest{Begin: 64}.Append(nil), int64(100))
	f.Fuzz(func(t *testing.T, b []byte, lsn int64) {
		m, err := DecodeManifest(b, LSN(lsn))
		if err == nil && (m.Begin <= 0 || m.Begin >= LSN(lsn) || !bytes.Equal(m.Append(nil), b)) {
			t.Fatalf("%+v", m)
		}
	})
}

func FuzzCounter(f *testing.F) {
	f.Add(AppendCounter(nil, 12345))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := DecodeCounter(b); err == nil && !bytes.Equal(AppendCounter(nil, v), b) {
			t.Fatal(v)
		}
	})
}

// A root is rejected, or encodes to the same bytes again. Proves F1, rule 12.
func FuzzRoot(f *testing.F) {
	f.Add(AppendRoot(nil, Root{Name: "accounts", Target: 300}))
	f.Add([]byte{0x80, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRoot(b)
		if (err == nil) != (CheckRoot(b) == nil) || err == nil && !bytes.Equal(AppendRoot(nil, r), b) {
			t.Fatalf("%v, %v", r, err)
		}
	})
}

// A snapshot's list of roots is rejected, or encodes to the same bytes again. Proves F1, rule 12.
func FuzzSnapshotRoots(f *testing.F) {
	b := SnapshotRoot{2, Root{"accounts", 300}}.Append(nil)
	f.Add(b, 1, uint64(3))
	f.Add(SnapshotRoot{7, Root{"", 1}}.Append(b), 2, uint64(300))
	f.Fuzz(func(t *testing.T, b []byte, n int, next uint64) {
		roots, err := decodeSnapshotRoots(b, n, PageID(next))
		if err != nil {
			return
		}
		var again []byte
		for _, r := range roots {
			again = r.Append(again)
		}
		if len(roots) != n || !bytes.Equal(again, b) {
			t.Fatalf("%d roots of %d", len(roots), n)
		}
	})
}

func FuzzSnapshotHeader(f *testing.F) {
	h := SnapshotHeader{Store: testStore, Number: 1, NextPage: 300, High: 5, Free: 3, Segments: 2, Blobs: 1,
		SegmentSize: MinSegmentSize, Roots: 2, RootBytes: 50, Decisions: 1}
	b := make([]byte, SnapshotBlock)
	h.Put(b)
	f.Add(b, h.Size(), []byte{24: 1, 31: 0x10})
	f.Fuzz(func(t *testing.T, b []byte, size int64, entry []byte) {
		h, err := DecodeSnapshotHeader(b, size)
		if err != nil {
			return
		}
		again := make([]byte, SnapshotBlock)
		h.Put(again)
		if got, err := DecodeSnapshotHeader(again, size); err != nil || got != h {
			t.Fatalf("%+v: %+v, %v", h, got, err)
		}
		if _, _, err := DecodeSnapshotRest(entry, &h); err == nil && int64(len(entry)) != h.RestSize() {
			t.Fatalf("a rest of %d bytes is accepted", len(entry))
		}
		if len(entry) < SnapshotEntrySize {
			return
		}
		e, err := GetSnapshotEntry(entry, &h)
		if err != nil {
			return
		}
		copied := make([]byte, SnapshotEntrySize)
		e.Put(copied)
		if got, err := GetSnapshotEntry(copied, &h); err != nil || got != e {
			t.Fatalf("%+v: %+v, %v", e, got, err)
		}
	})
}

// A list of segments that leave is rejected, or encodes to the same bytes again. Proves F1, rule 12.
func FuzzLeave(f *testing.F) {
	l := Leave{Recycled: 7, Left: 99, Stable: 5000, Segments: []Identity{1, 2, 3}}
	b := make([]byte, LeaveSize(len(l.Segments)))
	l.Put(b)
	f.Add(b)
	f.Add(b[:LeaveSize(1)])
	f.Add(b[:len(b)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := DecodeLeave(b, 1<<40)
		if err != nil {
			if !errors.Is(err, ErrLeave) {
				t.Fatal(err)
			}
			return
		}
		again := make([]byte, LeaveSize(len(l.Segments)))
		l.Put(again)
		if !bytes.Equal(again, b) || l.Stable < 0 || len(l.Segments) > MaxLeave {
			t.Fatalf("%x is encoded as %x", b, again)
		}
	})
}
