package segments

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/segments/format"
)

// slowFile is a file on which each call of some kind waits for a value.
type slowFile struct {
	growFile
	allocating, punching chan struct{} // nil: such calls do not wait
}

func (f *slowFile) Allocate(off, n int64) error {
	if f.allocating != nil {
		<-f.allocating
	}
	return f.growFile.Allocate(off, n)
}

func (f *slowFile) Punch(off, n int64) error {
	if f.punching != nil {
		<-f.punching
	}
	return nil
}

// opens starts to open a segment in another goroutine, and returns the number of those that are open so far.
func opens(t *testing.T, s *Space, base format.LSN) (opened func() int) {
	n := 0
	go func() {
		if _, _, err := s.OpenSegment(base, UrgencyOrdinary); err != nil {
			t.Error(err)
		}
		n++
	}()
	return func() int {
		synctest.Wait()
		return n
	}
}

// A segment that is opened while the last free slot is being zeroed waits for that, and no longer. Proves rule 18.
func TestOpeningWaitsForTheZeroer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		zeroing := make(chan struct{})
		s := NewSpace(Options{File: full(100), SegmentSize: testSize, Slots: 3, Background: true,
			ZeroAfter: time.Second, Zero: func(int64, int64, <-chan struct{}) error { <-zeroing; return nil }})
		s.Ready(slots(3), slots(3))
		if _, err := openMany(s, 2); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		opened := opens(t, s, 2*testSize)
		if opened() != 0 {
			t.Error("a segment was opened in a slot that is being zeroed")
		}
		close(zeroing)
		if opened() != 1 {
			t.Error("the slot was zeroed, and the segment is not open")
		}
		s.Close(time.Minute)
	})
}

// zeroing returns a Space with two segments, two free slots and one that is being zeroed until its outcome is sent.
func zeroing(t *testing.T, f File, reserve int) (s *Space, zeros chan error) {
	t.Helper()
	zeros = make(chan error)
	s = NewSpace(Options{File: f, SegmentSize: testSize, Slots: 5, Reserve: reserve, Background: true,
		ZeroAfter: time.Second, Zero: func(int64, int64, <-chan struct{}) error { return <-zeros }})
	s.Ready(slots(5), slots(5))
	if _, err := openMany(s, 2); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	synctest.Wait()
	if s.free.len() != 2 || s.unused() != 3 {
		t.Fatalf("%d slots are free, %d unused", s.free.len(), s.unused())
	}
	return s, zeros
}

// While a slot is being zeroed, it counts for the reserve: a segment that is opened meanwhile takes another one, and
// does not wait for the zeros. On a full disk, the write that would take from the reserve is refused, as ever. Proves
// rule 9.
func TestOpeningDoesNotWaitForZeros(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, zeros := zeroing(t, full(100), 2)
		opened := opens(t, s, 2*testSize)
		if opened() != 1 {
			t.Error("a segment waits until a slot of the reserve is zeroed")
		}
		if _, _, err := s.OpenSegment(3*testSize, UrgencyOrdinary); !errors.Is(err, ErrNoRoom) {
			t.Errorf("the reserve is used: %v", err)
		}
		close(zeros)
		s.Close(time.Minute)
	})
}

// On a full disk an urgent write does not wait for zeros either, unless only the last slot is free, which no write may
// use. Then it gets the slot that was zeroed, or is refused if that turns out to be bad. Proves rule 9.
func TestUrgentOpeningBesideZeros(t *testing.T) {
	for _, outcome := range []error{nil, fmt.Errorf("%w: EIO", ErrBadSlot)} {
		synctest.Test(t, func(t *testing.T) {
			s, zeros := zeroing(t, full(100), 3)
			if _, _, err := s.OpenSegment(2*testSize, UrgencyOrdinary); !errors.Is(err, ErrNoRoom) {
				t.Errorf("the reserve is used: %v", err)
			}
			if _, least, err := s.OpenSegment(2*testSize, UrgencyCleaning); err != nil || least != UrgencyCleaning {
				t.Errorf("least %v, %v", least, err)
			}
			ended := make(chan error, 1)
			go func() {
				_, _, err := s.OpenSegment(3*testSize, UrgencyCleaning)
				ended <- err
			}()
			synctest.Wait()
			if len(ended) > 0 {
				t.Error("the last free slot is handed out, or refused, before the zeros are written")
			}
			zeros <- outcome
			if err := <-ended; (err == nil) != (outcome == nil) || err != nil && !errors.Is(err, ErrNoRoom) {
				t.Errorf("zeroing ends with %v, the opening with %v", outcome, err)
			}
			if n := s.unused(); n != 1 {
				t.Errorf("%d slots are free for Open", n)
			}
			close(zeros)
			s.Close(time.Minute)
		})
	}
}

