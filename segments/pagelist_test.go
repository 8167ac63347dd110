package segments

import (
	"slices"
	"testing"

	"pagecache/segments/format"
)

// A list gives back what was put in, and goes with its segment.
func TestPageList(t *testing.T) {
	pids := []format.PageID{0, 1, 127, 128, 1 << 20, format.MaxPageID, 5, 5}
	var l PageList
	for _, pid := range pids {
		l = l.Append(pid)
	}
	if got := slices.Collect(l.All()); !slices.Equal(got, pids) {
		t.Errorf("%v of %v", got, pids)
	}
	for range l.All() {
		break
	}
	s := NewSpace(Options{File: new(growFile), SegmentSize: 16 << 10})
	if _, err := openMany(s, 2); err != nil {
		t.Fatal(err)
	}
	s.SealSegment(0, 0, l)
	s.SealSegment(1, 16<<10, nil)
	if got, ok := s.Segment(0).Pages(); !ok || string(got) != string(l) {
		t.Errorf("%v %v", got, ok)
	}
	if got, ok := s.Segment(1).Pages(); ok {
		t.Errorf("%v of a segment that has none", got)
	}
	if !s.Drain(0) || s.Recycle([]format.SegmentID{0}, func(uint64) error { return nil }) != nil {
		t.Fatal("not recycled")
	}
	if got, ok := s.Segment(0).Pages(); ok {
		t.Errorf("%v of a segment that was recycled", got)
	}
}
