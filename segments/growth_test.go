package segments

import (
	"errors"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/segments/format"
)

const testSize = 16 << 10 // segment size in bytes

// growFile is a file without contents. allocate and sync hold the results of the next calls; after them calls succeed.
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

func (f *growFile) Punch(int64, int64) error { return nil }

// full returns a file that refuses to grow n times.
func full(n int) *growFile { return &growFile{allocate: slices.Repeat([]error{syscall.ENOSPC}, n)} }

// slots returns the slots from 0 to n-1.
func slots(n int) (ids []format.SegmentID) {
	for i := range n {
		ids = append(ids, format.SegmentID(i))
	}
	return ids
}

// openMany opens n segments and returns the number of those that succeeded before the first error.
func openMany(s *Space, n int) (opened int, err error) {
	for ; opened < n; opened++ {
		if _, _, err := s.OpenSegment(format.LSN(opened*testSize), UrgencyOrdinary); err != nil {
			return opened, err
		}
	}
	return opened, nil
}

// recycle drains and recycles the segment with the given base.
func recycle(t *testing.T, s *Space, base format.LSN) {
	t.Helper()
	id, _ := s.Find(base)
	s.SealSegment(id, base, nil)
	if !s.Drain(id) {
		t.Fatalf("slot %v is not drained", id)
	}
	s.Recycle([]format.SegmentID{id})
}

// An I/O error while the file grows, in the background too, is returned for the next segment and for all later ones; a
// second sync that succeeds does not hide the first that failed. Proves G1, G3, rule 8.
func TestIOErrorWhileGrowingIsPermanent(t *testing.T) {
	for _, background := range []bool{false, true} {
		for _, f := range []*growFile{
			{sync: []error{nil, syscall.EIO}}, {allocate: []error{nil, syscall.EIO}}, {sync: []error{syscall.EIO}},
		} {
			s := NewSpace(Options{File: f, SegmentSize: testSize, Background: background})
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

// After the file could not grow for lack of room, it grows as soon as there is room. Proves G3, rule 9.
func TestLackOfRoomPasses(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EFBIG, syscall.EDQUOT} {
		f := &growFile{allocate: []error{nil, errno, errno}, sync: []error{nil, nil, errno, errno}}
		s := NewSpace(Options{File: f, SegmentSize: testSize})
		if n, err := openMany(s, 100); n != 2 || !errors.Is(err, ErrNoRoom) || !errors.Is(err, errno) {
			t.Errorf("%d segments, %v", n, err)
		}
		// Allocating works again, and so does the first sync.
		if _, _, err := s.OpenSegment(1<<40, UrgencyOrdinary); err != nil {
			t.Errorf("%v, with room again", err)
		}
		if _, err := openMany(s, 100); !errors.Is(err, ErrNoRoom) { // the next syncs fail
			t.Error(err)
		}
		if n, err := openMany(s, 10); n != 10 || err != nil {
			t.Errorf("%d segments, %v", n, err)
		}
	}
}

// A file with the largest number of slots does not grow, which is lack of room.
func TestSegmentLimitIsLackOfRoom(t *testing.T) {
	s := NewSpace(Options{File: new(growFile), SegmentSize: testSize, Slots: MaxSlots})
	if _, err := s.Append(); !errors.Is(err, ErrNoRoom) {
		t.Errorf("append: %v", err)
	}
	if _, _, err := s.OpenSegment(0, UrgencyOrdinary); !errors.Is(err, ErrNoRoom) {
		t.Errorf("open: %v", err)
	}
}

// Close returns after its patience, and says so, while the file hangs.
func TestCloseDoesNotWaitForHangingFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang, zeroing := make(chan struct{}), make(chan struct{})
		s := NewSpace(Options{File: &growFile{}, SegmentSize: testSize, Slots: 10, Background: true,
			ZeroAfter: time.Nanosecond,
			Zero: func(off, n int64, quit <-chan struct{}) error {
				close(zeroing)
				<-hang
				return ErrNoRoom
			}})
		all := slots(10) // enough for the file not to grow
		s.Ready(all, all)
		if _, err := openMany(s, 2); err != nil {
			t.Fatal(err)
		}
		<-zeroing
		if s.Close(10 * time.Millisecond) {
			t.Error("Close says that the file is not in use any more")
		}
		close(hang)
		s.work.Wait()
	})
}

