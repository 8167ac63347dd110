package pagetable

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/segments/format"
)

type slot = atomic.Pointer[int]

// ids are next to the borders of the chunks.
var ids = []format.PageID{
	0, 1, fan - 1, fan, fan*fan - 1, fan * fan, 5*fan*fan + 7*fan + 9, format.MaxPageID - 1, format.MaxPageID,
}

// Each page has one slot, the same for ever, and none before it is made. Proves T1 and T2.
func TestPageHasOneSlot(t *testing.T) {
	var table Table[slot]
	seen := map[*slot]format.PageID{}
	for _, pid := range ids {
		if m := table.root[pid>>(2*pidBits)].Load(); m == nil && table.Get(pid) != nil {
			t.Errorf("page %d has a slot before it was made", pid)
		}
		s := table.Make(pid)
		if table.Get(pid) != s || table.Make(pid) != s {
			t.Errorf("page %d has two slots", pid)
		}
		if other, ok := seen[s]; ok {
			t.Errorf("pages %d and %d share a slot", pid, other)
		}
		seen[s] = pid
	}
	for _, pid := range []format.PageID{format.MaxPageID + 1, 1 << 40, ^format.PageID(0)} {
		if table.Get(pid) != nil {
			t.Errorf("page %d is beyond the table and has a slot", pid)
		}
	}
	if n := testing.AllocsPerRun(100, func() { table.Get(ids[6]) }); n != 0 {
		t.Errorf("looking up allocates %v times", n)
	}
}

// Read timestamps are allocated by MakeReadTS, one cell a page.
func TestReadTSHasOneCellAPage(t *testing.T) {
	var table Table[slot]
	if table.ReadTS(77) != nil {
		t.Error("a page that does not exist has a read timestamp")
	}
	table.Make(77)
	if table.ReadTS(77) != nil {
		t.Error("a page has a read timestamp before it was made")
	}
	table.MakeReadTS(77).Store(5)
	table.MakeReadTS(78).Store(6)
	if a, b := table.ReadTS(77), table.ReadTS(78); a.Load() != 5 || b.Load() != 6 {
		t.Errorf("read timestamps are %d and %d, want 5 and 6", a.Load(), b.Load())
	}
}

// Goroutines that make the same slots at the same time all get the same ones. Proves T1.
func TestConcurrentMakeReturnsOneSlot(t *testing.T) {
	for range 50 {
		var table Table[slot]
		const goroutines = 8
		slots := [goroutines][]*slot{}
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() {
				for i := range ids {
					pid := ids[(i+g)%len(ids)]
					s := table.Make(pid)
					v := int(pid)
					s.CompareAndSwap(nil, &v)
					table.MakeReadTS(pid).Add(1)
				}
				for _, pid := range ids {
					slots[g] = append(slots[g], table.Get(pid))
				}
			})
		}
		wg.Wait()
		for i, pid := range ids {
			for g := range slots {
				if slots[g][i] != slots[0][i] || *slots[g][i].Load() != int(pid) {
					t.Fatalf("page %d: goroutines have different slots", pid)
				}
			}
			if n := table.ReadTS(pid).Load(); n != goroutines {
				t.Fatalf("page %d: read timestamp %d", pid, n)
			}
		}
	}
}

// The clock returns the marked pages that were not touched since the last pass, and EachMarked all marked ones in
// order. Proves T3 as far as one goroutine goes.
func TestClockReturnsUntouchedMarkedPages(t *testing.T) {
	var table Table[slot]
	marked := []format.PageID{3, 5, 63, 64, fan + 1, 3*fan*fan + 2}
	for _, pid := range marked {
		table.Make(pid)
		table.Mark(pid)
	}
	table.Touch(5)
	table.Touch(6) // not marked
	if got := table.Clock(0); got != 1<<3|1<<63 {
		t.Errorf("the first pass returns %b", got)
	}
	if got := table.Clock(0); got != 1<<3|1<<5|1<<63 {
		t.Errorf("the second pass returns %b", got)
	}
	if got := table.Clock(2 * fan * fan); got != 0 {
		t.Errorf("a pass over pages without a chunk returns %b", got)
	}
	each := func(end format.PageID, limit int) (got []format.PageID) {
		table.EachMarked(end, func(pid format.PageID) bool {
			got = append(got, pid)
			return len(got) < limit
		})
		return got
	}
	if got := each(4*fan*fan, 100); !slices.Equal(got, marked) {
		t.Errorf("marked pages are %v, want %v", got, marked)
	}
	if got := each(4*fan*fan, 2); !slices.Equal(got, marked[:2]) {
		t.Errorf("the first two marked pages are %v", got)
	}
	table.Unmark(5)
	table.Unmark(5)
	if got := each(2*fan, 100); !slices.Equal(got, []format.PageID{3, 63, 64, fan + 1}) {
		t.Errorf("marked pages are %v", got)
	}
}
