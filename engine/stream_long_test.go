package engine_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// Records that are longer than a segment are read as a whole, by number and in order, in this opening and the next, as
// long as no DropBelow has removed them, whatever else is dropped. Proves S8.
func TestStreamLongRecords(t *testing.T) {
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
	if _, err := s.Append(9, make([]byte, 3<<20)); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("a record of 3 MiB: %v", err)
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
		q := first
		for r, err := range s.Records(0) {
			if err != nil || r.Seq != q || !bytes.Equal(r.Bytes, want[q]) {
				t.Fatalf("round %d, record %d: %d, %d bytes, %v", round, q, r.Seq, len(r.Bytes), err)
			}
			if b, err := s.AppendTo([]byte("x"), q); err != nil || !bytes.Equal(b[1:], want[q]) {
				t.Fatalf("round %d, record %d: %v", round, q, err)
			}
			q++
		}
		if v, _ := s.Note("n"); q != 9 || len(v) != 1 || v[0] != 8 {
			t.Fatalf("round %d: records up to %d, note %v", round, q-1, v)
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
		} else {
			enginetest.Flush(t, x.l)
			next := d.Crash(uint64(round))
			_ = x.l.Close()
			d = next
		}
		x.l, x.s = openStream(t, enginetest.SimOptions(d))
		s = x.stream(1)
	}
	if err := s.DropBelow(context.Background(), 9); err != nil {
		t.Fatal(err)
	}
	x.work(2)
	if n := x.segments(); n > 5 {
		t.Errorf("%d segments once the long records are dropped", n)
	}
	enginetest.Close(t, x.l)
}

// The segments of the parts of a record stay in the log while it is written. Proves S8.
func TestStreamLongBesideDrops(t *testing.T) {
	x := newIdleLog(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	s := x.stream(1)
	long := enginetest.Random(200_000, 1)
	inside := false
	engine.OnCarry(x.l, func(id engine.StreamID) {
		if id == 1 && !inside { // not for the DropBelow in here
			inside = true
			defer func() { inside = false }()
			enginetest.Flush(t, x.l)
			x.work(5)
		}
	})
	for q := engine.Seq(1); q <= 3; q++ {
		if err := s.AppendStable(context.Background(), q, long); err != nil {
			t.Fatal(err)
		}
		if b, err := s.AppendTo(nil, q); err != nil || !bytes.Equal(b, long) {
			t.Fatalf("record %d: %d bytes, %v", q, len(b), err)
		}
		if err := s.DropBelow(context.Background(), q); err != nil {
			t.Fatal(err)
		}
	}
	if n := x.segments(); n > 40 {
		t.Errorf("%d segments, with one record of 200 KB", n)
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
	at := bytes.LastIndex(d.ReadDurable(logFile), long[50_000:50_100]) // in the last part of record 2
	if at < 0 {
		t.Fatal("the record is not in the file")
	}
	d.FlipBit(logFile, int64(at), 1)
	r, err := engine.Salvage("/store", "/out", enginetest.SimOptions(d), nil)
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
	if saved != 1 || len(r.Losses) == 0 {
		t.Errorf("%d long records were saved, %d losses", saved, len(r.Losses))
	}
	enginetest.Close(t, x.l)
}
