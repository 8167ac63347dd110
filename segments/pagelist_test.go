package segments

import (
	"slices"
	"testing"

	"pagecache/segments/format"
)

// A list yields the page ids that were appended, in order, and belongs to its segment until that is recycled.
func TestPageListOfSegment(t *testing.T) {
	pids := []format.PageID{0, 1, 127, 128, 1 << 20, format.MaxPageID, 5, 5}
	var l PageList
	for _, pid := range pids {
		l = l.Append(pid)
	}
	if got := slices.Collect(l.All()); !slices.Equal(got, pids) {
		t.Errorf("page ids %v, want %v", got, pids)
	}
	for range l.All() {
		break
	}
	s := NewSpace(Options{File: new(growFile), SegmentSize: testSize})
	if _, err := openMany(s, 2); err != nil {
		t.Fatal(err)
	}
	s.SealSegment(0, 0, l)
	s.SealSegment(1, testSize, nil)
	if got, ok := s.Segment(0).Pages(); !ok || string(got) != string(l) {
		t.Errorf("%v %v", got, ok)
	}
	if got, ok := s.Segment(1).Pages(); ok {
		t.Errorf("%v of a segment without a list", got)
	}
	if !s.Drain(0) {
		t.Fatal("the segment does not drain")
	}
	s.Recycle([]format.SegmentID{0})
	if got, ok := s.Segment(0).Pages(); ok {
		t.Errorf("%v of a recycled segment", got)
	}
}
