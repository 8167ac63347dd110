package format

import (
	"math/rand/v2"
	"testing"
)

// The seed of each message follows from the message, and the store's part of it is the same for all generations and
// slots. A flipped bit gives another seed.
func TestSeedOfMessage(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		var store StoreID
		for i := range store {
			store[i] = byte(rng.Uint32())
		}
		g, slot, lsn := Generation(rng.Uint64()), SegmentID(rng.Uint32()), LSN(rng.Uint64()>>2)
		seed := MakeSeed(store, g, slot)
		if k := KeyFrom(seed, g, slot); k != KeyOf(store) || k.Seed(g+7, slot^3) != MakeSeed(store, g+7, slot^3) {
			t.Fatalf("key %v of %v", k, store)
		}
		msg := make([]byte, HeaderSize+rng.IntN(5000))
		for i := range msg {
			msg[i] = byte(rng.Uint32())
		}
		w := MakeWord(KindCompact, len(msg))
		if rng.IntN(4) == 0 {
			w = PutPad(msg, lsn, Known{lsn - 8, 5}, len(msg), seed)
		} else {
			PutHeader(msg, lsn, 17, lsn-8)
			PutCRC(msg, w, seed)
		}
		PutWord(msg, w)
		h, got, err := SeedOf(msg, lsn)
		if err != nil || got != seed || h.Len != len(msg) {
			t.Fatalf("seed %x of %d bytes, want %x: %v", got, len(msg), seed, err)
		}
		msg[16+rng.IntN(8)] ^= 1 << rng.IntN(8)
		if _, got, err := SeedOf(msg, lsn); err != nil || got == seed {
			t.Fatalf("seed %x of a corrupt message: %v", got, err)
		}
	}
}

// The first block of a segment tells the size of all segments.
func TestFindSegmentHeader(t *testing.T) {
	b := make([]byte, SegmentHeaderSize)
	SegmentHeader{State: SegmentStateInUse, SegmentSize: MinSegmentSize, Slot: 3}.Put(b)
	if h, ok := FindSegmentHeader(b, 3*MinSegmentSize); !ok || h.SegmentSize != MinSegmentSize {
		t.Errorf("%+v, %v", h, ok)
	}
	for _, off := range []Offset{0, 4096, 2 * MinSegmentSize, 3*MinSegmentSize + 4096} {
		if h, ok := FindSegmentHeader(b, off); ok {
			t.Errorf("at %v: %+v", off, h)
		}
	}
	for i := range b {
		b[i] ^= 4
		if h, ok := FindSegmentHeader(b, 3*MinSegmentSize); ok {
			t.Errorf("byte %d changed: %+v", i, h)
		}
		b[i] ^= 4
	}
}
