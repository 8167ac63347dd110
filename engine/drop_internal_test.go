package engine

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

// fillLog writes n records, ten to a segment, and makes them stable. It returns lsns with their LSNs appended.
func fillLog(t *testing.T, l *Log, n int, lsns []LSN) []LSN {
	t.Helper()
	for range n {
		lsn, _, err := l.Write(make([]byte, 1500))
		if err != nil {
			t.Fatal(err)
		}
		lsns = append(lsns, lsn)
	}
	if _, err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	return lsns
}

// wantFrom fails the test unless Records yields exactly those records of lsns that lie at or above FirstLSN.
func wantFrom(t *testing.T, l *Log, lsns []LSN) {
	t.Helper()
	got, _ := records(t, l, 0)
	for _, lsn := range lsns {
		if lsn < l.FirstLSN() {
			if _, err := l.Read(lsn, DiskPtr{}); !errors.Is(err, ErrDropped) {
				t.Fatalf("LSN %d, below the first LSN %d: %v", lsn, l.FirstLSN(), err)
			}
			continue
		}
		if len(got) == 0 || got[0] != lsn {
			next := got[:min(len(got), 1)]
			t.Fatalf("LSN %d is missing, the next is %v; the first LSN is %d", lsn, next, l.FirstLSN())
		}
		got = got[1:]
	}
	if len(got) != 0 {
		t.Fatalf("%d records more than were written, from LSN %d on", len(got), got[0])
	}
}

// leftovers counts the segments below FirstLSN that are not free.
func leftovers(l *Log) (n int) {
	slots, _, _ := l.core.store.Space.Totals()
	for id := range format.SegmentID(slots) {
		if g := l.core.store.Space.Segment(id); g.State() != segments.StateFree && g.Base() < l.FirstLSN() {
			n++
		}
	}
	return n
}

// wantSound fails the test if Check finds a problem.
func wantSound(t *testing.T, d *simdisk.Disk) {
	t.Helper()
	r, err := Check("/store", &Options{seam: seam.Options{FS: d}}, func(problem error) { t.Error(problem) })
	if err != nil || r.Problems != 0 || r.Records == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
}

// A crash at any operation of DropBelow leaves a log that is whole from FirstLSN on, also if it is opened read-only.
// Segments leave together, so none is left below a gap. The next DropBelow drops what is left to drop.
func TestCrashInDropBelow(t *testing.T) {
	t.Parallel()
	for at, hit := 1, true; hit; at++ {
		for seed := range uint64(4) {
			d := simdisk.New(seed, simdisk.Options{})
			l := openSimLog(t, d)
			lsns := fillLog(t, l, 60, nil)
			if err := l.DropBelow(lsns[45]); err != nil {
				t.Fatal(err)
			}
			lsns = fillLog(t, l, 200, lsns) // in recycled slots, in another order
			bound := lsns[len(lsns)-15]
			d.CrashAfter(at)
			err := l.DropBelow(bound)
			if hit = d.Crashed(); !hit && err != nil {
				t.Fatal(err)
			}
			next := d.Crash(seed)
			_ = l.Close()
			wantSound(t, next)
			o := simOptions(next)
			o.ReadOnly = true
			if l, err = OpenLog("/store", o); err != nil {
				t.Fatal(err)
			}
			first := l.FirstLSN()
			wantFrom(t, l, lsns)
			closeTest(t, l)
			l = openSimLog(t, next)
			if l.FirstLSN() != first || first > bound {
				t.Fatalf("crash at %d, seed %d: first LSN %d, read-only %d, dropped below %d",
					at, seed, l.FirstLSN(), first, bound)
			}
			if n := leftovers(l); n != 0 {
				t.Fatalf("crash at %d, seed %d: %d segments below a gap", at, seed, n)
			}
			for _, bound := range []LSN{0, bound} {
				if err := l.DropBelow(bound); err != nil {
					t.Fatal(err)
				}
				if n := leftovers(l); n != 0 {
					t.Fatalf("crash at %d, seed %d: %d segments below LSN %d are in use", at, seed, n, l.FirstLSN())
				}
				wantFrom(t, l, lsns)
			}
			if size := LSN(l.core.store.Super.SegmentSize); l.FirstLSN() != bound/size*size {
				t.Fatalf("crash at %d, seed %d: first LSN %d, dropped below %d", at, seed, l.FirstLSN(), bound)
			}
			wantFrom(t, l, fillLog(t, l, 30, lsns))
			closeTest(t, l)
			wantSound(t, next)
		}
	}
}

