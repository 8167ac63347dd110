package recovery

import (
	"errors"
	"fmt"
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

// holes is a Source with several sectors that cannot be read.
type holes struct {
	file
	at []int64
}

func (f holes) ReadAt(p []byte, off int64) (int, error) {
	for _, at := range f.at {
		if off < at+512 && off+int64(len(p)) > at {
			return 0, fmt.Errorf("medium error at %d: %w", at, syscall.EIO)
		}
	}
	return f.file.ReadAt(p, off)
}

// Two headers cannot be read. The messages show which segments the slots hold, and the digest which timelines wrote
// them: each gets its own identity, so that the log still opens once the headers can be read again. If a third segment
// is missing, that is noticed. Proves rules 14 and 16.
func TestTwoUnreadableHeaders(t *testing.T) {
	b := fiveSegments()
	b.goOn(0xa, 5, 1)
	b.goOn(0xb, 7, 2)
	b.block()
	end := b.lsn()
	slots := map[int]format.LSN{3: 0, 1: testSize, 4: 2 * testSize, 5: 4 * testSize, 7: 5 * testSize, 8: 6 * testSize,
		9: 7 * testSize}
	adopted := 0
	for one, base1 := range slots {
		for two, base2 := range slots {
			if one >= two {
				continue
			}
			src := holes{b.file, []int64{int64(one) * testSize, int64(two) * testSize}}
			for _, clean := range []bool{false, true} {
				o := covered(b, end)
				if o.Clean = clean; clean {
					o.End, o.Joined = end, b.joined(end)
				}
				r, err := Scan(src, o)
				if err != nil {
					// The only segment of the second opening, and the newest one, which alone knows the sum.
					if clean || one != 5 || two != 9 {
						t.Errorf("slots %d and %d, clean %v: %v", one, two, clean, err)
					}
					continue
				}
				adopted++
				for _, base := range []format.LSN{base1, base2} {
					g, h := r.Segments[base/testSize], b.set[base]
					if !g.Unread || g.Timeline != h.Timeline || g.Identity != h.Identity() {
						t.Errorf("slots %d and %d, clean %v: %+v, want the timeline %v", one, two, clean, g, h.Timeline)
					}
				}
				if one == 9 || two == 9 && !clean {
					continue // nothing else knows the sum
				}
				hurt := src
				hurt.file = slices.Clone(b.file)
				clear(hurt.file[:testSize]) // base 3
				if r, err := Scan(hurt, o); !errors.Is(err, ErrCorrupt) {
					t.Errorf("slots %d and %d, clean %v, and slot 0 is lost: %+v, %v", one, two, clean, r, err)
				}
			}
		}
	}
	if adopted < 30 {
		t.Errorf("%d logs opened", adopted)
	}
}

// Two headers cannot be read, and one of the segments has left since the snapshot: the other one is named, and the slot
// of the first is left out of use. Proves rules 14 and 16.
func TestOneOfTwoUnreadableHeadersHasLeft(t *testing.T) {
	b := fiveSegments()
	from := b.lsn()
	o := covered(b, from)
	b.recycle(0, testSize)
	b.block()
	for _, other := range []int{3, 4, 0} {
		src := holes{b.file, []int64{testSize, int64(other) * testSize}}
		r, err := Scan(src, o)
		if err != nil || !slices.Equal(r.Unreadable, []format.SegmentID{1}) || len(r.Segments) != 4 {
			t.Fatalf("slot %d: %+v, %v", other, r, err)
		}
		for _, g := range r.Segments {
			if h := b.set[g.Base]; int(g.Slot) == other && (!g.Unread || g.Identity != h.Identity()) {
				t.Errorf("slot %d: %+v", other, g)
			}
		}
	}
}

// A slot on the superblock's list holds no part of the log, whatever is in it, and whether its header can be read or
// not. Proves rule 14.
func TestSlotOutOfUse(t *testing.T) {
	b := fiveSegments()
	old := slices.Clone(b.file)
	b.recycle(1, testSize)
	b.slot, b.base, b.pos = 2, 4*testSize, format.SegmentStart
	b.fill()
	b.open(5, 5*testSize, format.SegmentStateInUse) // its header knows that the segment has left
	b.pages(2, 100)
	copy(b.file[testSize:2*testSize], old[testSize:])
	o := unreadableOptions(b)
	wantCorrupt(t, b.file, o, "its segment had left the log")
	o.OutOfUse = []format.SegmentID{1, 77}
	for _, at := range []int64{testSize, 9 * testSize} {
		r, err := Scan(holey{b.file, at, at + 512}, o)
		if err != nil || r.End != b.lsn() || len(r.Segments) != 5 || len(r.Unreadable)+len(r.Corrupt) != 0 ||
			!slices.Equal(r.OutOfUse, o.OutOfUse[:1]) {
			t.Errorf("%+v, %v", r, err)
		}
	}
}
