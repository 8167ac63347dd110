package engine_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/stream"
	"pagecache/internal/simdisk"
)

// Records that are longer than a segment are read as a whole, by number and in order, in this opening and the next, as
// long as no DropBelow has removed them, whatever else is dropped. Proves S8.
func TestStreamLongRecords(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	x := newIdleLog(t, enginetest.SimOptions(d))
	s := x.stream(1)
	want := map[engine.Seq][]byte{}
	for i, n := range []int{5, 12 << 10, 16 << 10, 40_000, 0, 200_000, 3000, 100_000} {
		q := engine.Seq(i + 1)
		want[q] = enginetest.Random(n, uint64(n))
		if _, err := s.AppendNoted(q, [][]byte{want[q]}, engine.Note{Name: "n", Value: []byte{byte(q)}}); err != nil {
			t.Fatalf("a record of %d bytes: %v", n, err)
		}
	}
	_, err := s.Append(9, make([]byte, 3<<20))
	if !errors.Is(err, engine.ErrTooLarge) || err.Error() != "append: record of 3145728 bytes, limit 1143000" {
		t.Errorf("a record of 3 MiB: %v", err)
	}
	if _, err := s.Append(9, make([]byte, 1<<20), nil); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("a long record and another one: %v", err)
	}
	if _, err := s.Append(8, make([]byte, 1<<20)); !errors.Is(err, engine.ErrSequence) {
		t.Errorf("a long record again: %v", err)
	}
	tooLong := engine.Note{Name: "a", Value: make([]byte, 2000)}
	if _, err := s.AppendNoted(9, [][]byte{make([]byte, 1<<20)}, tooLong); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("a long record with a note that is too long: %v", err)
	}
	first := engine.Seq(1)
	for round := range 6 {
		x.work(20)
		x.checkLong(1, first, want)
		if v, _ := s.Note("n"); len(v) != 1 || v[0] != 8 {
			t.Fatalf("round %d: note %v", round, v)
		}
		if first++; round == 3 {
			first = 8
		}
		first = min(first, 8)
		if err := s.DropBelow(context.Background(), first); err != nil {
			t.Fatal(err)
		}
		if round%2 == 0 {
			enginetest.Close(t, x.l)
			o := enginetest.SimOptions(d)
			o.ReadOnly = true
			x.l, x.s = openStream(t, o)
			x.checkLong(1, first, want)
			enginetest.Close(t, x.l)
		} else {
			enginetest.Flush(t, x.l)
			next := d.Crash(uint64(round))
			_ = x.l.Close()
			d = next
		}
		x.l, x.s = openStream(t, enginetest.SimOptions(d))
		s = x.stream(1)
	}
	r, err := s.Get(8)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DropBelow(context.Background(), 9); err != nil {
		t.Fatal(err)
	}
	x.work(20)
	if n := x.segments(); n > 5 {
		t.Errorf("%d segments once the long records are dropped", n)
	}
	if !bytes.Equal(r.Bytes, want[8]) { // it is a copy
		t.Error("the record has changed after it was dropped")
	}
	enginetest.Close(t, x.l)
}

// checkLong compares the records of a stream from number first on, which are those of want.
func (x *idleLog) checkLong(id engine.StreamID, first engine.Seq, want map[engine.Seq][]byte) {
	x.t.Helper()
	s, q, last := x.stream(id), first, slices.Max(slices.Collect(maps.Keys(want)))
	for r, err := range s.Records(0) {
		if err != nil || r.Seq != q || !bytes.Equal(r.Bytes, want[q]) {
			x.t.Fatalf("record %d: %d, %d bytes, %v", q, r.Seq, len(r.Bytes), err)
		}
		if b, err := s.AppendTo([]byte("x"), q); err != nil || !bytes.Equal(b[1:], want[q]) {
			x.t.Fatalf("record %d: %v", q, err)
		}
		q++
		for _, found := want[q]; !found && q <= last; _, found = want[q] {
			q++
		}
	}
	if q <= last {
		x.t.Fatalf("the records end below %d", q)
	}
}

// begin begins to append a record that is longer than a segment.
func (x *idleLog) begin(id engine.StreamID, q engine.Seq, record []byte) *stream.Long {
	x.t.Helper()
	w, err := engine.BeginLong(x.stream(id), q, record)
	if err != nil {
		x.t.Fatal(err)
	}
	return w
}

