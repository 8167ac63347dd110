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

// stableRange returns a stream with the stable records 1 to last.
func stableRange(t *testing.T, last engine.Seq) (*engine.Log, *engine.Stream) {
	t.Helper()
	o := enginetest.SimOptions(simdisk.New(1, simdisk.Options{}))
	o.FlushEvery = -1
	l, s := openStream(t, o)
	appendRange(t, s, 1, last)
	enginetest.Flush(t, l)
	return l, s
}

// firstError returns the number of records that Records returns from a number on, and its error.
func firstError(s *engine.Stream, from engine.Seq) (n int, err error) {
	for _, err := range s.Records(from) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// An iteration that has not returned all of the records that it began with when they are dropped ends with ErrDropped,
// although the stream is empty then. One that has returned them all ends as if they were there.
func TestStreamRecordsNoticesDropOfAll(t *testing.T) {
	for _, after := range []engine.Seq{4, 10} {
		l, s := stableRange(t, 10)
		appendRange(t, s, 11, 12) // not stable when it begins
		var last engine.Seq
		var ended error
		for r, err := range s.Records(0) {
			if ended = err; err != nil {
				break
			}
			if last = r.Seq; last == after {
				if err := s.DropBelow(context.Background(), 1<<40); err != nil {
					t.Fatal(err)
				}
			}
		}
		if last != after || errors.Is(ended, engine.ErrDropped) != (after < 10) {
			t.Errorf("dropped after record %d: ended after %d with %v", after, last, ended)
		}
		enginetest.Close(t, l)
	}
}

// A stream that was emptied says which records it had: reads of them fail with ErrDropped, and so does a Follow that
// waits below them. Numbers above, and those that are free to be used again, are not there yet. The next opening knows
// nothing of records below if it finds none.
func TestStreamRemembersWhatWasDropped(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	l, s := openStream(t, enginetest.SimOptions(d))
	ctx := context.Background()
	appendRange(t, s, 3, 10)
	check := func(what string, below engine.Seq) {
		t.Helper()
		for q := engine.Seq(1); q < 14; q++ {
			want := engine.ErrNoRecord
			if q < below {
				want = engine.ErrDropped
			}
			if _, err := s.Get(q); !errors.Is(err, want) {
				t.Errorf("%s: get %d: %v, want %v", what, q, err, want)
			}
			n, err := firstError(s, q)
			if n != 0 || (q < below) != errors.Is(err, engine.ErrDropped) || q >= below && err != nil {
				t.Errorf("%s: iterate from %d: %d records, %v", what, q, n, err)
			}
		}
		if n, err := firstError(s, 0); n != 0 || err != nil {
			t.Errorf("%s: iterate: %d records, %v", what, n, err)
		}
	}
	drop := func() {
		t.Helper()
		if err := s.DropBelow(ctx, 1<<40); err != nil {
			t.Fatal(err)
		}
	}
	truncate := func(q engine.Seq) {
		t.Helper()
		if err := s.TruncateAfter(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
	drop()
	check("all dropped", 11)
	drop()
	check("none to drop", 11)
	truncate(20)
	check("none to truncate", 11)
	truncate(7)
	check("their numbers may be used again", 8)
	appendRange(t, s, 6, 7)
	if r, err := s.Get(6); err != nil || r.Seq != 6 {
		t.Error(err)
	}
	truncate(0)
	check("all truncated", 1)
	appendRange(t, s, 5, 9)
	truncate(4)
	check("none was dropped", 1)
	appendRange(t, s, 5, 9)
	if err := s.DropBelow(ctx, 7); err != nil {
		t.Fatal(err)
	}
	truncate(6)
	check("some dropped, the others truncated", 7)
	appendRange(t, s, 9, 9)
	drop()
	check("dropped again", 10)
	enginetest.Close(t, l)
	l, s = openStream(t, enginetest.SimOptions(d))
	check("the next opening", 0)
	enginetest.Close(t, l)
}

// A Follow that waits for records ends when they are dropped before it has returned them, and when numbers that it has
// returned are used again. It waits for those that come next.
func TestFollowNoticesDropOfAll(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		stop engine.Seq // it is busy with this record
		then func(s *engine.Stream) error
		want error
	}{
		"dropped before": {4, func(s *engine.Stream) error {
			return s.DropBelow(ctx, 11)
		}, engine.ErrDropped},
		"dropped before, truncated behind": {4, func(s *engine.Stream) error {
			return errors.Join(s.TruncateAfter(ctx, 8), s.DropBelow(ctx, 11))
		}, engine.ErrDropped},
		"dropped, truncated behind it": {4, func(s *engine.Stream) error {
			return errors.Join(s.DropBelow(ctx, 8), s.TruncateAfter(ctx, 5))
		}, engine.ErrDropped},
		"used again": {10, func(s *engine.Stream) error {
			return errors.Join(s.DropBelow(ctx, 11), appendAgain(s, 5, 12))
		}, engine.ErrTruncated},
		"truncated when empty": {10, func(s *engine.Stream) error {
			return errors.Join(s.DropBelow(ctx, 11), s.TruncateAfter(ctx, 3), appendAgain(s, 4, 12))
		}, engine.ErrTruncated},
	} {
		l, s := stableRange(t, 10)
		followed, cancel := context.WithTimeout(ctx, 2*time.Second)
		var ended error
		for r, err := range s.Follow(followed, 1) {
			if ended = err; err != nil {
				break
			}
			if r.Seq > c.stop {
				t.Errorf("%s: record %d is returned", name, r.Seq)
				break
			}
			if r.Seq == c.stop {
				if err := c.then(s); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
		}
		cancel()
		if !errors.Is(ended, c.want) {
			t.Errorf("%s: %v, want %v", name, ended, c.want)
		}
		enginetest.Close(t, l)
	}
	l, s := stableRange(t, 10)
	for r, err := range s.Follow(ctx, 1) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Seq == 13 {
			break
		}
		if r.Seq == 10 {
			if err := errors.Join(s.DropBelow(ctx, 1<<40), appendAgain(s, 11, 13)); err != nil {
				t.Fatal(err)
			}
		}
	}
	enginetest.Close(t, l)
}

// unless returns err unless it is of a kind.
func unless(err, kind error) error {
	if errors.Is(err, kind) {
		return nil
	}
	return err
}

// appendAgain appends records as appendRange does.
func appendAgain(s *engine.Stream, from, to engine.Seq) error {
	for q := from; q <= to; q++ {
		if _, err := s.Append(q, recordOf(q)); err != nil {
			return err
		}
	}
	return nil
}

// Beside a goroutine that drops records and appends others, an iteration leaves no record out without an error.
func TestStreamRecordsBesideDrops(t *testing.T) {
	t.Parallel()
	l, s := stableRange(t, 4)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		defer close(ended)
		for q := engine.Seq(5); ctx.Err() == nil; q += 4 {
			if err := errors.Join(appendAgain(s, q, q+3), s.DropBelow(context.Background(), q+q%3*2)); err != nil {
				ended <- err
				return
			}
		}
	}()
	for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
		first, _ := s.Bounds()
		for r, err := range s.Records(max(1, first)) {
			if unless(err, engine.ErrDropped) != nil || err == nil && r.Seq != max(1, first) {
				t.Fatalf("record %d: %d, %v", first, r.Seq, err)
			}
			first = max(1, first) + 1
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	enginetest.Close(t, l)
}
