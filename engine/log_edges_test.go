package engine_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

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

func mustWrite(t *testing.T, l *engine.Log, n int) {
	t.Helper()
	if _, _, err := l.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
}

// If the file cannot be truncated, DropBelow says so as every call does.
func TestDropBelowOnFailingTruncate(t *testing.T) {
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

// A context that has ended does not keep an idle store from being closed completely: it opens again at once, and was
// closed cleanly.
func TestCloseContextOfIdleStore(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	dir := t.TempDir()
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := enginetest.Allocate(t, pc, []byte("value"))
	if err := pc.CloseContext(ended); err != nil {
		t.Fatal(err)
	}
	pc = enginetest.Open(t, dir, nil)
	if p := enginetest.Get(t, pc, pid); string(p.Value) != "value" {
		t.Errorf("page %d is %q after reopening", pid, p.Value)
	}
	dir = t.TempDir()
	l, err := engine.OpenLog(dir, &engine.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, l, 10)
	if err := l.CloseContext(ended); err != nil {
		t.Fatal(err)
	}
	enginetest.OpenLog(t, dir, nil)
}
