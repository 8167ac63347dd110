package segments

import (
	"sync"
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
	if id, _, err := s.OpenSegment(3*size, Ordinary); err != nil || id != 3 {
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