// The file grows ahead of need while a slot is being zeroed, so that the next segment need not wait for either.
func TestGrowsAheadWhileZeroing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, zeros := zeroing(t, &growFile{}, 2)
		if opened := opens(t, s, 2*testSize); opened() != 1 {
			t.Error("a segment waits until a slot is zeroed")
		}
		if n := s.unused(); n < 3 {
			t.Errorf("%d slots are unused while one of them is being zeroed", n)
		}
		close(zeros)
		s.Close(time.Minute)
	})
}

// The next slot is zeroed only if no segment is opened for a while: then bandwidth counts.
func TestBusyLogIsNotZeroedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var zeroed atomic.Int64
		s := NewSpace(Options{File: &growFile{}, SegmentSize: testSize, Slots: 20, Background: true,
			ZeroAfter: time.Second, Zero: func(int64, int64, <-chan struct{}) error { zeroed.Add(1); return nil }})
		s.Ready(slots(20), slots(20))
		for i := range 5 {
			if _, _, err := s.OpenSegment(format.LSN(i*testSize), UrgencyOrdinary); err != nil {
				t.Fatal(err)
			}
			time.Sleep(600 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		if n := zeroed.Load(); n > 1 {
			t.Errorf("%d slots were zeroed", n)
		}
		if _, _, err := s.OpenSegment(5*testSize, UrgencyOrdinary); err != nil {
			t.Fatal(err)
		}
		before := zeroed.Load()
		time.Sleep(time.Minute)
		if n := zeroed.Load() - before; n != 1 {
			t.Errorf("%d slots were zeroed while the log was idle, want 1", n)
		}
		s.Close(time.Minute)
	})
}

// A segment that is opened while the space of the free slots is given back waits for that, and no longer. Proves rule
// 18; trap 45.
func TestOpeningWaitsForPunching(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &slowFile{growFile: *full(100), punching: make(chan struct{})}
		s := NewSpace(Options{File: f, SegmentSize: testSize, Slots: 4})
		s.Ready(slots(4), nil)
		gave := false
		go func() {
			if did, err := s.GiveBack(); !did || err != nil {
				t.Errorf("%v, %v", did, err)
			}
			gave = true
		}()
		synctest.Wait()
		f.growFile.allocate = nil // there is room
		opened := opens(t, s, 0)
		if opened() != 0 {
			t.Error("a segment was opened in a slot whose space is being given back")
		}
		for range 4 {
			f.punching <- struct{}{}
		}
		if opened() != 1 || !gave {
			t.Error("the space is given back, and the segment is not open")
		}
	})
}

// The file is not made shorter while it is growing: the new slots would lie behind a gap.
func TestShrinkDoesNothingWhileTheFileGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &slowFile{allocating: make(chan struct{})}
		s := NewSpace(Options{File: f, SegmentSize: testSize, Slots: 40, Background: true})
		s.Ready(slots(40), nil)
		n := 0
		for ; !s.growth.ahead; n++ {
			if _, _, err := s.OpenSegment(format.LSN(n*testSize), UrgencyOrdinary); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			recycle(t, s, format.LSN(i*testSize))
		}
		shrink := func() bool {
			did, err := s.Shrink(0, func(format.Extent) error { return nil })
			if err != nil {
				t.Error(err)
			}
			return did
		}
		if shrink() {
			t.Error("the file was made shorter while it grows")
		}
		close(f.allocating)
		synctest.Wait()
		if !shrink() {
			t.Error("the file was not made shorter")
		}
		s.Close(time.Minute)
	})
}

// The last slot in use is named with what its segment is. One that cannot be used again is left out: nothing could
// empty it.
func TestLastSlotInUse(t *testing.T) {
	s := NewSpace(Options{File: &growFile{}, SegmentSize: testSize, Slots: 9})
	for i, slot := range []format.SegmentID{0, 3, 7} {
		f := Found{Slot: slot, Base: format.LSN(i * testSize), State: StateInactive, Unread: slot == 7}
		s.Adopt(f)
	}
	s.Ready([]format.SegmentID{1, 4, 8}, nil)
	last, ok := s.Last()
	if !ok || last.ID != 3 || last.State != StateInactive || last.Newest || last.Base != testSize {
		t.Errorf("%+v, %v", last, ok)
	}
	if s.Drain(7) || !s.Drain(0) {
		t.Error("the slot drains that cannot be used again, or another does not")
	}
	for i, want := range []format.SegmentID{1, 4} { // the lowest free slot, then the next
		if id, _, err := s.OpenSegment(format.LSN((3+i)*testSize), UrgencyOrdinary); err != nil || id != want {
			t.Fatalf("slot %v, %v", id, err)
		}
	}
	s.Ready([]format.SegmentID{2}, nil)
	if last, ok := s.Last(); !ok || last.ID != 4 || last.State != StateActive || !last.Newest {
		t.Errorf("%+v, %v", last, ok)
	}
}
