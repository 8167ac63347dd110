package recovery

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pagecache/segments/format"
)

// fiveSegments writes full segments with bases 0 to 3 into slots 3, 1, 4 and 0, and the beginning of one into slot 2.
func fiveSegments() *builder {
	b := newBuilder()
	for i, slot := range []int{3, 1, 4, 0, 2} {
		b.open(slot, format.LSN(i*testSize), format.SegmentStateInUse)
		b.pages(3, 500)
		if i < 4 {
			b.fill()
		}
	}
	b.block()
	return b
}

// ends scans, and checks that the log ends at end and consists of the segments with these bases.
func (b *builder) ends(t *testing.T, o Options, end format.LSN, bases ...format.LSN) *Result {
	t.Helper()
	r, err := Scan(b.file, o)
	if err != nil {
		t.Fatal(err)
	}
	var got []format.LSN
	for _, g := range r.Segments {
		got = append(got, g.Base/testSize)
	}
	if r.End != end || !slices.Equal(got, bases) {
		t.Fatalf("the log ends at %v (%s) and has the segments %v, want %v and %v", r.End, r.Why, got, end, bases)
	}
	if r.Recycled != b.leaves || r.Left != b.gone {
		t.Fatalf("%d segments were recycled, with the sum %v; want %d, %v", r.Recycled, r.Left, b.leaves, b.gone)
	}
	return r
}

// The digest of a valid log is right, whatever was recycled, and wherever the marking of slots, or an opening, was cut
// off. Proves rule 14.
func TestDigestOfValidLog(t *testing.T) {
	const s = testSize
	b := fiveSegments()
	end := b.lsn()
	o := b.options()
	b.ends(t, o, end, 0, 1, 2, 3, 4)

	// A crash lets some of the slots that are marked together survive. Their segments have all left.
	b.recycle(1, s, 2*s)
	b.ends(t, o, b.lsn(), 0, 3, 4)
	b.recycle(1, 0)
	b.block()
	end, o = b.lsn(), b.options()
	b.ends(t, o, end, 3, 4)
	b.ends(t, b.clean(end), end, 3, 4)
	for _, from := range []format.LSN{s, 3 * s, 4*s + 100, end} { // by a snapshot
		o.From, o.Recycled, o.Left = from, b.leaves, b.gone
		b.ends(t, o, end, 3, 4)
	}

	// A segment in one of those slots has the new counts. A header that is durable before the segment before it is full
	// does not join.
	b.pages(3, 200)
	b.fill()
	b.known(format.NoLSN)
	b.open(4, 5*s, format.SegmentStateInUse)
	b.pages(2, 100)
	torn := b.lsn()
	o = b.options()
	b.ends(t, o, torn, 3, 4, 5)
	b.open(1, 6*s, format.SegmentStateInUse)
	b.ends(t, o, torn, 3, 4, 5)

	// An opening moves the tail. While its header is not there, nothing has changed; then the old tail is void, and so
	// is everything above, marked or not.
	whole := slices.Clone(b.file)
	b.branch(torn, 2)
	b.known(torn - 1)
	b.open(3, 5*s, format.SegmentStateInUse)
	b.pages(2, 100)
	moved := slices.Clone(b.file)
	header := slices.Clone(b.file[3*s : 3*s+format.SegmentHeaderSize])
	copy(b.file[3*s:], whole[3*s:3*s+format.SegmentHeaderSize])
	b.ends(t, b.options(), torn, 3, 4, 5)
	copy(b.file[3*s:], header)
	r := b.ends(t, b.options(), torn, 3, 4, 5)
	if slices.Sort(r.Void); !slices.Equal(r.Void, []format.SegmentID{1, 4}) {
		t.Errorf("void: %v", r.Void)
	}
	b.open(4, 5*s, format.SegmentStateFree)
	b.ends(t, b.options(), torn, 3, 4, 5)
	b.open(1, 6*s, format.SegmentStateFree)
	b.ends(t, b.options(), torn, 3, 4, 5)
	if slices.Equal(b.file, moved) {
		t.Error("nothing was marked")
	}

	// All but the newest segment are recycled, and the file gets shorter: a free header keeps the counts.
	b.slot, b.base, b.pos = 3, 5*s, int(torn-5*s)
	b.block()
	b.pages(1, 100)
	b.recycle(2, 3*s, 4*s)
	b.ends(t, b.options(), b.lsn(), 5)
	last := b.lsn()
	b.open(1, 0, format.SegmentStateFree)
	b.file = b.file[:4*s]
	b.open(0, 0, format.SegmentStateFree)
	b.open(2, 0, format.SegmentStateFree)
	b.ends(t, b.options(), last, 5)
}

