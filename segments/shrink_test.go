package segments

import (
	"sync"
	"syscall"
	"testing"
	"time"

	"pagecache/segments/format"
)

// The slot in which shrinking notes the count of recycled segments is not zeroed ahead afterwards, though it may never have been written.
func TestCountIsNotZeroed(t *testing.T) {
	const size = 16 << 10
	var mu sync.Mutex
	headers := map[format.SegmentID]string{}
	s := NewSpace(Options{File: &growFile{}, SegmentSize: size, Slots: 40, Background: true, ZeroAfter: 50 * time.Millisecond,
		Zero: func(off, n int64, quit <-chan struct{}) error {
			mu.Lock()
			defer mu.Unlock()
			headers[format.SegmentID(off/size)] = "zero"
			return nil
		}})
	for i := range format.SegmentID(3) {
		s.Adopt(i, format.LSN(i)*size, 0, false)
	}
	var free []format.SegmentID
	for i := format.SegmentID(3); i < 40; i++ {
		free = append(free, i)
	}
	s.Ready(free, []format.SegmentID{3, 4})
	if id, _, err := s.OpenSegment(3*size, UrgencyOrdinary); err != nil || id != 3 {
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
	s.Close(time.Second)
}

// Shrinking leaves what is kept and one more: else the next segment would make the file grow again, or could not be opened where others have filled the disk since.
func TestShrinkLeavesWhatIsKept(t *testing.T) {
	const size, reserve = 16 << 10, 6
	f := &growFile{}
	s := NewSpace(Options{File: f, SegmentSize: size, Slots: 20, Reserve: reserve})
	for id := range format.SegmentID(20) {
		s.Ready([]format.SegmentID{id}, nil)
	}
	if did, err := s.Shrink(2, func(format.SegmentID, uint64) error { return nil }); !did || err != nil {
		t.Fatal(did, err)
	}
	f.allocate = []error{syscall.ENOSPC, syscall.ENOSPC}
	if _, least, err := s.OpenSegment(0, UrgencyOrdinary); err != nil || least != UrgencyOrdinary {
		t.Errorf("for %d: %v", least, err)
	}
}
