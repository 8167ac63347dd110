package segments

import (
	"testing"
	"testing/synctest"
	"time"

	"pagecache/segments/format"
)

// A slot that cannot be zeroed ahead, since the disk does not take the write, is not handed out. Proves rule 8.
func TestBadSlotIsNotHandedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bad format.SegmentID
		s := NewSpace(Options{File: noFile{}, SegmentSize: format.MinSegmentSize, Background: true,
			ZeroAfter: time.Second,
			Zero: func(off, _ int64, _ <-chan struct{}) error {
				bad = format.SegmentID(off / format.MinSegmentSize)
				return ErrBadSlot
			}})
		for i := range 2 { // the first segment starts nothing
			if _, _, err := s.OpenSegment(format.LSN(i*format.MinSegmentSize), UrgencyOrdinary); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := s.OutOfUse(); n != 1 || bad == 0 {
			t.Errorf("%d slots are out of use; slot %v is bad", n, bad)
		}
		for i := range 20 {
			id, _, err := s.OpenSegment(format.LSN((2+i)*format.MinSegmentSize), UrgencyOrdinary)
			if err != nil || id == bad {
				t.Errorf("slot %v, %v", id, err)
			}
		}
		if !s.Close(time.Minute) {
			t.Error("the Space has not ended")
		}
	})
}

// noFile is a file that takes everything.
type noFile struct{}

func (noFile) Allocate(int64, int64) error { return nil }
func (noFile) Sync() error                 { return nil }
func (noFile) Truncate(int64) error        { return nil }
func (noFile) Punch(int64, int64) error    { return nil }
