package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"slices"
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
	PutHeader(msg, 4096, 7, 0)
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
	for pos := SegmentStart; ; {
		m, body, err := DecodeMessage(seg[pos:], h.Base+LSN(pos), seed)
		if errors.Is(err, ErrNoMessage) {
			break
		}
		if err != nil || len(body) != m.BodyLen() || cap(body) != len(body) {
			t.Fatalf("at %d: %v", pos, err)
		}
		kinds |= 1 << m.Kind
		flips := m.Len
		if m.Kind == KindPad {
			flips = min(m.Len, HeaderSize+padStableSize)
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
		if stable := PadStable(body); m.Kind == KindPad && len(body) > 0 && stable != h.Base-1 {
			t.Errorf("pad of %d bytes carries %v", m.Len, stable)
		}
		pos += AlignUp(m.Len)
	}
	if want := 1<<(kindLast+1) - 2 - 1<<kindUnused + 1<<KindRoot + 1<<KindDecided; kinds != want {
		t.Errorf("kinds seen: %b, want %b", kinds, want)
	}
	for _, c := range []struct {
		w    Word
		want error
	}{
		{0, ErrNoMessage}, {MakeWord(KindInvalid, 24), ErrKind}, {MakeWord(kindUnused, 24), ErrKind},
		{MakeWord(255, 24), ErrKind}, {MakeWord(KindDecided+1, 24), ErrKind}, {MakeWord(KindMark, 24), ErrKind},
		{MakeWord(KindAppend, 23), ErrLength}, {MakeWord(KindAppend, 0), ErrLength},
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

// A message carries any page id and the durable end that was known when it was committed, but for one that lies 2 GiB
// or more below it, and none above it. It never carries an end that is too high. Proves F2, rule 13.
func TestMessageCarriesDurableEnd(t *testing.T) {
	const far = LSN(noDistance) * Align
	for _, c := range []struct{ lsn, durable, want LSN }{
		{4096, 0, 0}, {4096, 4096, 4096}, {4096, NoLSN, NoLSN}, {4096, math.MinInt64, NoLSN}, {4096, 4104, NoLSN},
		{4096, math.MaxInt64, NoLSN}, {1 << 40, 1<<40 - 8, 1<<40 - 8}, {1 << 40, 1<<40 - 7, 1<<40 - 8},
		{1 << 40, 1<<40 - far, NoLSN}, {1 << 40, 1<<40 - far + 8, 1<<40 - far + 8}, {1 << 40, 0, NoLSN},
		{math.MaxInt64 &^ 7, math.MaxInt64 &^ 7, math.MaxInt64 &^ 7}, {far, 0, NoLSN}, {far - 8, 0, 0},
	} {
		for _, page := range []PageID{0, 7, MaxPageID} {
			msg := make([]byte, HeaderSize)
			w := MakeWord(KindAppend, HeaderSize)
			PutHeader(msg, c.lsn, page, c.durable)
			PutCRC(msg, w, 1)
			PutWord(msg, w)
			h, _, err := DecodeMessage(msg, c.lsn, 1)
			if err != nil || h.Durable() != c.want || h.Page != page || MessagePage(msg) != page {
				t.Errorf("%+v, page %v: durable %v, page %v, %v", c, page, h.Durable(), h.Page, err)
			}
		}
	}
	msg := make([]byte, HeaderSize)
	PutHeader(msg, 8, 0, 0)
	PutWord(msg, MakeWord(KindAppend, HeaderSize))
	msg[21] = 0xff // a distance above the LSN
	if h, err := DecodeHeader(msg, HeaderSize, 8); err != nil || h.Durable() != NoLSN {
		t.Errorf("%v, %v", h.Durable(), err)
	}
	for _, k := range []Known{{0, NoLSN}, {8000, 7000}} {
		for _, n := range []int{24, 31, 32, 40, 4096} {
			b := make([]byte, 4096)
			PutWord(b, PutPad(b, 8192, k, n, 1))
			h, body, err := DecodeMessage(b, 8192, 1)
			want := k.Stable
			if n < 32 {
				want = NoLSN
			}
			if err != nil || h.Durable() != k.Durable || PadStable(body) != want || h.Page != 0 {
				t.Errorf("%+v in a pad of %d bytes: %v, %v, %v", k, n, h.Durable(), PadStable(body), err)
			}
		}
	}
}

// The kinds that are valid or reserved have names, and no others do.
func TestReservedKindsHaveNames(t *testing.T) {
	for k := range Kind(255) {
		named := !strings.HasPrefix(k.String(), "kind(")
		valid := k > 0 && k <= kindLast && k != 7 || k == KindRoot || k == KindIndex || k == KindLeave ||
			k == KindRecord || k == KindNote || k == KindTruncate || k == KindRecordPart || k == KindLongRecord ||
			k == KindDecided
		if named != (k <= KindDecided && k != 7) || k.Valid() != valid {
			t.Errorf("%v: valid %v", k, k.Valid())
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

// A root survives encoding and decoding; other encodings, names that are too long, and page ids out of range are
// rejected. Proves F1, F2, rule 12.
func TestRootRejectsCorruption(t *testing.T) {
	long := strings.Repeat("x", MaxRootName)
	for _, r := range []Root{{"", 1}, {"a", MaxPageID}, {long, 5}, {"\x00\xff", 300}} {
		b := AppendRoot([]byte("x"), r)[1:]
		got, err := DecodeRoot(b)
		if err != nil || got != r || CheckRoot(b) != nil {
			t.Errorf("%.20v: %.20v, %v", r, got, err)
		}
		if n := testing.AllocsPerRun(10, func() { _ = CheckRoot(b) }); n > 0 {
			t.Errorf("CheckRoot allocates %v times", n)
		}
	}
	for _, bad := range []string{"", "\x00", "\x00name", "\x80", "\x81\x00",
		"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\xff\xff\xff\xff\xff\x02a", "\x01y" + long} {
		if _, err := DecodeRoot([]byte(bad)); !errors.Is(err, ErrRoot) || CheckRoot([]byte(bad)) == nil {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

// The list of roots in a snapshot survives encoding and decoding; each cut of it, one more byte, roots out of order,
// and page ids and names out of range are rejected, without allocating for a hostile count. Proves rule 12.
func TestSnapshotRootsRejectCorruption(t *testing.T) {
	good := []SnapshotRoot{{2, Root{"", 1}}, {3, Root{"b", MaxPageID}}, {9, Root{"a", 3}}}
	var b []byte
	for _, r := range good {
		b = r.Append(b)
	}
	if got, err := decodeSnapshotRoots(b, 3, 10); err != nil || !slices.Equal(got, good) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := decodeSnapshotRoots(nil, 0, 10); err != nil || len(got) > 0 {
		t.Errorf("no roots: %v, %v", got, err)
	}
	for n := range b {
		if _, err := decodeSnapshotRoots(b[:n], 3, 10); !errors.Is(err, ErrSnapshot) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	for _, c := range []struct {
		b    []byte
		n    int
		next PageID
	}{
		{append(slices.Clone(b), 0), 3, 10}, {b, 2, 10}, {b, 4, 10}, {b, 0, 10}, {b, 3, 9},
		{SnapshotRoot{1, Root{"a", 3}}.Append(nil), 1, 10}, {SnapshotRoot{2, Root{"a", 0}}.Append(nil), 1, 10},
		{SnapshotRoot{2, Root{"a", MaxPageID + 1}}.Append(nil), 1, 10}, {good[2].Append(good[1].Append(nil)), 2, 9},
		{good[1].Append(good[2].Append(nil)), 2, 10}, {good[1].Append(good[1].Append(nil)), 2, 10},
		{SnapshotRoot{2, Root{strings.Repeat("x", MaxRootName+1), 3}}.Append(nil), 1, 10},
		{nil, 1, 10}, {b, math.MaxInt, 10}, {b, -1, 10},
	} {
		if _, err := decodeSnapshotRoots(c.b, c.n, c.next); !errors.Is(err, ErrSnapshot) {
			t.Errorf("%d roots below %v in %x: %v", c.n, c.next, c.b[:min(len(c.b), 64)], err)
		}
	}
}
