package segments

import (
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/segments/format"
)

// Shrink writes the count of recycled segments to a slot that may never have been written. That slot is not zeroed
// ahead afterwards.
func TestShrinkMarksSlotThatIsNotZeroed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		headers := map[format.SegmentID]string{}
		zero := func(off, n int64, quit <-chan struct{}) error {
			mu.Lock()
			defer mu.Unlock()
			headers[format.SegmentID(off/testSize)] = "zero"
			return nil
		}
		s := NewSpace(Options{File: &growFile{}, SegmentSize: testSize, Slots: 40, Background: true,
			Zero: zero, ZeroAfter: 50 * time.Millisecond})
		for i := range format.SegmentID(3) {
			s.Adopt(i, format.LSN(i)*testSize, 0, StateInactive)
		}
		s.Ready(slots(40)[3:], []format.SegmentID{3, 4})
		if id, _, err := s.OpenSegment(3*testSize, UrgencyOrdinary); err != nil || id != 3 {
			t.Fatal(id, err)
		}
		var at format.SegmentID
		did, err := s.Shrink(2, func(slot format.SegmentID, n uint64) error {
			mu.Lock()
			defer mu.Unlock()
			at = slot
			headers[slot] = "count"
			return nil
		})
		if !did || err != nil {
			t.Fatal(did, err)
		}
		time.Sleep(200 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if headers[at] != "count" {
			t.Errorf("the header of %v with the count is now %q", at, headers[at])
		}
		if !s.Close(time.Second) {
			t.Error("Close did not wait")
		}
	})
}

// Shrink leaves the reserve and one more slot: with fewer the next segment would make the file grow again, or could not
// be opened if other files have filled the disk since.
func TestShrinkLeavesReserve(t *testing.T) {
	f := &growFile{}
	s := NewSpace(Options{File: f, SegmentSize: testSize, Slots: 20, Reserve: 6})
	for _, id := range slots(20) {
		s.Ready([]format.SegmentID{id}, nil)
	}
	if did, err := s.Shrink(2, func(format.SegmentID, uint64) error { return nil }); !did || err != nil {
		t.Fatal(did, err)
	}
	f.allocate = []error{syscall.ENOSPC, syscall.ENOSPC}
	if _, least, err := s.OpenSegment(0, UrgencyOrdinary); err != nil || least != UrgencyOrdinary {
		t.Errorf("opened for %v, %v", least, err)
	}
}
