package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"hash/crc32"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

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
		t.Errorf("%s: the bytes on disk have changed (go test -update if that is meant):\n%s", path, got)
	}
}

var testStore = StoreID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

func testSuper() Superblock {
	return Superblock{Store: testStore, SegmentSize: 8 << 20, Generation: 3, Clean: true, End: 0x12340, NextID: 5_000_000, NextPage: 77,
		IDInterval: 1_000_000}
}

// testSegment returns a segment with a message of every kind, and the LSN after the last.
func testSegment(full bool) ([]byte, SegmentHeader) {
	h := SegmentHeader{State: SegmentInUse, SegmentSize: MinSegmentSize, BlockSize: 4096, Generation: 3, Base: 5 * MinSegmentSize,
		Stable: 5*MinSegmentSize - 1, Slot: 2}
	seg := make([]byte, MinSegmentSize)
	h.Put(seg)
	seed := MakeSeed(testStore, h.Generation, h.Slot)
	pos := SegmentHeaderSize
	put := func(k Kind, page PageID, body []byte) {
		msg := seg[pos:]
		w := MakeWord(k, HeaderSize+len(body))
		PutHeader(msg, h.Base+LSN(pos), page)
		copy(msg[HeaderSize:], body)
		PutCRC(msg, w, seed)
		PutWord(msg, w)
		pos += AlignUp(w.Len())
	}
	put(KindFailed, 9, []byte("gone"))
	begin := h.Base + LSN(pos)
	put(KindBatchBegin, 0, nil)
	put(KindCompact, 2, []byte("a whole page"))
	put(KindAppend, 2, []byte("a delta, longer than a line of hex is"))
	put(KindAppendBlob, 3, MakeBlobPtr(7, []byte("contents")).Append(nil))
	put(KindCompactBlob, 4, MakeBlobPtr(8, nil).Append(nil))
	put(KindFree, 4, nil)
	put(KindBatchEnd, 0, Manifest{Begin: begin}.Append(nil))
	put(KindCounter, CounterPage, AppendCounter(nil, 1_000_000))
	put(KindMeta, MetaPage, AppendMeta(nil, map[string]PageID{"roots": 2, "": 300}))
	put(KindData, 0, []byte("a record"))
	put(KindAppendZstd, 5, []byte{4, 0, 0, 0, 'z', 's', 't', 'd'})
	put(KindCompactZstd, 5, []byte{4, 0, 0, 0, 'z', 's', 't', 'd'})
	end := 4096
	if full {
		end = MinSegmentSize - 16
	}
	PutWord(seg[pos:], PutPad(seg[pos:], h.Base+LSN(pos), h.Base-1, end-pos, seed))
	return seg, h
}

func TestGoldens(t *testing.T) {
	super := testSuper().Append(nil)
	golden(t, "superblock.txt", AnnotateSuperblock(nil, super))
	super[9] ^= 1
	golden(t, "superblock-damaged.txt", AnnotateSuperblock(nil, super))
	seg, h := testSegment(false)
	golden(t, "segment.txt", AnnotateSegment(nil, seg, testStore, 2, MinSegmentSize, math.MaxInt, nil))
	full, _ := testSegment(true)
	golden(t, "segment-full.txt", AnnotateSegment(nil, full, testStore, 2, MinSegmentSize, 8, nil))
	seg[SegmentHeaderSize+HeaderSize] ^= 1
	golden(t, "segment-torn.txt", AnnotateSegment(nil, seg, testStore, 2, MinSegmentSize, 8, nil))
	golden(t, "segment-misplaced.txt", AnnotateSegment(nil, seg, testStore, 3, MinSegmentSize, 8, nil))
	h.State = SegmentFree
	h.Put(seg)
	golden(t, "segment-free.txt", AnnotateSegment(nil, seg, testStore, 2, MinSegmentSize, 8, nil))
	golden(t, "segment-zero.txt", AnnotateSegment(nil, make([]byte, MinSegmentSize), testStore, 2, MinSegmentSize, 8, nil))
}

