package epoch

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A reader holds back objects that were retired after it entered, and none once it has left. Proves E1.
func TestReadersHoldBackRetiredObjects(t *testing.T) {
	var d Domain
	var a, b Slot
	d.Register(&a)
	d.Register(&b)
	if d.Oldest() != d.clock.Load() || d.Readers() != 0 {
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
	if d.Oldest() != d.clock.Load() {
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
	if reclaimed == 0 || d.Oldest() != d.clock.Load() {
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

// After a burst of readers, a look at the slots costs as much as the readers that are inside now. Trap 48, E3.
func TestCostFollowsTheReadersInside(t *testing.T) {
	const burst, stay, most = 10_000, 5, 2*(5+spare) + 1
	var d Domain
	d.OnSparse(func() { d.Trim() })
	var always Slot
	d.Register(&always)
	slots := make([]Slot, burst)
	for i := range slots {
		d.Join(&slots[i])
		slots[i].TryEnter(&d)
	}
	if n := d.Readers(); n != burst {
		t.Fatalf("%d readers, want %d", n, burst)
	}
	for i := range slots[stay:] {
		slots[stay+i].Leave()
	}
	if n := d.Readers(); n != stay { // it pays for the burst
		t.Fatalf("%d readers, want %d", n, stay)
	}
	for range 3 {
		before := d.Looked()
		if n := d.Readers(); n != stay {
			t.Fatalf("%d readers, want %d", n, stay)
		}
		if n := d.Looked() - before; n > most {
			t.Errorf("a look after the burst loads %d slots, at most %d are expected", n, most)
		}
	}
	for i := range slots[:stay] {
		if !slots[i].Inside() || !slots[i].Leave() {
			t.Errorf("reader %d is not inside", i)
		}
	}
	removed := 0
	for i := range slots {
		if slots[i].IsRemoved() {
			removed++
			if slots[i].TryEnter(&d) {
				t.Fatal("a removed slot was entered")
			}
		} else if !slots[i].TryEnter(&d) {
			t.Fatal("a slot of the domain was not entered")
		}
	}
	if n := d.Readers(); n != burst-removed {
		t.Errorf("%d readers are found, %d are inside", n, burst-removed)
	}
	if always.IsRemoved() || !always.TryEnter(&d) {
		t.Error("a registered slot was removed")
	}
}

// While the oldest reader stays inside, Oldest looks at its slot only, however many readers there are. When it has
// left, the next oldest counts. Proves E1, E3.
func TestOldestReaderIsRemembered(t *testing.T) {
	const readers = 1000
	var d Domain
	slots := make([]Slot, readers)
	for i := range slots {
		d.Join(&slots[i])
		slots[i].TryEnter(&d)
		d.Retire()
	}
	for i := range slots {
		if n := d.Oldest(); n != uint64(i) {
			t.Fatalf("the oldest reader entered in epoch %d, want %d", n, i)
		}
		before := d.Looked()
		for range 10 {
			d.Oldest()
		}
		if n := d.Looked() - before; n > 10 {
			t.Fatalf("10 looks at one reader load %d slots", n)
		}
		slots[i].Leave()
	}
	if d.Oldest() != d.clock.Load() {
		t.Error("nobody is inside, and objects are held back")
	}
}

// A reader that enters behind a look at the slots holds back what was retired meanwhile, although the look has found a
// later one. Proves E1.
func TestOldestMissesNoReaderBehindTheLook(t *testing.T) {
	var d Domain
	var later Slot
	d.Register(&later) // looked at last
	guests := make([]Slot, 2*spare+2)
	for i := range guests {
		d.Join(&guests[i])
	}
	var object uint64
	d.OnSparse(func() { // in the middle of a look
		if object == 0 {
			guests[0].TryEnter(&d) // finds the object
			object = d.Retire()
			later.TryEnter(&d)
		}
	})
	if n := d.Oldest(); n >= object {
		t.Errorf("the look that was under way says %d of an object of epoch %d, which was retired since", n, object)
	}
	if n := d.Oldest(); n >= object {
		t.Fatalf("the next look says %d of an object of epoch %d, which a reader holds", n, object)
	}
	guests[0].Leave()
	if n := d.Oldest(); n != object {
		t.Errorf("only a reader of epoch %d is inside: %d", object, n)
	}
}

// Objects of several goroutines, each of which retires its own and looks for the oldest reader, are reclaimed only when
// no reader holds them. Proves E1.
func TestManyReclaimers(t *testing.T) {
	type object struct{ poisoned atomic.Bool }
	const slots, reclaimers, long = 64, 3, 300 * time.Millisecond
	var d Domain
	readers := make([]Slot, slots)
	for i := range readers {
		d.Register(&readers[i])
	}
	var places [reclaimers]atomic.Pointer[object]
	for i := range places {
		places[i].Store(new(object))
	}
	stop := make(chan struct{})
	var reading, writing sync.WaitGroup
	for g := range 4 {
		reading.Go(func() {
			for i := g; ; i += 4 {
				select {
				case <-stop:
					return
				default:
				}
				s := &readers[i%slots]
				if s.TryEnter(&d) {
					o := places[i%reclaimers].Load()
					if i%16 == 0 {
						runtime.Gosched()
					}
					if o.poisoned.Load() {
						t.Error("an object was reclaimed while a reader held it")
					}
					s.Leave()
				}
			}
		})
	}
	for i := range places {
		writing.Go(func() {
			for start := time.Now(); time.Since(start) < long; {
				o := places[i].Swap(new(object))
				r := d.Retire()
				for d.Oldest() < r {
					runtime.Gosched()
				}
				o.poisoned.Store(true)
			}
		})
	}
	writing.Wait()
	close(stop)
	reading.Wait()
}

// Readers come and go while another goroutine trims the domain: Oldest misses none of them. Proves E1, E3.
func TestTrimMissesNoReader(t *testing.T) {
	type object struct{ poisoned atomic.Bool }
	var d Domain
	d.OnSparse(func() { d.Trim() })
	var shared atomic.Pointer[object]
	shared.Store(new(object))
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := 0; !stop.Load(); n++ {
				slots := make([]Slot, 50) // most are outside for ever; one at a time is used
				for i := range slots {
					d.Join(&slots[i])
				}
				for i := range slots {
					for k := range 3 {
						if !slots[i].TryEnter(&d) {
							break // removed
						}
						o := shared.Load()
						if yields := (n+i+k)%16 == 0; yields { // else readers keep the processors from the reclaimer
							runtime.Gosched()
						}
						if o.poisoned.Load() {
							t.Error("reclaimed under a reader")
							stop.Store(true)
						}
						slots[i].Leave()
					}
				}
				d.Trim()
			}
		})
	}
	type retired struct {
		o *object
		r uint64
	}
	var limbo []retired
	reclaimed := 0
	for range 3000 {
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
	if d.Trim(); reclaimed == 0 || d.Len() > 2*spare {
		t.Errorf("%d objects were reclaimed, %d slots stay", reclaimed, d.Len())
	}
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

// A loose reader is counted, and holds nothing: not by the epoch in which it has entered, nor in the way of those that
// enter later. It leaves as others do, holds again when it is tightened, and keeps its slot.
func TestLooseReaderHoldsNothing(t *testing.T) {
	var d Domain
	var view, other Slot
	d.Join(&view)
	d.Join(&other)
	look := func(when string, readers int, oldest uint64) {
		t.Helper()
		if n, o := d.Readers(), d.Oldest(); n != readers || o != oldest {
			t.Errorf("%s: %d readers, the oldest of epoch %d; want %d, %d", when, n, o, readers, oldest)
		}
		if n, o := d.Readers(), d.Oldest(); n != readers || o != oldest {
			t.Errorf("%s, again: %d readers, the oldest of epoch %d; want %d, %d", when, n, o, readers, oldest)
		}
	}
	d.Retire()
	if !view.TryEnter(&d) || view.Epoch() != 1 {
		t.Fatalf("epoch %d", view.Epoch())
	}
	d.Retire()
	look("inside", 1, 1)
	view.Loosen()
	look("loose", 1, d.clock.Load())
	if view.Inside() || !view.Present() || !view.IsLoose() || view.IsRemoved() || view.TryEnter(&d) {
		t.Error("a loose slot is not what it should be")
	}
	if !other.TryEnter(&d) {
		t.Fatal("not entered")
	}
	d.Retire()
	look("another inside", 2, 2)
	view.Tighten(&d)
	look("tightened", 2, 2)
	other.Leave()
	look("alone", 1, 3)
	view.Loosen()
	many := make([]Slot, 200)
	for i := range many {
		d.Join(&many[i])
	}
	if !d.Trim() || !view.IsLoose() {
		t.Error("a loose slot was removed, or no other")
	}
	look("after Trim", 1, d.clock.Load())
	if !view.Leave() || view.Leave() || view.Present() {
		t.Error("a loose slot was not left, or twice")
	}
	look("outside", 0, d.clock.Load())
}