// If a batch is cut off, the segments of the log are those below the cut, while the digest is that of all messages. An
// opening that discards the rest may be cut off at any place. Proves rule 14.
func TestDigestOfCutBatch(t *testing.T) {
	const s = testSize
	for _, atEnd := range []bool{false, true} { // the batch begins at the end of a segment
		b := newBuilder().open(0, 0, format.SegmentStateInUse)
		b.pages(3, 500)
		if atEnd {
			b.fill()
			b.open(1, s, format.SegmentStateInUse)
		}
		cut := b.begin()
		if atEnd && cut != s+format.SegmentStart {
			t.Fatal(cut)
		}
		b.stable = cut - 1
		for i := range 3 {
			b.pad(b.left())
			b.open(2+i, b.base+s, format.SegmentStateInUse)
			b.pages(2, 100)
		}
		want := []format.LSN{0}
		if atEnd {
			want = []format.LSN{0, 1}
		}
		b.ends(t, b.options(), cut, want...)
		b.ends(t, b.clean(b.lsn()), cut, want...)
		bases := map[int]format.LSN{}
		for base, h := range b.set {
			bases[int(h.Slot)] = base
		}

		// The opening has a timeline, and nothing else; then it moves the tail, and marks the other slots in any order.
		b.branch(cut, 2)
		b.ends(t, b.options(), cut, want...)
		b.open(5, cut-cut%s, format.SegmentStateInUse)
		for b.lsn() < cut {
			b.pages(1, min(500, int(cut-b.lsn())-format.HeaderSize))
		}
		b.ends(t, b.options(), cut, want...)
		for slot := range 5 {
			if base := bases[slot]; base >= cut-cut%s {
				b.open(slot, base, format.SegmentStateFree)
				b.ends(t, b.options(), cut, want...)
			}
		}
	}
}

// If the log ends where a segment does, no tail moves, and the next segment is the first to have the new timeline.
// Segments beyond one that was lost in the crash are void. Proves rule 14.
func TestDigestOfLogThatEndsWithSegment(t *testing.T) {
	const s = testSize
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.pages(3, 500)
	b.fill()
	b.open(1, s, format.SegmentStateInUse)
	b.pad(b.left())
	b.open(2, 2*s, format.SegmentStateInUse)
	b.pages(2, 100)
	clear(b.file[s : 2*s]) // was not durable
	b.ends(t, b.options(), s, 0)
	b.branch(s, 2)
	b.ends(t, b.options(), s, 0)
	whole := slices.Clone(b.file)
	b.mark(2)
	b.ends(t, b.options(), s, 0)
	for _, marked := range []bool{true, false} {
		if !marked {
			copy(b.file[2*s:], whole[2*s:])
		}
		b.open(1, s, format.SegmentStateInUse)
		b.pages(2, 200)
		b.ends(t, b.options(), b.lsn(), 0, 1)
	}
}

