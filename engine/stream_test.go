package engine_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/invariants"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// openStream opens a log with small segments, and a stream of it.
func openStream(t *testing.T, o *engine.Options) (*engine.Log, *engine.Stream) {
	t.Helper()
	if o.SegmentSize == 0 {
		o.SegmentSize = 16 << 10
	}
	l := enginetest.OpenLog(t, "/store", o)
	s, err := l.Stream(0)
	if err != nil {
		t.Fatal(err)
	}
	return l, s
}

func appendRange(t *testing.T, s *engine.Stream, from, to engine.Seq) {
	t.Helper()
	for q := from; q <= to; q++ {
		if _, err := s.Append(q, recordOf(q)); err != nil {
			t.Fatal(err)
		}
	}
}

// recordOf returns the record that tests append as number q.
func recordOf(q engine.Seq) []byte {
	return fmt.Appendf(bytes.Repeat([]byte{'.'}, int(q%200)), "%d", q)
}

// Numbers that do not rise are refused, and so are reads of what is not there; then nothing has changed.
func TestStreamRefuses(t *testing.T) {
	l, s := openStream(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	ctx := context.Background()
	appendRange(t, s, 10, 20)
	for _, q := range []engine.Seq{0, 1, 20} {
		if _, err := s.Append(q, nil); !errors.Is(err, engine.ErrSequence) {
			t.Errorf("append %d: %v", q, err)
		}
	}
	for _, q := range []engine.Seq{^engine.Seq(0), ^engine.Seq(0) - 1} {
		if _, err := s.Append(q, nil, nil); !errors.Is(err, engine.ErrSequence) {
			t.Errorf("append two from %d: %v", q, err)
		}
	}
	if _, err := s.Append(21, []byte("one"), make([]byte, 20<<10)); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("a batch that is too long: %v", err)
	}
	if _, err := s.Append(21, make([][]byte, 350)...); !errors.Is(err, engine.ErrTooLarge) { // with its index
		t.Errorf("a batch that is too long: %v", err)
	}
	if lsn, err := s.Append(21); err != nil || lsn != 0 {
		t.Errorf("no record: %v, %v", lsn, err)
	}
	if err := s.DropBelow(ctx, 12); err != nil {
		t.Error(err)
	}
	for q, want := range map[engine.Seq]error{0: engine.ErrDropped, 11: engine.ErrDropped, 12: nil, 20: nil,
		21: engine.ErrNoRecord} {
		if _, err := s.Get(q); !errors.Is(err, want) {
			t.Errorf("get %d: %v, want %v", q, err, want)
		}
		b, err := s.AppendTo([]byte("x"), q)
		if wantB := append([]byte("x"), recordOf(q)...); !errors.Is(err, want) || err == nil && !bytes.Equal(b, wantB) {
			t.Errorf("append record %d: %q, %v, want %v", q, b, err, want)
		}
	}
	for _, err := range s.Records(1) {
		if !errors.Is(err, engine.ErrDropped) {
			t.Errorf("iterate from 1: %v", err)
		}
	}
	if _, err := l.Stream(engine.MaxStreamID + 1); !errors.Is(err, engine.ErrPageRange) {
		t.Error(err)
	}
	enginetest.Close(t, l)
	_, err := s.Append(21, nil)
	_, errGet := s.Get(15)
	_, errStream := l.Stream(1)
	errCut := s.TruncateAfter(ctx, 15)
	for _, err := range []error{err, errGet, errStream, errCut, s.DropBelow(ctx, 16)} {
		if !errors.Is(err, engine.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// AppendTo appends a short record to what is there, whether its segment is sealed or not, and whatever block it ends
// in. If any byte of it is corrupt, it returns an error and dst as it was. Proves rule 12.
func TestStreamAppendToIsVerified(t *testing.T) {
	const last = 400
	d := simdisk.New(1, simdisk.Options{})
	l, s := openStream(t, enginetest.SimOptions(d))
	appendRange(t, s, 1, last)
	read := func(q engine.Seq) error {
		t.Helper()
		dst := append(make([]byte, 0, 4096), "before"...)
		b, err := s.AppendTo(dst, q)
		if want := append(dst, recordOf(q)...); err == nil && !bytes.Equal(b, want) {
			t.Errorf("record %d: %q, want %q", q, b, want)
		}
		if err != nil && string(b) != "before" {
			t.Errorf("record %d: %q beside %v", q, b, err)
		}
		return err
	}
	all := func() {
		t.Helper()
		for q := engine.Seq(1); q <= last; q++ {
			if err := read(q); err != nil {
				t.Errorf("record %d: %v", q, err)
			}
		}
	}
	all() // some of them from an io buffer
	enginetest.Close(t, l)
	l, s = openStream(t, enginetest.SimOptions(d))
	all()
	r, err := s.Get(57)
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Close(t, l)
	for i := range int64(r.Ptr.Len) {
		d.FlipBit(logFile, int64(r.Ptr.Off)+i, uint(i%8))
		if l, err = engine.OpenLog("/store", enginetest.SimOptions(d)); err != nil {
			t.Fatal(err)
		}
		if s, err = l.Stream(0); err != nil {
			t.Fatal(err)
		}
		if err := read(57); !errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("byte %d of the record is corrupt: %v", i, err)
		}
		for _, q := range []engine.Seq{56, 58} {
			if err := read(q); err != nil {
				t.Errorf("byte %d of record 57 is corrupt: record %d: %v", i, q, err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		d.FlipBit(logFile, int64(r.Ptr.Off)+i, uint(i%8))
	}
}

// The highest number is that of a record as any other, in this opening and the next.
func TestStreamHighestNumber(t *testing.T) {
	const highest = ^engine.Seq(0) - 1
	d := simdisk.New(1, simdisk.Options{})
	l, s := openStream(t, enginetest.SimOptions(d))
	for q := highest - 2; q <= highest; q++ {
		if _, err := s.Append(q, recordOf(q)); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Flush(t, l)
	for _, q := range []engine.Seq{highest, highest + 1} {
		if _, err := s.Append(q, nil); !errors.Is(err, engine.ErrSequence) {
			t.Errorf("append %d: %v", q, err)
		}
	}
	for range 3 {
		q := highest - 2
		for r, err := range s.Records(0) {
			if err != nil || r.Seq != q || !bytes.Equal(r.Bytes, recordOf(q)) {
				t.Fatalf("record %d: %d, %v", q, r.Seq, err)
			}
			q++
		}
		if q != highest+1 {
			t.Errorf("the records end below %d", q)
		}
		if err := s.TruncateAfter(context.Background(), highest-1); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Append(highest, recordOf(highest)); err != nil {
			t.Fatal(err)
		}
		enginetest.Close(t, l)
		l, s = openStream(t, enginetest.SimOptions(d))
	}
	if err := s.DropBelow(context.Background(), highest); err != nil {
		t.Error(err)
	}
	if first, last := s.Bounds(); first != highest || last != highest {
		t.Errorf("records %d to %d", first, last)
	}
	enginetest.Close(t, l)
}

// Notes have limits, for each and for all of a log; a call that exceeds them does nothing. Several notes may be set at
// once, and removed. Values are copied.
func TestStreamNoteLimits(t *testing.T) {
	l, s := openStream(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	ctx := context.Background()
	for text, n := range map[string]engine.Note{
		"append: note with a name of 0 bytes, must be 1 to 255":   {Name: "", Value: []byte("a")},
		"append: note with a name of 256 bytes, must be 1 to 255": {Name: string(make([]byte, 256))},
		`append: note "a": value of 1025 bytes, limit 1024`:       {Name: "a", Value: make([]byte, 1025)},
	} {
		if err := s.SetNote(ctx, n.Name, n.Value); !errors.Is(err, engine.ErrTooLarge) || err.Error() != text {
			t.Errorf("a name of %d bytes, a value of %d: %v", len(n.Name), len(n.Value), err)
		}
	}
	value := []byte("vote")
	notes := []engine.Note{{Name: "b", Value: value}, {Name: "a", Value: []byte{}}, {Name: "c", Value: value}}
	if _, err := s.AppendNoted(0, nil, notes...); err != nil {
		t.Fatal(err)
	}
	value[0] = 'x'
	b, _ := s.Note("b")
	b[1] = 'x'
	if b, found := s.Note("b"); !found || string(b) != "vote" {
		t.Errorf("b is %q", b)
	}
	if err := s.SetNote(ctx, "c", nil); err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(s.Notes()); got != "[a b]" {
		t.Errorf("notes are %v", got)
	}
	var err error
	n := 0
	for ; err == nil; n++ {
		err = s.SetNote(ctx, fmt.Sprint(n), make([]byte, 1000))
	}
	if _, found := s.Note(fmt.Sprint(n - 1)); found || n != 3 || !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("the log takes %d notes of 1000 bytes: %v", n-1, err)
	}
	if _, err = s.AppendNoted(1, [][]byte{nil}, engine.Note{Name: "x", Value: make([]byte, 1000)}); err == nil {
		t.Error("a record is appended with a note that is too long")
	}
	if _, last := s.Bounds(); last != 0 {
		t.Errorf("record %d was appended by a call that failed", last)
	}
	if err := errors.Join(s.SetNote(ctx, "0", nil), s.SetNote(ctx, "x", make([]byte, 1000))); err != nil {
		t.Error(err) // there is room again
	}
	enginetest.Close(t, l)
	if _, err := s.AppendNoted(1, nil, notes...); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A note may be replaced as long as the notes of the log fit with the new value: the value that it had does not count.
// That holds for each stream, beside records, for a name that occurs twice in a call, and for a note that is removed in
// the same call. A call that makes the notes too long does nothing. They are carried forward at their longest.
func TestStreamNoteIsReplacedNearLimit(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	l, s := openStream(t, enginetest.SimOptions(d))
	other, err := l.Stream(1)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	value := func(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }
	for name, s := range map[string]*engine.Stream{"a": s, "b": s, "c": other} {
		if err := s.SetNote(ctx, name, value(970, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for round := range byte(3) {
		for name, s := range map[string]*engine.Stream{"a": s, "b": s, "c": other} {
			if err := s.SetNote(ctx, name, value(970, round)); err != nil {
				t.Errorf("note %q is set again: %v", name, err)
			}
		}
	}
	set := func(n int, names ...string) error {
		var notes []engine.Note
		for _, name := range names {
			notes = append(notes, engine.Note{Name: name, Value: value(n, byte(len(notes)))})
		}
		_, last := s.Bounds()
		_, err := s.AppendNoted(last+1, [][]byte{recordOf(last + 1)}, notes...)
		return err
	}
	if err := set(970, "a", "b"); err != nil {
		t.Errorf("two notes are set again beside a record: %v", err)
	}
	if err := set(970, "a", "a"); err != nil {
		t.Errorf("a note is set again twice: %v", err)
	}
	if b, _ := s.Note("a"); !bytes.Equal(b, value(970, 1)) {
		t.Error("the first of two values in one call holds")
	}
	moved := []engine.Note{{Name: "d", Value: value(970, 4)}, {Name: "b"}}
	if _, err := s.AppendNoted(0, nil, moved...); err != nil {
		t.Errorf("a note takes the room of one that is removed: %v", err)
	}
	for _, names := range [][]string{{"e"}, {"a", "e"}, {"e", "e", "a"}, {"a", "a", "a", "a"}} {
		if err := set(970, names...); !errors.Is(err, engine.ErrTooLarge) {
			t.Errorf("notes %v: %v", names, err)
		}
	}
	long := value(970, 0)
	twice := []engine.Note{{Name: "a", Value: []byte{}}, {Name: "a", Value: long}, {Name: "e", Value: long}}
	if _, err := s.AppendNoted(0, nil, twice...); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("the room of a note that is set twice is given away: %v", err)
	}
	if err := set(1024, "a", "d"); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("notes become longer than there is room: %v", err)
	}
	if got := fmt.Sprint(s.Notes(), other.Notes()); got != "[a d] [c]" {
		t.Errorf("notes are %v", got)
	}
	x := &idleLog{t: t, l: l, s: s, q: 3}
	x.work(10)
	for range 2 {
		for name, s := range map[string]*engine.Stream{"a": s, "d": s, "c": other} {
			if b, found := s.Note(name); !found || len(b) != 970 {
				t.Errorf("note %q has %d bytes", name, len(b))
			}
		}
		enginetest.Close(t, l)
		l, s = openStream(t, enginetest.SimOptions(d))
		if other, err = l.Stream(1); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Close(t, l)
}

// A ReadOnly log shows its streams and changes nothing.
func TestStreamReadOnly(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	l, s := openStream(t, enginetest.SimOptions(d))
	appendRange(t, s, 1, 300)
	enginetest.Close(t, l)
	o := enginetest.SimOptions(d)
	o.ReadOnly = true
	l, s = openStream(t, o)
	ctx := context.Background()
	_, err := s.Append(301, nil)
	for _, err := range []error{err, s.TruncateAfter(ctx, 100), s.TruncateAfter(ctx, 1000), s.DropBelow(ctx, 1)} {
		if !errors.Is(err, engine.ErrReadOnly) {
			t.Error(err)
		}
	}
	n := engine.Seq(0)
	for r, err := range s.Records(0) {
		if n++; err != nil || r.Seq != n || !bytes.Equal(r.Bytes, recordOf(n)) {
			t.Fatalf("record %d: %d, %v", n, r.Seq, err)
		}
	}
	if n != 300 {
		t.Errorf("%d records", n)
	}
	enginetest.Close(t, l)
}

// Follow returns every record once, in order, stable, also those that are appended while it waits. It ends with its
// context, with Close, and when records are truncated or dropped that it has returned or not.
func TestFollow(t *testing.T) {
	l, s := openStream(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	const n = 2000
	var wg sync.WaitGroup
	follow := func(ctx context.Context, from engine.Seq, seen func(q engine.Seq)) (last error) {
		want := max(from, 1)
		for r, err := range s.Follow(ctx, from) {
			if err != nil {
				last = err
				break
			}
			if r.Seq != want || !bytes.Equal(r.Bytes, recordOf(want)) || l.StableLSN() < r.LSN {
				t.Errorf("record %d, want %d", r.Seq, want)
			}
			want++
			seen(r.Seq)
		}
		return last
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i := range engine.Seq(4) {
		wg.Go(func() {
			err := follow(ctx, i*100, func(q engine.Seq) {
				if q == n && i == 0 {
					cancel()
				}
			})
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	for q := engine.Seq(1); q <= n; q += 2 {
		if _, err := s.Append(q, recordOf(q), recordOf(q+1)); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	var at atomic.Uint64
	ended := make(chan error)
	go func() {
		ended <- follow(context.Background(), n-1, func(q engine.Seq) { at.Store(uint64(q)) })
	}()
	enginetest.Soon(t, "the last record is returned", func() {
		for at.Load() != n {
			time.Sleep(time.Millisecond)
		}
	})
	if err := s.TruncateAfter(context.Background(), n-10); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, engine.ErrTruncated) {
		t.Error(err)
	}
	go func() { ended <- follow(context.Background(), n, func(engine.Seq) {}) }()
	time.Sleep(time.Millisecond)
	enginetest.Close(t, l)
	if err := <-ended; !errors.Is(err, engine.ErrClosed) {
		t.Error(err)
	}
}

// Follow notices that records which it has returned were replaced while it was not looking.
func TestFollowNoticesReplacedRecords(t *testing.T) {
	l, s := openStream(t, enginetest.SimOptions(simdisk.New(1, simdisk.Options{})))
	appendRange(t, s, 1, 10)
	n := engine.Seq(0)
	for r, err := range s.Follow(context.Background(), 1) {
		if err != nil {
			if !errors.Is(err, engine.ErrTruncated) || n != 10 {
				t.Errorf("after %d records: %v", n, err)
			}
			break
		}
		if n = r.Seq; n == 10 {
			if err := s.TruncateAfter(context.Background(), 5); err != nil {
				t.Fatal(err)
			}
			appendRange(t, s, 6, 20)
		}
	}
	n = 5
	for r, err := range s.Follow(context.Background(), 6) { // a truncation that does not concern it changes nothing
		if n++; err != nil || r.Seq != n {
			t.Fatalf("record %d: %d, %v", n, r.Seq, err)
		}
		switch n {
		case 10:
			if err := s.TruncateAfter(context.Background(), 15); err != nil {
				t.Fatal(err)
			}
			appendRange(t, s, 16, 21)
		case 21:
			enginetest.Close(t, l)
			return
		}
	}
}

// Close with a context ends soon although the device hangs under calls of a stream, and they return.
func TestStreamCloseOnHungDevice(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	o := enginetest.SimOptions(d)
	o.SegmentSize = 16 << 10
	l, err := engine.OpenLog("/store", o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Stream(0)
	if err != nil {
		t.Fatal(err)
	}
	appendRange(t, s, 1, 300)
	d.Hang(true)
	ended := make(chan error, 3)
	go func() { ended <- s.DropBelow(context.Background(), 250) }()
	go func() { ended <- s.AppendStable(context.Background(), 301, make([]byte, 9000)) }()
	go func() { // waits for an io buffer
		for q := engine.Seq(302); ; {
			if _, last := s.Bounds(); last > q {
				q = last
			}
			if _, err := s.Append(q, make([]byte, 9000)); err != nil && !errors.Is(err, engine.ErrSequence) {
				ended <- err
				return
			}
			q++
		}
	}()
	time.Sleep(20 * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	enginetest.Soon(t, "Close", func() {
		if err := l.CloseContext(ctx); err == nil {
			t.Error("Close succeeded")
		}
	})
	d.Hang(false)
	enginetest.Soon(t, "calls", func() {
		for range cap(ended) {
			<-ended
		}
	})
}

// Goroutines that append to several streams, read, truncate and drop beside each other see only what was written, and
// nothing of what was cut off. Proves S5.
func TestStreamsBesideEachOther(t *testing.T) {
	t.Parallel()
	o := &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2}
	l := enginetest.OpenLog(t, t.TempDir(), o)
	const streams = 4
	per := engine.Seq(3000)
	if testing.Short() {
		per = 1000
	}
	var wg sync.WaitGroup
	var writing atomic.Int32
	writing.Store(streams)
	for id := range engine.StreamID(streams) {
		s, err := l.Stream(id)
		if err != nil {
			t.Fatal(err)
		}
		// A record says its number and the round in which it was written: each truncation begins a round.
		value := func(q engine.Seq, round int) []byte { return fmt.Appendf(nil, "%d %d %d", id, q, round) }
		var rounds atomic.Int64
		wg.Go(func() {
			defer writing.Add(-1)
			rng := rand.New(rand.NewPCG(uint64(id), 3))
			round := 0
			for q := engine.Seq(1); q < per; {
				k := engine.Seq(1 + rng.IntN(10))
				var records [][]byte
				for i := range k {
					records = append(records, value(q+i, round))
				}
				if _, err := s.Append(q, records...); err != nil {
					t.Error(err)
					return
				}
				q += k
				first, _ := s.Bounds()
				var err error
				switch rng.IntN(60) {
				case 0:
					back := min(engine.Seq(rng.IntN(30)), q-1-first)
					round++
					rounds.Store(int64(round))
					err = s.TruncateAfter(context.Background(), q-1-back)
					q -= back
				case 1:
					err = s.DropBelow(context.Background(), max(first, q-min(q, 200)))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(id), 4))
			var b []byte
			for writing.Load() > 0 {
				first, last := s.Bounds()
				if last == 0 {
					continue
				}
				q := first + engine.Seq(rng.Uint64N(uint64(last-first+1)))
				var err error
				b, err = s.AppendTo(b[:0], q)
				if errors.Is(err, engine.ErrDropped) || errors.Is(err, engine.ErrNoRecord) {
					continue // since Bounds
				}
				var gotID engine.StreamID
				var gotQ engine.Seq
				var round int64
				if _, err2 := fmt.Sscanf(string(b), "%d %d %d", &gotID, &gotQ, &round); err != nil || err2 != nil ||
					gotID != id || gotQ != q || round > rounds.Load() {
					t.Errorf("stream %d, record %d: %q, %v", id, q, b, err)
					return
				}
			}
		})
	}
	wg.Wait()
	enginetest.Close(t, l)
}

// Appending, finding and reading a record allocate nothing on the heap that grows with the number of records. Proves
// S4.
func TestStreamMemory(t *testing.T) {
	if enginetest.Raced || invariants.Enabled {
		t.Skip("such builds allocate more")
	}
	o := &engine.Options{SegmentSize: 256 << 10, FlushEvery: -1}
	l := enginetest.OpenLog(t, t.TempDir(), o)
	s, err := l.Stream(0)
	if err != nil {
		t.Fatal(err)
	}
	rec := make([]byte, 16)
	if _, err := s.Append(1, rec); err != nil {
		t.Fatal(err)
	}
	q := engine.Seq(1)
	allocs := testing.AllocsPerRun(20000, func() {
		q++
		if _, err := s.Append(q, rec); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 1 {
		t.Errorf("%v allocations a record", allocs)
	}
	buf := make([]byte, 0, 100)
	if _, err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	allocs = testing.AllocsPerRun(5000, func() {
		if buf, err = s.AppendTo(buf[:0], 1+engine.Seq(rand.Uint64N(uint64(q)/2))); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 1 {
		t.Errorf("%v allocations a read", allocs)
	}
	enginetest.Close(t, l)
}

// On a full disk, appending fails with ErrNoSpace, records can be read, and DropBelow makes room, again and again, also
// if the last record leaves no room for the message of the drop, and after reopening. Proves rule 9.
func TestStreamDropsOnFullDisk(t *testing.T) {
	t.Parallel()
	d := simdisk.New(3, simdisk.Options{Capacity: 24 * 16 << 10})
	o := enginetest.SimOptions(d)
	l, s := openStream(t, o)
	next := engine.Seq(1)
	for round := range 12 {
		var full error
		for _, size := range []int{3000, 200, 0} { // the smallest records fill what the larger ones leave
			for full = nil; full == nil; {
				if _, full = s.Append(next, make([]byte, size)); full == nil {
					next++
				}
			}
			if !errors.Is(full, engine.ErrNoSpace) {
				t.Fatalf("round %d: append to a full log: %v", round, full)
			}
		}
		first, last := s.Bounds()
		if last != next-1 {
			t.Fatalf("round %d: the last record is %d, want %d", round, last, next-1)
		}
		if _, err := s.Get(first); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		if err := s.DropBelow(context.Background(), last-(last-first)/4); err != nil {
			t.Fatalf("round %d: drop on a full disk: %v", round, err)
		}
		if err := s.AppendStable(context.Background(), next, make([]byte, 3000)); err != nil {
			t.Fatalf("round %d: append after a drop: %v", round, err)
		}
		next++
		if round%4 == 3 {
			enginetest.Close(t, l)
			l, s = openStream(t, o)
		}
	}
	enginetest.Close(t, l)
}

// On a full disk, notes can be set and records be truncated for a while, and DropBelow still works after that: it makes
// room, and the log goes on, in the same opening. Notes survive that the segments are dropped that they were set in.
// Proves rule 9.
func TestStreamNotesOnFullDisk(t *testing.T) {
	t.Parallel()
	d := simdisk.New(4, simdisk.Options{Capacity: 30 * 16 << 10})
	o := enginetest.SimOptions(d)
	l, s := openStream(t, o)
	ctx := context.Background()
	next, term := engine.Seq(1), 0
	fill := func() {
		for _, size := range []int{3000, 200, 0} {
			for {
				_, err := s.Append(next, make([]byte, size))
				if errors.Is(err, engine.ErrNoSpace) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				next++
			}
		}
	}
	for round := range 12 {
		fill()
		vote := func() error {
			term++
			value := fmt.Append(nil, term)
			if err := s.SetNote(ctx, "term", value); err != nil {
				term--
				return err
			}
			return s.SetNote(ctx, "vote", value)
		}
		if err := vote(); err != nil {
			t.Fatalf("round %d: vote on a full disk: %v", round, err)
		}
		next -= 3
		if err := s.TruncateAfter(ctx, next-1); err != nil {
			t.Fatalf("round %d: truncate on a full disk: %v", round, err)
		}
		for vote() == nil {
			if term > 1000 {
				t.Fatal("notes fill the disk without an end")
			}
		}
		fill()
		if _, last := s.Bounds(); last != next-1 {
			t.Fatalf("round %d: the last record is %d, want %d", round, last, next-1)
		}
		if err := s.DropBelow(ctx, next-2); err != nil {
			t.Fatalf("round %d: drop on a full disk: %v", round, err)
		}
		if err := vote(); err != nil {
			t.Fatalf("round %d: vote after a drop: %v", round, err)
		}
		if err := s.AppendStable(ctx, next, make([]byte, 3000)); err != nil {
			t.Fatalf("round %d: append after a drop: %v", round, err)
		}
		next++
		if round%4 == 3 {
			enginetest.Close(t, l)
			l, s = openStream(t, o)
		}
		for _, name := range []string{"term", "vote"} {
			if v, found := s.Note(name); !found || string(v) != fmt.Sprint(term) {
				t.Fatalf("round %d: %s is %q, want %d", round, name, v, term)
			}
		}
	}
	enginetest.Close(t, l)
}

// A cut that has to read corrupt records, to find the numbers beside a gap, fails and removes nothing. Cuts at
// other records work. Proves rule 12.
func TestStreamCutBesideCorruptRecords(t *testing.T) {
	d := simdisk.New(4, simdisk.Options{})
	o := enginetest.SimOptions(d)
	l, s := openStream(t, o)
	const last = 2399
	for q := engine.Seq(1); q <= last; q += 2 {
		if _, err := s.Append(q, recordOf(q)); err != nil {
			t.Fatal(err)
		}
	}
	var places []engine.DiskPtr
	for q := engine.Seq(801); q < 1601; q += 2 {
		r, err := s.Get(q)
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, r.Ptr)
	}
	enginetest.Close(t, l)
	for _, p := range places {
		d.FlipBit("/store/log", int64(p.Off)+int64(p.Len)-1, 2)
	}
	l, err := engine.OpenLog("/store", o) // Check finds the damage
	if err == nil {
		s, err = l.Stream(0)
	}
	if err != nil {
		t.Fatal(err)
	}
	bounds := func(first, last engine.Seq) {
		t.Helper()
		if f, l := s.Bounds(); f != first || l != last {
			t.Errorf("records %d to %d, want %d to %d", f, l, first, last)
		}
	}
	ctx := context.Background()
	for name, cut := range map[string]func(context.Context, engine.Seq) error{
		"truncate": s.TruncateAfter, "drop": s.DropBelow,
	} {
		if err := cut(ctx, 1200); !errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("%s beside corrupt records: %v", name, err)
		}
		bounds(1, last)
	}
	if err := errors.Join(s.TruncateAfter(ctx, 2000), s.DropBelow(ctx, 400)); err != nil {
		t.Fatal(err)
	}
	bounds(401, 1999)
	if err := s.AppendStable(ctx, 2001, recordOf(2001)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// An opening that meets a cut in the log's tail, of records whose numbers have gaps, reads their numbers in the tail
// before the log is started. Proves S3.
func TestStreamCutOfGapsInTail(t *testing.T) {
	for _, closed := range []bool{false, true} {
		d := simdisk.New(4, simdisk.Options{})
		l, s := openStream(t, enginetest.SimOptions(d))
		ctx := context.Background()
		for q := engine.Seq(3); q <= 60; q += 3 {
			if _, err := s.Append(q, make([]byte, q)); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(s.TruncateAfter(ctx, 50), s.DropBelow(ctx, 10)); err != nil {
			t.Fatal(err)
		}
		for round := range 3 {
			if closed {
				enginetest.Close(t, l)
			} else {
				next := d.Crash(uint64(round))
				_ = l.Close()
				d = next
			}
			l, s = openStream(t, enginetest.SimOptions(d))
			if first, last := s.Bounds(); first != 12 || last != 48 {
				t.Errorf("closed: %v: records %d to %d, want 12 to 48", closed, first, last)
			}
			if r, err := s.Get(33); err != nil || len(r.Bytes) != 33 {
				t.Errorf("closed: %v: %d bytes, %v", closed, len(r.Bytes), err)
			}
		}
		enginetest.Close(t, l)
	}
}

// OpenLog verifies the index of a sealed segment, and the offsets in it are read again when they are needed. If they
// have become others by then, lookups fail with ErrCorrupt, and never return another record. Proves S4, rules 12, 14.
func TestStreamIndexChangesAfterOpen(t *testing.T) {
	d := simdisk.New(4, simdisk.Options{})
	o := enginetest.SimOptions(d)
	l, s := openStream(t, o)
	const last = 1000
	for q := engine.Seq(1); q <= last; q++ {
		if _, err := s.Append(q, recordOf(q)); err != nil {
			t.Fatal(err)
		}
	}
	size := int64(l.SegmentSize())
	enginetest.Close(t, l)
	l, err := engine.OpenLog("/store", o)
	if err == nil {
		s, err = l.Stream(0)
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Get(1)
	if err != nil {
		t.Fatal(err)
	}
	slot := int64(r.Ptr.Off) / size * size
	log := d.ReadDurable("/store/log")[slot:][:size]
	n := int64(binary.LittleEndian.Uint32(log[size-16:])) // the length of the index, in its trailer
	index := log[size-n : size-format.IndexTrailerSize]
	d.Alter("/store/log", slot+size-n, append(index[4:], 0, 0, 0, 0)) // each offset is that of the record behind
	corrupt := 0
	for q := engine.Seq(1); q <= last; q++ {
		r, err := s.Get(q)
		switch {
		case errors.Is(err, engine.ErrCorrupt):
			corrupt++
		case err != nil || !bytes.Equal(r.Bytes, recordOf(q)):
			t.Errorf("record %d: %q, %v", q, r.Bytes, err)
		}
	}
	if corrupt == 0 || corrupt == last {
		t.Errorf("%d of %d records cannot be read", corrupt, last)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// Offsets that have become others between OpenLog and the first lookup are found by the checksum of the index. Where
// numbers are missing, they would hide records; where a number was written twice, they would lead to the record that
// was truncated. Proves S4, rules 12, 14.
func TestStreamIndexChangesBeforeFirstLookup(t *testing.T) {
	d := simdisk.New(4, simdisk.Options{})
	o := enginetest.SimOptions(d)
	l, s := openStream(t, o)
	twice, err := l.Stream(1)
	if err != nil {
		t.Fatal(err)
	}
	const last = 100
	appendRange(t, twice, 1, 9)
	if err := twice.TruncateAfter(context.Background(), 5); err != nil {
		t.Fatal(err)
	}
	for q := engine.Seq(6); q <= 9; q++ {
		if _, err := twice.Append(q, []byte("again")); err != nil {
			t.Fatal(err)
		}
	}
	for q := engine.Seq(10); q <= last; q += 3 {
		if _, err := s.Append(q, recordOf(q)); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 { // so that the segment is sealed
		mustWrite(t, l, 12_000)
	}
	enginetest.Close(t, l)
	size := int64(o.SegmentSize)
	slot := int64(scannedLog(t, d).Segments[0].Slot) * size
	log := d.ReadDurable("/store/log")[slot:][:size]
	n := int64(binary.LittleEndian.Uint32(log[size-16:]))
	runs := int64(binary.LittleEndian.Uint32(log[size-12:]))
	at := size - n + format.HeaderSize + runs*format.RunUnits*4 // where the offsets begin
	shifted := bytes.Clone(log[at : size-format.IndexTrailerSize])
	copy(shifted[9*4:], log[at:at+9*4]) // those of the records 1 to 9 that were written first
	copy(shifted[13*4:], log[at+14*4:size-format.IndexTrailerSize])
	l, err = engine.OpenLog("/store", o)
	if err != nil {
		t.Fatal(err)
	}
	d.Alter("/store/log", slot+at, shifted)
	for id := range engine.StreamID(2) {
		if s, err = l.Stream(id); err != nil {
			t.Fatal(err)
		}
		first, last := s.Bounds()
		for _, q := range []engine.Seq{first, 7, last} {
			if r, err := s.Get(q); q >= first && !errors.Is(err, engine.ErrCorrupt) {
				t.Errorf("stream %d, record %d: %q, %v", id, q, r.Bytes, err)
			}
		}
		for r, err := range s.Records(0) {
			if !errors.Is(err, engine.ErrCorrupt) {
				t.Errorf("stream %d: %q, %v", id, r.Bytes, err)
			}
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// If the disk does not return a part of the log when it is opened, nobody knows which records the streams have.
// DropBelow of the log then keeps all of it, although the records of streams lie behind that part. In a log without any
// message of a stream it drops that part, too. Proves rule 12.
func TestDropBelowBesideUnreadableStreams(t *testing.T) {
	const block = 4096
	for _, numbered := range []bool{true, false} {
		d := simdisk.New(5, simdisk.Options{})
		o := enginetest.SimOptions(d)
		l, s := openStream(t, o)
		for range 60 { // some segments
			if _, _, err := l.Write(make([]byte, 1800)); err != nil {
				t.Fatal(err)
			}
		}
		if numbered {
			appendRange(t, s, 1, 300)
		}
		enginetest.Close(t, l)
		end := int64(scannedLog(t, d).Segments[0].Slot.Offset(o.SegmentSize)) + int64(o.SegmentSize)
		d.SetUnreadable(logFile, end-block, block) // with the index
		l, err := engine.OpenLog("/store", o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Stream(0); !errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("numbered %v: Stream: %v", numbered, err)
		}
		before := l.FirstLSN()
		if err := l.DropBelow(1 << 40); err != nil {
			t.Errorf("numbered %v: %v", numbered, err)
		}
		if kept := l.FirstLSN() == before; kept != numbered {
			t.Errorf("numbered %v: LSN %d is the first after DropBelow, %d before", numbered, l.FirstLSN(), before)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The tables of segments that were sealed serve later segments, as empty as new ones.
func TestStreamTablesAreUsedAgain(t *testing.T) {
	t.Parallel()
	l, s := openStream(t, enginetest.SimOptions(simdisk.New(6, simdisk.Options{})))
	const last = 40_000 // in more than a hundred segments
	for q := engine.Seq(1); q <= last; q++ {
		if _, err := s.Append(q, nil); err != nil {
			t.Fatal(err)
		}
	}
	for q := engine.Seq(1); q <= last; q += 97 {
		if _, err := s.Get(q); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Close(t, l)
}
