package engine

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"pagecache/engine/internal/clean"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/seam"
	"pagecache/segments/format"
)

// isPacked reports whether the slot of a page has the page's entry in itself.
func isPacked(pc *PageCache[[]byte], pid PageID) bool {
	_, ok := pc.pages.Table.Get(pid).Place()
	return ok
}

// An evicted page is in the state that it was in, whether its entry fits its slot or not, and stays in it when it is
// moved, read and evicted again. A PagePtr from before goes on to identify it (rule 6), and one of an older state does
// not win.
func TestEvictedPageKeepsItsState(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 256 << 10, seam: seam.Options{Foreground: true}})
	defer closeTest(t, pc)
	everywhere := clean.Extent{To: format.Offset(1 << 40)}
	v := &mover[[]byte]{pc: pc, warmth: clean.Warmth{Store: pc.core.store}}
	for _, c := range []struct {
		changes, size int
		packed        bool
	}{
		{0, 100, true}, {300, 100, true}, {200, 400, true}, {300, 2000, true}, {20, 20_000, true},
		{300, 20_000, false}, {3, 40_000, false}, {2500, 2000, false},
	} {
		name := fmt.Sprintf("%d bytes after %d changes", c.size, c.changes)
		value := bytes.Repeat([]byte("v"), c.size)
		pid, _ := allocate(t, pc, value)
		tx := begin(t, pc)
		ptr, _, err := pc.State(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		stale := PagePtr[[]byte]{}
		for i := range c.changes {
			stale = ptr
			value = append(bytes.Clone(value[1:]), byte(i))
			ptr = must(t)(pc.Replace(tx, pid, ptr, value))
		}
		tx.End()
		flushTest(t, pc)
		same := func(after string) {
			t.Helper()
			tx := begin(t, pc)
			defer tx.End()
			pc.mem.evict(tx.base(), pid, true)
			h := headOf(pc, pid)
			if h.Kind() != pagestack.KindOnDisk || isPacked(pc, pid) != c.packed || h.TS() != ptr.ts {
				t.Errorf("%s, %s: kind %v, packed %v", name, after, h.Kind(), isPacked(pc, pid))
			}
			now, kind, err := pc.State(tx, pid)
			if err != nil || kind != KindMaterialized || now.ts != ptr.ts || now.lsn != h.LSN {
				t.Errorf("%s, %s: state %+v, %v, %v; want timestamp %d", name, after, now, kind, err, ptr.ts)
			}
			p, err := pc.Get(tx, pid)
			if err != nil || !bytes.Equal(p.Value, value) || p.Ptr != now {
				t.Errorf("%s, %s: Get: %d bytes at %+v, %v", name, after, len(p.Value), p.Ptr, err)
			}
			pc.mem.evict(tx.base(), pid, true)
		}
		same("evicted")
		lsn := headOf(pc, pid).LSN
		if _, _, err := v.Move(pid, everywhere); err != nil || headOf(pc, pid).LSN <= lsn {
			t.Fatalf("%s: not moved: %v", name, err)
		}
		same("moved")
		tx = begin(t, pc)
		if _, won, err := pc.Link(tx, pid, stale, []byte("lost")); won || err != nil {
			t.Errorf("%s: a Link from an older state: %v, %v", name, won, err)
		}
		next, won, err := pc.Link(tx, pid, ptr, []byte("+"))
		if !won || err != nil || next.ts != ptr.ts+1 {
			t.Errorf("%s: Link: %v, %v", name, won, err)
		}
		if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, append(value, '+')) || p.Ptr != next {
			t.Errorf("%s: Get after Link: %d bytes, %v", name, len(p.Value), err)
		}
		tx.End()
	}
}

// Transactions that read and change evicted pages, and Views of them, see what they would of resident ones, beside
// goroutines that evict and move the pages.
func TestTransactionsOnPackedPages(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 64 << 10})
	defer closeTest(t, pc)
	const pages, turns, workers = 8, 150, 3
	pids := some(t, pc, pages, 1) // one byte each, which all commits change together
	stop := make(chan struct{})
	var wg, housekeeping sync.WaitGroup
	housekeeping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			tx := begin(t, pc)
			for _, pid := range pids {
				pc.mem.evict(tx.base(), pid, true)
			}
			tx.End()
			if _, err := pc.AttemptGC(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	all := func(tx *Tx[[]byte]) (values [][]byte, err error) {
		for _, pid := range pids {
			p, err := tx.Get(pid)
			if err != nil {
				return nil, err
			}
			values = append(values, bytes.Clone(p.Value))
		}
		return values, nil
	}
	agree := func(values [][]byte) error {
		for i, v := range values[1:] {
			if !bytes.Equal(v[len(v)-4:], values[0][len(values[0])-4:]) {
				return fmt.Errorf("page %d ends with %v, page 0 with %v", i+1, v, values[0])
			}
		}
		return nil
	}
	_, err := pc.Update(t.Context(), func(tx *Tx[[]byte]) error {
		for _, pid := range pids {
			if err := tx.Replace(pid, make([]byte, 4)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for w := range workers {
		wg.Go(func() {
			for n := range turns {
				_, err := pc.Update(t.Context(), func(tx *Tx[[]byte]) error {
					values, err := all(tx)
					if err != nil {
						return err
					}
					for i, pid := range pids {
						next := []byte{byte(w), byte(n), byte(n >> 8), values[i][3] + 1}
						if err := tx.Replace(pid, next); err != nil {
							return err
						}
					}
					return agree(values)
				})
				if err == nil {
					err = pc.View(t.Context(), func(tx *Tx[[]byte]) error {
						values, err := all(tx)
						if err != nil {
							return err
						}
						return agree(values)
					})
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	housekeeping.Wait()
	if got := get1(t, pc, pids[0]).Value[3]; int(got) != workers*turns%256 {
		t.Errorf("%d commits, want %d, modulo 256", got, workers*turns%256)
	}
}
