package engine

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine/internal/clean"
	"pagecache/engine/internal/pagestack"
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
	tx := begin(t, pc)
	for i := 0; i < len(all); i += 3 { // these are packed
		pc.mem.evict(tx.base(), all[i], true)
	}
	tx.End()
	offset := func(pid PageID) format.Offset { return headOf(pc, pid).Ptr().Off }
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
		if l.next != nil {
			t.Error("the mover keeps an entry in memory")
		}
	}
}

// In visits the pages in many messages that have one in a segment, and no others, whether their deltas are grown, their
// entries or their blobs have moved, or they were evicted.
func TestInVisitsChainsInSegment(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 16 << 10, ConsolidateAfter: 12,
		seam: seam.Options{Foreground: true}})
	defer closeTest(t, pc)
	everywhere := clean.Extent{To: format.Offset(1 << 40)}
	v := &mover[[]byte]{pc: pc, warmth: clean.Warmth{Store: pc.core.store}}
	tx := begin(t, pc)
	defer tx.End()
	const pages, turns = 300, 20
	all, list := make([]PageID, pages), segments.PageList(nil)
	long := make([]byte, 5000) // in a blob once it is consolidated
	for i := range all {
		all[i], _ = allocate(t, pc, long[:100+i%7/6*4900])
		list = list.Append(all[i])
	}
	chains := map[string]int{}
	for turn := range turns {
		for i, pid := range all {
			if (i+turn)%3 > 0 { // the pages are as long ago changed as one another, in other segments
				continue
			}
			ptr, _, err := pc.State(tx, pid)
			if i%2 == 0 { // its deltas grow
				var p Page[[]byte]
				p, err = pc.Get(tx, pid)
				ptr = p.Ptr
			}
			if err != nil {
				t.Fatal(err)
			}
			must(t)(pc.Link(tx, pid, ptr, []byte("delta of a page")))
			switch h := headOf(pc, pid); {
			case i%14 == 6 && turn >= 3 && turn < 6: // its blob stays in place
				if _, err := pc.consolidate(tx.base(), pid, pc.pages.Table.Get(pid), h); err != nil {
					t.Fatal(err)
				}
				fallthrough
			case i%11 == 0 && turn >= 5 && turn < 8:
				if n, _, err := v.Move(pid, everywhere); n == 0 || err != nil {
					t.Fatalf("moved %d bytes, %v", n, err)
				}
			case i%13 == 0 && turn >= 8 && turn < 11:
				pc.mem.evict(tx.base(), pid, true)
			}
		}
	}
	for i, pid := range all {
		if i%10 == 1 {
			if _, err := pc.Get(tx, pid); err != nil { // which merges it
				t.Fatal(err)
			}
		}
		switch h := headOf(pc, pid); {
		case h.Lowest() > 0 && h.Lowest() < firstMessage(h):
			chains["grown on a blob that was kept"]++
		case h.IsGrown():
			chains["grown"]++
		case h.Depth() > 1:
			chains[h.Kind().String()]++
		}
	}
	if len(chains) < 4 {
		t.Errorf("the pages have chains %v", chains)
	}
	seen := 0
	pc.core.store.Space.Inactive(func(c segments.Candidate) {
		from := c.ID.Offset(pc.core.store.SegmentSize())
		e := clean.Extent{From: from, To: from + format.Offset(pc.core.store.SegmentSize()), Base: c.Base}
		var want, got []PageID
		for _, pid := range all {
			in := false
			headOf(pc, pid).Refs(func(r pagestack.Ref) { in = in || e.Contains(r.Ptr.Off) })
			if in {
				want = append(want, pid)
			}
		}
		v.In(list, e, func(pid PageID) bool {
			got = append(got, pid)
			return true
		})
		if !slices.Equal(got, want) {
			t.Errorf("segment at LSN %d: visited %d pages, want %d", c.Base, len(got), len(want))
		}
		seen += len(want)
	})
	if seen < pages {
		t.Errorf("only %d pages in all segments", seen)
	}
}

// firstMessage returns the LSN of the first message of the page with head h.
func firstMessage(h *head) (first LSN) {
	h.Refs(func(r pagestack.Ref) { first = r.LSN })
	return first
}
