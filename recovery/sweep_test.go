package recovery

import (
	"errors"
	"slices"
	"testing"

	"pagecache/segments/format"
)

// slow is set under the race detector: the tests below then take larger steps.
var slow bool

// sweepLog returns a store of one segment. It is known to be durable up to known; end is its end.
func sweepLog() (b *builder, known, end format.LSN) {
	b = newBuilder().open(0, 0, format.SegmentStateInUse)
	b.kinds()
	b.pages(4, 60)
	b.put(format.KindCompact, 9, make([]byte, 700)) // zeros
	b.block()
	b.kinds()
	b.block()
	known = b.durable - 1
	b.kinds() // carry known
	b.pages(3, 40)
	b.put(format.KindCompact, 9, make([]byte, 100)) // zeros at the tail are no torn write
	return b, known, b.lsn()
}

// checkCorrupt scans a sweepLog that is corrupt at LSN at. Scan may return an error only if that place is known to be
// durable, and otherwise returns a prefix of the log that ends above it.
func checkCorrupt(t *testing.T, f file, b *builder, known, at format.LSN) {
	t.Helper()
	r, err := Scan(f, b.options())
	if err != nil {
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("corrupt at %v: %v", at, err)
		}
		if at > known+512 {
			t.Fatalf("corrupt at %v, above the known-durable LSN %v: %v", at, known, err)
		}
		return
	}
	if got := collect(t, r); !equal(got, upTo(b.want, r.End)) {
		t.Fatalf("corrupt at %v: the recovered messages are not a prefix", at)
	}
	if r.Durable > r.End {
		t.Fatalf("corrupt at %v: the log ends at %v, below the known-durable end %v", at, r.End, r.Durable)
	}
}

// Each bit of a 16 KiB store is flipped. Proves V1 and V4, rules 10, 12 and 13.
func TestEveryBitFlip(t *testing.T) {
	b, known, end := sweepLog()
	step := 1
	if testing.Short() || slow {
		step = 37
	}
	unnoticed := 0
	for bit := 0; bit < len(b.file)*8; bit += step {
		afterHeader := bit/8 >= format.SegmentHeaderSize && bit/8 < format.SegmentStart
		if (afterHeader || bit/8 > int(end)+64) && bit%61 != 0 {
			continue // zeros that mean nothing
		}
		b.file[bit/8] ^= 1 << (bit % 8)
		at := format.LSN(bit / 8)
		checkCorrupt(t, b.file, b, known, at)
		if r, err := Scan(b.file, b.options()); err == nil && at <= known && r.End == end && !afterHeader {
			unnoticed++ // filler that nothing depends on: pad bodies, alignment
		}
		o := b.clean(end)
		if r, err := Scan(b.file, o); err == nil && (r.End != end || !equal(collect(t, r), b.want)) {
			t.Fatalf("bit %d flipped in a clean store: %v", bit, r.End)
		}
		b.file[bit/8] ^= 1 << (bit % 8)
	}
	if step == 1 && unnoticed > 512*8 {
		t.Errorf("%d flips of stable data were not noticed: more than there are bits of filler", unnoticed)
	}
	b.scanned(t, b.options(), end)
}

// The store is cut off at every length: Scan returns a prefix, or ErrCorrupt below the known-durable end.
func TestEveryTruncation(t *testing.T) {
	b, known, end := sweepLog()
	for n := 0; n < len(b.file); n++ {
		if slow && n > int(end)+600 {
			n = min(n+500, len(b.file)-1)
		}
		cut := format.LSN(n)
		r, err := Scan(b.file[:n], b.options())
		if cut >= end && (err != nil || r.End != end) {
			t.Fatalf("cut at %d, past the end: %v", n, err)
		}
		checkCorrupt(t, slices.Clone(b.file[:n]), b, known, cut)
	}
}

// The tail is torn at every length, with and without garbage after it, above the known-durable end.
func TestEveryTornTail(t *testing.T) {
	b, _, _ := sweepLog()
	b.block()
	start := b.lsn()
	b.known(format.NoLSN)
	b.open(1, testSize, format.SegmentStateInUse)
	b.slot, b.base, b.pos = 0, 0, int(start)
	x := b.begin()
	b.pages(2, 50)
	b.end(x)
	b.pages(2, 50)
	end := b.lsn()
	whole := slices.Clone(b.file)
	for n := start; n <= end; n++ {
		for _, garbage := range []byte{0, 0xff, 0x5a} {
			copy(b.file, whole)
			for i := n; i < end; i++ {
				b.file[i] = garbage
			}
			r, err := Scan(b.file, b.options())
			if err != nil {
				t.Fatalf("torn at %v: %v", n, err)
			}
			got := collect(t, r)
			if !equal(got, upTo(b.want, r.End)) || r.End > end || n < end && garbage != 0 && r.Tip > (n+7)&^7 {
				t.Fatalf("torn at %v: recovered up to %v", n, r.End)
			}
			if r.End > x && r.End < x+100 {
				t.Fatalf("torn at %v: part of a batch was recovered", n)
			}
		}
	}
}
