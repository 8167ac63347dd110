package lru

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// page is a page of a store.
type page struct {
	cost    atomic.Int64 // 0: not resident
	touched atomic.Bool
	busy    atomic.Bool
}

// store is a fake of the engine: a fixed number of pages, each with a cost.
type store struct {
	budget  *Budget
	moved   atomic.Int64 // resident bytes, exact
	pages   []page
	own     Account                       // of the policy's goroutine
	visited func(call string, key uint64) // if set, every callback calls it

	mu   sync.Mutex // held while sweeping
	hand int
}

func newStore(b *Budget, keys int) *store {
	s := &store{budget: b, pages: make([]page, keys)}
	b.Register(&s.own)
	return s
}

func (s *store) cost(key uint64) int64 { return s.pages[key].cost.Load() }

// set sets the cost of a page and counts the difference with the account.
func (s *store) set(a *Account, key uint64, cost int64) Pressure {
	delta := cost - s.pages[key].cost.Swap(cost)
	s.moved.Add(delta)
	return s.budget.Count(a, delta, 0)
}

// grow adds to the cost of a page.
func (s *store) grow(a *Account, key uint64, by int64) Pressure {
	s.pages[key].cost.Add(by)
	s.moved.Add(by)
	return s.budget.Count(a, by, 0)
}

// setAllBusy makes all pages busy, or none.
func (s *store) setAllBusy(busy bool) {
	for i := range s.pages {
		s.pages[i].busy.Store(busy)
	}
}

// reclaim does the work of a writer under hard pressure: it evicts in small steps, because others do so at the same
// time, and records the keys as the engine does. It ends because a step that frees nothing has cleared all touched
// marks.
func (s *store) reclaim(a *Account, h *Hits) {
	for fruitless := 0; s.budget.Excess() > 0 && fruitless < 2; {
		freed := s.sweep(1, func(key uint64) { h.Add(key) })
		s.budget.Count(a, -freed, 0)
		s.budget.Settle(a)
		if freed == 0 {
			fruitless++
		}
	}
}

func (s *store) call(name string, key uint64) {
	if s.visited != nil {
		s.visited(name, key)
	}
}

func (s *store) Cost(key uint64) int64 {
	s.call("cost", key)
	return s.cost(key)
}

func (s *store) Evict(key uint64) Outcome {
	s.call("evict", key)
	if s.pages[key].busy.Load() && s.cost(key) > 0 {
		return OutcomeBusy
	}
	freed := s.remove(key)
	s.settle(freed)
	if freed == 0 {
		return OutcomeNotResident
	}
	return OutcomeEvicted
}

func (s *store) Each(visit func(key uint64) bool) {
	for key := range uint64(len(s.pages)) {
		if s.cost(key) > 0 && !visit(key) {
			return
		}
	}
}

func (s *store) Sweep(want int64, evicted func(key uint64)) (int64, bool) {
	s.call("sweep", 0)
	freed := s.sweep(want, evicted)
	s.settle(freed)
	return freed, freed >= want
}

func (s *store) Touch(key uint64) { s.pages[key].touched.Store(true) }

func (s *store) sweep(want int64, evicted func(key uint64)) (freed int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range s.pages {
		if freed >= want {
			break
		}
		key, p := uint64(s.hand), &s.pages[s.hand]
		s.hand = (s.hand + 1) % len(s.pages)
		if p.cost.Load() == 0 || p.busy.Load() || p.touched.Swap(false) {
			continue
		}
		if n := s.remove(key); n > 0 {
			freed += n
			evicted(key)
		}
	}
	return freed
}

func (s *store) remove(key uint64) int64 {
	freed := s.pages[key].cost.Swap(0)
	s.moved.Add(-freed)
	return freed
}

func (s *store) settle(freed int64) {
	s.budget.Count(&s.own, -freed, 0)
	s.budget.Settle(&s.own)
}

// step runs a round after a pause, for a policy without a goroutine.
func (p *Policy) step() {
	p.endPause()
	p.round()
	runtime.Gosched() // ristretto counts the accesses
}

// world is a store with a policy that has no goroutine, and the account and hits of one transaction.
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
	t.Cleanup(w.p.stopAdviser)
	return w
}

// put sets the cost of a page, or only hits it, and hands the hits over when the engine would.
func (w *world) put(key uint64, cost int64) {
	pressure := PressureNone
	if w.cost(key) != cost {
		pressure = w.set(&w.a, key, cost)
	}
	if w.h.Add(key) || pressure != PressureNone {
		w.settleAll()
	}
}

// settleAll hands everything over to the policy and the budget.
func (w *world) settleAll() {
	w.budget.Settle(&w.a)
	w.p.Take(&w.h)
	w.p.step()
}

// check compares the adviser's counts with the contents of ristretto, and the resident bytes with the capacity.
func (w *world) check(t *testing.T) {
	t.Helper()
	if a := w.p.adviser; a != nil { // otherwise there is room enough
		a.cache.Wait()
		keys, cost := int64(0), int64(0)
		a.cache.IterValues(func(v int64) bool {
			keys++
			cost += v
			return false
		})
		if a.known != keys || a.cost() != cost {
			t.Fatalf("ristretto holds %d keys of %d bytes, counted %d keys of %d bytes", keys, cost, a.known, a.cost())
		}
		if cost > a.limit {
			t.Fatalf("ristretto holds %d bytes, limit %d", cost, a.limit)
		}
	}
	if heap, _ := w.budget.Resident(); heap != w.moved.Load() || heap > w.budget.Capacity() {
		t.Fatalf("%d bytes resident, %d settled, capacity %d", w.moved.Load(), heap, w.budget.Capacity())
	}
}