// Whatever slot is put back to what it held earlier, the log is refused, or is the one that it was, without a segment
// less. Before, one slot with old contents and one segment that was missing in its place cancelled out. Proves rule 14,
// trap 26.
func TestStaleSlotIsRefused(t *testing.T) {
	const s = testSize
	b := fiveSegments()
	states := []file{slices.Clone(b.file)}
	b.recycle(2, 0, s)
	states = append(states, slices.Clone(b.file))
	b.slot, b.base, b.pos = 2, 4*s, format.SegmentStart
	b.fill()
	for i, slot := range []int{3, 1} {
		b.open(slot, format.LSN(5+i)*s, format.SegmentStateInUse)
		b.pages(3, 500)
		b.fill()
		states = append(states, slices.Clone(b.file))
	}
	b.recycle(1, 2*s)
	b.open(4, 7*s, format.SegmentStateInUse)
	b.pages(2, 300)
	b.fill()
	b.open(5, 8*s, format.SegmentStateInUse)
	b.pages(1, 30)
	now, end := slices.Clone(b.file), b.lsn()
	bases := []format.LSN{3, 4, 5, 6, 7, 8}
	b.ends(t, b.options(), end, bases...)
	refused := 0
	for i, old := range states {
		for slot := range 5 {
			for _, clean := range []bool{false, true} {
				copy(b.file, now)
				copy(b.file[slot*s:(slot+1)*s], old[slot*s:])
				o := b.options()
				if clean {
					o = b.clean(end)
				}
				_, err := Scan(b.file, o)
				ce := (*CorruptError)(nil)
				switch {
				case slices.Equal(b.file, now):
					if err != nil {
						t.Error(err)
					}
				case !errors.As(err, &ce):
					t.Errorf("slot %d as in state %d, clean %v: accepted, %v", slot, i, clean, err)
				default:
					refused++
					got, known := ce.Place.Slot()
					if strings.Contains(err.Error(), "old contents") && (!known || int(got) != slot) {
						t.Errorf("slot %d as in state %d: %v", slot, i, err)
					}
				}
			}
		}
	}
	if refused < 20 {
		t.Errorf("%d logs were refused", refused)
	}
	// One in the middle: the numbers of missing and recycled segments agree, and the error has the slot and the LSN.
	copy(b.file, now)
	copy(b.file[3*s:4*s], states[0][3*s:])
	c := wantCorrupt(t, b.file, b.options(), "old contents in place of the segment")
	if c.Place != (Place{}).WithSlot(3).WithOffset(3*s).WithLSN(5*s) {
		t.Error(c)
	}
}

// A segment that was recycled comes back in a slot that is free, or whose header write was lost. Proves rule 14, trap
// 26.
func TestExtraSegmentIsRefused(t *testing.T) {
	const s = testSize
	b := fiveSegments()
	old := slices.Clone(b.file)
	b.recycle(1, s)
	b.slot, b.base, b.pos = 2, 4*s, format.SegmentStart
	b.fill()
	b.open(5, 5*s, format.SegmentStateInUse) // its header knows that the segment has left
	b.pages(2, 100)
	copy(b.file[s:2*s], old[s:])
	c := wantCorrupt(t, b.file, b.options(), "its segment had left the log")
	if c.Place != (Place{}).WithSlot(1).WithOffset(s).WithLSN(s) {
		t.Error(c)
	}
}

// A segment that lies in two slots, with everything else in place, is refused: in the second, its header names the
// first. Proves rule 14.
func TestDuplicatedSlotIsRefused(t *testing.T) {
	const s = testSize
	b := fiveSegments()
	b.recycle(1, s)
	b.slot, b.base, b.pos = 2, 4*s, format.SegmentStart
	b.fill()
	b.open(5, 5*s, format.SegmentStateInUse)
	b.pages(2, 100)
	copy(b.file[4*s:5*s], b.file[0:s]) // base 3 in the place of base 2
	c := wantCorrupt(t, b.file, b.options(), "the segment that was in this slot is lost")
	place := Place{}.WithSlot(4).WithOffset(4 * s).WithLSN(2 * s)
	if c.Place != place || !strings.Contains(c.Error(), "header of slot 0 in slot 4") {
		t.Error(c)
	}
}

