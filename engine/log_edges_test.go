package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// A read-only log that ends right behind a segment's header, because the first message of the segment was torn, has the
// records before it and no corruption; so Check finds nothing.
func TestLogEndsBehindSegmentHeader(t *testing.T) {
	const segment = 16 << 10
	for name, slot := range map[string]int64{"first segment": 0, "second segment": 1} {
		t.Run(name, func(t *testing.T) {
			d := simdisk.New(1, simdisk.Options{})
			l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
			enginetest.NoCheck(t, l)
			want := 0
			if slot == 1 {
				for range 8 {
					mustWrite(t, l, 1400)
				}
				// To the index at the end of the first segment.
				mustWrite(t, l, segment-format.SegmentStart-8*1424-24-format.IndexRoom(9))
				want = 9
			}
			mustWrite(t, l, 5)
			if _, err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			after := d.Crash(1)
			after.FlipBit("/store/log", slot*segment+format.SegmentStart+26, 1)
			o := enginetest.SimOptions(after)
			o.ReadOnly = true
			r, err := engine.OpenLog("/store", o)
			if err != nil {
				t.Fatal(err)
			}
			got := 0
			for _, err := range r.Records(0) {
				if err != nil {
					t.Errorf("the log ends at LSN %d: %v", r.StableLSN()+1, err)
				}
				got++
			}
			if err := r.Close(); err != nil || got != want {
				t.Errorf("%d records, want %d; close: %v", got, want, err)
			}
			if err := enginetest.Problems("/store", enginetest.SimOptions(after)); err != nil {
				t.Errorf("check: %v", err)
			}
		})
	}
}

