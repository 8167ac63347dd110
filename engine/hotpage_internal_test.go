package engine

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine/internal/clean"
	"pagecache/engine/internal/seam"
	"pagecache/segments"
	"pagecache/segments/format"
)

// The cleaner moves a page that many goroutines write to without a pause: after a few turns it wins. Proves rule 18.
func TestMoveOfHotPage(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{ConsolidateAfter: 1000, seam: seam.Options{Foreground: true}})
	pid, _ := allocate(t, pc, make([]byte, 100<<10))
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !stop.Load() {
				tx := begin(t, pc)
				p, err := pc.Get(tx, pid)
				for i := 0; i < 100 && err == nil; i++ {
					p.Ptr, _, err = pc.Link(tx, pid, p.Ptr, []byte("delta"))
				}
				tx.End()
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	v := &mover[[]byte]{pc: pc}
	everywhere := clean.Extent{From: 0, To: format.Offset(1 << 40)}
	for range 10 {
		if n, _, err := v.Move(pid, everywhere); err != nil || n < 100<<10 { // without an end if writers always win
			t.Errorf("moved %d bytes, %v", n, err)
		}
	}
	stop.Store(true)
	wg.Wait()
	closeTest(t, pc)
}

// In visits each page that may have a message in the extent, however long the list is, in the order of the list, until
// visit returns false. Pages that have left the extent are not visited.
func TestInVisitsPagesInExtent(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 16 << 10, seam: seam.Options{Foreground: true}})
	defer closeTest(t, pc)
	var all []PageID
	for range 3*atOnce + 1 {
		pid, _ := allocate(t, pc, make([]byte, 100))
		all = append(all, pid)
	}
	offset := func(pid PageID) format.Offset { return pc.pages.Table.Get(pid).Load().Ptr().Off }
	v := &mover[[]byte]{pc: pc, warmth: clean.Warmth{Store: pc.core.store}}
	for _, n := range []int{0, 1, atOnce - 1, atOnce, atOnce + 1, 2 * atOnce, 3*atOnce + 1} {
		var list segments.PageList
		for _, pid := range all[:n] {
			list = list.Append(pid)
		}
		for _, e := range []clean.Extent{{To: offset(all[len(all)-1]) + 1}, {To: offset(all[len(all)/2])}, {}} {
			var want []PageID
			for _, pid := range all[:n] {
				if e.Contains(offset(pid)) {
					want = append(want, pid)
				}
			}
			for most := range len(want) + 1 {
				var got []PageID
				v.In(list, e, func(pid PageID) bool {
					got = append(got, pid)
					return len(got) < most
				})
				if w := want[:min(len(want), max(1, most))]; !slices.Equal(got, w) {
					t.Fatalf("of %d pages in %v, stopped at %d: visited %v, want %v", n, e, most, got, w)
				}
			}
		}
	}
	for _, l := range v.look {
		if l.head != nil {
			t.Error("the mover keeps an entry in memory")
		}
	}
}
