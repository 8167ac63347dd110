package lru

import (
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
)

func TestHash(t *testing.T) {
	for _, key := range []uint64{0, 1, 2, 12345, 1 << 40, 1<<64 - 1} {
		if h, conflict := hash(key); h*gather != key || conflict != 0 {
			t.Errorf("key %d comes back as %d", key, h*gather)
		}
	}
}

// world is a store with a policy that has no goroutine, and one transaction.
type world struct {
	*store
	p *Policy
	a Account
	h Hits
}

func newWorld(t *testing.T, capacity int64, keys int) *world {
	b := NewBudget(capacity)
	w := &world{store: newStore(b, keys)}
	w.p = newPolicy(b, w.store, Options{})
	b.Register(&w.a)
	t.Cleanup(w.p.shut)
	return w
}

// put makes a page cost so much, or only hits it, and has the policy hear of it.
func (w *world) put(key uint64, cost int64) {
	pressure := None
	if w.cost(key) != cost {
		pressure = w.set(&w.a, key, cost)
	}
	if w.h.Add(key) || pressure != None {
		w.settleAll()
	}
}

// settleAll tells the policy and the budget everything.
func (w *world) settleAll() {
	w.budget.Settle(&w.a)
	w.p.Take(&w.h)
	w.p.step()
}

// check compares the adviser's books with what it has, and wants the bound kept.
func (w *world) check(t *testing.T) {
	t.Helper()
	if a := w.p.adviser; a != nil { // else there is room enough
		a.cache.Wait()
		keys, cost := int64(0), int64(0)
		a.cache.IterValues(func(v int64) bool {
			keys++
			cost += v
			return false
		})
		if a.known != keys || a.cost() != cost {
			t.Fatalf("known are %d keys of %d bytes, booked %d keys of %d bytes", keys, cost, a.known, a.cost())
		}
		if cost > a.limit {
			t.Fatalf("the adviser keeps %d bytes, its limit is %d", cost, a.limit)
		}
	}
	if heap, _ := w.budget.Resident(); heap != w.moved.Load() || heap > w.budget.Capacity() {
		t.Fatalf("%d bytes are resident, %d told, capacity %d", w.moved.Load(), heap, w.budget.Capacity())
	}
}

// Whatever is new, grows, shrinks, goes, is swept or resized: the adviser stays within its limit, its books are right, and the bound is
// kept. Proves L2, trap 22.
func TestBooks(t *testing.T) {
	const keys = 2000
	w := newWorld(t, 1<<20, keys)
	rng := rand.New(rand.NewPCG(3, 1))
	for key := range uint64(1000) {
		w.put(key, 1000)
	}
	for n := range 20000 {
		key := rng.Uint64N(keys)
		switch rng.IntN(8) {
		case 0:
			w.put(key, 0)
		case 1:
			w.put(key, 1+rng.Int64N(30000))
		case 2:
			if w.cost(key) > 0 {
				w.put(key, w.cost(key)+rng.Int64N(2000))
			}
		default:
			w.put(key, max(w.cost(key), 500))
		}
		if n%500 == 0 {
			w.p.Resize(1<<18 + rng.Int64N(1<<20))
		}
		if n%100 == 0 {
			w.settleAll()
			w.check(t)
		}
	}
	if s := w.p.Stats(); s.Evictions == 0 || s.Rejections == 0 && !deaf || s.Hits == 0 || s.Active && s.Keys != w.p.adviser.known {
		t.Errorf("too little happened: %+v", s)
	}
}

// Pages that only grow push out others, or go. Proves L2, trap 22.
func TestGrowth(t *testing.T) {
	w := newWorld(t, 1<<20, 100)
	for n := range 100000 {
		key := uint64(n*n) % 100
		w.put(key, w.cost(key)+200)
		if heap, _ := w.budget.Resident(); heap > 1<<20+1<<20/100 {
			t.Fatalf("%d bytes are resident", heap)
		}
	}
	w.settleAll()
	w.check(t)
	if s := w.p.Stats(); s.Evictions == 0 {
		t.Errorf("nothing was evicted: %+v", s)
	} else if s.Swept > s.Capacity {
		t.Errorf("swept: %d", s.Swept)
	}
}

