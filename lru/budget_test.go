package lru

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// What is told differs from what is resident by no more than capacity/64, for each kind and for both, whoever counts, and by nothing
// once it is settled. Proves L1, traps 8 and 21.
func TestHiddenBytes(t *testing.T) {
	const capacity, workers, largest = 1 << 30, 64, 20000
	b := NewBudget(capacity)
	accounts := make([]Account, workers)
	for i := range accounts {
		b.Register(&accounts[i])
	}
	var heap, mapped atomic.Int64
	for round := range uint64(20) {
		var wg sync.WaitGroup
		for i := range accounts {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(round, uint64(i)))
				for range 200 {
					dh, dm := rng.Int64N(largest)-largest/3, rng.Int64N(largest)-largest/3
					heap.Add(dh)
					mapped.Add(dm)
					b.Count(&accounts[i], dh, dm)
				}
			})
		}
		wg.Wait()
		h, m := b.Resident()
		dh, dm := heap.Load()-h, mapped.Load()-m
		if max(dh, -dh, dm, -dm, dh+dm, -dh-dm) > capacity/64 {
			t.Errorf("hidden: %d heap, %d mapped, at most %d", dh, dm, capacity/64)
		}
	}
	for i := range accounts {
		b.Settle(&accounts[i])
	}
	if h, m := b.Resident(); h != heap.Load() || m != mapped.Load() {
		t.Errorf("settled: %d heap, %d mapped; want %d, %d", h, m, heap.Load(), mapped.Load())
	}
}

// Shares shrink as accounts are registered, and follow the capacity.
func TestShares(t *testing.T) {
	b := NewBudget(64 * 16 * 2 * 100)
	hides := func() int64 {
		var a Account
		n := int64(0)
		for b.Count(&a, 1, 0); a.heap.Load() != 0; b.Count(&a, 1, 0) {
			n++
		}
		return n
	}
	if n := hides(); n != 100 {
		t.Errorf("one of at most 16 accounts hides %d bytes, want 100", n)
	}
	for range 32 {
		b.Register(new(Account))
	}
	if n := hides(); n != 50 {
		t.Errorf("one of 32 accounts hides %d bytes, want 50", n)
	}
	b.SetCapacity(1000)
	if n := hides(); n != 0 {
		t.Errorf("an account of a tiny budget hides %d bytes", n)
	}
}

// Accounts that lie idle hide no more than their share when shares shrink: as the capacity is lowered, and as others are registered. Whoever
// settles, every byte is told once. Proves L1.
func TestIdleAccounts(t *testing.T) {
	b := NewBudget(1 << 30)
	idle := make([]Account, 16)
	for i := range idle {
		b.Register(&idle[i])
		b.Count(&idle[i], 500<<10, 500<<10)
	}
	b.SetCapacity(1 << 20)
	if heap, mapped := b.Resident(); heap != 16*500<<10 || mapped != heap {
		t.Errorf("told %d and %d", heap, mapped)
	}
	b = NewBudget(1 << 30)
	sum := int64(0)
	for range 1000 {
		a := new(Account)
		b.Register(a)
		n := b.grain.Load()
		b.Count(a, n, 0) // and idle from then on
		sum += n
	}
	if heap, _ := b.Resident(); sum-heap > (1<<30)/hiddenShare*9/8/2 {
		t.Errorf("%d bytes are hidden", sum-heap)
	}
	b = NewBudget(1 << 20)
	var a Account
	b.Register(&a)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 100000 {
			b.Count(&a, 3, -1)
		}
	})
	for n := range int64(1000) {
		b.SetCapacity(1<<20 + n)
	}
	wg.Wait()
	b.Settle(&a)
	if heap, mapped := b.Resident(); heap != 300000 || mapped != -100000 {
		t.Errorf("told %d and %d", heap, mapped)
	}
}

func TestPressure(t *testing.T) {
	b := NewBudget(1000)
	var a Account
	for _, step := range []struct {
		heap, mapped int64
		want         Pressure
	}{{1000, 0, None}, {0, 1, Over}, {19, 0, Over}, {0, 1, Hard}, {-21, 0, None}, {-1000, 999, None}, {0, 2, Over}} {
		if got := b.Count(&a, step.heap, step.mapped); got != step.want {
			t.Errorf("after %+v: %v", step, got)
		}
	}
	if b.Excess() != 1 {
		t.Errorf("excess %d", b.Excess())
	}
	b.SetCapacity(500)
	if got := b.Settle(&a); got != Hard {
		t.Errorf("half the capacity: %v", got)
	}
}

func TestCountAllocates(t *testing.T) {
	b := NewBudget(1 << 20)
	var a Account
	if n := testing.AllocsPerRun(1000, func() { b.Count(&a, 300, 200) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCount(b *testing.B) {
	budget := NewBudget(1 << 30)
	b.RunParallel(func(pb *testing.PB) {
		var a Account
		budget.Register(&a)
		for pb.Next() {
			budget.Count(&a, 100, 0)
		}
	})
}