// next writes n parts of a long record, and reports whether it is complete.
func (x *idleLog) next(w *stream.Long, n int) (done bool) {
	x.t.Helper()
	for range n {
		var err error
		if _, done, err = w.Next(); err != nil {
			x.t.Fatal(err)
		}
		if done {
			break
		}
	}
	return done
}

// The segments of the parts of a record stay in the log while it is written, and as long as it is a record, but not
// once it was given up. Proves S8.
func TestStreamLongBesideDrops(t *testing.T) {
	t.Parallel()
	x := newIdleLog(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	s := x.stream(1)
	long := enginetest.Random(200_000, 1)
	for q := engine.Seq(1); q <= 3; q++ {
		w := x.begin(1, q, long)
		for !x.next(w, 9) {
			x.work(2)
		}
		w.End()
		x.work(10)
		if b, err := s.AppendTo(nil, q); err != nil || !bytes.Equal(b, long) {
			t.Fatalf("record %d: %d bytes, %v", q, len(b), err)
		}
		if err := s.DropBelow(context.Background(), q); err != nil {
			t.Fatal(err)
		}
	}
	if n := x.segments(); n > 50 {
		t.Errorf("%d segments, with one record of 200 KB", n)
	}
	w := x.begin(1, 9, long) // its parts will lie before records with lower numbers
	x.next(w, 30)
	x.work(3)
	appendRange(t, s, 4, 6)
	x.next(w, 100)
	w.End()
	if err := s.DropBelow(context.Background(), 5); err != nil {
		t.Fatal(err)
	}
	x.work(10)
	if b, err := s.AppendTo(nil, 9); err != nil || !bytes.Equal(b, long) {
		t.Fatalf("record 9: %d bytes, %v", len(b), err)
	}
	if _, err := s.Append(10, long); err != nil {
		t.Fatal(err)
	}
	appendRange(t, s, 11, 11) // in the segment of the message before
	w = x.begin(1, 12, long)
	x.next(w, 30)
	if err := s.DropBelow(context.Background(), 11); err != nil {
		t.Fatal(err)
	}
	x.work(10)
	w.End()
	x.work(2)
	if n := x.segments(); n > 14 {
		t.Errorf("%d segments, with one short record", n)
	}
	if err := s.DropBelow(context.Background(), 12); err != nil {
		t.Fatal(err)
	}
	x.work(2)
	if n := x.segments(); n > 5 {
		t.Errorf("%d segments, without a record", n)
	}
	enginetest.Close(t, x.l)
}

// pausingLong is a long record whose writer pauses after some parts, until goesOn is set.
type pausingLong struct {
	*stream.Long
	left   int
	paused chan struct{}
	goesOn atomic.Bool
}

func (p *pausingLong) Next() (engine.LSN, bool, error) {
	if p.left == 0 && !p.goesOn.Load() {
		time.Sleep(time.Millisecond)
		return 0, false, nil
	}
	if p.left--; p.left == 0 {
		defer close(p.paused)
	}
	return p.Long.Next()
}

// DropBelow does not wait for the end of a long record that is being appended: it frees what lies before it.
func TestStreamLongHoldsUpNoDrop(t *testing.T) {
	t.Parallel()
	x := newIdleLog(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	s := x.stream(1)
	long := enginetest.Random(300_000, 1)
	for q := engine.Seq(1); q <= 3; q++ {
		for range 20 {
			if _, err := x.s.Append(x.q, make([]byte, 2900)); err != nil {
				t.Fatal(err)
			}
			x.q++
		}
		enginetest.Flush(t, x.l)
		w := &pausingLong{Long: x.begin(1, q, long), left: 30, paused: make(chan struct{})}
		appended := make(chan error, 1)
		go func() {
			_, err := engine.WriteLong(s, w)
			appended <- err
		}()
		<-w.paused
		recycled := x.l.Stats().Space.Recycled
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		err := x.s.DropBelow(ctx, x.q-1)
		cancel()
		if n := x.l.Stats().Space.Recycled - recycled; err != nil || n == 0 {
			t.Errorf("DropBelow beside a long record: %d segments are free, %v", n, err)
		}
		if _, last := s.Bounds(); last == q {
			t.Error("a part of a record is a record")
		}
		w.goesOn.Store(true)
		if err := <-appended; err != nil {
			t.Fatal(err)
		}
		if b, err := s.AppendTo(nil, q); err != nil || !bytes.Equal(b, long) {
			t.Errorf("record %d: %d bytes, %v", q, len(b), err)
		}
		if err := s.DropBelow(context.Background(), q+1); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Close(t, x.l)
}

// A crash between the parts of a record leaves none of it: the stream is as before, and the parts do not stay in the
// log. Proves S8.
func TestStreamLongCrashBetweenParts(t *testing.T) {
	t.Parallel()
	const most = 15 // 14 parts, and the message that makes them a record
	long := enginetest.Random(40_000, 1)
	for n := range most + 1 {
		d := simdisk.New(uint64(n), simdisk.Options{})
		x := newIdleLog(t, enginetest.SimOptions(d))
		appendRange(t, x.stream(1), 1, 3)
		w := x.begin(1, 4, long)
		if done := x.next(w, n); done != (n == most) {
			t.Fatalf("after %d parts the record is complete: %v", n, done)
		}
		enginetest.Flush(t, x.l)
		next := d.Crash(uint64(n))
		w.End()
		_ = x.l.Close()
		x.l, x.s = openStream(t, enginetest.SimOptions(next))
		want := map[engine.Seq][]byte{1: recordOf(1), 2: recordOf(2), 3: recordOf(3)}
		s := x.stream(1)
		if n == most {
			want[4] = long
		}
		x.checkLong(1, 1, want)
		q := engine.Seq(len(want) + 1)
		want[q] = enginetest.Random(50_000, 2)
		if err := s.AppendStable(context.Background(), q, want[q]); err != nil {
			t.Fatal(err)
		}
		x.checkLong(1, 1, want)
		if err := s.DropBelow(context.Background(), q+1); err != nil {
			t.Fatal(err)
		}
		x.work(2)
		if got := x.segments(); got > 5 {
			t.Errorf("%d segments after a crash behind %d parts", got, n)
		}
		enginetest.Close(t, x.l)
	}
}

// Changes of a stream while a long record of it is written count, and come before that record. Proves S1.
func TestStreamChangesBesideLong(t *testing.T) {
	ctx := context.Background()
	for seed := range uint64(2) {
		d := simdisk.New(seed, simdisk.Options{})
		x := newIdleLog(t, enginetest.SimOptions(d))
		s := x.stream(1)
		appendRange(t, s, 1, 9)
		long := enginetest.Random(60_000, seed)
		w := x.begin(1, 10, long)
		x.next(w, 5)
		if err := errors.Join(s.TruncateAfter(ctx, 5), s.DropBelow(ctx, 3)); err != nil {
			t.Fatal(err)
		}
		if !x.next(w, 100) {
			t.Fatal("the record is not complete")
		}
		w.End()
		if first, last := s.Bounds(); first != 3 || last != 10 {
			t.Fatalf("records %d to %d", first, last)
		}
		w = x.begin(1, 11, long)
		x.next(w, 10)
		appendRange(t, s, 11, 12)
		for err := error(nil); err == nil; {
			if _, _, err = w.Next(); err != nil && !errors.Is(err, engine.ErrSequence) {
				t.Fatal(err)
			}
		}
		w.End()
		x.work(3) // so that the segments are sealed
		if b, err := s.AppendTo(nil, 10); err != nil || !bytes.Equal(b, long) {
			t.Fatalf("record 10: %d bytes, %v", len(b), err)
		}
		want := map[engine.Seq][]byte{}
		for _, q := range []engine.Seq{3, 4, 5, 10, 11, 12} {
			want[q] = recordOf(q)
		}
		if seed == 0 {
			want[10] = long
		} else if err := s.TruncateAfter(ctx, 9); err != nil {
			t.Fatal(err)
		} else {
			appendRange(t, s, 10, 12)
			x.work(20)
			if n := x.segments(); n > 14 {
				t.Errorf("%d segments once the long record was cut off", n)
			}
		}
		for range 2 {
			x.checkLong(1, 3, want)
			enginetest.Flush(t, x.l)
			next := d.Crash(seed)
			_ = x.l.Close()
			d = next
			x.l, x.s = openStream(t, enginetest.SimOptions(d))
		}
		enginetest.Close(t, x.l)
	}
}

// A stream with a long record is not carried forward, and neither is it read for that. Proves S7.
func TestStreamLongIsNotRead(t *testing.T) {
	x := newIdleLog(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	s := x.stream(1)
	appendRange(t, s, 1, 3)
	if _, err := s.Append(4, make([]byte, 30_000)); err != nil {
		t.Fatal(err)
	}
	before := x.lsn(1)
	engine.OnCarry(x.l, func(id engine.StreamID) {
		if id == 1 && before != 0 {
			t.Error("the stream was read to be carried forward")
		}
	})
	x.work(20)
	if now := x.lsn(1); now != before {
		t.Errorf("the stream has moved from LSN %d to %d", before, now)
	}
	if before = 0; s.TruncateAfter(context.Background(), 3) != nil {
		t.Fatal("truncation failed")
	}
	x.work(20)
	if n := x.segments(); n > 14 {
		t.Errorf("%d segments once the stream is short", n)
	}
	x.check(1, 1, 3)
	enginetest.Close(t, x.l)
}

// A long record for which the disk has no room leaves no record, and what was written of it is freed as anything else
// that is dropped. Notes can be set meanwhile. Proves rule 9.
func TestStreamLongOnFullDisk(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	d.SetCapacity(24*16<<10 + 64<<10)
	ctx := context.Background()
	x := newIdleLog(t, enginetest.SimOptions(d))
	s := x.stream(1)
	long := enginetest.Random(60_000, 1)
	for q := engine.Seq(1); q < 20; q += 4 {
		appendRange(t, s, q, q+1)
		if _, err := s.Append(q+2, long); err != nil {
			t.Fatal(err)
		}
		_, err := s.Append(q+3, make([]byte, 700_000))
		if first, last := s.Bounds(); !errors.Is(err, engine.ErrNoSpace) || first != q || last != q+2 {
			t.Fatalf("records %d to %d, after %v", first, last, err)
		}
		if err := s.SetNote(ctx, "vote", []byte{byte(q)}); err != nil {
			t.Fatal(err)
		}
		if b, err := s.AppendTo(nil, q+2); err != nil || !bytes.Equal(b, long) {
			t.Fatalf("record %d: %d bytes, %v", q+2, len(b), err)
		}
		if q == 9 {
			enginetest.Close(t, x.l)
			x.l, x.s = openStream(t, enginetest.SimOptions(d))
			s = x.stream(1)
		}
		if err := s.DropBelow(ctx, q+4); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Close(t, x.l)
}

// A long record of which a part is corrupt is reported when it is read, by each way to read it, and by Check. The
// others are as before. Proves rule 12.
func TestStreamLongWithCorruptPart(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	x := newIdleLog(t, enginetest.SimOptions(d))
	s := x.stream(1)
	appendRange(t, s, 1, 1)
	long := enginetest.Random(60_000, 1)
	if _, err := s.Append(2, long); err != nil {
		t.Fatal(err)
	}
	appendRange(t, s, 3, 3)
	enginetest.Close(t, x.l)
	at := bytes.Index(d.ReadDurable(logFile), long[30_000:30_100])
	if at < 0 {
		t.Fatal("the record is not in the file")
	}
	d.FlipBit(logFile, int64(at), 1)
	var err error
	if x.l, err = engine.OpenLog("/store", enginetest.SimOptions(d)); err != nil {
		t.Fatal(err)
	}
	s = x.stream(1)
	for _, q := range []engine.Seq{1, 3} {
		if b, err := s.AppendTo(nil, q); err != nil || !bytes.Equal(b, recordOf(q)) {
			t.Errorf("record %d: %v", q, err)
		}
	}
	if r, err := s.Get(2); !errors.Is(err, engine.ErrCorrupt) {
		t.Errorf("Get: %d bytes, %v", len(r.Bytes), err)
	}
	dst := make([]byte, 3, 100_000)
	if b, err := s.AppendTo(dst, 2); !errors.Is(err, engine.ErrCorrupt) || len(b) != 3 {
		t.Errorf("AppendTo: %d bytes, %v", len(b), err)
	}
	q := engine.Seq(1)
	for r, err := range s.Records(0) {
		if (err != nil) != (q == 2) || err != nil && !errors.Is(err, engine.ErrCorrupt) || err == nil && r.Seq != q {
			t.Errorf("Records at %d: %d, %v", q, r.Seq, err)
		}
		q++
	}
	if err := x.l.Close(); err != nil {
		t.Fatal(err)
	}
	problems := 0
	o := enginetest.SimOptions(d)
	if r, err := engine.Check("/store", o, func(error) { problems++ }); err != nil || problems != 1 || r.Problems != 1 {
		t.Errorf("%d problems, %v", problems, err)
	}
}

// Goroutines that read long records while these are dropped find all of a record or none, on a simulated disk and on a
// real one, where builds with the invariants tag protect the memory of segments that are free. Proves S5 and S8.
func TestStreamLongReadersBesideDrops(t *testing.T) {
	t.Parallel()
	var longs [5][]byte
	for i := range longs {
		longs[i] = enginetest.Random(20_000+10_000*i, uint64(i))
	}
	for _, dir := range []string{"/store", t.TempDir()} {
		o := enginetest.SimOptions(simdisk.New(2, simdisk.Options{}))
		if dir != "/store" {
			o = &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2}
		}
		x := &idleLog{t: t, l: enginetest.OpenLog(t, dir, o)}
		s := x.stream(1)
		var done atomic.Bool
		var found atomic.Int64
		var wg sync.WaitGroup
		for i := range uint64(2) {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(i, 1))
				for b := []byte(nil); !done.Load(); {
					first, last := s.Bounds()
					q := first + engine.Seq(rng.Uint64N(uint64(last-first)+1))
					var err error
					switch b, err = s.AppendTo(b[:0], q); {
					case err == nil && bytes.Equal(b, longs[q%5]):
						found.Add(1)
					case !errors.Is(err, engine.ErrDropped) && !errors.Is(err, engine.ErrNoRecord):
						t.Errorf("record %d: %d bytes, %v", q, len(b), err)
						return
					}
				}
			})
		}
		for q := engine.Seq(1); (q <= 60 || found.Load() < 20) && !t.Failed(); q++ {
			if err := s.AppendStable(context.Background(), q, longs[q%5]); err != nil {
				t.Fatal(err)
			}
			if err := s.DropBelow(context.Background(), q-q%3); err != nil {
				t.Fatal(err)
			}
		}
		done.Store(true)
		wg.Wait()
		enginetest.Close(t, x.l)
	}
}

// AppendTo reads a long record to the memory that it is given, part by part.
func TestStreamLongIsReadInPlace(t *testing.T) {
	x := newIdleLog(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	s := x.stream(1)
	long := enginetest.Random(1_000_000, 1)
	if _, err := s.Append(1, long); err != nil {
		t.Fatal(err)
	}
	x.work(5)
	dst := make([]byte, 0, len(long))
	var before, after runtime.MemStats
	const reads = 5
	runtime.ReadMemStats(&before)
	for range reads {
		b, err := s.AppendTo(dst, 1)
		if err != nil || !bytes.Equal(b, long) || &b[0] != &dst[:1][0] {
			t.Fatal("the record is not as it was appended, or elsewhere", err)
		}
	}
	runtime.ReadMemStats(&after)
	// The simulated disk copies each part that it returns.
	if n := (after.TotalAlloc - before.TotalAlloc) / reads; n > uint64(len(long))*3/2 {
		t.Errorf("reading a record of %d bytes allocates %d", len(long), n)
	}
	enginetest.Close(t, x.l)
}

// Salvage saves long records, notes, and records that were carried forward. A long record of which a part is corrupt is
// lost as a whole.
func TestSalvageStreams(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	x := newIdleLog(t, enginetest.SimOptions(d))
	appendRange(t, x.stream(1), 1, 9)
	if err := x.stream(1).SetNote(context.Background(), "n", []byte("v")); err != nil {
		t.Fatal(err)
	}
	x.work(20)
	long := enginetest.Random(60_000, 1)
	s := x.stream(2)
	for q := engine.Seq(1); q <= 2; q++ {
		if _, err := s.Append(q, long); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Close(t, x.l)
	at := bytes.LastIndex(d.ReadDurable(logFile), long[50_000:50_100]) // in the last part but a few of record 1 or 2
	if at < 0 {
		t.Fatal("the record is not in the file")
	}
	d.FlipBit(logFile, int64(at), 1)
	lost := 0
	r, err := engine.Salvage("/store", "/out", enginetest.SimOptions(d), func(what string) {
		if strings.Contains(what, "its part at LSN") {
			lost++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	x.l = enginetest.OpenLog(t, "/out", enginetest.SimOptions(d))
	x.check(1, 1, 9)
	if v, _ := x.stream(1).Note("n"); string(v) != "v" {
		t.Errorf("the note is %q", v)
	}
	saved := 0
	for _, q := range []engine.Seq{1, 2} {
		if b, err := x.stream(2).AppendTo(nil, q); err == nil && bytes.Equal(b, long) {
			saved++
		} else if !errors.Is(err, engine.ErrNoRecord) && !errors.Is(err, engine.ErrDropped) {
			t.Errorf("record %d: %d bytes, %v", q, len(b), err)
		}
	}
	if saved != 1 || lost != 1 || len(r.Losses) == 0 {
		t.Errorf("%d long records were saved, %d are reported as lost, %d losses", saved, lost, len(r.Losses))
	}
	enginetest.Close(t, x.l)
}
