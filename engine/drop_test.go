package engine_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// After DropBelow the dropped records are gone and their space is used again, so the file does not grow for ever. All
// other records are there, also after reopening and after crashes.
func TestDropBelowDropsOnlyRecordsBelow(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	rng := rand.New(rand.NewPCG(1, 1))
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	type record struct {
		lsn engine.LSN
		ptr engine.DiskPtr
		b   []byte
	}
	var all []record
	for round := range 60 {
		for range 50 {
			b := enginetest.Random(rng.IntN(900), rng.Uint64())
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
			bound = 1 << 50 // beyond the end of the log
		}
		before := l.FirstLSN()
		if err := l.DropBelow(bound); err != nil {
			t.Fatal(err)
		}
		first := l.FirstLSN()
		if first < before || first > bound || first > all[len(all)-1].lsn {
			t.Fatalf("round %d: first LSN %d, was %d; asked to drop below %d, the last record is at %d",
				round, first, before, bound, all[len(all)-1].lsn)
		}
		switch round % 5 {
		case 1:
			enginetest.Close(t, l)
			l = enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
		case 3:
			next := d.Crash(uint64(round))
			_ = l.Close()
			d = next
			l = enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
			ptrs := map[engine.LSN]engine.DiskPtr{} // recovery has moved the tail
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
			t.Fatalf("round %d: first LSN %d after reopening, want %d", round, now, first)
		}
		lsns, bodies := enginetest.Records(t, l, 0)
		for len(all) > 0 && all[0].lsn < first {
			if _, err := l.Read(all[0].lsn, all[0].ptr); !errors.Is(err, engine.ErrDropped) {
				t.Fatalf("round %d: LSN %d, below the first LSN %d: %v", round, all[0].lsn, first, err)
			}
			all = all[1:]
		}
		if len(lsns) != len(all) {
			t.Fatalf("round %d: %d records, want %d", round, len(lsns), len(all))
		}
		for i, r := range all {
			b, err := l.Read(r.lsn, r.ptr)
			if err != nil || lsns[i] != r.lsn || bodies[i] != string(r.b) || !bytes.Equal(b, r.b) {
				t.Fatalf("round %d: record %d at LSN %d differs: %v", round, i, r.lsn, err)
			}
		}
	}
	if n := len(d.ReadDurable("/store/log")); n > 2<<20 {
		t.Errorf("the log file has grown to %d bytes", n)
	}
	enginetest.Close(t, l)
	o := enginetest.SimOptions(d)
	o.ReadOnly = true
	l = enginetest.OpenLog(t, "/store", o)
	if err := l.DropBelow(100); !errors.Is(err, engine.ErrReadOnly) {
		t.Errorf("read-only: %v", err)
	}
	enginetest.Close(t, l)
	if err := l.DropBelow(100); err == nil {
		t.Error("DropBelow of a closed log succeeded")
	}
}

// Readers beside a goroutine that drops records get no error except ErrDropped.
func TestReadersBesideDropBelow(t *testing.T) {
	t.Parallel()
	l := enginetest.OpenLog(t, t.TempDir(), &engine.Options{SegmentSize: 16 << 10})
	var mu sync.Mutex
	type record struct {
		lsn engine.LSN
		ptr engine.DiskPtr
	}
	var all []record
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	endReaders := sync.OnceFunc(func() { close(stop) })
	defer endReaders()
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
				// The bytes are not compared: they are invalid once the record is dropped.
				if _, err := l.Read(r.lsn, r.ptr); err != nil && !errors.Is(err, engine.ErrDropped) {
					t.Errorf("read LSN %d: %v", r.lsn, err)
					return
				}
			}
		})
	}
	for i := range 5000 {
		lsn, ptr, err := l.Write(bytes.Repeat([]byte{byte(i)}, 200))
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		all = append(all, record{lsn, ptr})
		mu.Unlock()
		if i%100 == 99 {
			if err := l.DropBelow(lsn - 30000); err != nil {
				t.Fatal(err)
			}
		}
	}
	endReaders()
	wg.Wait()
	if l.FirstLSN() == 0 {
		t.Error("nothing was dropped")
	}
	enginetest.Close(t, l)
}
