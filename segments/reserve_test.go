package segments

import (
	"errors"
	"testing"

	"pagecache/segments/format"
)

// The reserve is for writes that are urgent enough: its slots, and the rests of the segments that were opened in them,
// until the reserve has been refilled. Proves rule 9.
func TestReserveIsKeptForUrgentWrites(t *testing.T) {
	const reserve = KeptForCleaning + 2
	s := NewSpace(Options{File: full(100), SegmentSize: testSize, Slots: reserve + 2, Reserve: reserve})
	s.Ready(slots(reserve+2), nil)
	opened := 0
	open := func(u, want Urgency) {
		t.Helper()
		if _, least, err := s.OpenSegment(format.LSN(opened*testSize), u); err != nil || least != want {
			t.Fatalf("%v write, then %d slots free: opened for %v, %v", u, s.free.len(), least, err)
		}
		opened++
	}
	refused := func(u Urgency) {
		t.Helper()
		if _, _, err := s.OpenSegment(1<<40, u); !errors.Is(err, ErrNoRoom) {
			t.Fatalf("%v write, %d slots free: %v", u, s.free.len(), err)
		}
	}
	room := func(want ...bool) { // by urgency
		t.Helper()
		for u, ok := range want {
			if err := s.Room(Urgency(u)); ok != (err == nil) || err != nil && !errors.Is(err, ErrNoRoom) {
				t.Fatalf("room for a %v write, %d slots free: %v", Urgency(u), s.free.len(), err)
			}
		}
	}
	open(UrgencyCleaning, UrgencyOrdinary)
	open(UrgencyOrdinary, UrgencyOrdinary)
	room(true, true, true)
	refused(UrgencyOrdinary)
	open(UrgencyCleaning, UrgencyFreeing)
	room(false, true, true)
	open(UrgencyFreeing, UrgencyFreeing)
	refused(UrgencyFreeing)
	room(false, true, true)
	for range KeptForCleaning - keptForOpening {
		open(UrgencyCleaning, UrgencyCleaning)
		room(false, false, true)
	}
	refused(UrgencyCleaning)
	if !s.DiskFull() {
		t.Error("DiskFull is false")
	}
	for n := range reserve - keptForOpening {
		recycle(t, s, format.LSN(n*testSize))
		room(s.free.len() >= reserve, s.free.len() >= KeptForCleaning, true)
	}
	refused(UrgencyOrdinary)
}

// The ordinary class's part of the reserve grows with the file, and no part is larger than a small reserve.
func TestReservePerClass(t *testing.T) {
	for _, c := range []struct {
		r     reserve
		slots int
		kept  [3]int // by urgency
	}{
		{reserve{}, 1000, [3]int{0, 0, 0}},
		{reserve{base: 1}, 1000, [3]int{1, 1, 1}},
		{reserve{base: 2}, 1000, [3]int{2, 2, 1}},
		{reserve{base: 5}, 1000, [3]int{5, 3, 1}},
		{reserve{base: 5, per: 256}, 255, [3]int{5, 3, 1}},
		{reserve{base: 5, per: 256}, 1024, [3]int{9, 3, 1}},
	} {
		for u, want := range c.kept {
			if got := c.r.kept(Urgency(u), c.slots); got != want {
				t.Errorf("%+v, %d slots: %d kept from %v writes, want %d", c.r, c.slots, got, Urgency(u), want)
			}
		}
		for free := c.kept[UrgencyCleaning] + 1; free < 12; free++ {
			u := c.r.leastUrgency(free, c.slots)
			if free <= c.kept[u] || u > 0 && free > c.kept[u-1] {
				t.Errorf("%+v, %d slots, %d free: for %v writes", c.r, c.slots, free, u)
			}
		}
	}
}
