package lru

import (
	"container/heap"
	"container/list"
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"strings"
	"testing"

	"github.com/dgraph-io/ristretto/v2"
)

// trace is a sequence of accesses. Its keys are indexes of cost.
type trace struct {
	name     string
	capacity int64
	cost     []int64
	keys     []uint32
	swing    int // factor on the number of runs to average, because ristretto's hit ratio varies between runs
}

const (
	simPages = 20000
	simFit   = 2000 // pages that fit, of the fixed size
	simSize  = 4096
)

// zipf draws ranks below n with probability proportional to 1/(rank+1)^s, for any s, and gives each rank a key of its
// own.
func zipf(rng *rand.Rand, n int, s float64) func() uint32 {
	sum, table := 0.0, make([]float64, n)
	for i := range table {
		sum += math.Pow(float64(i+1), -s)
		table[i] = sum
	}
	keys := rng.Perm(n)
	return func() uint32 { return uint32(keys[min(n-1, sort.SearchFloat64s(table, rng.Float64()*sum))]) }
}

func fixed(n int) []int64 {
	cost := make([]int64, n)
	for i := range cost {
		cost[i] = simSize
	}
	return cost
}

// mixed returns costs from 256 bytes to 64 KiB, most of them small.
func mixed(rng *rand.Rand, n int) []int64 {
	cost := make([]int64, n)
	for i := range cost {
		cost[i] = int64(math.Exp2(8 + 8*rng.Float64()*rng.Float64()))
	}
	return cost
}

// traces returns the traces, each at least length accesses long.
func traces(length int) (all []trace) {
	seed := uint64(0)
	add := func(name string, cost func(*rand.Rand) []int64, gen func(rng *rand.Rand, emit func(uint32))) {
		seed++
		rng := rand.New(rand.NewPCG(8, seed))
		t := trace{name: name, capacity: simFit * simSize, cost: cost(rng)}
		for len(t.keys) < length {
			gen(rng, func(key uint32) { t.keys = append(t.keys, key) })
		}
		all = append(all, t)
	}
	allFixed := func(*rand.Rand) []int64 { return fixed(2 * simPages) }
	allMixed := func(rng *rand.Rand) []int64 { return mixed(rng, 2*simPages) }
	draw := func(s float64) func(*rand.Rand, func(uint32)) {
		var next func() uint32
		return func(rng *rand.Rand, emit func(uint32)) {
			if next == nil {
				next = zipf(rng, simPages, s)
			}
			emit(next())
		}
	}
	for _, s := range []float64{0.7, 0.9, 0.99, 1.2} {
		add(fmt.Sprintf("zipf %v", s), allFixed, draw(s))
	}
	add("zipf 0.9 mixed sizes", allMixed, draw(0.9))
	scan, hot := uint32(0), draw(0.9)
	add("zipf 0.9 with scans", allFixed, func(rng *rand.Rand, emit func(uint32)) {
		for range 5000 {
			hot(rng, emit)
		}
		for range 2 * simFit {
			emit(simPages + scan%simPages)
			scan++
		}
	})
	add("loop of 1.15 capacities", allFixed, func(_ *rand.Rand, emit func(uint32)) {
		for key := range uint32(simFit * 115 / 100) {
			emit(key)
		}
	})
	base := uint32(0)
	add("zipf 0.99 shifting", allFixed, func(rng *rand.Rand, emit func(uint32)) {
		next := zipf(rng, simPages, 0.99)
		for range 50000 {
			emit((next() + base) % (2 * simPages))
		}
		base += simPages / 2
	})
	for i := range all {
		switch {
		case strings.HasPrefix(all[i].name, "loop"):
			all[i].swing = 4 // a deviation of 0.044: all keys are equally frequent, and the order of counting decides
		case strings.HasSuffix(all[i].name, "shifting"):
			all[i].swing = 8 // a deviation of 0.0065, a little more than tolerance
		default:
			all[i].swing = 1
		}
	}
	return all
}

// runOurs runs the whole policy, without its goroutine, for txs transactions in turn. It fails the test if the
// capacity is exceeded by more than 5 %.
func runOurs(t *testing.T, tr *trace, txs int) (ratio float64, stats Stats) {
	b := NewBudget(tr.capacity)
	s := newStore(b, len(tr.cost))
	p := newPolicy(b, s, Options{})
	defer p.stopAdviser()
	hits, accounts := make([]Hits, txs), make([]Account, txs)
	for i := range accounts {
		b.Register(&accounts[i])
	}
	found, worst := 0, int64(0)
	for i, k := range tr.keys {
		key, pressure, tx := uint64(k), PressureNone, i%txs
		if s.cost(key) > 0 {
			found++
		} else {
			pressure = s.set(&accounts[tx], key, tr.cost[key])
			worst = max(worst, s.moved.Load())
		}
		if hits[tx].Add(key) || pressure != PressureNone {
			p.Take(&hits[tx])
			p.step()
		}
	}
	if limit := tr.capacity + tr.capacity/20; worst > limit {
		t.Errorf("%s: %d bytes resident, capacity %d", tr.name, worst, tr.capacity)
	}
	return float64(found) / float64(len(tr.keys)), p.Stats()
}

