package segments

import (
	"testing"

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
