package format

import (
	"errors"
	"math"
	"testing"
)

// Every id and enumeration has a String, which accepts unknown values; IsZero, offsets and lengths hold at their
// limits.
func TestStringsAndLimitsOfIDs(t *testing.T) {
	for got, want := range map[string]string{
		PageID(7).String():                "p7",
		LSN(-1).String():                  "-1",
		Offset(4096).String():             "0x1000",
		SegmentID(3).String():             "s3",
		DiskPtr{Off: 16, Len: 5}.String(): "0x10+5",
		BlobID(0xab).String():             "00000000000000ab",
		StoreID{0xab}.String():            "ab000000000000000000000000000000",
		KindRoot.String():                 "root",
		kindUnused.String():               "kind(7)",
		kindLast.String():                 "group-part",
		(KindDecided + 1).String():        "kind(27)",
		Kind(200).String():                "kind(200)",
		SegmentStateFree.String():         "free",
		SegmentState(0).String():          "state(0)",
		SegmentState(9).String():          "state(9)",
		SnapshotKindNone.String():         "none",
		snapshotKindLast.String():         "counter",
		(snapshotKindLast + 1).String():   "kind(6)",
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

// A blob pointer survives encoding and decoding, and matches the header, the contents and the file name of its blob
// only. Proves F1, F2.
func TestBlobPtrMatchesItsBlobOnly(t *testing.T) {
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
	h := p.AppendHeader(nil, testStore, 7)
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
	if err := p.CheckHeader(p.AppendHeader(nil, testStore, 8), testStore); err != nil {
		t.Errorf("of another timeline: %v", err)
	}
	foreign := p.AppendHeader(nil, StoreID{}, 7)
	for what, b := range map[string][]byte{"short": h[:BlobHeaderSize-1], "of another store": foreign} {
		if err := p.CheckHeader(b, testStore); !errors.Is(err, ErrBlob) {
			t.Errorf("%s: %v", what, err)
		}
	}
	long := BlobPtr{ID: 1, Len: MaxBlob + 1}
	for _, b := range [][]byte{nil, h, long.Append(nil), BlobPtr{Len: -1}.Append(nil), append(p.Append(nil)[:23], 1)} {
		if q, err := DecodeBlobPtr(b); err == nil {
			t.Errorf("%x is %+v", b, q)
		}
	}
	for name, ok := range map[string]bool{p.ID.String(): true, "": false, "1": false, "000001000000000g": false,
		"0000010000000000.tmp": false, "00000100000000AA": false} {
		if id, is := ParseBlobID(name); is != ok || ok && id != p.ID {
			t.Errorf("%s: %v, %v", name, id, is)
		}
	}
}

// The blob and zstd variants of a kind have it as their plain kind, and no kind is both variants.
func TestKindVariants(t *testing.T) {
	for _, k := range []Kind{KindAppend, KindCompact} {
		b, z := k.BlobKind(), k.ZstdKind()
		if b.Plain() != k || z.Plain() != k || k.Plain() != k {
			t.Errorf("plain kinds of %v, %v, %v", k, b, z)
		}
		if !b.Blob() || !z.Zstd() || b.Zstd() || z.Blob() || k.Blob() || k.Zstd() {
			t.Errorf("variants of %v: %v, %v", k, b, z)
		}
	}
}

// The name of a snapshot says the store, the timeline and the number. Nothing else is such a name (traps 6 and 50).
func TestSnapshotNames(t *testing.T) {
	want := SnapshotID{testStore, 0xcd, 0xab}
	name, tmp := want.Name(), want.TmpName()
	if id, ok := ParseSnapshotName(name); !ok || id != want || !IsSnapshotName(name) {
		t.Errorf("%q is %v, %v", name, id, ok)
	}
	if id, ok := ParseSnapshotTmpName(tmp); !ok || id != (SnapshotID{testStore, 0xcd, 0}) || !IsSnapshotName(tmp) {
		t.Errorf("%q is %v, %v", tmp, id, ok)
	}
	noTimeline := snapshotPrefix + testStore.String() + ".00000000000000ab"
	for _, other := range []string{tmp, "", "snapshot.", "snapshot.tmp", "snapshot.00000000000000ab", name + "0",
		name[:len(name)-1], name[:len(name)-1] + "B", name[:len(name)-1] + "g", "x" + name, name + ".tmp",
		"snapshot." + name, noTimeline} {
		if _, ok := ParseSnapshotName(other); ok {
			t.Errorf("%q is taken for a snapshot", other)
		}
		if _, ok := ParseSnapshotTmpName(other); ok != (other == tmp) {
			t.Errorf("%q is taken for a temporary snapshot: %v", other, ok)
		}
	}
}
