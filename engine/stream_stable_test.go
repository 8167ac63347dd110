package engine_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// carriedLog is a log whose stream 1 has the stable records 1 to 6, and record 7, which is not, and was just carried
// forward. The copies cannot become stable before hold ends.
type carriedLog struct {
	*idleLog
	d       *simdisk.Disk
	s       *engine.Stream
	hold    *engine.Reservation
	seventh engine.LSN // of record 7 before it was carried forward
}

func carryOnce(t *testing.T) *carriedLog {
	t.Helper()
	x := &carriedLog{d: simdisk.New(1, simdisk.Options{})}
	o := enginetest.SimOptions(x.d)
	o.FlushEvery = -1
	x.idleLog = newIdleLog(t, o)
	x.s = x.stream(1)
	appendRange(t, x.s, 1, 6)
	enginetest.Flush(t, x.l)
	engine.OnCarry(x.l, func(engine.StreamID) {
		if x.hold != nil {
			return
		}
		var err error
		x.seventh, err = x.s.Append(7, recordOf(7))
		for range 5 { // it is in another block
			mustWrite(t, x.l, 1000)
		}
		if err == nil {
			x.hold, err = x.l.Reserve(8)
		}
		if err != nil {
			t.Error(err)
		}
	})
	for n := 0; x.hold == nil; n++ {
		if x.work(1); n > 15 {
			t.Fatal("the stream is not carried forward")
		}
	}
	if at := x.lsn(1); at <= x.seventh || at <= x.l.StableLSN() {
		t.Fatalf("the copies begin at LSN %d, record 7 was at %d, stable is %d", at, x.seventh, x.l.StableLSN())
	}
	return x
}

// end lets the copies become stable and closes the log.
func (x *carriedLog) end() {
	x.t.Helper()
	if _, _, err := x.hold.Complete(); err != nil {
		x.t.Fatal(err)
	}
	enginetest.Close(x.t, x.l)
}

// shows fails the test unless Records and Follow return the records from 1 to last, and Records no other that is not
// stable.
func (x *carriedLog) shows(last engine.Seq) {
	x.t.Helper()
	n := engine.Seq(0)
	for r, err := range x.s.Records(0) {
		if n++; err != nil || r.Seq != n {
			x.t.Fatalf("record %d: %d, %v", n, r.Seq, err)
		}
	}
	early := last == 6 && n == 7 && x.l.StableLSN() >= x.seventh // its block was written
	if n != last && !early {
		x.t.Errorf("Records has returned %d records, want %d", n, last)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	n = 0
	for r, err := range x.s.Follow(ctx, 1) {
		if n++; err != nil || r.Seq != n {
			x.t.Fatalf("follow: record %d: %d, %v", n, r.Seq, err)
		}
		if n == last {
			break
		}
	}
}

// Records that are stable stay so for Records and Follow when they are carried forward, although the copies are not
// stable, and one that becomes stable in its old place becomes visible. A crash keeps them.
func TestStreamStaysStableWhenCarried(t *testing.T) {
	x := carryOnce(t)
	x.shows(6)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := x.l.MakeStableContext(ctx, x.seventh); err != nil {
		t.Fatal(err)
	}
	if x.lsn(1) <= x.l.StableLSN() {
		t.Fatal("the copies are stable")
	}
	x.shows(7)
	appendRange(t, x.s, 8, 9)
	x.shows(7)
	next := x.d.Crash(5)
	_ = x.hold.Abort()
	_ = x.l.Close()
	x.l, _ = openStream(t, enginetest.SimOptions(next))
	x.check(1, 1, 7)
	enginetest.Close(t, x.l)
}

// The same holds if the log fails before the copies are stable. Proves rule 19.
func TestStreamStaysStableWhenCarriedAndFailed(t *testing.T) {
	x := carryOnce(t)
	x.d.FailFrom(simdisk.OpDeviceWrite, 1, errors.New("the device has failed"))
	if _, _, err := x.hold.Complete(); err != nil {
		t.Fatal(err)
	}
	if _, err := x.l.Flush(); !errors.Is(err, engine.ErrFailed) {
		t.Fatalf("flush: %v", err)
	}
	x.shows(6)
	_ = x.l.Close()
}

// A truncation beside an iteration ends it behind what was truncated, and not at the copy of a record that is stable. A
// record that takes the number of a truncated one is not taken for it.
func TestStreamRecordsBesideTruncateOfCarried(t *testing.T) {
	x := carryOnce(t)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	n := engine.Seq(0)
	for r, err := range x.s.Records(0) {
		if n++; err != nil || r.Seq != n {
			t.Fatalf("record %d: %d, %v", n, r.Seq, err)
		}
		if n == 3 {
			if err := x.s.TruncateAfter(ended, 5); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			appendRange(t, x.s, 6, 8)
		}
	}
	if n != 5 {
		t.Errorf("Records ends after record %d, want 5", n)
	}
	x.shows(5)
	x.end()
}

// The bytes of a record that Follow has waited for are those of the record as it lies once the wait has ended: it may
// have been dropped, or carried forward, and its segment may be in use again.
func TestFollowLooksAgainAfterItsWait(t *testing.T) {
	for _, drop := range []bool{false, true} {
		d := simdisk.New(1, simdisk.Options{})
		o := enginetest.SimOptions(d)
		o.FlushEvery = -1
		x := newIdleLog(t, o)
		s := x.stream(1)
		hold, err := x.l.Reserve(8) // nothing above it becomes stable
		if err != nil {
			t.Fatal(err)
		}
		appendRange(t, s, 1, 2)
		type result struct {
			r   engine.Record
			err error
		}
		got := make(chan result, 1)
		go func() {
			for r, err := range s.Follow(context.Background(), 1) {
				got <- result{r, err}
				return
			}
		}()
		time.Sleep(20 * time.Millisecond) // so that it waits
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		if drop {
			if err := s.DropBelow(ended, 2); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		if _, _, err := hold.Complete(); err != nil {
			t.Fatal(err)
		}
		enginetest.Flush(t, x.l)
		if r := <-got; drop != errors.Is(r.err, engine.ErrDropped) || !drop && (r.err != nil || r.r.Seq != 1) {
			t.Errorf("dropped: %v: record %d, %v", drop, r.r.Seq, r.err)
		}
		enginetest.Close(t, x.l)
	}
}