// If a header cannot be written, and the superblock cannot say that the slot is out of use, the log drops nothing more,
// and goes on. The next opening, after a close or a crash, finds all records from its FirstLSN on, and DropBelow works.
func TestFailedDropBelowLeavesTheLog(t *testing.T) {
	t.Parallel()
	for i := range 20 {
		at := 1 + i%5
		d := simdisk.New(uint64(i), simdisk.Options{})
		l := openSimLog(t, d)
		lsns := fillLog(t, l, 100, nil)
		n, bad := 0, int64(-1)
		d.SetFault(func(o simdisk.Op) error {
			if o.Kind == simdisk.OpDeviceWrite && o.Off%int64(l.core.store.SegmentSize()) == 0 { // of a header
				if n++; n == at {
					bad = o.Off
				}
			}
			if o.Kind == simdisk.OpDeviceWrite && o.Off == bad ||
				o.Kind == simdisk.OpWrite && strings.HasPrefix(o.Name, "/store/superblock") {
				return syscall.EIO
			}
			return nil
		})
		for range 3 {
			if err := l.DropBelow(lsns[len(lsns)-30]); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrFailed) {
				t.Fatalf("DropBelow after device write %d failed: %v", at, err)
			}
			if n < at {
				t.Fatalf("%d device writes, want at least %d", n, at)
			}
			lsns = fillLog(t, l, 30, lsns)
			wantFrom(t, l, lsns)
		}
		first := l.FirstLSN()
		d.SetFault(nil)
		next := d
		if i%2 == 0 {
			next = d.Crash(uint64(i))
			_ = l.Close()
		} else {
			closeTest(t, l)
		}
		if err := l.DropBelow(0); !errors.Is(err, ErrClosed) {
			t.Errorf("DropBelow of a closed log: %v", err)
		}
		d = next
		wantSound(t, d)
		l = openSimLog(t, d)
		if l.FirstLSN() > first {
			t.Errorf("first LSN %d after reopening, was %d", l.FirstLSN(), first)
		}
		wantFrom(t, l, lsns)
		if err := l.DropBelow(lsns[len(lsns)-1]); err != nil || leftovers(l) != 0 {
			t.Errorf("%d segments below LSN %d are in use: %v", leftovers(l), l.FirstLSN(), err)
		}
		lsns = fillLog(t, l, 30, lsns)
		wantFrom(t, l, lsns)
		closeTest(t, l)
		wantSound(t, d)
	}
}

// The header of a dropped segment cannot be written. Its slot is left out of use, and DropBelow goes on. So it is in
// later openings, until the disk takes the write. Proves rule 14.
func TestDropBelowLeavesBadSlotOut(t *testing.T) {
	t.Parallel()
	for slot := range int64(4) {
		d := simdisk.New(1, simdisk.Options{})
		l := openSimLog(t, d)
		lsns := fillLog(t, l, 100, nil)
		for opening, out := range []int{1, 1, 1, 0} {
			d.SetFault(func(o simdisk.Op) error {
				if o.Kind == simdisk.OpDeviceWrite && o.Off == slot*int64(l.core.store.SegmentSize()) && out > 0 {
					return syscall.EIO
				}
				return nil
			})
			if opening > 0 {
				l = openSimLog(t, d)
			}
			wantFrom(t, l, lsns)
			if err := l.DropBelow(lsns[len(lsns)-10]); err != nil || leftovers(l) != 0 {
				t.Fatalf("slot %d, opening %d: %d segments are left: %v", slot, opening, leftovers(l), err)
			}
			if n := l.Stats().Space.OutOfUse; n != out {
				t.Fatalf("slot %d, opening %d: %d slots are out of use, want %d", slot, opening, n, out)
			}
			lsns = fillLog(t, l, 60, lsns)
			wantFrom(t, l, lsns)
			next := d.Copy() // without what was not written durably
			closeTest(t, l)
			if d = d.Copy(); opening%2 == int(slot)%2 {
				d = next
			}
			wantSound(t, d)
		}
	}
}

// unsettled is a reader whose reads never finish in time.
type unsettled struct{ vfs.Reader }

func (unsettled) Settle(time.Duration) error { return syscall.EBUSY }

// Segments that were dropped but could not be recycled are recycled by a later DropBelow, even if that drops nothing.
func TestDropBelowRecyclesLater(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	l := openSimLog(t, d)
	lsns := fillLog(t, l, 100, nil)
	reader := l.core.store.Reader
	l.core.store.Reader = unsettled{reader}
	for range 2 {
		if err := l.DropBelow(lsns[50]); !errors.Is(err, logstore.ErrLater) {
			t.Fatalf("DropBelow with reads under way: %v", err)
		}
		if l.FirstLSN() == 0 || leftovers(l) != int(l.FirstLSN())/l.core.store.Super.SegmentSize {
			t.Fatalf("%d segments below LSN %d are in use, want all", leftovers(l), l.FirstLSN())
		}
		wantFrom(t, l, lsns)
	}
	l.core.store.Reader = reader
	if err := l.DropBelow(0); err != nil || leftovers(l) != 0 {
		t.Errorf("%d segments below LSN %d are in use: %v", leftovers(l), l.FirstLSN(), err)
	}
	wantFrom(t, l, lsns)
	closeTest(t, l)
	wantSound(t, d)
}
