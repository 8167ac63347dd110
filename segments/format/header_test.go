package format

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"
)

// A superblock survives encoding and decoding, and every flipped bit, cut, other version and field out of range is
// rejected with the right error. Proves F1, F2, rule 12.
func TestSuperblockRejectsCorruption(t *testing.T) {
	for _, s := range []Superblock{testSuper(), {SegmentSize: MinSegmentSize}, {SegmentSize: MaxSegmentSize, Log: true,
		End: math.MaxInt64, NextPage: MaxPageID + 1, NextID: math.MaxUint64, Generation: math.MaxUint64}} {
		b := s.Append([]byte("x"))[1:]
		got, err := DecodeSuperblock(b)
		if err != nil || got != s {
			t.Errorf("%+v: %+v, %v", s, got, err)
		}
		for i := range len(b) * 8 {
			b[i/8] ^= 1 << (i % 8)
			if _, err := DecodeSuperblock(b); !errors.Is(err, ErrSuperCorrupt) {
				t.Errorf("bit %d flipped: %v", i, err)
			}
			b[i/8] ^= 1 << (i % 8)
		}
		for n := range b {
			if _, err := DecodeSuperblock(b[:n]); !errors.Is(err, ErrSuperCorrupt) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		b[12] = Version + 1
		binary.LittleEndian.PutUint32(b[8:], superCRC(b))
		_, err = DecodeSuperblock(b)
		if !errors.Is(err, ErrSuperVersion) || !strings.Contains(err.Error(), "version 2, this program knows 1") {
			t.Errorf("newer version: %v", err)
		}
	}
	for _, s := range []Superblock{{}, {SegmentSize: MinSegmentSize - 8}, {SegmentSize: MaxSegmentSize + 8},
		{SegmentSize: MinSegmentSize + 4}, {SegmentSize: MinSegmentSize, End: -1},
		{SegmentSize: MinSegmentSize, NextPage: MaxPageID + 2}} {
		if _, err := DecodeSuperblock(s.Append(nil)); !errors.Is(err, ErrSuperCorrupt) {
			t.Errorf("%+v: %v", s, err)
		}
	}
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
	check("newer version", ErrSegmentForeign, h.Slot, h.SegmentSize)
	clear(b)
	check("zeros", ErrSegmentZero, h.Slot, h.SegmentSize)
	if _, err := DecodeSegmentHeader(b[:63], h.Slot, h.SegmentSize); !errors.Is(err, ErrSegmentCorrupt) {
		t.Errorf("short: %v", err)
	}
}
