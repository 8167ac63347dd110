package segments

import (
	"syscall"
	"testing"

	"pagecache/segments/format"
)

// Shrink leaves the reserve and one more slot: with fewer the next segment would make the file grow again, or could not
// be opened if other files have filled the disk since.
func TestShrinkLeavesReserve(t *testing.T) {
	f := &growFile{}
	s := NewSpace(Options{File: f, SegmentSize: testSize, Slots: 20, Reserve: 6})
	for _, id := range slots(20) {
		s.Ready([]format.SegmentID{id}, nil)
	}
	if did, err := s.Shrink(2, func(format.Extent) error { return nil }); !did || err != nil {
		t.Fatal(did, err)
	}
	f.allocate = []error{syscall.ENOSPC, syscall.ENOSPC}
	if _, least, err := s.OpenSegment(0, UrgencyOrdinary); err != nil || least != UrgencyOrdinary {
		t.Errorf("opened for %v, %v", least, err)
	}
}

// The new extent is noted before the file becomes shorter, with one shrink more each time. If it cannot be noted, the
// file stays as it is.
func TestShrinkNotesTheExtentFirst(t *testing.T) {
	s := NewSpace(Options{File: &growFile{}, SegmentSize: testSize, Slots: 400, Shrinks: 3})
	s.Ready(slots(400), nil)
	failed := func(format.Extent) error { return syscall.EIO }
	if did, err := s.Shrink(2, failed); did || err != syscall.EIO {
		t.Fatalf("shrunk %v, error %v, although the extent was not noted", did, err)
	}
	if n, _, _ := s.Totals(); n != 400 {
		t.Fatalf("%d slots after a failed shrink", n)
	}
	var noted format.Extent
	did, err := s.Shrink(2, func(e format.Extent) error { noted = e; return nil })
	n, _, _ := s.Totals()
	if !did || err != nil || noted.Shrinks != 4 || int(noted.Slots) != n || n >= 400 {
		t.Errorf("shrunk %v to %d slots, noted %+v, error %v", did, n, noted, err)
	}
}
