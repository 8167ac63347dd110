package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"math"
	"strings"
	"testing"
)

// The checksums are plain CRC-32C over the bytes that docs/FORMAT.md names, and are computed without allocation.
func TestChecksumsAreCRC32C(t *testing.T) {
	c := crc32.MakeTable(crc32.Castagnoli)
	b := append([]byte(nil), testStore[:]...)
	b = binary.LittleEndian.AppendUint64(b, 0xfedcba9876543210)
	b = binary.LittleEndian.AppendUint32(b, 0x89abcdef)
	seed := MakeSeed(testStore, 0xfedcba9876543210, 0x89abcdef)
	if want := Seed(crc32.Checksum(b, c)); seed != want {
		t.Errorf("seed %x, want %x", seed, want)
	}
	msg := make([]byte, 100)
	PutHeader(msg, 4096, 7)
	copy(msg[HeaderSize:], "body")
	w := MakeWord(KindAppend, 28)
	PutCRC(msg, w, seed)
	PutWord(msg, w)
	want := crc32.Update(crc32.Update(uint32(seed), c, msg[:4]), c, msg[8:28])
	if got := binary.LittleEndian.Uint32(msg[4:]); got != want {
		t.Errorf("checksum %x, want %x", got, want)
	}
	if n := testing.AllocsPerRun(100, func() {
		PutCRC(msg, w, MakeSeed(testStore, 3, 4))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A message of any kind is rejected after any flipped bit or cut, and with the seed of another store, generation or
// slot. Proves F1, F3, rule 12.
func TestMessageRejectsCorruption(t *testing.T) {
	seg, h := testSegment(false)
	seed := MakeSeed(testStore, h.Generation, h.Slot)
	kinds := 0
	for pos := SegmentHeaderSize; ; {
		m, body, err := DecodeMessage(seg[pos:], h.Base+LSN(pos), seed)
		if errors.Is(err, ErrNoMessage) {
			break
		}
		if err != nil || len(body) != m.BodyLen() || cap(body) != len(body) {
			t.Fatalf("at %d: %v", pos, err)
		}
		kinds |= 1 << m.Kind
		flips := HeaderSize
		if m.Kind != KindPad {
			flips = m.Len
		}
		for i := range flips * 8 {
			seg[pos+i/8] ^= 1 << (i % 8)
			if _, _, err := DecodeMessage(seg[pos:], h.Base+LSN(pos), seed); err == nil {
				t.Errorf("%v: flipped bit %d is accepted", m.Kind, i)
			}
			seg[pos+i/8] ^= 1 << (i % 8)
		}
		for n := range m.Len {
			if _, _, err := DecodeMessage(seg[pos:pos+n], h.Base+LSN(pos), seed); !errors.Is(err, ErrLength) {
				t.Errorf("%v cut to %d bytes: %v", m.Kind, n, err)
			}
		}
		for _, other := range []Seed{MakeSeed(testStore, h.Generation+1, h.Slot),
			MakeSeed(testStore, h.Generation, h.Slot+1), MakeSeed(StoreID{}, h.Generation, h.Slot)} {
			if _, _, err := DecodeMessage(seg[pos:], h.Base+LSN(pos), other); !errors.Is(err, ErrCRC) {
				t.Errorf("%v verifies with another seed: %v", m.Kind, err)
			}
		}
		if m.Kind == KindPad && m.PadStable() != h.Base-1 {
			t.Errorf("pad carries %v", m.PadStable())
		}
		pos += AlignUp(m.Len)
	}
	if want := 1<<(kindLast+1) - 2; kinds != want {
		t.Errorf("kinds seen: %b, want %b", kinds, want)
	}
	for _, c := range []struct {
		w    Word
		want error
	}{
		{0, ErrNoMessage}, {MakeWord(KindInvalid, 24), ErrKind}, {MakeWord(kindLast+1, 24), ErrKind},
		{MakeWord(255, 24), ErrKind}, {MakeWord(KindAppend, 23), ErrLength}, {MakeWord(KindAppend, 0), ErrLength},
		{MakeWord(KindAppend, 101), ErrLength}, {MakeWord(KindAppend, 1<<24-1), ErrLength},
		{MakeWord(KindAppend, 100), ErrLSN},
	} {
		b := make([]byte, 100)
		PutWord(b, c.w)
		if _, err := DecodeHeader(b, len(b), 4096); !errors.Is(err, c.want) {
			t.Errorf("word %x: %v, want %v", c.w, err, c.want)
		}
	}
}

// A manifest names a batch that begins before it; manifests and counters of another length are rejected. Proves F1, F2.
func TestManifestAndCounterLimits(t *testing.T) {
	if m, err := DecodeManifest(Manifest{Begin: 64}.Append(nil), 88); err != nil || m.Begin != 64 {
		t.Errorf("%+v, %v", m, err)
	}
	for _, begin := range []LSN{0, -1, math.MinInt64, 88, 96} {
		if _, err := DecodeManifest(Manifest{Begin: begin}.Append(nil), 88); err == nil {
			t.Errorf("a batch from LSN %v to 88 is accepted", begin)
		}
	}
	for n := range 20 {
		_, err1 := DecodeManifest(bytes.Repeat([]byte{1}, n), math.MaxInt64)
		v, err2 := DecodeCounter(bytes.Repeat([]byte{1}, n))
		if (err1 == nil) != (n == 8) || (err2 == nil) != (n == 8) || n == 8 && v != 0x0101010101010101 {
			t.Errorf("%d bytes: %v, %v", n, err1, err2)
		}
	}
	if v, err := DecodeCounter(AppendCounter(nil, math.MaxUint64)); err != nil || v != math.MaxUint64 {
		t.Errorf("%d, %v", v, err)
	}
}

// A Meta map survives encoding and decoding; cuts, extra bytes, other encodings of a map, and counts and page ids out
// of range are rejected, without allocating for a hostile count. Proves F1, F2, rule 12.
func TestMetaRejectsCorruption(t *testing.T) {
	for _, m := range []map[string]PageID{{}, {"": 0}, {"a": 1, "b": MaxPageID, "": 7},
		{strings.Repeat("x", 1000): 5, "\x00\xff": 300}} {
		b := AppendMeta([]byte("x"), m)[1:]
		got, err := DecodeMeta(b)
		if err != nil || !maps.Equal(got, m) {
			t.Errorf("%v: %v, %v", m, got, err)
		}
		for n := range b {
			if _, err := DecodeMeta(b[:n]); !errors.Is(err, ErrMeta) {
				t.Errorf("%v cut to %d: %v", m, n, err)
			}
		}
		if _, err := DecodeMeta(append(b, 0)); !errors.Is(err, ErrMeta) {
			t.Errorf("%v and a byte: %v", m, err)
		}
	}
	for _, bad := range []string{"", "\x80", "\x80\x00", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
		"\x02\x01a\x01\x01a\x01", "\x02\x01b\x01\x01a\x01",
		"\x01\xff\xff\xff\xff\x0fa\x01", "\x01\x01a\xff\xff\xff\xff\xff\xff\x01"} {
		if _, err := DecodeMeta([]byte(bad)); !errors.Is(err, ErrMeta) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	hostile := binary.AppendUvarint(nil, 1<<40)
	if n := testing.AllocsPerRun(10, func() { _, _ = DecodeMeta(hostile) }); n > 8 {
		t.Errorf("a hostile count allocates %v times", n)
	}
}
