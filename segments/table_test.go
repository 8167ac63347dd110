package segments

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"pagecache/segments/format"
)

// First is the lowest base from which there is no gap up to the newest segment, in whatever slots the segments lie, and
// whatever is left below a gap.
func TestFirstIsAboveTheLastGap(t *testing.T) {
	for _, c := range []struct {
		bases []format.LSN // in segments, by slot
		want  format.LSN
	}{
		{nil, 0},
		{[]format.LSN{0}, 0},
		{[]format.LSN{7}, 7},
		{[]format.LSN{2, 0, 1}, 0},
		{[]format.LSN{5, 3, 4}, 3},
		{[]format.LSN{5, 1, 6, 4, 2}, 4},
		{[]format.LSN{0, 9}, 9},
	} {
		s := NewSpace(Options{File: &growFile{}, SegmentSize: testSize, Slots: len(c.bases)})
		for slot, base := range c.bases {
			s.Adopt(Found{Slot: format.SegmentID(slot), Base: base * testSize, State: StateInactive})
		}
		if got := s.First(); got != c.want*testSize {
			t.Errorf("%v: first is %v, want %v", c.bases, got/testSize, c.want)
		}
	}
}

// Each segment has a slot of its own, also while the file grows, and Totals counts the slots of the file.
func TestSegmentsHaveSlotsOfTheirOwn(t *testing.T) {
	for _, background := range []bool{false, true} {
		s := NewSpace(Options{File: &growFile{}, SegmentSize: testSize, Background: background})
		seen := map[format.SegmentID]bool{}
		for i := range 50 {
			id, _, err := s.OpenSegment(format.LSN(i*testSize), UrgencyOrdinary)
			if err != nil || seen[id] {
				t.Fatalf("segment %d in slot %v, %v: %v", i, id, seen, err)
			}
			seen[id] = true
		}
		if !s.Close(time.Minute) {
			t.Fatal("Close did not wait")
		}
		if n, used, _ := s.Totals(); used != 50 || n < used || n != used+s.free.len() {
			t.Errorf("%d slots, %d in use, %d free", n, used, s.free.len())
		}
	}
}

// The newest segment marks the end of the log and is no candidate for cleaning, even if it is full.
func TestNewestSegmentIsNotCleaned(t *testing.T) {
	s := NewSpace(Options{File: &growFile{}, SegmentSize: testSize})
	if _, err := openMany(s, 3); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		base := format.LSN(i * testSize)
		id, _ := s.Find(base)
		s.SealSegment(id, base, nil)
	}
	var bases []format.LSN
	s.Inactive(func(c Candidate) { bases = append(bases, c.Base) })
	slices.Sort(bases)
	if want := []format.LSN{0, testSize}; !slices.Equal(bases, want) {
		t.Errorf("candidates %v, want %v", bases, want)
	}
}

// LiveIn looks at the segments between two LSNs, except for one, whether they are many or few.
func TestLiveInLooksAtSegmentsBetween(t *testing.T) {
	s := NewSpace(Options{File: &growFile{}, SegmentSize: testSize})
	if _, err := openMany(s, 5); err != nil {
		t.Fatal(err)
	}
	id, _ := s.Find(2 * testSize)
	s.AddLive(id, 8)
	for _, c := range []struct {
		first, last, other format.LSN
		want               bool
	}{
		{2*testSize + 100, 2*testSize + 200, format.NoLSN, true},
		{100, 2 * testSize, format.NoLSN, true},
		{3*testSize - 1, 4 * testSize, 0, true},
		{100, 2*testSize - 1, format.NoLSN, false},
		{3 * testSize, 4 * testSize, format.NoLSN, false},
		{100, 4 * testSize, 2 * testSize, false},
		{2 * testSize, 1 << 60, 0, true}, // more segments than there are
		{100, 1 << 60, 2 * testSize, false},
		{3 * testSize, 1 << 60, 0, false},
	} {
		if got := s.LiveIn(c.first, c.last, c.other); got != c.want {
			t.Errorf("from %v to %v but %v: %v, want %v", c.first, c.last, c.other, got, c.want)
		}
	}
}

// The free list knows from where on a slot was not written since its space was reserved, until the slot is taken.
func TestFreeListKnowsBlankSlots(t *testing.T) {
	f := freeList{blank: map[format.SegmentID]int{}}
	f.putBlank(3, 100)
	f.put(5)
	if at, ok := f.blank[3]; !ok || at != 100 || len(f.blank) != 1 {
		t.Errorf("blank: %v, want slot 3 from 100 on", f.blank)
	}
	if id := f.take(); id != 3 || len(f.blank) > 0 {
		t.Errorf("took slot %v, blank %v; want slot 3, none", id, f.blank)
	}
	f.put(3)
	if _, ok := f.blank[3]; ok {
		t.Error("slot 3 counts as blank although it was put back as written")
	}
}

// Of several errors that stop the growth for good, the first stays.
func TestFirstErrorOfGrowthStays(t *testing.T) {
	var g growth
	g.fail(syscall.EIO)
	g.fail(syscall.EBADF)
	if g.broken != syscall.EIO {
		t.Errorf("the growth failed with %v, want EIO", g.broken)
	}
}
