package segments

import (
	"errors"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"pagecache/segments/format"
)

// growFile is a file of which only the growth matters. next says what the next calls answer.
type growFile struct {
	mu             sync.Mutex
	allocate, sync []error
}

func pop(mu *sync.Mutex, errs *[]error) (err error) {
	mu.Lock()
	defer mu.Unlock()
	if len(*errs) > 0 {
		err, *errs = (*errs)[0], (*errs)[1:]
	}
	return err
}

func (f *growFile) Allocate(off, n int64) error { return pop(&f.mu, &f.allocate) }
func (f *growFile) Sync() error                 { return pop(&f.mu, &f.sync) }

func (f *growFile) Truncate(int64) error { return nil }

func openMany(s *Space, n int) (opened int, err error) {
	const size = 16 << 10
	for ; opened < n; opened++ {
		if _, _, err := s.OpenSegment(format.LSN(opened*size), UrgencyOrdinary); err != nil {
			return opened, err
		}
	}
	return opened, nil
}

// An I/O error while growing, in the background too, is told at the next segment and for ever after; a second sync that succeeds does
// not hide the first that failed. Proves rule 8.
func TestBrokenFile(t *testing.T) {
	for _, background := range []bool{false, true} {
		for _, f := range []*growFile{{sync: []error{nil, syscall.EIO}}, {allocate: []error{nil, syscall.EIO}}, {sync: []error{syscall.EIO}}} {
			s := NewSpace(Options{File: f, SegmentSize: 16 << 10, Background: background})
			_, err := openMany(s, 100)
			for range 3 {
				if !errors.Is(err, syscall.EIO) || errors.Is(err, ErrNoRoom) {
					t.Fatalf("background %v: %v", background, err)
				}
				_, _, err = s.OpenSegment(1<<40, UrgencyOrdinary)
			}
			if !s.Close(time.Minute) {
				t.Error("Close did not wait")
			}
		}
	}
}

// Lack of room passes. Proves rule 9.
func TestNoRoomPasses(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EFBIG, syscall.EDQUOT} {
		f := &growFile{allocate: []error{nil, errno, errno}, sync: []error{nil, nil, errno, errno}}
		s := NewSpace(Options{File: f, SegmentSize: 16 << 10})
		if n, err := openMany(s, 100); n != 2 || !errors.Is(err, ErrNoRoom) || !errors.Is(err, errno) {
			t.Errorf("%d segments, %v", n, err)
		}
		if _, _, err := s.OpenSegment(1<<40, UrgencyOrdinary); err != nil { // the allocation works again, and so does the sync
			t.Errorf("%v, with room again", err)
		}
		if _, err := openMany(s, 100); !errors.Is(err, ErrNoRoom) { // now the sync finds that there is none
			t.Error(err)
		}
		if n, err := openMany(s, 10); n != 10 || err != nil {
			t.Errorf("%d segments, %v", n, err)
		}
	}
}

// What is at work on a file that hangs is not waited for beyond patience.
func TestCloseIsBounded(t *testing.T) {
	hang, zeroing := make(chan struct{}), make(chan struct{})
	s := NewSpace(Options{File: &growFile{}, SegmentSize: 16 << 10, Slots: 10, Background: true, ZeroAfter: time.Nanosecond,
		Zero: func(off, n int64, quit <-chan struct{}) error {
			close(zeroing)
			<-hang
			return ErrNoRoom
		}})
	all := []format.SegmentID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	s.Ready(all, all) // so many that there is no need to grow
	if _, err := openMany(s, 2); err != nil {
		t.Fatal(err)
	}
	<-zeroing
	if s.Close(10 * time.Millisecond) {
		t.Error("Close says that nothing uses the file any more")
	}
	close(hang)
	s.work.Wait()
}

// What is kept is for those who are urgent enough: the slots, and what is left of the segments in them until as many are kept again. Proves rule 9.
func TestKept(t *testing.T) {
	const size, reserve = 16 << 10, KeptForCleaning + 2
	s := NewSpace(Options{File: &growFile{allocate: slices.Repeat([]error{syscall.ENOSPC}, 100)}, SegmentSize: size, Slots: reserve + 2, Reserve: reserve})
	s.Ready([]format.SegmentID{0, 1, 2, 3, 4, 5, 6}, nil)
	opened := 0
	open := func(u, want Urgency) {
		t.Helper()
		if _, least, err := s.OpenSegment(format.LSN(opened*size), u); err != nil || least != want {
			t.Fatalf("urgency %d, %d slots free: for %d, %v", u, s.free.len(), least, err)
		}
		opened++
	}
	refused := func(u Urgency) {
		t.Helper()
		if _, _, err := s.OpenSegment(1<<40, u); !errors.Is(err, ErrNoRoom) {
			t.Fatalf("urgency %d, %d slots free: %v", u, s.free.len(), err)
		}
	}
	room := func(want ...bool) {
		t.Helper()
		for u, ok := range want {
			if err := s.Room(Urgency(u)); ok != (err == nil) || err != nil && !errors.Is(err, ErrNoRoom) {
				t.Fatalf("urgency %d, %d slots free: %v", u, s.free.len(), err)
			}
		}
	}
	open(UrgencyCleaning, UrgencyOrdinary)
	open(UrgencyOrdinary, UrgencyOrdinary)
	room(true, true, true)
	refused(UrgencyOrdinary)
	open(UrgencyCleaning, UrgencyFreeing)
	room(false, true, true)
	open(UrgencyFreeing, UrgencyFreeing)
	refused(UrgencyFreeing)
	room(false, true, true)
	for range KeptForCleaning - keptForOpening {
		open(UrgencyCleaning, UrgencyCleaning)
		room(false, false, true)
	}
	refused(UrgencyCleaning)
	if !s.DiskFull() {
		t.Error("not tight")
	}
	for n := range reserve - keptForOpening {
		id, _ := s.Find(format.LSN(n * size))
		s.SealSegment(id, format.LSN(n*size), nil)
		if !s.Drain(id) {
			t.Fatal("not drained")
		}
		if err := s.Recycle([]format.SegmentID{id}, func(uint64) error { return nil }); err != nil {
			t.Fatal(err)
		}
		room(s.free.len() >= reserve, s.free.len() >= KeptForCleaning, true)
	}
	refused(UrgencyOrdinary)
}

