package lru

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// page is a page of a store.
type page struct {
	cost    atomic.Int64 // 0: not resident
	touched atomic.Bool
	busy    atomic.Bool
}

// store is a fake of the engine: pages that cost something, with keys below a bound.
type store struct {
	budget  *Budget
	moved   atomic.Int64 // bytes that are resident, exactly
	pages   []page
	own     Account                       // what the policy pages out
	visited func(call string, key uint64) // if set: called by every callback

	mu   sync.Mutex // held while sweeping
	hand int
}

func newStore(b *Budget, keys int) *store {
	s := &store{budget: b, pages: make([]page, keys)}
	b.Register(&s.own)
	return s
}

func (s *store) cost(key uint64) int64 { return s.pages[key].cost.Load() }

// set makes the page cost so much, for the account's owner.
func (s *store) set(a *Account, key uint64, cost int64) Pressure {
	delta := cost - s.pages[key].cost.Swap(cost)
	s.moved.Add(delta)
	return s.budget.Count(a, delta, 0)
}

// grow adds to what the page costs.
func (s *store) grow(a *Account, key uint64, by int64) Pressure {
	s.pages[key].cost.Add(by)
	s.moved.Add(by)
	return s.budget.Count(a, by, 0)
}

// allBusy says of all pages whether they are busy.
func (s *store) allBusy(busy bool) {
	for i := range s.pages {
		s.pages[i].busy.Store(busy)
	}
}

// reclaim is what a writer does under hard pressure: in small steps, because others are at it too. It records the keys as the
// engine does. It ends because a step that frees nothing has cleared the marks of all that is touched.
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

func (s *store) PageOut(key uint64) Outcome {
	s.call("page out", key)
	if s.pages[key].busy.Load() && s.cost(key) > 0 {
		return Busy
	}
	freed := s.drop(key)
	s.settle(freed)
	if freed == 0 {
		return Nothing
	}
	return Out
}

func (s *store) Each(visit func(key uint64) bool) {
	for key := range uint64(len(s.pages)) {
		if s.cost(key) > 0 && !visit(key) {
			return
		}
	}
}

func (s *store) Sweep(want int64, out func(key uint64)) (int64, bool) {
	s.call("sweep", 0)
	freed := s.sweep(want, out)
	s.settle(freed)
	return freed, freed >= want
}

func (s *store) Touch(key uint64) { s.pages[key].touched.Store(true) }

func (s *store) sweep(want int64, out func(key uint64)) (freed int64) {
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
		if n := s.drop(key); n > 0 {
			freed += n
			out(key)
		}
	}
	return freed
}

func (s *store) drop(key uint64) int64 {
	freed := s.pages[key].cost.Swap(0)
	s.moved.Add(-freed)
	return freed
}

func (s *store) settle(freed int64) {
	s.budget.Count(&s.own, -freed, 0)
	s.budget.Settle(&s.own)
}

// step is a round after a pause, for policies without a goroutine.
func (p *Policy) step() {
	p.wake()
	p.round()
	runtime.Gosched() // ristretto counts what was met
}
