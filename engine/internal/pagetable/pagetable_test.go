package pagetable

import (
	"sync"
	"testing"

	"pagecache/segments/format"
)

// ids lie at the seams of the chunks.
var ids = []format.PageID{0, 1, fan - 1, fan, fan*fan - 1, fan * fan, 5*fan*fan + 7*fan + 9, format.MaxPageID - 1, format.MaxPageID}

// Each page has one slot, the same for ever, and none before it is made. T1, T2.
func TestSlots(t *testing.T) {
	var table Table[int]
	seen := map[*Slot[int]]format.PageID{}
	for _, pid := range ids {
		if l := table.root[pid>>(2*pidBits)].Load(); l == nil && table.Get(pid) != nil {
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

// Read timestamps are made when they are first wanted, one cell a page.
func TestReadTS(t *testing.T) {
	var table Table[int]
	if table.ReadTS(77) != nil {
		t.Error("a page that does not exist has a read timestamp")
	}
	table.Make(77)
	if table.ReadTS(77) != nil {
		t.Error("a page has a read timestamp before anybody set it")
	}
	table.MakeReadTS(77).Store(5)
	table.MakeReadTS(78).Store(6)
	if a, b := table.ReadTS(77), table.ReadTS(78); a.Load() != 5 || b.Load() != 6 {
		t.Errorf("%d and %d", a.Load(), b.Load())
	}
}

// Whoever makes a page's slot first, all get the same. T1.
func TestConcurrentMake(t *testing.T) {
	for range 50 {
		var table Table[int]
		const goroutines = 8
		slots := [goroutines][]*Slot[int]{}
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
