package engine_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// idleLog is a log with a busy stream 0, of which only the newest records are kept, and others that are idle.
type idleLog struct {
	t *testing.T
	l *engine.Log
	s *engine.Stream // the busy one
	q engine.Seq     // its next number
}

func newIdleLog(t *testing.T, o *engine.Options) *idleLog {
	l, s := openStream(t, o)
	return &idleLog{t, l, s, 1}
}

func (x *idleLog) stream(id engine.StreamID) *engine.Stream {
	x.t.Helper()
	s, err := x.l.Stream(id)
	if err != nil {
		x.t.Fatal(err)
	}
	return s
}

// work appends enough to the busy stream to fill n segments of 16 KiB, and drops all but the newest records of it.
func (x *idleLog) work(n int) {
	x.t.Helper()
	for range n {
		for range 4 {
			if _, err := x.s.Append(x.q, make([]byte, 2900)); err != nil {
				x.t.Fatal(err)
			}
			x.q++
		}
		if err := x.s.DropBelow(context.Background(), x.q-1); err != nil {
			x.t.Fatal(err)
		}
	}
}

// segments returns the number of segments of the log.
func (x *idleLog) segments() int { return x.l.Stats().Space.SegmentsInUse }

// check compares the records of an idle stream, with the numbers from first to last.
func (x *idleLog) check(id engine.StreamID, first, last engine.Seq) {
	x.t.Helper()
	s := x.stream(id)
	if f, l := s.Bounds(); f != first || l != last {
		x.t.Fatalf("stream %d has the records %d to %d, want %d to %d", id, f, l, first, last)
	}
	q := first
	for r, err := range s.Records(0) {
		if err != nil || r.Seq != q || !bytes.Equal(r.Bytes, recordOf(q)) {
			x.t.Fatalf("stream %d, record %d: %d, %v", id, q, r.Seq, err)
		}
		if b, err := s.AppendTo(nil, q); err != nil || !bytes.Equal(b, recordOf(q)) {
			x.t.Fatalf("stream %d, record %d: %v", id, q, err)
		}
		q++
	}
	if q != last+1 {
		x.t.Fatalf("stream %d: %d records, want those from %d to %d", id, q-first, first, last)
	}
}

