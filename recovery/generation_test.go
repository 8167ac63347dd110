package recovery

import (
	"slices"
	"testing"

	"pagecache/segments/format"
)

// Data that an earlier recovery discarded does not come back. Proves V3, trap 7.
func TestDiscardedTailStaysVoid(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.pages(3, 500)
	b.fill()
	b.open(1, testSize, format.SegmentStateInUse)
	b.pages(3, 500)
	kept, keptWant := b.lsn(), slices.Clone(b.want)
	b.pages(3, 600) // lost in the first crash
	b.fill()
	b.known(testSize - 1)
	b.open(2, 2*testSize, format.SegmentStateInUse) // beyond the end that the first recovery finds
	b.pages(3, 600)

	// The first recovery moves the tail to slot 3.
	b.gen, b.want = 2, keptWant[:3]
	b.open(3, testSize, format.SegmentStateInUse)
	b.pages(3, 500)
	if b.lsn() != kept {
		t.Fatal("the copy is not as long as the original")
	}
	r := b.scanned(t, b.options(), kept)
	if !slices.Equal(r.Void, []format.SegmentID{1, 2}) || r.MaxGeneration != 2 || r.Segments[1].Slot != 3 || !r.Torn {
		t.Errorf("%+v", r)
	}
	b.pages(1, 40)
	b.fill()
	b.open(4, 2*testSize, format.SegmentStateInUse)
	b.pages(1, 40)
	r = b.scanned(t, b.options(), b.lsn())
	if !slices.Equal(r.Void, []format.SegmentID{1, 2}) {
		t.Errorf("void %v", r.Void)
	}
	// It stays void even if the segment that replaced the discarded one is lost.
	b.open(4, 2*testSize, format.SegmentStateFree)
	b.want = upTo(b.want, 2*testSize)
	b.stable = format.NoLSN
	b.header(format.SegmentStateFree)
	r = b.scanned(t, b.options(), 2*testSize)
	if !slices.Equal(r.Void, []format.SegmentID{1, 2}) || !slices.Equal(r.Free, []format.SegmentID{4}) {
		t.Errorf("%+v", r)
	}
	// This program never writes two slots of one generation with the same base.
	b.open(4, testSize, format.SegmentStateInUse)
	wantCorrupt(t, b.file, b.options(), "holds the same segment")
}

// If a recovery crashed before it wrote the header of its copy, the original counts.
func TestTailMovedWithoutHeaderIsIgnored(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.pages(3, 500)
	b.block()
	b.pages(3, 500)
	end, want := b.lsn(), slices.Clone(b.want)
	b.gen = 2
	b.stable = format.NoLSN
	b.open(1, 0, format.SegmentStateInUse)
	b.pages(3, 500)
	b.known(5000)
	b.block()
	b.pages(3, 500)
	b.want = want
	clear(b.file[testSize : testSize+format.SegmentHeaderSize])
	r := b.scanned(t, b.options(), end)
	if !slices.Equal(r.Zero, []format.SegmentID{1}) || r.Stable != 5000 {
		t.Errorf("%+v", r)
	}
	b.file[testSize+9] = 1
	r = b.scanned(t, b.options(), end)
	if !slices.Equal(r.Corrupt, []format.SegmentID{1}) {
		t.Errorf("%+v", r)
	}
}

// A durable end that a message of a discarded batch carries says nothing about the log that goes on instead: neither in
// a segment that is void, nor in a slot that has lost its header. In a slot of the newest generation it counts. Proves
// V9.
func TestDurableEndOfDiscardedMessagesIsVoid(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.pages(2, 100)
	b.known(b.lsn() - 1)
	cut := b.begin()
	b.pages(2, 100)
	b.durable = b.lsn()
	b.pad(b.left())
	b.durable = testSize
	b.stable = cut - 1
	b.open(1, testSize, format.SegmentStateInUse)
	b.pages(2, 100)
	b.durable = b.lsn()
	b.pages(2, 100)
	b.scanned(t, b.options(), cut) // the batch is cut off; its messages carry ends far above

	// The tail moves to slot 2, and the log goes on there.
	b.gen, b.want = 2, nil
	b.known(cut - 1)
	b.open(2, 0, format.SegmentStateInUse)
	b.pages(2, 100)
	if b.lsn() != cut {
		t.Fatal("the copy is not as long as the original")
	}
	b.block()
	b.pages(1, 10)
	last := b.lsn()
	b.pages(1, 10)
	end := b.lsn()
	r := b.scanned(t, b.options(), end)
	if !slices.Equal(r.Void, []format.SegmentID{0, 1}) && !slices.Equal(r.Void, []format.SegmentID{1, 0}) {
		t.Errorf("void %v", r.Void)
	}
	b.file[last+2*testSize+26] ^= 1 // torn
	b.want = upTo(b.want, last)
	b.scanned(t, b.options(), last)
	b.file[testSize+9] ^= 1 // the header of slot 1 is lost
	b.scanned(t, b.options(), last)
	b.file[2*testSize+9] ^= 1 // that of slot 2 is lost, too: its messages say that this log was durable
	b.file[9] ^= 1
	wantCorrupt(t, b.file, b.options(), endsBelowDurable)
}

// An opening moves the tail on a device whose blocks are longer than a header's room, and the write of the header is
// torn so that messages beside it are lost. The old slot counts then, unless the log went on in the new one. Proves
// rules 1 and 10; trap 33.
func TestTornHeaderOfMovedTailInLongBlocks(t *testing.T) {
	const s = testSize
	for _, block := range []int{4096, 8192, s} {
		for _, wentOn := range []bool{false, true} {
			for _, covered := range []bool{false, true} {
				b := fiveSegments()
				end := b.lsn()
				b.branch(end, 0xa)
				b.known(end - 1)
				b.open(5, 4*s, format.SegmentStateInUse)
				for b.lsn() < end {
					b.pages(1, min(500, int(end-b.lsn())-format.HeaderSize))
				}
				if wentOn {
					b.pages(2, 50)
					b.known(b.lsn() - 1)
					b.pages(1, 50)
				}
				h := b.set[4*s]
				h.BlockSize, h.Ledger.Joined = block, b.joined(4*s+1)
				h.Put(b.file[5*s:])
				torn := b.file[5*s+format.SegmentStart : 5*s+max(block, format.SegmentStart+512)]
				for i := range min(len(torn), int(end-4*s)-format.SegmentStart-100) {
					torn[i] = byte(i*7 + 3)
				}
				o := b.options()
				if covered { // by a snapshot
					o.From, o.Stable = end, end-1
				}
				if block > format.SegmentStart && !wentOn {
					r := b.ends(t, o, end, 0, 1, 2, 3, 4)
					g := r.Segments[4]
					if g.Slot != 2 || g.Generation != 1 || !slices.Equal(r.Void, []format.SegmentID{5}) {
						t.Errorf("block %d: %+v, void %v", block, g, r.Void)
					}
				} else if r, err := Scan(b.file, o); err == nil && (!covered || r.Segments[4].Slot != 5) {
					t.Errorf("block %d, went on %v, covered %v: %+v", block, wentOn, covered, r.Segments[4])
				}
			}
		}
	}
}