// A file that could not grow is asked again, but not by everyone who writes; who may use what is kept does not wait for that. Proves rule 9.
func TestRefusedForAWhile(t *testing.T) {
	f := &growFile{allocate: slices.Repeat([]error{syscall.ENOSPC}, 4)}
	s := NewSpace(Options{File: f, SegmentSize: 16 << 10, Slots: 2, Reserve: 2, Background: true})
	s.Ready([]format.SegmentID{0, 1}, nil)
	start := time.Now()
	for asked := 0; ; asked++ {
		_, _, err := s.OpenSegment(0, UrgencyOrdinary)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrNoRoom) {
			t.Fatal(err)
		}
		if asked == 0 && time.Since(start) < s.growth.backOff/2 {
			if _, least, err := s.OpenSegment(1<<20, UrgencyCleaning); err != nil || least != UrgencyCleaning {
				t.Fatalf("for %d: %v", least, err)
			}
		}
		if time.Since(start) > time.Minute {
			t.Fatal("never asked again")
		}
	}
	if d := time.Since(start); d < s.growth.backOff {
		t.Errorf("there was room after %v", d)
	}
	s.Close(time.Minute)
}

// Once a file has grown in the background there is room again.
func TestTightEnds(t *testing.T) {
	const size = 16 << 10
	f := &growFile{allocate: slices.Repeat([]error{syscall.ENOSPC}, 2)}
	tight, opened := false, 0
	var s *Space
	s = NewSpace(Options{File: f, SegmentSize: size, Slots: 5, Reserve: 4, Background: true,
		Opened: func() { tight = s.DiskFull() }}) // under the lock that growing in the background needs, which may be done before open returns
	s.Ready([]format.SegmentID{0, 1, 2, 3, 4}, nil)
	open := func(u Urgency) {
		t.Helper()
		if _, _, err := s.OpenSegment(format.LSN(opened*size), u); err != nil {
			t.Fatal(err)
		}
		opened++
	}
	open(UrgencyOrdinary)
	if open(UrgencyCleaning); !tight {
		t.Fatal("not tight")
	}
	for range 50 {
		time.Sleep(s.growth.backOff * 3 / 2)
		open(UrgencyOrdinary)
	}
	s.Close(time.Minute)
	if s.DiskFull() {
		t.Errorf("tight, with %d slots", s.table.slots)
	}
}

// A slot that is refused without asking again is refused because the file cannot grow, though recycling had made room meanwhile.
func TestTightAgain(t *testing.T) {
	const size = 16 << 10
	f := &growFile{allocate: slices.Repeat([]error{syscall.ENOSPC}, 10)}
	s := NewSpace(Options{File: f, SegmentSize: size, Slots: 1, Background: true})
	s.Ready([]format.SegmentID{0}, nil)
	if _, _, err := s.OpenSegment(0, UrgencyOrdinary); err != nil {
		t.Fatal(err)
	}
	s.work.Wait()
	refused := func() {
		t.Helper()
		if _, _, err := s.OpenSegment(4*size, UrgencyOrdinary); !errors.Is(err, ErrNoRoom) || !s.DiskFull() {
			t.Fatalf("%v, tight %v", err, s.DiskFull())
		}
	}
	refused()
	s.SealSegment(0, 0, nil)
	if !s.Drain(0) {
		t.Fatal("not drained")
	}
	if err := s.Recycle([]format.SegmentID{0}, func(uint64) error { return nil }); err != nil || s.DiskFull() {
		t.Fatal(err, s.DiskFull())
	}
	if _, _, err := s.OpenSegment(size, UrgencyOrdinary); err != nil {
		t.Fatal(err)
	}
	s.work.Wait()
	s.growth.refusedAt = time.Now().Add(time.Hour)
	asked := len(f.allocate)
	refused()
	if len(f.allocate) != asked {
		t.Error("asked again")
	}
	s.Close(time.Minute)
}
