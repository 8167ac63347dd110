package format

import (
	"bytes"
	"testing"
)

// The decoders take any bytes (proves rule 12): no panic, nothing out of bounds, and what they accept they encode alike.

func FuzzMessage(f *testing.F) {
	seg, h := testSegment(false)
	seed := MakeSeed(testStore, h.Generation, h.Slot)
	for pos := SegmentHeaderSize; pos < 800; pos += 8 {
		f.Add(seg[pos:pos+100], int64(h.Base)+int64(pos), uint32(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte, lsn int64, seed uint32) {
		_, _, _ = DecodeMessage(b, LSN(lsn), Seed(seed))
		if len(b) < HeaderSize {
			return
		}
		// With the place and the checksum made right, what is behind them is reached.
		b = bytes.Clone(b)
		w := MakeWord(Kind(b[3]), min(int(b[0])|int(b[1])<<8, len(b)))
		PutHeader(b, LSN(lsn), PageID(b[16]))
		if w.Len() >= HeaderSize {
			PutCRC(b, w, Seed(seed))
		}
		PutWord(b, w)
		m, body, err := DecodeMessage(b, LSN(lsn), Seed(seed))
		if ok := w.Kind().Valid() && w.Len() >= HeaderSize; ok != (err == nil) {
			t.Fatalf("word %x: %v", w, err)
		}
		if err == nil && (m.Len != HeaderSize+len(body) || m.Len > len(b) || m.LSN != LSN(lsn)) {
			t.Fatalf("%+v", m)
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
	seg[SegmentHeaderSize+HeaderSize] ^= 1
	f.Add(seg, uint32(2))
	f.Add(seg[:10], uint32(2))
	f.Fuzz(func(t *testing.T, b []byte, slot uint32) {
		AnnotateSegment(nil, b, testStore, SegmentID(slot), MinSegmentSize, 16, nil)
		if len(b) < SegmentHeaderSize {
			return
		}
		h := SegmentHeader{State: SegmentInUse, SegmentSize: MinSegmentSize, Slot: SegmentID(slot)}
		b = bytes.Clone(b)
		h.Put(b)
		AnnotateSegment(nil, b, testStore, SegmentID(slot), MinSegmentSize, 16, nil)
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

func FuzzMeta(f *testing.F) {
	f.Add(AppendMeta(nil, map[string]PageID{"a": 1, "roots": 300}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := DecodeMeta(b); err == nil && !bytes.Equal(AppendMeta(nil, m), b) {
			t.Fatalf("%v", m)
		}
	})
}
