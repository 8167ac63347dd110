package epoch

import (
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// A reader holds back objects that were retired after it entered, and none once it has left. Proves E1.
func TestReadersHoldBackRetiredObjects(t *testing.T) {
	var d Domain
	var a, b Slot
	d.Register(&a)
	d.Register(&b)
	if d.Oldest() != math.MaxUint64 || d.Readers() != 0 {
		t.Fatalf("without readers: oldest %d, %d readers", d.Oldest(), d.Readers())
	}
	if !a.TryEnter(&d) || a.TryEnter(&d) || !a.Inside() || b.Inside() {
		t.Fatal("a slot is entered twice, or not at all")
	}
	r := d.Retire()
	if !b.TryEnter(&d) || d.Readers() != 2 {
		t.Fatal("the second reader is not inside")
	}
	if d.Oldest() >= r {
		t.Error("an object that was retired under a reader may be reclaimed")
	}
	if !a.Leave() || a.Leave() {
		t.Error("a slot is left twice, or not at all")
	}
	if d.Oldest() < r {
		t.Error("a reader that entered after Retire holds the object back")
	}
	if next := d.Retire(); d.Oldest() >= next {
		t.Error("the reader inside holds nothing back")
	}
	b.Leave()
	if d.Oldest() != math.MaxUint64 {
		t.Error("no reader is inside, and objects are held back")
	}
}

// Readers load objects from a shared pointer. A reclaimer swaps the pointer, retires the old object, and poisons it
// as soon as the domain allows. No reader sees a poisoned object. Proves E1, and rule 4 as far as Txs go.
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
					t.Error("a slot with one owner is inside already")
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

// A slot that several goroutines try to enter has one owner at a time.
func TestSlotHasOneOwner(t *testing.T) {
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