// All segments of a log are missing of which some were recycled. Proves rule 14.
func TestLogWithoutSegmentsIsRefused(t *testing.T) {
	b := fiveSegments()
	b.recycle(2, 0, testSize)
	for i := range 5 {
		if i != 1 && i != 3 {
			clear(b.file[i*testSize : (i+1)*testSize])
		}
	}
	b.known(format.NoLSN)
	for _, slot := range []int{1, 3} {
		h, err := format.DecodeSegmentHeader(b.file[slot*testSize:], format.SegmentID(slot), testSize)
		if err != nil {
			t.Fatal(err)
		}
		h.Stable = format.NoLSN // else that is the error
		h.Put(b.file[slot*testSize:])
	}
	wantCorrupt(t, b.file, b.options(), "segments missing: 0, recycled: 2")
}

// A segment of another store is refused, whatever its state says: its slot has lost what it held. Proves rule 14, trap
// 27.
func TestSegmentOfAnotherStoreIsRefused(t *testing.T) {
	for _, state := range []format.SegmentState{format.SegmentStateInUse, format.SegmentStateFree} {
		b := fiveSegments()
		b.open(5, 0, state)
		h, err := format.DecodeSegmentHeader(b.file[5*testSize:], 5, testSize)
		if err != nil {
			t.Fatal(err)
		}
		h.Store[3]++
		h.Put(b.file[5*testSize:])
		c := wantCorrupt(t, b.file, b.options(), "another store")
		if c.Place != (Place{}).WithSlot(5).WithOffset(5*testSize) {
			t.Error(c)
		}
	}
	// Another store's superblock beside a log.
	b := fiveSegments()
	o := b.options()
	o.Store[0]++
	wantCorrupt(t, b.file, o, "another store")
}

// A snapshot covers all of the log, which ends where a segment does, and that segment is lost. Proves rule 14.
func TestLastSegmentBelowFromIsMissed(t *testing.T) {
	b := fiveSegments()
	b.recycle(1, 0)
	b.fill()
	end := b.lsn()
	o, clean := b.options(), b.clean(end)
	for _, o := range []*Options{&o, &clean} {
		o.From, o.Recycled, o.Left = end, b.leaves, b.gone
		b.ends(t, *o, end, 1, 2, 3, 4)
	}
	clear(b.file[2*testSize : 3*testSize])
	for _, o := range []Options{o, clean} {
		c := wantCorrupt(t, b.file, o, "the last segment is missing")
		if c.Place != (Place{}).WithLSN(4*testSize) {
			t.Error(c)
		}
	}
}

// After a clean close, the newest segment is the one that the store was closed with. Proves rule 14.
func TestNewestSegmentOfCleanLogIsKnown(t *testing.T) {
	b := fiveSegments()
	o := b.clean(b.lsn())
	b.ends(t, o, b.lsn(), 0, 1, 2, 3, 4)
	o.Joined++
	c := wantCorrupt(t, b.file, o, "not the last segment that the store was closed with")
	if c.Place != (Place{}).WithSlot(2).WithOffset(2*testSize).WithLSN(4*testSize) {
		t.Error(c)
	}
}

// From the moment when the message by which segments leave is durable, they have left, whatever their slots hold: the
// headers that are written next may be torn. Until then they belong to the log. Proves rule 14.
func TestSegmentsLeaveByMessage(t *testing.T) {
	const s = testSize
	b := fiveSegments()
	before, end := slices.Clone(b.file), b.lsn()
	b.recycle(0, s, 2*s)
	after := b.lsn()
	r := b.ends(t, b.options(), after, 0, 3, 4)
	if slices.Sort(r.Gone); !slices.Equal(r.Gone, []format.SegmentID{1, 4}) || len(r.Void) > 0 {
		t.Errorf("gone: %v, void: %v", r.Gone, r.Void)
	}
	whole := slices.Clone(b.file)
	for _, slot := range []int{1, 4} { // the mark is torn
		for i := slot * s; i < slot*s+format.SegmentStart; i++ {
			b.file[i] = byte(i*7 + 3)
		}
		b.ends(t, b.options(), after, 0, 3, 4)
	}
	// The message itself is torn, or nothing of it was written.
	b.file = slices.Clone(whole)
	b.file[2*s+int(after-4*s)-1] ^= 1
	b.leaves, b.gone = 0, 0
	b.ends(t, b.options(), end, 0, 1, 2, 3, 4)
	b.file = before
	b.ends(t, b.options(), end, 0, 1, 2, 3, 4)
}