// Close seals a last segment that is more than half full, and the next opening moves no tail. A shorter one stays as it
// is. The records are there in both cases, and the log goes on.
func TestCloseSealsHalfSegment(t *testing.T) {
	t.Parallel()
	const segment, record = 16 << 10, 1000
	for _, c := range []struct {
		records int
		sealed  bool
	}{{3, false}, {5, true}, {12, false}, {18, true}, {41, true}} {
		t.Run(fmt.Sprint(c.records), func(t *testing.T) {
			o := enginetest.SimOptions(simdisk.New(1, simdisk.Options{}))
			l, s := openStream(t, o)
			for i := range c.records {
				if _, err := s.Append(engine.Seq(i+1), bytes.Repeat([]byte{byte(i)}, record)); err != nil {
					t.Fatal(err)
				}
			}
			for turn := range 2 { // nothing is written in the second one
				enginetest.Close(t, l)
				l, s = openStream(t, o)
				end := l.StableLSN() + 1
				if sealed := end%segment == 0; sealed != c.sealed {
					t.Fatalf("turn %d: the log ends at LSN %d: sealed %v, want %v", turn, end, sealed, c.sealed)
				}
			}
			for i := range c.records {
				r, err := s.Get(engine.Seq(i + 1))
				if err != nil || !bytes.Equal(r.Bytes, bytes.Repeat([]byte{byte(i)}, record)) {
					t.Fatalf("record %d after reopening: %d bytes, %v", i+1, len(r.Bytes), err)
				}
			}
			if err := s.AppendStable(t.Context(), engine.Seq(c.records+1), []byte("next")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// On a full disk Close seals no segment, since the rest of it belongs to the reserve: notes can be set after many
// openings.
func TestCloseOnFullDiskKeepsRoom(t *testing.T) {
	t.Parallel()
	o := enginetest.SimOptions(simdisk.New(3, simdisk.Options{Capacity: 24 * 16 << 10}))
	l, s := openStream(t, o)
	var full error
	for q := engine.Seq(1); full == nil; q++ {
		_, full = s.Append(q, make([]byte, 5000))
	}
	if !errors.Is(full, engine.ErrNoSpace) {
		t.Fatalf("append to a full log: %v", full)
	}
	for range 2 { // each takes a block: now more than half of the segment is used
		if err := s.SetNote(t.Context(), "vote", make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Close(t, l)
	l, s = openStream(t, o)
	if end := l.StableLSN() + 1; end%(16<<10) == 0 {
		t.Errorf("after Close on a full disk the log ends with a segment, at LSN %d", end)
	}
	if err := s.SetNote(t.Context(), "vote", []byte("b")); err != nil {
		t.Error(err)
	}
}

func mustWrite(t *testing.T, l *engine.Log, n int) {
	t.Helper()
	if _, _, err := l.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
}

// If the file cannot be truncated, DropBelow says so as every call does.
func TestDropBelowOnFailingTruncate(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	for range 440 {
		mustWrite(t, l, 4000)
	}
	if _, err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	d.SetFault(func(o simdisk.Op) error {
		if o.Kind == simdisk.OpTruncate {
			return syscall.ENOSPC
		}
		return nil
	})
	err := l.DropBelow(l.StableLSN())
	d.SetFault(nil)
	if !errors.Is(err, engine.ErrNoSpace) || !strings.HasPrefix(err.Error(), "drop: ") {
		t.Errorf("DropBelow returns %v, want ErrNoSpace", err)
	}
}

// votesOnFullDisk fills a log of 64 KiB segments, and returns how many notes can be set afterwards, perOpening before
// it is closed and opened again.
func votesOnFullDisk(t *testing.T, slots int64, perOpening int) (notes int) {
	o := enginetest.SimOptions(simdisk.New(3, simdisk.Options{Capacity: slots * 64 << 10}))
	o.SegmentSize = 64 << 10
	l, s := openStream(t, o)
	var full error
	for q := engine.Seq(1); full == nil; q++ {
		_, full = s.Append(q, make([]byte, 5000))
	}
	for {
		for range perOpening {
			if err := s.SetNote(t.Context(), "vote", make([]byte, 1000)); errors.Is(err, engine.ErrNoSpace) {
				return notes
			} else if err != nil {
				t.Fatal(err)
			}
			notes++
		}
		enginetest.Close(t, l)
		l, s = openStream(t, o)
	}
}

// On a full disk Close takes no room: closing the log after each note costs no note. An opening that has needed no slot
// does not know that the disk is full.
func TestCloseOnFullDiskTakesNoRoom(t *testing.T) {
	t.Parallel()
	for slots := int64(10); slots < 14; slots++ {
		for per := range 3 {
			if n := votesOnFullDisk(t, slots, 1+per); n < 14 {
				t.Errorf("%d slots, %d notes in each opening: only %d notes", slots, 1+per, n)
			}
		}
	}
}

// A log of which everything is durable is closed cleanly however slow the disk is, if the context has ended: Close
// then writes no rest of a segment.
func TestCloseContextOnSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := simdisk.New(1, simdisk.Options{})
		o := enginetest.SimOptions(d)
		o.SegmentSize = 64 << 10
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		soon, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer stop()
		for _, ctx := range []context.Context{ended, soon} {
			l := enginetest.OpenLog(t, "/store", o)
			for range 40 {
				mustWrite(t, l, 1000)
			}
			if _, err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			d.SetDelay(120 * time.Millisecond)
			if err := l.CloseContext(ctx); err != nil {
				t.Error(err)
			}
			d.SetDelay(0)
		}
	})
}

// A context that has ended does not keep an idle store from being closed completely: it opens again at once, and was
// closed cleanly. The grace of Close goes by a fake clock, which stands still while the store works.
func TestCloseContextOfIdleStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		d := simdisk.New(1, simdisk.Options{})
		pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
		if err != nil {
			t.Fatal(err)
		}
		pid, _ := enginetest.Allocate(t, pc, []byte("value"))
		if err := pc.CloseContext(ended); err != nil {
			t.Fatal(err)
		}
		pc = enginetest.OpenSim(t, d)
		if p := enginetest.Get(t, pc, pid); string(p.Value) != "value" {
			t.Errorf("page %d is %q after reopening", pid, p.Value)
		}
		enginetest.Close(t, pc)
		l, err := engine.OpenLog("/log", enginetest.SimOptions(d))
		if err != nil {
			t.Fatal(err)
		}
		mustWrite(t, l, 10)
		if err := l.CloseContext(ended); err != nil {
			t.Fatal(err)
		}
		enginetest.Close(t, enginetest.OpenLog(t, "/log", enginetest.SimOptions(d)))
	})
}

// A Close that fails since a reservation is open closes nothing: a Follow that waits goes on, and no call beside it
// fails.
func TestCloseBesideReservationClosesNothing(t *testing.T) {
	l, s := openStream(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	appendRange(t, s, 1, 1)
	enginetest.Flush(t, l)
	followed := make(chan error, 1)
	go func() {
		for r, err := range s.Follow(context.Background(), 1) {
			if err != nil || r.Seq == 2 {
				followed <- err
				return
			}
		}
	}()
	hold, err := l.Reserve(8)
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !done.Load() {
			if _, err := s.Get(1); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 200 {
		if err := l.Close(); err == nil || errors.Is(err, engine.ErrClosed) {
			t.Fatalf("close beside a reservation: %v", err)
		}
	}
	done.Store(true)
	wg.Wait()
	if _, _, err := hold.Complete(); err != nil {
		t.Fatal(err)
	}
	appendRange(t, s, 2, 2)
	if err := <-followed; err != nil {
		t.Errorf("follow: %v", err)
	}
	enginetest.Close(t, l)
	if err := l.Close(); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("close again: %v", err)
	}
	if _, err := l.Reserve(8); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("reserve after Close: %v", err)
	}
}
