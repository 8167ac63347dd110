package engine

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
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

// What is dropped of a log is gone, and its space is used again; what is not is there, before and after reopening and crashes; the file does not grow for ever.
func TestDropBelow(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	rng := rand.New(rand.NewPCG(1, 1))
	l := openSimLog(t, d)
	type record struct {
		lsn LSN
		ptr DiskPtr
		b   []byte
	}
	var all []record
	for round := range 60 {
		for range 50 {
			b := random(rng.IntN(900), rng.Uint64())
			lsn, ptr, err := l.Write(b)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, record{lsn, ptr, b})
		}
		if _, err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		bound := all[rng.IntN(len(all))].lsn
		if round%7 == 6 {
			bound = 1 << 50
		}
		before := l.FirstLSN()
		if err := l.DropBelow(bound); err != nil {
			t.Fatal(err)
		}
		first := l.FirstLSN()
		if first < before || first > bound || first > all[len(all)-1].lsn {
			t.Fatalf("dropped below %d of %d, asked for %d", first, all[len(all)-1].lsn, bound)
		}
		switch round % 5 {
		case 1:
			closeTest(t, l)
			l = openSimLog(t, d)
		case 3:
			next := d.Crash(uint64(round))
			_ = l.Close()
			d = next
			l = openSimLog(t, d)
			var ptrs = map[LSN]DiskPtr{} // the tail has moved
			for r, err := range l.Records(0) {
				if err != nil {
					t.Fatal(err)
				}
				ptrs[r.LSN] = r.Ptr
			}
			for i := range all {
				all[i].ptr = ptrs[all[i].lsn]
			}
		}
		if now := l.FirstLSN(); now != first {
			t.Fatalf("round %d: dropped below %d, reopened %d", round, first, now)
		}
		lsns, bodies := records(t, l, 0)
		for len(all) > 0 && all[0].lsn < first {
			if _, err := l.Read(all[0].lsn, all[0].ptr); !errors.Is(err, ErrDropped) {
				t.Fatalf("LSN %d of those below %d: %v", all[0].lsn, first, err)
			}
			all = all[1:]
		}
		if len(lsns) != len(all) {
			t.Fatalf("round %d: %d records, want %d", round, len(lsns), len(all))
		}
		for i, r := range all {
			b, err := l.Read(r.lsn, r.ptr)
			if err != nil || lsns[i] != r.lsn || bodies[i] != string(r.b) || !bytes.Equal(b, r.b) {
				t.Fatalf("round %d: record %d: %v", round, i, err)
			}
		}
	}
	if n := len(d.ReadDurable("/store/log")); n > 2<<20 {
		t.Errorf("the file is %d bytes long", n)
	}
	closeTest(t, l)
	o := simOptions(d)
	o.ReadOnly = true
	l, err := OpenLog("/store", o)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.DropBelow(100); !errors.Is(err, ErrReadOnly) {
		t.Error(err)
	}
	closeTest(t, l)
	if err := l.DropBelow(100); err == nil {
		t.Error("dropped from a closed log")
	}
}

