package pagemap

import (
	"context"
	"errors"
	"testing"

	"pagecache/engine/internal/logstore"
	"pagecache/segments/format"
)

// putMessage writes a message of a page to the beginning of b and returns its length.
func putMessage(b []byte, lsn format.LSN, pid format.PageID, body int, seed format.Seed) int {
	n := format.HeaderSize + body
	w := format.MakeWord(format.KindAppend, n)
	format.PutHeader(b, lsn, pid, lsn)
	format.PutCRC(b, w, seed)
	format.PutWord(b, w)
	return format.AlignUp(n)
}

// A message that is not valid belongs to the page in its header only if one flipped bit is all that is wrong with it.
// Otherwise the header may be corrupt too, and no page is cleared of having lost a message. Proves rule 12; trap 29.
func TestOwnerOfCorruptMessage(t *testing.T) {
	const lsn, pid, body = 8192, 77, 40
	seed := format.MakeSeed(format.StoreID{1}, 1, 0)
	r := &rescan{}
	seg := make([]byte, 200)
	n := putMessage(seg, lsn, pid, body, seed)
	flip := func(bit int) { seg[bit/8] ^= 1 << (bit % 8) }
	for bit := range n * 8 {
		flip(bit)
		if owner, owned := r.owner(seg, n, lsn, seed); !owned || owner != pid {
			t.Fatalf("bit %d: page %d, owned %v", bit, owner, owned)
		}
		for other := 16 * 8; other < 20*8; other++ { // in the page id, too
			if other == bit {
				continue
			}
			flip(other)
			if owner, owned := r.owner(seg, n, lsn, seed); owned {
				t.Fatalf("bits %d and %d: it is taken for a message of page %d", bit, other, owner)
			}
			flip(other)
		}
		flip(bit)
	}
	flip(n*8 - 5)
	if _, owned := r.owner(seg, n+64, lsn, seed); owned {
		t.Error("other messages may be lost behind it")
	}
}

// The reading of the log stops inside a segment when its context ends. Proves N4.
func TestRescanStopsInsideSegment(t *testing.T) {
	seed := format.MakeSeed(format.StoreID{1}, 1, 0)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	corrupt := make([]byte, 16<<10)
	r := &rescan{m: new(Map)}
	if err := r.walk(ctx, logstore.Part{Bytes: corrupt, Seed: seed}, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a corrupt segment: %v", err)
	}
	whole := make([]byte, 256<<10)
	for pos := format.SegmentStart; len(whole)-pos >= format.HeaderSize; {
		pos += putMessage(whole[pos:], format.LSN(pos), 9, 0, seed)
	}
	part := logstore.Part{Bytes: whole, Seed: seed}
	if err := r.walk(ctx, part, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a long segment: %v", err)
	}
	if err := r.walk(context.Background(), part, 0); err != nil {
		t.Error(err)
	}
}
