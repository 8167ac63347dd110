package recovery

import (
	"errors"
	"slices"
	"syscall"
	"testing"

	"pagecache/segments/format"
)

// covered returns the log of threeSegments after a snapshot that covers it up to from, and the options for a scan.
func covered(b *builder, from format.LSN) Options {
	o := unreadableOptions(b)
	o.From, o.Stable = from, from-1
	for base := format.LSN(0); base < from; base += testSize {
		o.Known = append(o.Known, base)
	}
	return o
}

// Whichever 512 bytes cannot be read, or are zeroed, below the LSN up to which a snapshot covers the log, Scan finds
// all of the log above, after a clean close and after a kill. Above, it refuses what it needs. Proves rule 10; trap 30.
func TestUnreadableSectorBelowSnapshot(t *testing.T) {
	for _, clean := range []bool{false, true} {
		b := threeSegments()
		b.block()
		from := b.lsn()
		fromAt := int64(b.at(b.pos)) &^ (readPiece - 1)
		b.pages(5, 40)
		b.block()
		end := b.lsn()
		b.open(3, 0, format.SegmentStateFree)
		o := covered(b, from)
		if o.Clean = clean; clean {
			o.End, o.Joined = end, b.joined(end)
		}
		want := slices.DeleteFunc(slices.Clone(b.want), func(m Message) bool { return m.LSN < from })
		for at := int64(0); at < fromAt; at += 512 {
			zeroed := slices.Clone(b.file)
			clear(zeroed[at : at+512])
			sources := map[string]Source{"unreadable": holey{b.file, at, at + 512}}
			if at%testSize >= format.SegmentStart {
				sources["zeroed"] = zeroed
			}
			for how, src := range sources {
				r, err := Scan(src, o)
				if err != nil {
					t.Fatalf("clean %v, %d … %d %s: %v", clean, at, at+511, how, err)
				}
				if r.End != end || !equal(collect(t, r), want) || len(r.Segments) != 3 || len(r.Unreadable) != 0 {
					t.Fatalf("clean %v, %d … %d %s: the log ends at %v, want %v, in %d segments", clean, at, at+511,
						how, r.End, end, len(r.Segments))
				}
				if at%testSize == 0 && !slices.ContainsFunc(r.Segments, func(g Segment) bool { return g.Unread }) {
					t.Errorf("clean %v, header at %d: no segment is marked", clean, at)
				}
			}
		}
		_, err := Scan(holey{b.file, fromAt, fromAt + 512}, o)
		if !errors.Is(err, ErrCorrupt) || !errors.Is(err, syscall.EIO) {
			t.Errorf("clean %v: the sector above is unreadable: %v", clean, err)
		}
	}
}

// A slot whose header cannot be read is not taken for a segment that another slot holds, or that the snapshot does not
// know: it may have been recycled.
func TestUnreadableHeaderIsNotAdopted(t *testing.T) {
	b := threeSegments()
	b.block()
	end := b.lsn()
	b.open(3, 0, format.SegmentStateInUse) // the messages of segment 0, as they were before it moved
	b.pages(4, 50)
	r, err := Scan(holey{b.file, 3 * testSize, 3*testSize + 64}, covered(b, end))
	if err != nil || !slices.Equal(r.Unreadable, []format.SegmentID{3}) || len(r.Segments) != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
	b = threeSegments()
	b.block()
	end = b.lsn()
	b.open(3, 9*testSize, format.SegmentStateInUse) // of a tail that nothing else knows
	b.pages(4, 50)
	r, err = Scan(holey{b.file, 3 * testSize, 3*testSize + 64}, covered(b, end))
	if err == nil && !slices.Equal(r.Unreadable, []format.SegmentID{3}) {
		t.Fatalf("%+v", r)
	}
}

// The digest says which timeline wrote the segment whose header cannot be read. If another segment is missing, too,
// that is noticed. Proves rule 14.
func TestUnreadableHeaderIsNamedByDigest(t *testing.T) {
	b := fiveSegments()
	b.goOn(0xa, 5, 1)
	b.block()
	end := b.lsn()
	for slot, base := range map[int]format.LSN{3: 0, 4: 2 * testSize, 5: 4 * testSize, 6: 5 * testSize} {
		h := b.set[base]
		src := holey{b.file, int64(slot) * testSize, int64(slot)*testSize + 512}
		o := covered(b, end)
		r, err := Scan(src, o)
		if err != nil {
			t.Fatalf("slot %d: %v", slot, err)
		}
		g := r.Segments[base/testSize]
		if !g.Unread || g.Timeline != h.Timeline || g.Identity != h.Identity() || !r.Timelines[h.Timeline] {
			t.Errorf("slot %d: %+v, want the timeline %v", slot, g, h.Timeline)
		}
		hurt := slices.Clone(b.file)
		clear(hurt[testSize : 2*testSize]) // base 1
		src.file = hurt
		if slot != 6 { // its header alone knows the sum
			wantCorrupt(t, hurt, o, "not those of the log")
			if _, err := Scan(src, o); !errors.Is(err, ErrCorrupt) {
				t.Errorf("slot %d, and slot 1 is lost: %v", slot, err)
			}
		}
	}
}

// The header cannot be read of a slot whose segment has left since the snapshot, which lists it. The set is whole
// without it, and the slot is left out of use. Proves rules 14 and 16.
func TestUnreadableHeaderOfSegmentThatLeft(t *testing.T) {
	for _, marks := range []int{0, 1} {
		b := fiveSegments()
		b.block()
		from := b.lsn()
		o := covered(b, from)
		o.Clean = false
		b.recycle(marks, testSize)
		b.block()
		o.Lineage = b.options().Lineage
		src := holey{b.file, testSize, testSize + 512}
		r, err := Scan(src, o)
		if err != nil {
			t.Fatalf("%d marks: %v", marks, err)
		}
		left := slices.Equal(r.Unreadable, []format.SegmentID{1}) && len(r.Gone) == 0
		if r.End != b.lsn() || len(r.Segments) != 4 || !left {
			t.Errorf("%d marks: the log ends at %v, %d segments, unreadable %v, gone %v", marks, r.End, len(r.Segments),
				r.Unreadable, r.Gone)
		}
	}
}
