package engine

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"pagecache/internal/simdisk"
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
			for it := l.Iter(0); it.Next(); {
				ptrs[it.LSN()] = it.Ptr()
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