// The few records of idle streams do not keep the log from becoming shorter: at most eight segments behind the busy
// stream, or four times the length of the records. They are found under their numbers, in this opening and in the next
// ones, after a crash too. Proves S1.
func TestStreamIdleDoesNotPinLog(t *testing.T) {
	t.Parallel()
	for _, streams := range []engine.StreamID{1, 40} {
		d := simdisk.New(1, simdisk.Options{})
		x := newIdleLog(t, enginetest.SimOptions(d))
		for id := engine.StreamID(1); id <= streams; id++ {
			appendRange(t, x.stream(id), 5, 9)
			if id%3 == 0 {
				if err := x.stream(id).SetNote(context.Background(), "n", []byte{byte(id)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		most := 0
		for round := range engine.Seq(6) {
			x.work(40)
			most = max(most, x.segments())
			for id := engine.StreamID(1); id <= streams; id++ {
				x.check(id, 5, 9+round)
				appendRange(t, x.stream(id), 10+round, 10+round)
				if v, found := x.stream(id).Note("n"); found != (id%3 == 0) || found && v[0] != byte(id) {
					t.Fatalf("the note of stream %d is %v, %v", id, v, found)
				}
			}
			if round%2 == 0 {
				enginetest.Close(t, x.l)
			} else {
				enginetest.Flush(t, x.l)
				next := d.Crash(uint64(round))
				_ = x.l.Close()
				d = next
			}
			x.l, x.s = openStream(t, enginetest.SimOptions(d))
		}
		enginetest.Close(t, x.l)
		limit := 8 + 5
		if streams > 1 {
			limit = 20 // 40 streams of 240 to 450 bytes and a note
		}
		t.Logf("%d idle streams: %d segments at most", streams, most)
		if most > limit {
			t.Errorf("%d idle streams hold back %d segments, want %d at most", streams, most, limit)
		}
	}
}

// A stream with more records than fit a quarter of a segment is not carried: the log is kept from its first record on.
// Once it is cut to a few records, it is.
func TestStreamLongIsNotCarried(t *testing.T) {
	x := newIdleLog(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	s := x.stream(1)
	for q := engine.Seq(1); q < 8; q++ {
		if _, err := s.Append(q, make([]byte, 700)); err != nil {
			t.Fatal(err)
		}
	}
	before, err := s.Get(1)
	if err != nil {
		t.Fatal(err)
	}
	x.work(30)
	if after, err := s.Get(1); err != nil || after.LSN != before.LSN || x.segments() < 28 {
		t.Errorf("record 1 is at LSN %d, was at %d; %d segments: %v", after.LSN, before.LSN, x.segments(), err)
	}
	if err := s.TruncateAfter(context.Background(), 2); err != nil {
		t.Fatal(err)
	}
	x.work(1)
	if n := x.segments(); n > 12 {
		t.Errorf("%d segments once the stream is short", n)
	}
	if b, err := s.AppendTo(nil, 2); err != nil || !bytes.Equal(b, make([]byte, 700)) {
		t.Error(err)
	}
	enginetest.Close(t, x.l)
}

// An idle stream in front of one that is too long stays, too, since nothing would be gained.
func TestStreamIdleBeforeLongStays(t *testing.T) {
	x := newIdleLog(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	appendRange(t, x.stream(2), 1, 2)
	for q := engine.Seq(1); q <= 250; q++ {
		if _, err := x.stream(1).Append(q, nil); err != nil {
			t.Fatal(err)
		}
	}
	before := x.lsn(2)
	x.work(30)
	if now := x.lsn(2); now != before {
		t.Errorf("the idle stream has moved from LSN %d to %d", before, now)
	}
	enginetest.Close(t, x.l)
}

// An idle stream does not keep the log from becoming shorter if all others write to it are records without a number.
func TestStreamIdleBesidePlainRecords(t *testing.T) {
	x := newIdleLog(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	appendRange(t, x.stream(1), 1, 9)
	for range 100 {
		for range 4 {
			if _, _, err := x.l.Write(make([]byte, 2900)); err != nil {
				t.Fatal(err)
			}
		}
		enginetest.Flush(t, x.l)
		if err := x.l.DropBelow(x.l.StableLSN()); err != nil {
			t.Fatal(err)
		}
		if n := x.segments(); n > 13 {
			t.Fatalf("an idle stream holds back %d segments", n)
		}
	}
	x.check(1, 1, 9)
	enginetest.Close(t, x.l)
}

// An idle stream in front of a long record that is being written stays where it is, since nothing would be gained.
func TestStreamIdleBeforeUnfinishedRecordStays(t *testing.T) {
	x := newIdleLog(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	appendRange(t, x.stream(1), 1, 9)
	w := x.begin(2, 1, make([]byte, 100_000))
	x.next(w, 3)
	before := x.lsn(1)
	x.work(20)
	if now := x.lsn(1); now != before {
		t.Errorf("the idle stream has moved from LSN %d to %d", before, now)
	}
	w.End()
	x.work(2)
	if n := x.segments(); n > 13 {
		t.Errorf("%d segments once the record was given up", n)
	}
	x.check(1, 1, 9)
	enginetest.Close(t, x.l)
}

// lsn returns the LSN of the first record of a stream.
func (x *idleLog) lsn(id engine.StreamID) engine.LSN {
	x.t.Helper()
	first, _ := x.stream(id).Bounds()
	r, err := x.stream(id).Get(first)
	if err != nil {
		x.t.Fatal(err)
	}
	return r.LSN
}

// DropBelow carries no more than a quarter of a segment forward, and nothing until a new segment was begun. The copies
// do not keep the index of their segment from being used. Proves S4 and S7.
func TestStreamCarryIsBounded(t *testing.T) {
	x := newIdleLog(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	const streams = 30
	for id := engine.StreamID(1); id <= streams; id++ {
		if _, err := x.stream(id).Append(1, make([]byte, 900)); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Flush(t, x.l)
	var old [streams + 1]engine.LSN
	moved := func() (n int) {
		for id := engine.StreamID(1); id <= streams; id++ {
			if lsn := x.lsn(id); lsn != old[id] {
				n, old[id] = n+1, lsn
			}
		}
		return n
	}
	moved()
	sum := 0
	segment := func() engine.LSN { return engine.StoreOfLog(x.l).Log.Tail() / engine.LSN(x.l.SegmentSize()) }
	for range 30 {
		before := segment()
		x.work(1)
		for range 4 { // they find nothing more to do
			if err := x.s.DropBelow(context.Background(), x.q-1); err != nil {
				t.Fatal(err)
			}
		}
		n := moved()
		for id := engine.StreamID(1); id <= streams; id++ { // the copies need not be stable, the records are
			if n, err := firstError(x.stream(id), 0); n != 1 || err != nil {
				t.Fatalf("stream %d: %d records, %v", id, n, err)
			}
		}
		if limit := 4 * int(segment()-before+1); n > limit {
			t.Fatalf("%d streams of more than 900 bytes were carried forward, want %d at most", n, limit)
		}
		sum += n
	}
	if sum < streams {
		t.Errorf("%d streams were carried forward", sum)
	}
	x.work(10)
	if made, free := engine.StreamTables(x.l); made-free > 5 {
		t.Errorf("%d segments have tables", made-free)
	}
	enginetest.Close(t, x.l)
}

// A record that is appended while the stream is carried forward, after the others were copied, is not lost, and one
// that is removed meanwhile does not come back. Proves S1.
func TestStreamChangesBesideCarry(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	x := newIdleLog(t, enginetest.SimOptions(d))
	for id := engine.StreamID(1); id <= 3; id++ {
		appendRange(t, x.stream(id), 1, 9)
	}
	calls := map[engine.StreamID]int{}
	engine.OnCarry(x.l, func(id engine.StreamID) {
		var err error
		if calls[id]++; calls[id] == 1 {
			switch s := x.stream(id); id {
			case 1:
				_, err = s.Append(10, recordOf(10))
			case 2:
				err = s.TruncateAfter(context.Background(), 5)
			}
		}
		if err != nil {
			t.Error(err)
		}
	})
	x.work(14)
	for range 2 {
		x.check(1, 1, 10)
		x.check(2, 1, 5)
		x.check(3, 1, 9)
		enginetest.Close(t, x.l)
		x.l, x.s = openStream(t, enginetest.SimOptions(d))
	}
	if len(calls) != 3 {
		t.Errorf("%d streams were carried forward", len(calls))
	}
	enginetest.Close(t, x.l)
}

// Follow and Records return each record once although the stream is carried forward meanwhile.
func TestStreamIteratorsAcrossCarry(t *testing.T) {
	x := newIdleLog(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	s := x.stream(1)
	appendRange(t, s, 1, 6)
	enginetest.Flush(t, x.l)
	want := engine.Seq(1)
	for r, err := range s.Follow(context.Background(), 1) {
		if err != nil || r.Seq != want {
			t.Fatalf("record %d: %d, %v", want, r.Seq, err)
		}
		if want++; want == 4 || want == 7 {
			x.work(12)
		}
		if want == 7 { // a truncation behind what it has seen, of a record that it has not
			appendRange(t, s, 7, 8)
			if err := s.TruncateAfter(context.Background(), 6); err != nil {
				t.Fatal(err)
			}
			appendRange(t, s, 7, 9)
		}
		if want == 10 {
			break
		}
	}
	want = 1
	for r, err := range s.Records(0) {
		if err != nil || r.Seq != want {
			t.Fatalf("record %d: %d, %v", want, r.Seq, err)
		}
		if want++; want == 3 {
			enginetest.Flush(t, x.l)
			x.work(12)
		}
	}
	if want != 7 && want != 10 {
		t.Errorf("Records has returned the records below %d", want)
	}
	enginetest.Close(t, x.l)
}

// Records ends with the last record that was stable when it began, wherever that is in its segment.
func TestStreamRecordsEndsWithStable(t *testing.T) {
	o := enginetest.SimOptions(simdisk.New(1, simdisk.Options{}))
	o.FlushEvery = -1
	l, s := openStream(t, o)
	for q := engine.Seq(1); q < 1000; q += 2 {
		if _, err := s.Append(q, recordOf(q)); err != nil {
			t.Fatal(err)
		}
		if q%7 == 0 {
			enginetest.Flush(t, l)
		}
		stable, last := l.StableLSN(), engine.Seq(0)
		for r, err := range s.Records(max(1, q-min(q, 30))) {
			if err != nil || r.LSN > stable {
				t.Fatalf("record %d at LSN %d, stable is %d: %v", r.Seq, r.LSN, stable, err)
			}
			last = r.Seq
		}
		if q%7 == 0 && last != q || last+14 < q {
			t.Fatalf("records up to %d of %d", last, q)
		}
	}
	enginetest.Close(t, l)
}

// Readers find the records of a stream at all times while it is carried forward. Proves S5.
func TestStreamReadersBesideCarry(t *testing.T) {
	t.Parallel()
	x := newIdleLog(t, enginetest.SimOptions(simdisk.New(2, simdisk.Options{})))
	s := x.stream(1)
	appendRange(t, s, 1, 9)
	var done atomic.Bool
	var wg sync.WaitGroup
	for i := range engine.Seq(2) {
		wg.Go(func() {
			var b []byte
			for q := i; !done.Load(); q++ {
				var err error
				n := 1 + q%9
				if b, err = s.AppendTo(b[:0], n); err != nil || !bytes.Equal(b, recordOf(n)) {
					t.Errorf("record %d: %v", n, err)
					return
				}
			}
		})
	}
	x.work(100)
	done.Store(true)
	wg.Wait()
	x.check(1, 1, 9)
	enginetest.Close(t, x.l)
}

// The bytes that Get and Read have returned beside a pin stay as they were until it ends, whatever is dropped. The
// segments are not used again before; a later DropBelow frees them.
func TestPinKeepsViews(t *testing.T) {
	t.Parallel()
	x := newIdleLog(t, enginetest.SimOptions(simdisk.New(2, simdisk.Options{})))
	s := x.stream(1)
	appendRange(t, s, 1, 9)
	x.work(2) // so that the segment is sealed, and read through the map
	pin, err := x.l.Pin()
	if err != nil {
		t.Fatal(err)
	}
	var views [][]byte
	for q := engine.Seq(1); q <= 9; q++ {
		r, err := s.Get(q)
		if err != nil {
			t.Fatal(err)
		}
		views = append(views, r.Bytes)
	}
	if err := s.DropBelow(context.Background(), 5); err != nil {
		t.Fatal(err)
	}
	later, err := x.l.Pin()
	if err != nil {
		t.Fatal(err)
	}
	x.work(40)
	if _, err := s.Get(4); !errors.Is(err, engine.ErrDropped) {
		t.Errorf("a dropped record beside a pin: %v", err)
	}
	for i, b := range views {
		if q := engine.Seq(i + 1); !bytes.Equal(b, recordOf(q)) {
			t.Errorf("record %d is %q", q, b)
		}
	}
	if n := x.l.Stats().Space.Draining; n < 30 {
		t.Errorf("%d segments wait beside a pin", n)
	}
	later.End()
	x.work(1)
	if n := x.l.Stats().Space.Draining; n < 30 {
		t.Errorf("%d segments wait beside the older pin", n)
	}
	pin.End()
	pin.End()
	x.work(1)
	if n := x.l.Stats().Space.Draining; n > 1 {
		t.Errorf("%d segments wait after the pins", n)
	}
	x.check(1, 5, 9)
	if got := x.l.SegmentSize(); got != 16<<10 {
		t.Errorf("segment size %d", got)
	}
	if pin, err = x.l.Pin(); err != nil {
		t.Fatal(err)
	}
	r, err := s.Get(5)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.l.Close(); err == nil {
		t.Error("Close does not report the pin")
	}
	if !bytes.Equal(r.Bytes, recordOf(5)) {
		t.Error("the record has changed after Close")
	}
	pin.End()
	if _, err := x.l.Pin(); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// The tables of segments that are dropped before they were sealed, or whose index does not list their records, serve
// later segments. Proves S4.
func TestStreamTablesOfDroppedSegments(t *testing.T) {
	d := simdisk.New(6, simdisk.Options{})
	o := enginetest.SimOptions(d)
	l, s := openStream(t, o)
	const last = 4000
	for q := engine.Seq(1); q <= last; q++ {
		if _, err := s.Append(q, make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Close(t, l)
	for _, g := range scannedLog(t, d).Segments { // so that no index can be used
		d.FlipBit(logFile, int64(g.Slot.Offset(o.SegmentSize))+int64(o.SegmentSize)-3, 1)
	}
	l, s = openStream(t, o)
	before, _ := engine.StreamTables(l)
	if before < 10 {
		t.Fatalf("%d tables for segments without an index", before)
	}
	if err := s.DropBelow(context.Background(), last); err != nil {
		t.Fatal(err)
	}
	if made, free := engine.StreamTables(l); made > before+1 || free < before-2 {
		t.Errorf("%d of %d tables are free after the drop, of %d before", free, made, before)
	}
	enginetest.Close(t, l)
}

// Salvage saves the records of a stream that were being carried forward: the group with their copies was not written to
// its end, or is corrupt, so it does not remove what it has no copies of.
func TestSalvageBesideTornCarry(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	x := newIdleLog(t, enginetest.SimOptions(d))
	appendRange(t, x.stream(1), 5, 9)
	x.work(2)
	pin, err := x.l.Pin() // keeps the old places, as a crash between the carry and the recycling does
	if err != nil {
		t.Fatal(err)
	}
	x.work(12)
	x.check(1, 5, 9)
	enginetest.Flush(t, x.l)
	after := d.Copy()
	pin.End()
	copies := func(log []byte, q engine.Seq) (at []int) {
		for i := 0; ; {
			j := bytes.Index(log[i:], recordOf(q))
			if j < 0 {
				return at
			}
			at = append(at, i+j)
			i += j + 1
		}
	}
	log := after.ReadDurable("/store/log")
	first, last := copies(log, 5), copies(log, 9)
	if len(first) != 2 || len(last) != 2 {
		t.Fatalf("records 5 and 9 lie at %v and %v, want two places each", first, last)
	}
	for name, damage := range map[string]func(d *simdisk.Disk){
		"nothing": func(*simdisk.Disk) {},
		"torn": func(d *simdisk.Disk) {
			end := last[1] + len(recordOf(9))
			d.Alter("/store/log", int64(first[1]), make([]byte, end-first[1]))
		},
		"half": func(d *simdisk.Disk) {
			at := copies(log, 7)[1]
			d.Alter("/store/log", int64(at), make([]byte, last[1]+len(recordOf(9))-at))
		},
		"flipped": func(d *simdisk.Disk) { d.FlipBit("/store/log", int64(last[1]), 1) },
	} {
		t.Run(name, func(t *testing.T) {
			d := after.Copy()
			damage(d)
			o := enginetest.SimOptions(d)
			r, err := engine.Salvage("/store", "/saved", o, nil)
			if err != nil {
				t.Fatal(err)
			}
			l := enginetest.OpenLog(t, "/saved", o)
			defer enginetest.Close(t, l)
			s, err := l.Stream(1)
			if err != nil {
				t.Fatal(err)
			}
			for q := engine.Seq(5); q <= 9; q++ {
				if rec, err := s.Get(q); err != nil || !bytes.Equal(rec.Bytes, recordOf(q)) {
					t.Errorf("record %d is not saved: %v (%+v)", q, err, r)
				}
			}
		})
	}
}