// The mark of a slot whose segment has left is torn where blocks are longer than a header's room: the old header is
// there, and messages behind it are not. The log goes on all the same, unless the message by which the segment leaves
// was lost, or is cut off with its batch. Proves rules 10 and 14; trap 33.
func TestTornMarkInLongBlocks(t *testing.T) {
	const s = testSize
	for _, block := range []int{4096, 8192, s} {
		for first := range 2 { // the first sector is old, or only the others are
			b := fiveSegments()
			b.recycle(0, s, 2*s)
			after := b.lsn()
			b.pages(1, 100)
			for _, slot := range []int{1, 4} {
				for i := 512 * (1 - first); i < block; i++ {
					b.file[slot*s+i] = byte(i*7 + 3)
				}
				r := b.ends(t, b.options(), b.lsn(), 0, 3, 4)
				if n := len(r.Gone); first == 0 && n != 2 {
					t.Errorf("block %d, slot %d: gone: %v", block, slot, r.Gone)
				}
			}
			if first > 0 || block <= format.SegmentStart {
				continue
			}
			b.file[2*s+int(after-4*s)-1] ^= 1
			wantCorrupt(t, b.file, b.options(), endsBelowDurable)
		}
	}
	b := fiveSegments()
	b.begin()
	b.recycle(0, s, 2*s)
	clear(b.file[s+format.SegmentStart : 2*s])
	wantCorrupt(t, b.file, b.options(), endsBelowDurable)
}

// The message by which segments left lies below a snapshot: the snapshot knows that they have. Proves rule 14.
func TestSnapshotKnowsSegmentsThatLeft(t *testing.T) {
	const s = testSize
	b := fiveSegments()
	b.recycle(2, s, 2*s)
	b.slot, b.base, b.pos = 2, 4*s, format.SegmentStart
	b.fill() // in place of the message
	h := b.set[4*s]
	h.Ledger.Joined = b.joined(4*s + 1)
	b.open(1, 5*s, format.SegmentStateInUse)
	b.pages(2, 100)
	head := b.set[5*s] // of which the header does not know that they have
	head.Ledger = format.Ledger{Joined: b.joined(5*s + 1)}
	head.Put(b.file[s:])
	for _, slot := range []int{4} {
		clear(b.file[slot*s : slot*s+format.SegmentHeaderSize])
	}
	o := b.options()
	wantCorrupt(t, b.file, o, "the segments are not those of the log")
	o.From, o.Stable, o.Recycled, o.Left = 4*s+format.SegmentStart, 4*s+format.SegmentStart, b.leaves, b.gone
	b.ends(t, o, b.lsn(), 0, 3, 4, 5)
}

// Segments that leave by a message in a batch that is cut off have not left. Proves rule 14.
func TestSegmentsLeaveWithBatch(t *testing.T) {
	const s = testSize
	b := fiveSegments()
	cut := b.begin()
	b.recycle(0, s, 2*s)
	left, sum := b.leaves, b.gone
	b.leaves, b.gone = 0, 0
	b.ends(t, b.options(), cut, 0, 1, 2, 3, 4)
	b.leaves, b.gone = left, sum
	b.end(cut)
	b.ends(t, b.options(), b.lsn(), 0, 3, 4)
}
