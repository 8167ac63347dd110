package segments

import (
	"testing"

	"pagecache/segments/format"
)

// The first segment is the lowest from which there is no gap up to the newest, whatever slots they lie in and whatever is left below a gap.
func TestFirst(t *testing.T) {
	const size = 16 << 10
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
		s := NewSpace(Options{File: &growFile{}, SegmentSize: size, Slots: len(c.bases)})
		for slot, base := range c.bases {
			s.Adopt(format.SegmentID(slot), base*size, 0, false)
		}
		if got := s.First(); got != c.want*size {
			t.Errorf("%v: first is %v, want %v", c.bases, got/size, c.want)
		}
	}
}