// runRistretto uses ristretto alone, as its manual recommends.
func runRistretto(t *testing.T, tr *trace) float64 {
	c, err := ristretto.NewCache(&ristretto.Config[uint64, bool]{NumCounters: 10 * simFit, MaxCost: tr.capacity,
		BufferItems: 64, IgnoreInternalCost: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hits := 0
	for i, k := range tr.keys {
		if _, found := c.Get(uint64(k)); found {
			hits++
		} else {
			c.Set(uint64(k), true, tr.cost[k])
		}
		if i%64 == 0 {
			c.Wait()
		}
	}
	return float64(hits) / float64(len(tr.keys))
}

// runLRU evicts the least recently used page.
func runLRU(tr *trace) float64 {
	order := list.New() // the most recent in front
	at := make([]*list.Element, len(tr.cost))
	hits, used := 0, int64(0)
	for _, k := range tr.keys {
		if at[k] != nil {
			hits++
			order.MoveToFront(at[k])
			continue
		}
		at[k] = order.PushFront(k)
		for used += tr.cost[k]; used > tr.capacity; {
			last := order.Remove(order.Back()).(uint32)
			at[last] = nil
			used -= tr.cost[last]
		}
	}
	return float64(hits) / float64(len(tr.keys))
}

// use is a page and the index of its next access. uses is a heap with the latest use first.
type use struct{ key, next uint32 }
type uses []use

func (u uses) Len() int           { return len(u) }
func (u uses) Less(i, j int) bool { return u[i].next > u[j].next }
func (u uses) Swap(i, j int)      { u[i], u[j] = u[j], u[i] }
func (u *uses) Push(x any)        { *u = append(*u, x.(use)) }
func (u *uses) Pop() any {
	last := len(*u) - 1
	x := (*u)[last]
	*u = (*u)[:last]
	return x
}

// runOptimum evicts the page whose next access is farthest: Belady's MIN. It is optimal for pages of one size and
// nearly so for others.
func runOptimum(tr *trace) float64 {
	next := make([]uint32, len(tr.keys)) // index of the next access to the key
	seen := make([]uint32, len(tr.cost))
	for i := range seen {
		seen[i] = math.MaxUint32
	}
	for i := len(tr.keys) - 1; i >= 0; i-- {
		next[i] = seen[tr.keys[i]]
		seen[tr.keys[i]] = uint32(i)
	}
	current := make([]uint32, len(tr.cost)) // index of a resident page's next access; 0: not resident
	var order uses                          // may hold stale entries
	hits, used := 0, int64(0)
	for i, k := range tr.keys {
		if current[k] != 0 {
			hits++
		} else {
			used += tr.cost[k]
		}
		current[k] = next[i]
		heap.Push(&order, use{k, next[i]})
		for used > tr.capacity {
			if u := heap.Pop(&order).(use); current[u.key] == u.next {
				current[u.key] = 0
				used -= tr.cost[u.key]
			}
		}
	}
	return float64(hits) / float64(len(tr.keys))
}

// tolerance is the difference by which the policy's hit ratio may fall short of ristretto's.
const tolerance = 0.005

// The policy hits as often as ristretto alone, and more often than LRU if some pages are more frequent than others.
// Ristretto samples in the order of its maps, so the test compares means of several runs. Proves U5.
func TestHitRatiosMatchRistretto(t *testing.T) {
	length, runs := 300000, 3
	if testing.Short() {
		length, runs = 100000, 2
	}
	if undercounts {
		length, runs = 5000, 1
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%-24s %8s %10s %8s %8s %8s\n", "trace", "LRU", "ristretto", "ours", "16 Txs", "optimum")
	for _, tr := range traces(length) {
		ours, plain, busy := 0.0, 0.0, 0.0
		n := runs * tr.swing
		for range n {
			one, stats := runOurs(t, &tr, 1)
			if stats.Swept > tr.capacity/10 {
				t.Errorf("%s: %d bytes were evicted by clock", tr.name, stats.Swept)
			}
			many, _ := runOurs(t, &tr, 16)
			ours += one / float64(n)
			busy += many / float64(n)
			plain += runRistretto(t, &tr) / float64(n)
		}
		lru, optimum := runLRU(&tr), runOptimum(&tr)
		fmt.Fprintf(&table, "%-24s %8.4f %10.4f %8.4f %8.4f %8.4f\n", tr.name, lru, plain, ours, busy, optimum)
		if min(ours, busy) < plain-tolerance && !undercounts {
			t.Errorf("%s: ours %.4f, with 16 Txs %.4f, ristretto alone %.4f", tr.name, ours, busy, plain)
		}
		steady := strings.HasPrefix(tr.name, "zipf") && !strings.HasSuffix(tr.name, "shifting")
		if steady && ours <= lru && !undercounts {
			t.Errorf("%s: ours %.4f, LRU %.4f", tr.name, ours, lru)
		}
		if ours > optimum+0.02 { // the policy may exceed the capacity for a moment, the optimum does not
			t.Errorf("%s: ours %.4f is above the optimum %.4f", tr.name, ours, optimum)
		}
	}
	t.Logf("hit ratios of %d accesses\n%s", length, table.String())
}
