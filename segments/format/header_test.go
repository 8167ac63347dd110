package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// A superblock survives encoding and decoding, and every flipped bit, cut, other version and field out of range of a
// copy is rejected with the right error. Proves F1, F2, rule 12.
func TestSuperblockRejectsCorruption(t *testing.T) {
	for _, s := range []Superblock{testSuper(), {SegmentSize: MinSegmentSize}, {SegmentSize: MaxSegmentSize, Log: true,
		End: math.MaxInt64, NextPage: MaxPageID + 1, NextID: math.MaxUint64, Generation: math.MaxUint64,
		Sequence: math.MaxInt64, Floor: math.MaxInt64, Timeline: math.MaxUint64, Joined: math.MaxUint64,
		Branch: math.MaxInt64, Listed: math.MaxInt64, Name: strings.Repeat("n", MaxFormatName),
		Ancestors: [MaxAncestors]Ancestor{MaxAncestors - 1: {math.MaxUint64, math.MaxInt64}}}} {
		b := s.Append([]byte("x"))[1:]
		got, err := DecodeSuperblock(b)
		if err != nil || got != s || len(b) != SuperblockSize {
			t.Errorf("%+v: %+v, %d bytes, %v", s, got, len(b), err)
		}
		for i := range SuperCopySize * 8 {
			b[i/8] ^= 1 << (i % 8)
			if _, err := decodeSuperCopy(b[:SuperCopySize]); err == nil || errors.Is(err, ErrSuperVersion) {
				t.Errorf("bit %d flipped: %v", i, err)
			}
			b[i/8] ^= 1 << (i % 8)
		}
		for _, v := range []uint16{1, Version + 1, math.MaxUint16} {
			b := s.Append(nil)
			putVersion(b[:SuperCopySize], v)
			if _, err := DecodeSuperblock(b); !errors.Is(err, ErrSuperVersion) || errors.Is(err, ErrSuperCorrupt) ||
				!strings.Contains(err.Error(), fmt.Sprintf("version %d, this program knows 2", v)) {
				t.Errorf("version %d: %v", v, err)
			}
		}
	}
	for _, s := range []Superblock{{}, {SegmentSize: MinSegmentSize - 8}, {SegmentSize: MaxSegmentSize + 8},
		{SegmentSize: MinSegmentSize + 4}, {SegmentSize: MinSegmentSize, End: -1},
		{SegmentSize: MinSegmentSize, Floor: -1}, {SegmentSize: MinSegmentSize, Branch: -1},
		{SegmentSize: MinSegmentSize, Listed: -1},
		{SegmentSize: MinSegmentSize, Ancestors: [MaxAncestors]Ancestor{MaxAncestors - 1: {1, -1}}},
		{SegmentSize: MinSegmentSize, Sequence: math.MaxInt64 + 1},
		{SegmentSize: MinSegmentSize, NextPage: MaxPageID + 2}} {
		if _, err := DecodeSuperblock(s.Append(nil)); !errors.Is(err, ErrSuperCorrupt) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	b := testSuper().Append(nil)
	for i := range superCopies {
		b[i*SuperCopySize+14] |= superFlags + 1
		putVersion(b[i*SuperCopySize:][:SuperCopySize], Version)
	}
	if _, err := DecodeSuperblock(b); !errors.Is(err, ErrSuperCorrupt) {
		t.Errorf("a flag that does not exist: %v", err)
	}
}

// putVersion sets the version of one copy of a superblock, and its checksum.
func putVersion(b []byte, v uint16) {
	binary.LittleEndian.PutUint16(b[12:], v)
	binary.LittleEndian.PutUint32(b[8:], superCRC(b))
}

// A superblock of version 1, which had 80 bytes, is refused with both versions, and a corrupt one as corrupt. Proves
// rule 12.
func TestSuperblockOfVersion1(t *testing.T) {
	b := testSuper().Append(nil)[:superSize1]
	putVersion(b, 1)
	_, err := DecodeSuperblock(b)
	if !errors.Is(err, ErrSuperVersion) || !strings.Contains(err.Error(), "version 1, this program knows 2") {
		t.Errorf("intact: %v", err)
	}
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, err := DecodeSuperblock(b); !errors.Is(err, ErrSuperCorrupt) {
			t.Errorf("bit %d flipped: %v", i, err)
		}
		b[i/8] ^= 1 << (i % 8)
	}
}