// A file that refused to grow is not asked again before the back-off ends, and writes that may use the reserve do not
// wait for that. Proves rule 9.
func TestFileIsAskedAgainAfterBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := full(4)
		s := NewSpace(Options{File: f, SegmentSize: testSize, Slots: 2, Reserve: 2, Background: true})
		s.Ready(slots(2), nil)
		refused := func(left int) {
			t.Helper()
			if _, _, err := s.OpenSegment(0, UrgencyOrdinary); !errors.Is(err, ErrNoRoom) || len(f.allocate) != left {
				t.Fatalf("%v, %d refusals left", err, len(f.allocate))
			}
		}
		refused(2) // asked for a stride, and for one slot
		if _, least, err := s.OpenSegment(1<<20, UrgencyCleaning); err != nil || least != UrgencyCleaning {
			t.Fatalf("opened for %v, %v", least, err)
		}
		refused(2)
		time.Sleep(s.growth.backOff)
		refused(2)
		time.Sleep(time.Nanosecond)
		refused(0)
		time.Sleep(s.growth.backOff + 1)
		if _, _, err := s.OpenSegment(0, UrgencyOrdinary); err != nil {
			t.Fatal(err)
		}
		s.Close(time.Minute)
	})
}

// Growth in the background ends DiskFull.
func TestGrowthAheadEndsDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fullAtOpen, opened := false, 0
		var s *Space
		// Opened holds the lock that growth in the background needs to end: when OpenSegment returns it may have ended.
		s = NewSpace(Options{File: full(2), SegmentSize: testSize, Slots: 5, Reserve: 4, Background: true,
			Opened: func() { fullAtOpen = s.DiskFull() }})
		s.Ready(slots(5), nil)
		open := func(u Urgency) {
			t.Helper()
			if _, _, err := s.OpenSegment(format.LSN(opened*testSize), u); err != nil {
				t.Fatal(err)
			}
			opened++
		}
		open(UrgencyOrdinary)
		if open(UrgencyCleaning); !fullAtOpen {
			t.Fatal("DiskFull is false after the file refused to grow")
		}
		for range 50 {
			time.Sleep(s.growth.backOff * 3 / 2)
			open(UrgencyOrdinary)
		}
		s.Close(time.Minute)
		if s.DiskFull() {
			t.Errorf("DiskFull is true with %d slots", s.table.slots)
		}
	})
}

// A refusal during the back-off sets DiskFull again after recycling has reset it.
func TestRefusalDuringBackOffSetsDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in which the back-off does not end by itself
		f := full(10)
		s := NewSpace(Options{File: f, SegmentSize: testSize, Slots: 1, Background: true})
		s.Ready(slots(1), nil)
		if _, _, err := s.OpenSegment(0, UrgencyOrdinary); err != nil {
			t.Fatal(err)
		}
		s.work.Wait()
		refused := func() {
			t.Helper()
			if _, _, err := s.OpenSegment(4*testSize, UrgencyOrdinary); !errors.Is(err, ErrNoRoom) || !s.DiskFull() {
				t.Fatalf("%v, disk full %v", err, s.DiskFull())
			}
		}
		refused()
		if recycle(t, s, 0); s.DiskFull() {
			t.Fatal("DiskFull is true after recycling")
		}
		if _, _, err := s.OpenSegment(testSize, UrgencyOrdinary); err != nil {
			t.Fatal(err)
		}
		s.work.Wait()
		asked := len(f.allocate)
		refused()
		if len(f.allocate) != asked {
			t.Error("the file was asked again")
		}
		s.Close(time.Minute)
	})
}
