package epoch

import (
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// A slot holds back what was retired after it entered, and nothing once it has left. E1.
func TestOldest(t *testing.T) {
	var d Domain
	var a, b Slot
	d.Register(&a)
	d.Register(&b)
	if d.Oldest() != math.MaxUint64 || d.Readers() != 0 {
		t.Fatalf("with nobody inside: oldest %d, %d readers", d.Oldest(), d.Readers())
	}
	if !a.TryEnter(&d) || a.TryEnter(&d) || !a.Inside() || b.Inside() {
		t.Fatal("entering twice")
	}
	r := d.Retire()
	if !b.TryEnter(&d) || d.Readers() != 2 {
		t.Fatal("the second reader")
	}
	if d.Oldest() >= r {
		t.Error("what was retired under a reader may be reclaimed")
	}
	if !a.Leave() || a.Leave() {
		t.Error("leaving twice")
	}
	if d.Oldest() < r {
		t.Error("a reader that came later holds it back")
	}
	if next := d.Retire(); d.Oldest() >= next {
		t.Error("b holds nothing back")
	}
	b.Leave()
	if d.Oldest() != math.MaxUint64 {
		t.Error("nobody is inside, and something is held back")
	}
}

// Readers look at what a shared pointer shows, reclaimers swap it, retire the old one and poison it as soon as the
// domain lets them: no reader ever sees poison. E1; proves rule 4 as far as Txs go.
func TestNothingIsReclaimedUnderAReader(t *testing.T) {
	type object struct{ poisoned atomic.Bool }
	const readers, swaps = 4, 5000
	var d Domain
	var shared atomic.Pointer[object]
	shared.Store(new(object))
	var stop atomic.Bool
	var wg sync.WaitGroup
	for g := range readers {
		s := new(Slot)
		d.Register(s)
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(2, uint64(g)))
			for !stop.Load() {
				if !s.TryEnter(&d) {
					t.Error("a slot of ours alone is inside")
					return
				}
				o := shared.Load()
				for range rng.IntN(4) {
					runtime.Gosched()
				}
				if o.poisoned.Load() {
					t.Error("reclaimed under a reader")
					stop.Store(true)
				}
				s.Leave()
				if rng.IntN(8) == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	type retired struct {
		o *object
		r uint64
	}
	var limbo []retired
	reclaimed := 0
	for n := 0; n < swaps || reclaimed == 0 && n < 1000*swaps; n++ {
		old := shared.Swap(new(object))
		limbo = append(limbo, retired{old, d.Retire()})
		for oldest := d.Oldest(); len(limbo) > 0 && limbo[0].r <= oldest; limbo = limbo[1:] {
			limbo[0].o.poisoned.Store(true)
			reclaimed++
		}
		runtime.Gosched()
	}
	stop.Store(true)
	wg.Wait()
	if reclaimed == 0 || d.Oldest() != math.MaxUint64 {
		t.Errorf("%d of %d reclaimed, oldest %d", reclaimed, swaps, d.Oldest())
	}
}

// One slot that several try to own has one owner at a time.
func TestOneOwner(t *testing.T) {
	var d Domain
	var s Slot
	d.Register(&s)
	var inside atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5000 {
				if s.TryEnter(&d) {
					if inside.Add(1) != 1 {
						t.Error("two owners")
					}
					inside.Add(-1)
					s.Leave()
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkEnterLeave(b *testing.B) {
	var d Domain
	var s Slot
	d.Register(&s)
	for range b.N {
		s.TryEnter(&d)
		s.Leave()
	}
}