// Of all pairs of copies, the intact one with the higher sequence number counts, and the state of each is reported. A
// pair that no crash leaves, and of which it is not known which copy is right, is refused. Proves rule 16, trap 34.
func TestSuperblockCopies(t *testing.T) {
	older, newer := testSuper(), testSuper()
	newer.Sequence, newer.Clean, newer.Generation = older.Sequence+1, false, older.Generation+1
	stranger := newer
	stranger.Store[3]++
	twin := newer
	twin.NextID++
	copyOf := func(s Superblock) []byte { return s.Append(nil)[:SuperCopySize] }
	torn := append(copyOf(newer)[:64:64], copyOf(older)[64:]...)
	parts := map[string][]byte{"old": copyOf(older), "new": copyOf(newer), "torn": torn,
		"lost": make([]byte, SuperCopySize), "stranger": copyOf(stranger), "twin": copyOf(twin)}
	const c, o, x, l = SuperCopyCurrent, SuperCopyOlder, SuperCopyTorn, SuperCopyLost
	for _, p := range []struct {
		first, second string
		want          *Superblock // nil: corrupt
		states        [superCopies]SuperCopy
	}{
		{"old", "old", &older, [...]SuperCopy{c, c}},
		{"torn", "old", &older, [...]SuperCopy{x, c}},
		{"lost", "old", &older, [...]SuperCopy{l, c}},
		{"new", "old", &newer, [...]SuperCopy{c, o}},
		{"new", "torn", &newer, [...]SuperCopy{c, x}},
		{"new", "lost", &newer, [...]SuperCopy{c, l}},
		{"new", "new", &newer, [...]SuperCopy{c, c}},
		{"torn", "torn", nil, [...]SuperCopy{x, x}},
		{"torn", "lost", nil, [...]SuperCopy{x, l}},
		{"lost", "lost", nil, [...]SuperCopy{l, l}},
		{"new", "twin", nil, [superCopies]SuperCopy{}},
		{"new", "stranger", nil, [superCopies]SuperCopy{}},
		{"old", "stranger", nil, [superCopies]SuperCopy{}},
	} {
		for range 2 {
			got, states, err := DecodeSuperCopies(append(bytes.Clone(parts[p.first]), parts[p.second]...))
			switch {
			case p.want == nil && !errors.Is(err, ErrSuperCorrupt):
				t.Errorf("%s, %s: error %v, want ErrSuperCorrupt", p.first, p.second, err)
			case p.want != nil && (err != nil || got != *p.want || states != p.states):
				t.Errorf("%s, %s: %+v, %v, error %v, want %+v, %v",
					p.first, p.second, got, states, err, *p.want, p.states)
			}
			// The other copy was the first one.
			p.first, p.second = p.second, p.first
			p.states[0], p.states[1] = p.states[1], p.states[0]
		}
	}
}

// Whatever bit of the file is flipped, whatever sector of it lost, and wherever it is cut, the superblock is the right
// one, or reported as corrupt; one lost sector is never enough for that. Proves rules 12 and 16, trap 34.
func TestSuperblockSurvivesLostSectors(t *testing.T) {
	s := testSuper()
	s.Name = "a format"
	good := s.Append(nil)
	check := func(b []byte, want bool, how string, at int) {
		t.Helper()
		got, err := DecodeSuperblock(b)
		if want && (err != nil || got != s) || !want && !errors.Is(err, ErrSuperCorrupt) {
			t.Fatalf("%s %d: %+v, %v", how, at, got, err)
		}
		AnnotateSuperblock(nil, b)
	}
	for i := range len(good) * 8 {
		good[i/8] ^= 1 << (i % 8)
		if got, err := DecodeSuperblock(good); err != nil || got != s {
			t.Fatalf("bit %d: %+v, %v", i, got, err)
		}
		good[i/8] ^= 1 << (i % 8)
	}
	const sector = 512
	rng := rand.New(rand.NewPCG(1, 1))
	for at := 0; at < len(good); at += sector {
		b := bytes.Clone(good)
		clear(b[at : at+sector])
		check(b, true, "sector zeroed at", at)
		for i := range sector {
			b[at+i] = byte(rng.Uint32())
		}
		check(b, true, "garbage at", at)
		for other := 0; other < len(good); other += sector {
			two := bytes.Clone(b)
			clear(two[other : other+sector])
			// Only zeros, which change nothing where there were zeros, leave a copy intact.
			same := at/SuperCopySize == other/SuperCopySize
			unchanged := bytes.Equal(two[other:other+sector], good[other:other+sector])
			check(two, same || unchanged, fmt.Sprintf("garbage at %d, sector zeroed at", at), other)
		}
	}
	for n := range len(good) {
		check(good[:n], n >= SuperCopySize, "cut to", n)
	}
	check(append(bytes.Clone(good), "more"...), true, "made longer by", 4)
}

// A segment header survives encoding and decoding, and every flipped bit, other slot, size or version, and field out of
// range is rejected with the right error. Proves F1, F2, rule 12.
func TestSegmentHeaderRejectsCorruption(t *testing.T) {
	_, h := testSegment(false)
	b := make([]byte, SegmentHeaderSize)
	h.Put(b)
	got, err := DecodeSegmentHeader(b, h.Slot, h.SegmentSize)
	if err != nil || got != h {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, err := DecodeSegmentHeader(b, h.Slot, h.SegmentSize); !errors.Is(err, ErrSegmentCorrupt) {
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
	check("other slot", ErrSegmentCorrupt, h.Slot+1, h.SegmentSize)
	check("other size", ErrSegmentForeign, h.Slot, 2*h.SegmentSize)
	for name, change := range map[string]func(h *SegmentHeader){
		"state":           func(h *SegmentHeader) { h.State = 4 },
		"base negative":   func(h *SegmentHeader) { h.Base = -MinSegmentSize },
		"base unaligned":  func(h *SegmentHeader) { h.Base += 8 },
		"stable negative": func(h *SegmentHeader) { h.Stable = -2 },
	} {
		x := h
		change(&x)
		x.Put(b)
		check(name, ErrSegmentCorrupt, h.Slot, h.SegmentSize)
	}
	h.Put(b)
	b[12] = Version + 1
	binary.LittleEndian.PutUint32(b[8:], segmentCRC(b))
	check("newer version", ErrSegmentVersion, h.Slot, h.SegmentSize)
	b[12] = Version - 1
	binary.LittleEndian.PutUint32(b[8:], segmentCRC(b))
	check("older version", ErrSegmentVersion, h.Slot, h.SegmentSize)
	clear(b)
	check("zeros", ErrSegmentZero, h.Slot, h.SegmentSize)
	b = b[:SegmentHeaderSize-1]
	if _, err := DecodeSegmentHeader(b, h.Slot, h.SegmentSize); !errors.Is(err, ErrSegmentCorrupt) {
		t.Errorf("short: %v", err)
	}
}