// Readers beside a goroutine that drops get what was written, or ErrDropped.
func TestDropBesideReaders(t *testing.T) {
	l, err := OpenLog(t.TempDir(), &Options{SegmentSize: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	type record struct {
		lsn LSN
		ptr DiskPtr
		b   byte
	}
	var all []record
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range uint64(3) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(g, 1))
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				n := len(all)
				var r record
				if n > 0 {
					r = all[max(0, n-1-rng.IntN(400))]
				}
				mu.Unlock()
				if n == 0 {
					continue
				}
				b, err := l.Read(r.lsn, r.ptr)
				if err != nil && !errors.Is(err, ErrDropped) {
					t.Errorf("LSN %d: %v", r.lsn, err)
					return
				}
				_ = b // it may be dropped by now
			}
		})
	}
	for i := range 5000 {
		lsn, ptr, err := l.Write(bytes.Repeat([]byte{byte(i)}, 200))
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		all = append(all, record{lsn, ptr, byte(i)})
		mu.Unlock()
		if i%100 == 99 {
			if err := l.DropBelow(lsn - 30000); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	wg.Wait()
	if l.FirstLSN() == 0 {
		t.Error("nothing was dropped")
	}
	closeTest(t, l)
}

// dropLog opens a log without work in the background.
func dropLog(t *testing.T, d *simdisk.Disk) *Log {
	t.Helper()
	o := simOptions(d)
	o.seam.Foreground = true
	l, err := OpenLog("/store", o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// fillLog writes n records, ten to a segment, makes them stable and returns their LSNs behind those given.
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

// wantFrom fails the test unless an iterator finds those of the records that lie at or above FirstLSN, and no others.
func wantFrom(t *testing.T, l *Log, lsns []LSN) {
	t.Helper()
	got, _ := records(t, l, 0)
	for _, lsn := range lsns {
		if lsn < l.FirstLSN() {
			if _, err := l.Read(lsn, DiskPtr{}); !errors.Is(err, ErrDropped) {
				t.Fatalf("LSN %d of those below %d: %v", lsn, l.FirstLSN(), err)
			}
			continue
		}
		if len(got) == 0 || got[0] != lsn {
			t.Fatalf("first is %d: LSN %d is missing, next is %v", l.FirstLSN(), lsn, got[:min(len(got), 1)])
		}
		got = got[1:]
	}
	if len(got) != 0 {
		t.Fatalf("%d records too many", len(got))
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

// A crash inside DropBelow, wherever it is, leaves a log that is whole from FirstLSN on, read-only too; what it left below a gap is no part of it, and
// is given up by the next call whatever that drops.
func TestDropCrash(t *testing.T) {
	gaps := 0
	for at, hit := 1, true; hit; at++ {
		for seed := range uint64(4) {
			d := simdisk.New(seed, simdisk.Options{})
			l := dropLog(t, d)
			lsns := fillLog(t, l, 60, nil)
			if err := l.DropBelow(lsns[45]); err != nil {
				t.Fatal(err)
			}
			lsns = fillLog(t, l, 200, lsns) // in slots that were used before, in another order
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
			l = dropLog(t, next)
			if l.FirstLSN() != first || first > bound {
				t.Fatalf("first is %d, read-only %d, dropped below %d", l.FirstLSN(), first, bound)
			}
			gaps += leftovers(l)
			for _, bound := range []LSN{0, bound} {
				if err := l.DropBelow(bound); err != nil {
					t.Fatal(err)
				}
				if n := leftovers(l); n != 0 {
					t.Fatalf("crash at %d, seed %d: %d segments below %d are in use", at, seed, n, l.FirstLSN())
				}
				wantFrom(t, l, lsns)
			}
			if size := LSN(l.core.store.Super.SegmentSize); l.FirstLSN() != bound/size*size {
				t.Fatalf("dropped below %d, asked for %d", l.FirstLSN(), bound)
			}
			wantFrom(t, l, fillLog(t, l, 30, lsns))
			closeTest(t, l)
			wantSound(t, next)
		}
	}
	if gaps == 0 {
		t.Error("no crash left a segment below a gap")
	}
}

// Where a header could not be written nobody knows how many segments the disk counts as recycled: nothing more is dropped, the log goes on, and the next
// opening, after a close or a crash, finds everything from its FirstLSN on, and drops again.
func TestDropFails(t *testing.T) {
	for i := range 20 {
		at := 1 + i%5
		d := simdisk.New(uint64(i), simdisk.Options{})
		l := dropLog(t, d)
		lsns := fillLog(t, l, 100, nil)
		n := 0
		d.SetFault(func(o simdisk.Op) error {
			if o.Kind == simdisk.OpDeviceWrite {
				if n++; n == at {
					return syscall.EIO
				}
			}
			return nil
		})
		for range 3 {
			if err := l.DropBelow(lsns[len(lsns)-30]); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrFailed) {
				t.Fatalf("write %d failed: %v", at, err)
			}
			if n < at {
				t.Fatalf("%d writes", n)
			}
			lsns = fillLog(t, l, 30, lsns)
			wantFrom(t, l, lsns)
		}
		first := l.FirstLSN()
		next := d
		if i%2 == 0 {
			next = d.Crash(uint64(i))
			_ = l.Close()
		} else {
			closeTest(t, l)
		}
		if err := l.DropBelow(0); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		d.SetFault(nil)
		d = next
		wantSound(t, d)
		l = dropLog(t, d)
		if l.FirstLSN() > first {
			t.Errorf("first is %d, was %d", l.FirstLSN(), first)
		}
		wantFrom(t, l, lsns)
		if err := l.DropBelow(lsns[len(lsns)-1]); err != nil || leftovers(l) != 0 {
			t.Errorf("%d segments below first are in use: %v", leftovers(l), err)
		}
		lsns = fillLog(t, l, 30, lsns)
		wantFrom(t, l, lsns)
		closeTest(t, l)
		wantSound(t, d)
	}
}

// unsettled are reads ahead that take too long.
type unsettled struct{ vfs.Reader }

func (unsettled) Settle(time.Duration) error { return syscall.EBUSY }

// What was dropped but could not be recycled yet is recycled by a later call, though that one drops nothing itself.
func TestDropLater(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	l := dropLog(t, d)
	lsns := fillLog(t, l, 100, nil)
	reader := l.core.store.Reader
	l.core.store.Reader = unsettled{reader}
	for range 2 {
		if err := l.DropBelow(lsns[50]); !errors.Is(err, logstore.ErrLater) {
			t.Fatal(err)
		}
		if l.FirstLSN() == 0 || leftovers(l) != int(l.FirstLSN())/l.core.store.Super.SegmentSize {
			t.Fatalf("%d segments below %d are in use", leftovers(l), l.FirstLSN())
		}
		wantFrom(t, l, lsns)
	}
	l.core.store.Reader = reader
	if err := l.DropBelow(0); err != nil || leftovers(l) != 0 {
		t.Errorf("%d segments below %d are in use: %v", leftovers(l), l.FirstLSN(), err)
	}
	wantFrom(t, l, lsns)
	closeTest(t, l)
	wantSound(t, d)
}