// A key that is new twice in a batch stays.
func TestNewTwice(t *testing.T) {
	w := newWorld(t, 1<<20, 100)
	for key := range uint64(60) {
		w.put(key, 10000)
	}
	w.settleAll()
	for range 3 {
		w.put(70, 50)
	}
	w.settleAll()
	if s := w.p.Stats(); w.cost(70) == 0 || s.Rejections != 0 || !s.Active {
		t.Errorf("cost %d, %+v", w.cost(70), s)
	}
	w.check(t)
}

// A scan passes through without pushing out what is used. Proves L5.
func TestScan(t *testing.T) {
	const hot, keys = 800, 100000
	w := newWorld(t, 1000*1000, keys)
	for range 8 {
		for key := range uint64(hot) {
			w.put(key, 1000)
		}
	}
	for key := uint64(hot); key < 10*hot; key++ {
		w.put(key, 1000)
	}
	w.settleAll()
	w.check(t)
	gone := 0
	for key := range uint64(hot) {
		if w.cost(key) == 0 {
			gone++
		}
	}
	if gone > hot/50 && !deaf {
		t.Errorf("a scan pushed out %d of %d pages that are used", gone, hot)
	}
}

// A resize to almost nothing has everything evicted at once, and no callback waits for anybody.
func TestManyVerdicts(t *testing.T) {
	const keys = 100000
	w := newWorld(t, keys*10, keys)
	for key := range uint64(keys * 9 / 10) {
		w.put(key, 10)
	}
	w.settleAll()
	w.check(t)
	w.p.Resize(100)
	w.settleAll()
	w.check(t)
	if s := w.p.Stats(); s.Evictions < keys/2 || w.moved.Load() > 100 {
		t.Errorf("%d bytes resident, %+v", w.moved.Load(), s)
	}
}

// With pages far smaller than at the start, the adviser gets more counters.
func TestMoreCounters(t *testing.T) {
	const keys = 50000
	w := newWorld(t, 1<<20, keys)
	w.put(0, 1<<20*3/4)
	w.settleAll()
	few := w.p.adviser.counters
	w.put(0, 0)
	for key := range uint64(keys) {
		w.put(key, 20)
	}
	w.settleAll()
	w.check(t)
	if n := w.p.adviser.counters; n < 4*few {
		t.Errorf("%d counters for %d keys, %d at first", n, w.p.adviser.known, few)
	}
}

// BenchmarkFeed is what a key costs the policy's goroutine, and in keeping, what a known key costs in memory.
func BenchmarkFeed(b *testing.B) {
	const keys, size = 1 << 18, 4096
	for _, c := range []struct {
		name string
		near float64 // how many keys are met
		skew float64
	}{{"keys=hit/dist=uniform", keys * 3 / 4, 1}, {"keys=hit/dist=skewed", keys * 3 / 4, 8}, {"keys=hit-or-new/dist=uniform", 2 * keys, 1}} {
		b.Run(c.name, func(b *testing.B) {
			budget := NewBudget(keys * size)
			s := newStore(budget, 2*keys)
			p := newPolicy(budget, s, Options{})
			defer p.shut()
			for key := range uint64(keys * 3 / 4) {
				s.set(&s.own, key, size)
			}
			before, after := new(runtime.MemStats), new(runtime.MemStats)
			runtime.GC()
			runtime.ReadMemStats(before)
			p.round()
			runtime.GC()
			runtime.ReadMemStats(after)
			var h Hits
			rng := rand.New(rand.NewPCG(1, 1))
			b.ReportAllocs()
			for b.Loop() {
				key := uint64(c.near * math.Pow(rng.Float64(), c.skew))
				if s.cost(key) == 0 {
					s.set(&s.own, key, size)
				}
				if h.Add(key) {
					p.Take(&h)
					p.rested = 0
					p.round()
				}
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(keys*3/4), "B/known")
		})
	}
}
