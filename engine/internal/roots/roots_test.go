package roots

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/segments/format"
)

// add adds a name, or returns false if it is in the index.
func add(x *Index, name string, page format.PageID) bool {
	s := x.Shard(name)
	s.Lock()
	defer s.Unlock()
	if _, found := s.Find(name); found || !x.Admit() {
		return false
	}
	s.Add(name, page)
	return true
}

// remove removes a name, or returns false if it is not in the index.
func remove(x *Index, name string) bool {
	s := x.Shard(name)
	s.Lock()
	defer s.Unlock()
	if _, found := s.Find(name); !found {
		return false
	}
	s.Remove(name)
	return true
}

// The index agrees with a map after each of many changes, while it grows and shrinks, whether it begins empty or was
// filled. An empty index takes no tables, however many names it had. Proves I1, I2.
func TestIndexAgreesWithMap(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var x Index
		x.Init()
		want := map[string]format.PageID{}
		if seed%2 == 1 {
			fill := x.Fill()
			fill.Grow(1000)
			for i := range 1000 {
				name := fmt.Sprint("name ", i)
				want[name] = format.PageID(i)
				fill.Add(name, format.PageID(i))
			}
			if name, _, _, ok := fill.Done(); !ok {
				t.Fatalf("%q was added twice", name)
			}
		}
		for i := range 20_000 {
			name := fmt.Sprint("name ", rng.IntN(2000))
			if rng.IntN(9) == 0 {
				name = ""
			}
			_, exists := want[name]
			if rng.IntN(20_000) > i { // at first most calls add a name, at the end most remove one
				if add(&x, name, format.PageID(i)) == exists {
					t.Fatalf("add %q, which the index has: %v", name, exists)
				} else if !exists {
					want[name] = format.PageID(i)
				}
			} else if remove(&x, name) != exists {
				t.Fatalf("remove %q, which the index has: %v", name, exists)
			} else {
				delete(want, name)
			}
			wantPage, wanted := want[name]
			if page, ok := x.Find(name); page != wantPage || ok != wanted {
				t.Fatalf("%q is on page %d (found: %v), want %d (%v)", name, page, ok, wantPage, wanted)
			}
			if i%1000 == 0 && (!maps.Equal(maps.Collect(x.All()), want) || x.Len() != len(want)) {
				t.Fatalf("seed %d, step %d: %d names, want %d", seed, i, x.Len(), len(want))
			}
		}
		if n := testing.AllocsPerRun(100, func() { x.Find("name 7") }); n > 0 {
			t.Errorf("Find allocates %v times", n)
		}
		for name := range want {
			remove(&x, name)
		}
		for i := range x.shards {
			if s := &x.shards[i]; s.table.Load() != nil || s.live != 0 || s.used != 0 {
				t.Errorf("an empty shard has a table, %d names, %d cells", s.live, s.used)
			}
		}
	}
}

// A lookup finds a name that is there all the time, on its page, while others add and remove names beside it. A name
// that is added again has another page than before. Proves I1, I2.
func TestLookupsBesideChanges(t *testing.T) {
	var x Index
	x.Init()
	for i := range 50 {
		add(&x, fmt.Sprint("stays ", i), format.PageID(i))
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				name := fmt.Sprint("stays ", i%50)
				if page, ok := x.Find(name); !ok || page != format.PageID(i%50) {
					t.Errorf("%q is on page %d, found %v", name, page, ok)
					return
				}
				if i%100 == 0 && len(maps.Collect(x.All())) < 50 {
					t.Error("names are missing")
				}
			}
		})
		wg.Go(func() {
			defer stop.Store(true)
			for round := range 15 {
				for i := range 200 {
					add(&x, fmt.Sprint("goes ", g, i), format.PageID(round))
				}
				for i := range 200 {
					name := fmt.Sprint("goes ", g, i)
					if page, ok := x.Find(name); !ok || page != format.PageID(round) {
						t.Errorf("%q is on page %d, found %v, want %d", name, page, ok, round)
					}
					remove(&x, name)
				}
			}
		})
	}
	wg.Wait()
	if x.Len() != 50 {
		t.Errorf("%d names, want 50", x.Len())
	}
}

// A name that is filled in twice is reported with both pages, and no more names are admitted than Max.
func TestDuplicatesAndLimit(t *testing.T) {
	var x Index
	x.Init()
	fill := x.Fill()
	for i, name := range []string{"a", "b", "a"} {
		fill.Add(name, format.PageID(10+i))
	}
	if name, a, b, ok := fill.Done(); ok || name != "a" || a != 10 || b != 12 {
		t.Errorf("%q, pages %d and %d, %v", name, a, b, ok)
	}
	x.n.Store(Max - 1)
	if !x.Admit() || x.Admit() || x.Len() != Max {
		t.Errorf("%d names are admitted, the most is %d", x.Len(), Max)
	}
	x.Withdraw()
	if !x.Admit() {
		t.Error("a name that was not added still counts")
	}
}
