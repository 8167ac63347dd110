package lru

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// write makes pages resident and grows them by cost until quit, as a transaction of the engine does, and notes the most that was resident.
func write(s *store, p *Policy, seed uint64, cost int64, quit <-chan struct{}, worst *atomic.Int64) {
	var a Account
	var h Hits
	s.budget.Register(&a)
	defer s.budget.Settle(&a)
	rng := rand.New(rand.NewPCG(seed, 9))
	for {
		select {
		case <-quit:
			return
		default:
		}
		key := uint64(rng.ExpFloat64()*float64(len(s.pages))/4) % uint64(len(s.pages))
		pressure := s.grow(&a, key, cost)
		if worst != nil {
			for now := s.moved.Load(); ; {
				if was := worst.Load(); was >= now || worst.CompareAndSwap(was, now) {
					break
				}
			}
		}
		full := h.Add(key)
		if pressure != None {
			p.Kick()
		}
		if pressure == Hard {
			s.reclaim(&a, &h)
		}
		if full || pressure != None {
			p.Take(&h)
		}
	}
}

// Whatever 64 writers do and whatever is dropped, no more is resident than the capacity and 5 %, and what they have just written.
// Proves L2, traps 8 and 22.
func TestBound(t *testing.T) {
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
			var worst atomic.Int64
			var wg sync.WaitGroup
			quit := make(chan struct{})
			for seed := range uint64(writers) {
				wg.Go(func() { write(s, p, seed, c.cost, quit, &worst) })
			}
			time.Sleep(300 * time.Millisecond)
			close(quit)
			wg.Wait()
			if limit := c.capacity + c.capacity/20 + writers*c.cost; worst.Load() > limit {
				t.Errorf("%d bytes were resident, at most %d", worst.Load(), limit)
			}
			p.Kick()
			eventually(t, "capacity", func() bool { return b.Excess() <= 0 })
			p.Close()
			if heap, _ := b.Resident(); heap != s.moved.Load() {
				t.Errorf("%d bytes resident, %d told", s.moved.Load(), heap)
			}
			t.Logf("at most %.1f %% of the capacity; %+v", 100*float64(worst.Load())/float64(c.capacity), p.Stats())
		})
	}
}

// While no page is stable everything stays, and then goes by itself. Proves L2 and L4.
func TestBoundAfterBusy(t *testing.T) {
	b := NewBudget(1 << 20)
	s := newStore(b, 1<<14)
	s.allBusy(true)
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
				if h.Add(key) || pressure != None {
					p.Take(&h)
					p.Kick()
				}
			}
			b.Settle(&a)
		})
	}
	wg.Wait()
	eventually(t, "busy", func() bool {
		var h Hits // of what it was not told at its start, since there was too much
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
	s.allBusy(false)
	eventually(t, "capacity", func() bool { return b.Excess() <= 0 })
}

// trickle has nothing to page out but a little that comes back at once, as where much is not stable and some is read.
type trickle struct {
	a      Account
	sweeps atomic.Int64
}

func (s *trickle) Cost(uint64) int64      { return 0 }
func (s *trickle) PageOut(uint64) Outcome { return Busy }
func (s *trickle) Each(func(uint64) bool) {}
func (s *trickle) Touch(uint64)           {}
func (s *trickle) Sweep(int64, func(uint64)) (int64, bool) {
	s.sweeps.Add(1)
	time.Sleep(time.Millisecond)
	return 1, false
}

// A policy that goes round and finds too little rests before it tries again.
func TestTrickle(t *testing.T) {
	b := NewBudget(1 << 20)
	s := new(trickle)
	b.Register(&s.a)
	b.Count(&s.a, 1<<20+5000, 0)
	b.Settle(&s.a)
	p := New(b, s, Options{})
	p.Kick()
	time.Sleep(500 * time.Millisecond)
	p.Close()
	if n := s.sweeps.Load(); n > 250 || n == 0 {
		t.Errorf("%d sweeps of a millisecond in half a second", n)
	}
}
