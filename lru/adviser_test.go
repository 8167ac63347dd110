package lru

import (
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
)

func TestHashIsReversible(t *testing.T) {
	for _, key := range []uint64{0, 1, 2, 12345, 1 << 40, 1<<64 - 1} {
		if h, conflict := hash(key); h*hashInverse != key || conflict != 0 {
			t.Errorf("key %d is reversed to %d", key, h*hashInverse)
		}
	}
}

// While pages appear, grow, shrink, are freed, swept and resized, the adviser stays within its limit, its counts
// match ristretto's contents, and the resident bytes stay within the capacity. Proves U2, trap 22.
func TestAdviserCountsMatchRistretto(t *testing.T) {
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
	s := w.p.Stats()
	if s.Evictions == 0 || s.Rejections == 0 && !undercounts || s.Hits == 0 ||
		s.Active && s.Keys != w.p.adviser.known {
		t.Errorf("too little happened: %+v", s)
	}
}

// Pages that only grow evict others, or are evicted. Proves U2, trap 22.
func TestGrowingPagesStayWithinCapacity(t *testing.T) {
	w := newWorld(t, 1<<20, 100)
	for n := range 100000 {
		key := uint64(n*n) % 100
		w.put(key, w.cost(key)+200)
		if heap, _ := w.budget.Resident(); heap > 1<<20+1<<20/100 {
			t.Fatalf("%d bytes resident", heap)
		}
	}
	w.settleAll()
	w.check(t)
	if s := w.p.Stats(); s.Evictions == 0 {
		t.Errorf("nothing was evicted: %+v", s)
	} else if s.Swept > s.Capacity {
		t.Errorf("%d bytes were evicted by clock", s.Swept)
	}
}

func TestKeyNewTwiceInABatchIsAdmitted(t *testing.T) {
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

// Proves U5.
func TestScanDoesNotEvictHotPages(t *testing.T) {
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
	evicted := 0
	for key := range uint64(hot) {
		if w.cost(key) == 0 {
			evicted++
		}
	}
	if evicted > hot/50 && !undercounts {
		t.Errorf("a scan evicted %d of %d hot pages", evicted, hot)
	}
}

// A resize to almost nothing evicts everything in one step, without a deadlock between ristretto's callbacks and the
// policy.
func TestResizeEvictsEverythingAtOnce(t *testing.T) {
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

// If pages are far smaller than at the start, the policy replaces the adviser by one with more counters.
func TestSmallerPagesGetMoreCounters(t *testing.T) {
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
		t.Errorf("%d counters for %d keys, %d at the start", n, w.p.adviser.known, few)
	}
}

// BenchmarkFeed measures the time that the policy's goroutine takes for a key, and the memory of a known key.
func BenchmarkFeed(b *testing.B) {
	const keys, size = 1 << 18, 4096
	for _, c := range []struct {
		name string
		keys float64 // number of keys accessed
		skew float64
	}{
		{"keys=hit/dist=uniform", keys * 3 / 4, 1},
		{"keys=hit/dist=skewed", keys * 3 / 4, 8},
		{"keys=hit-or-new/dist=uniform", 2 * keys, 1},
	} {
		b.Run(c.name, func(b *testing.B) {
			budget := NewBudget(keys * size)
			s := newStore(budget, 2*keys)
			p := newPolicy(budget, s, Options{})
			defer p.stopAdviser()
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
				key := uint64(c.keys * math.Pow(rng.Float64(), c.skew))
				if s.cost(key) == 0 {
					s.set(&s.own, key, size)
				}
				if h.Add(key) {
					p.Take(&h)
					p.fed = 0
					p.round()
				}
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(keys*3/4), "B/known")
		})
	}
}