func TestSuperblock(t *testing.T) {
	for _, s := range []Superblock{testSuper(), {SegmentSize: MinSegmentSize}, {SegmentSize: MaxSegmentSize, Log: true,
		End: math.MaxInt64, NextPage: MaxPageID + 1, NextID: math.MaxUint64, Generation: math.MaxUint64}} {
		b := s.Append([]byte("x"))[1:]
		got, err := DecodeSuperblock(b)
		if err != nil || got != s {
			t.Errorf("%+v: %+v, %v", s, got, err)
		}
		// proves rule 12: every bit is covered.
		for i := range len(b) * 8 {
			b[i/8] ^= 1 << (i % 8)
			if _, err := DecodeSuperblock(b); !errors.Is(err, ErrSuperDamaged) {
				t.Errorf("bit %d flipped: %v", i, err)
			}
			b[i/8] ^= 1 << (i % 8)
		}
		for n := range b {
			if _, err := DecodeSuperblock(b[:n]); !errors.Is(err, ErrSuperDamaged) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		b[12] = Version + 1
		binary.LittleEndian.PutUint32(b[8:], superCRC(b))
		if _, err := DecodeSuperblock(b); !errors.Is(err, ErrSuperVersion) || !strings.Contains(err.Error(), "version 2, this program knows 1") {
			t.Errorf("newer version: %v", err)
		}
	}
	for _, s := range []Superblock{{}, {SegmentSize: MinSegmentSize - 8}, {SegmentSize: MaxSegmentSize + 8}, {SegmentSize: MinSegmentSize + 4},
		{SegmentSize: MinSegmentSize, End: -1}, {SegmentSize: MinSegmentSize, NextPage: MaxPageID + 2}} {
		if _, err := DecodeSuperblock(s.Append(nil)); !errors.Is(err, ErrSuperDamaged) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func TestSegmentHeader(t *testing.T) {
	_, h := testSegment(false)
	b := make([]byte, SegmentHeaderSize)
	h.Put(b)
	got, err := DecodeSegmentHeader(b, h.Slot, h.SegmentSize)
	if err != nil || got != h {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, err := DecodeSegmentHeader(b, h.Slot, h.SegmentSize); !errors.Is(err, ErrSegmentDamaged) {
			t.Errorf("bit %d flipped: %v", i, err)
		}
		b[i/8] ^= 1 << (i % 8)
	}
	check := func(name string, want error, slot SegmentID, size int) {
		t.Helper()
		if _, err := DecodeSegmentHeader(b, slot, size); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	check("other slot", ErrSegmentDamaged, h.Slot+1, h.SegmentSize)
	check("other size", ErrSegmentForeign, h.Slot, 2*h.SegmentSize)
	for name, change := range map[string]func(h *SegmentHeader){
		"state":           func(h *SegmentHeader) { h.State = 4 },
		"base negative":   func(h *SegmentHeader) { h.Base = -MinSegmentSize },
		"base off":        func(h *SegmentHeader) { h.Base += 8 },
		"stable negative": func(h *SegmentHeader) { h.Stable = -2 },
	} {
		x := h
		change(&x)
		x.Put(b)
		check(name, ErrSegmentDamaged, h.Slot, h.SegmentSize)
	}
	h.Put(b)
	b[12] = Version + 1
	binary.LittleEndian.PutUint32(b[8:], segmentCRC(b))
	check("newer version", ErrSegmentForeign, h.Slot, h.SegmentSize)
	clear(b)
	check("zeros", ErrSegmentZero, h.Slot, h.SegmentSize)
	if _, err := DecodeSegmentHeader(b[:63], h.Slot, h.SegmentSize); !errors.Is(err, ErrSegmentDamaged) {
		t.Errorf("short: %v", err)
	}
}

// The checksums are plain CRC-32C over the bytes that docs/FORMAT.md names.
func TestChecksumDefinition(t *testing.T) {
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

func TestMessage(t *testing.T) {
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
				t.Errorf("%v: bit %d flipped and not found", m.Kind, i)
			}
			seg[pos+i/8] ^= 1 << (i % 8)
		}
		for n := range m.Len {
			if _, _, err := DecodeMessage(seg[pos:pos+n], h.Base+LSN(pos), seed); !errors.Is(err, ErrLength) {
				t.Errorf("%v cut to %d bytes: %v", m.Kind, n, err)
			}
		}
		for _, other := range []Seed{MakeSeed(testStore, h.Generation+1, h.Slot), MakeSeed(testStore, h.Generation, h.Slot+1), MakeSeed(StoreID{}, h.Generation, h.Slot)} {
			if _, _, err := DecodeMessage(seg[pos:], h.Base+LSN(pos), other); !errors.Is(err, ErrCRC) {
				t.Errorf("%v verifies in another life of the slot: %v", m.Kind, err)
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
	}{{0, ErrNoMessage}, {MakeWord(KindInvalid, 24), ErrKind}, {MakeWord(kindLast+1, 24), ErrKind}, {MakeWord(255, 24), ErrKind},
		{MakeWord(KindAppend, 23), ErrLength}, {MakeWord(KindAppend, 0), ErrLength}, {MakeWord(KindAppend, 101), ErrLength},
		{MakeWord(KindAppend, 1<<24-1), ErrLength}, {MakeWord(KindAppend, 100), ErrLSN}} {
		b := make([]byte, 100)
		PutWord(b, c.w)
		if _, err := DecodeHeader(b, len(b), 4096); !errors.Is(err, c.want) {
			t.Errorf("word %x: %v, want %v", c.w, err, c.want)
		}
	}
}

func TestManifestAndCounter(t *testing.T) {
	if m, err := DecodeManifest(Manifest{Begin: 64}.Append(nil), 88); err != nil || m.Begin != 64 {
		t.Errorf("%+v, %v", m, err)
	}
	for _, begin := range []LSN{0, -1, math.MinInt64, 88, 96} {
		if _, err := DecodeManifest(Manifest{Begin: begin}.Append(nil), 88); err == nil {
			t.Errorf("a batch from %v that ends at 88 was taken", begin)
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

func TestMeta(t *testing.T) {
	for _, m := range []map[string]PageID{{}, {"": 0}, {"a": 1, "b": MaxPageID, "": 7}, {strings.Repeat("x", 1000): 5, "\x00\xff": 300}} {
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
	for _, bad := range []string{"", "\x80", "\x80\x00", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x02\x01a\x01\x01a\x01", "\x02\x01b\x01\x01a\x01",
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

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		PageID(7).String(): "p7", LSN(-1).String(): "-1", Offset(4096).String(): "0x1000", SegmentID(3).String(): "s3",
		DiskPtr{Off: 16, Len: 5}.String(): "0x10+5", KindMeta.String(): "meta", KindData.String(): "data", Kind(200).String(): "kind(200)",
		SegmentFree.String(): "free", SegmentState(9).String(): "state(9)", StoreID{0xab}.String(): "ab000000000000000000000000000000",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if !(DiskPtr{}).IsZero() || (DiskPtr{Len: 24}).IsZero() || !NoLSN.IsZero() || !LSN(0).IsZero() || LSN(64).IsZero() {
		t.Error("IsZero")
	}
	if SegmentID(math.MaxUint32).Offset(MaxSegmentSize) != math.MaxUint32*MaxSegmentSize {
		t.Error("the offset of a high slot overflows")
	}
	if n := MaxBody(MaxSegmentSize) + HeaderSize; MakeWord(KindAppend, n).Len() != n {
		t.Error("the longest message does not fit its length word")
	}
}

// A pointer to a blob and the header of its file come back as they were, and nothing else is taken for them.
func TestBlobPtr(t *testing.T) {
	contents := []byte("contents")
	p := MakeBlobPtr(1<<40, contents)
	if q, err := DecodeBlobPtr(p.Append(nil)); err != nil || q != p {
		t.Errorf("%+v, %v", q, err)
	}
	if err := p.CheckContents(contents); err != nil {
		t.Error(err)
	}
	for _, b := range [][]byte{nil, []byte("content"), []byte("contentt")} {
		if err := p.CheckContents(b); !errors.Is(err, ErrBlob) {
			t.Errorf("%q: %v", b, err)
		}
	}
	h := p.AppendHeader(nil, testStore)
	if err := p.CheckHeader(h, testStore); len(h) != BlobHeaderSize || err != nil {
		t.Errorf("%d bytes, %v", len(h), err)
	}
	for i := range len(h) * 8 {
		h[i/8] ^= 1 << (i % 8)
		if err := p.CheckHeader(h, testStore); !errors.Is(err, ErrBlob) {
			t.Errorf("bit %d: %v", i, err)
		}
		h[i/8] ^= 1 << (i % 8)
	}
	long := BlobPtr{ID: 1, Len: MaxBlob + 1}
	for _, b := range [][]byte{nil, h, long.Append(nil), BlobPtr{Len: -1}.Append(nil), append(p.Append(nil)[:23], 1)} {
		if q, err := DecodeBlobPtr(b); err == nil {
			t.Errorf("%x is %+v", b, q)
		}
	}
	for name, ok := range map[string]bool{p.ID.String(): true, "": false, "1": false, "000001000000000g": false, "0000010000000000.tmp": false,
		"00000100000000AA": false} {
		if id, is := ParseBlobID(name); is != ok || ok && id != p.ID {
			t.Errorf("%s: %v, %v", name, id, is)
		}
	}
}

// The variants of a kind stand for it.
func TestVariants(t *testing.T) {
	for _, k := range []Kind{KindAppend, KindCompact} {
		b, z := k.BlobKind(), k.ZstdKind()
		if b.Plain() != k || z.Plain() != k || k.Plain() != k || !b.Blob() || !z.Zstd() || b.Zstd() || z.Blob() || k.Blob() || k.Zstd() {
			t.Errorf("%v, %v, %v", k, b, z)
		}
	}
}
