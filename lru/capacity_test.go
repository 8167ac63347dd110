package lru

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// writer makes pages resident and grows them, as a transaction of the engine does.
type writer struct {
	s     *store
	p     *Policy
	cost  int64         // bytes that each step adds to a page
	worst *atomic.Int64 // if set, raised to the most bytes that were resident
	rng   *rand.Rand
	a     Account
	h     Hits
}

func newWriter(s *store, p *Policy, seed uint64, cost int64) *writer {
	w := &writer{s: s, p: p, cost: cost, rng: rand.New(rand.NewPCG(seed, 9))}
	s.budget.Register(&w.a)
	return w
}

// run steps until quit is closed.
func (w *writer) run(quit <-chan struct{}) {
	defer w.s.budget.Settle(&w.a)
	for {
		select {
		case <-quit:
			return
		default:
			w.step()
		}
	}
}

func (w *writer) step() {
	key := uint64(w.rng.ExpFloat64()*float64(len(w.s.pages))/4) % uint64(len(w.s.pages))
	pressure := w.s.grow(&w.a, key, w.cost)
	if w.worst != nil {
		for now := w.s.moved.Load(); ; {
			if was := w.worst.Load(); was >= now || w.worst.CompareAndSwap(was, now) {
				break
			}
		}
	}
	full := w.h.Add(key)
	if pressure != PressureNone {
		w.p.Kick()
	}
	if pressure == PressureHard {
		w.s.reclaim(&w.a, &w.h)
	}
	if full || pressure != PressureNone {
		w.p.Take(&w.h)
	}
}

// Whatever 64 writers do and however many hits are dropped, the resident bytes stay within 105 % of the capacity plus
// one step of each writer. Proves U2, traps 8 and 22.
func TestWritersStayWithinCapacity(t *testing.T) {
	const writers = 64
	for _, c := range []struct {
		name           string
		capacity, cost int64
		keys           int
		slow           time.Duration // the policy sleeps in each callback, and the queue overflows
	}{
		{"new pages", 16 << 20, 1000, 1 << 17, 0},
		{"growth", 16 << 20, 1000, 100, 0},
		{"half the capacity", 1 << 20, 1 << 19, 1000, 0},
		{"one page", 1 << 12, 1 << 12, 1000, 0},
		{"larger than the capacity", 1 << 10, 1 << 12, 1000, 0},
		{"queue full", 16 << 20, 1000, 1 << 17, time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := NewBudget(c.capacity)
			s := newStore(b, c.keys)
			if c.slow > 0 {
				s.visited = func(string, uint64) { time.Sleep(c.slow) }
			}
			p := New(b, s, Options{})
			defer p.Close()
			var worst atomic.Int64
			var wg sync.WaitGroup
			quit := make(chan struct{})
			for seed := range uint64(writers) {
				w := newWriter(s, p, seed, c.cost)
				w.worst = &worst
				wg.Go(func() { w.run(quit) })
			}
			time.Sleep(300 * time.Millisecond)
			close(quit)
			wg.Wait()
			if limit := c.capacity + c.capacity/20 + writers*c.cost; worst.Load() > limit {
				t.Errorf("%d bytes resident, limit %d", worst.Load(), limit)
			}
			p.Kick()
			eventually(t, "capacity", func() bool { return b.Excess() <= 0 })
			p.Close()
			if heap, _ := b.Resident(); heap != s.moved.Load() {
				t.Errorf("%d bytes resident, %d settled", s.moved.Load(), heap)
			}
			t.Logf("at most %.1f %% of the capacity; %+v", 100*float64(worst.Load())/float64(c.capacity), p.Stats())
		})
	}
}

// While no page is stable all stay resident; then the policy evicts them by itself. Proves U2 and U4.
func TestBusyPagesAreEvictedOnceStable(t *testing.T) {
	b := NewBudget(1 << 20)
	s := newStore(b, 1<<14)
	s.setAllBusy(true)
	p := New(b, s, Options{})
	defer p.Close()
	var wg sync.WaitGroup
	for seed := range uint64(8) {
		wg.Go(func() {
			var a Account
			var h Hits
			b.Register(&a)
			for n := range uint64(512) {
				key := seed<<9 | n
				pressure := s.set(&a, key, 1000)
				if h.Add(key) || pressure != PressureNone {
					p.Take(&h)
					p.Kick()
				}
			}
			b.Settle(&a)
		})
	}
	wg.Wait()
	eventually(t, "busy", func() bool {
		var h Hits // of the pages that the adviser was not loaded with, because the capacity was exceeded
		for key := range uint64(8 * 512) {
			if h.Add(key) {
				p.Take(&h)
			}
		}
		return p.Stats().Busy > 0
	})
	if s.moved.Load() != 8*512*1000 {
		t.Errorf("%d bytes are left of pages that were busy", s.moved.Load())
	}
	s.setAllBusy(false)
	eventually(t, "capacity", func() bool { return b.Excess() <= 0 })
}

// trickle is a store in which each sweep frees one byte that becomes resident again at once, as when most pages are
// not stable and a few are read.
type trickle struct {
	a      Account
	sweeps atomic.Int64
}

func (s *trickle) Cost(uint64) int64      { return 0 }
func (s *trickle) Evict(uint64) Outcome   { return OutcomeBusy }
func (s *trickle) Each(func(uint64) bool) {}
func (s *trickle) Touch(uint64)           {}
func (s *trickle) Sweep(int64, func(uint64)) (int64, bool) {
	s.sweeps.Add(1)
	time.Sleep(time.Millisecond)
	return 1, false
}

// If the clock goes round twice without freeing enough, the policy pauses before it sweeps again.
func TestPolicyPausesAfterFruitlessSweeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1 << 20)
		s := new(trickle)
		b.Register(&s.a)
		b.Count(&s.a, 1<<20+5000, 0)
		b.Settle(&s.a)
		p := New(b, s, Options{})
		p.Kick()
		const cycle, cycles = 2*time.Millisecond + pause, 100 // two sweeps of a millisecond, and the pause
		time.Sleep(cycles * cycle)
		p.Close()
		if n := s.sweeps.Load(); n < 2*(cycles-1) || n > 2*(cycles+1) {
			t.Errorf("%d sweeps in %d cycles of two", n, cycles)
		}
	})
}
