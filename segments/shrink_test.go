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
