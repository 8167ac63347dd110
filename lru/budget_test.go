package lru

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// However many goroutines count, settled and resident bytes differ by at most capacity/64, for each kind and for the
// sum, and not at all once every account is settled. Proves U1, traps 8 and 21.
func TestUnsettledBytesAreBounded(t *testing.T) {
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
			t.Errorf("unsettled: %d heap, %d mapped, limit %d", dh, dm, capacity/64)
		}
	}
	for i := range accounts {
		b.Settle(&accounts[i])
	}
	if h, m := b.Resident(); h != heap.Load() || m != mapped.Load() {
		t.Errorf("settled: %d heap, %d mapped; want %d, %d", h, m, heap.Load(), mapped.Load())
	}
}

func TestShareFollowsAccountsAndCapacity(t *testing.T) {
	b := NewBudget(64 * 16 * 2 * 100)
	held := func() int64 {
		var a Account
		n := int64(0)
		for b.Count(&a, 1, 0); a.heap.Load() != 0; b.Count(&a, 1, 0) {
			n++
		}
		return n
	}
	if n := held(); n != 100 {
		t.Errorf("one of at most 16 accounts holds back %d bytes, want 100", n)
	}
	for range 32 {
		b.Register(new(Account))
	}
	if n := held(); n != 50 {
		t.Errorf("one of 32 accounts holds back %d bytes, want 50", n)
	}
	b.SetCapacity(1000)
	if n := held(); n != 0 {
		t.Errorf("an account of a tiny budget holds back %d bytes, want 0", n)
	}
}

// Proves U1.
func TestLowerCapacitySettlesIdleAccounts(t *testing.T) {
	b := NewBudget(1 << 30)
	idle := make([]Account, 16)
	for i := range idle {
		b.Register(&idle[i])
		b.Count(&idle[i], 500<<10, 500<<10)
	}
	b.SetCapacity(1 << 20)
	if heap, mapped := b.Resident(); heap != 16*500<<10 || mapped != heap {
		t.Errorf("settled: %d heap, %d mapped", heap, mapped)
	}
}

// Proves U1.
func TestRegisterSettlesIdleAccounts(t *testing.T) {
	b := NewBudget(1 << 30)
	sum := int64(0)
	for range 1000 {
		a := new(Account)
		b.Register(a)
		n := b.grain.Load()
		b.Count(a, n, 0) // idle from now on
		sum += n
	}
	if heap, _ := b.Resident(); sum-heap > (1<<30)/unsettledShare*9/8/2 {
		t.Errorf("%d bytes are unsettled", sum-heap)
	}
}

// Accounts that are unregistered are settled, and the others hold back what they did before there were 1000. Proves
// U1. Trap 48.
func TestUnregisteredAccountsAreSettled(t *testing.T) {
	b := NewBudget(1 << 30)
	var own Account
	b.Register(&own)
	grain, sum := b.grain.Load(), int64(0)
	var burst []*Account
	for range 1000 {
		a := new(Account)
		b.Register(a)
		n := b.grain.Load()
		b.Count(a, n, -n)
		sum += n
		burst = append(burst, a)
	}
	b.Count(&own, 1, 0)
	b.Unregister(burst)
	if heap, mapped := b.Resident(); heap != sum || mapped != -sum {
		t.Errorf("settled: %d heap, %d mapped; want %d, %d", heap, mapped, sum, -sum)
	}
	if b.Accounts() != 1 || b.grain.Load() != grain {
		t.Errorf("%d accounts, each holds back %d bytes; want 1, %d", b.Accounts(), b.grain.Load(), grain)
	}
	for range 1000 { // idle accounts of a second burst are settled like those of the first
		a := new(Account)
		b.Register(a)
		n := b.grain.Load()
		b.Count(a, n, 0)
		sum += n
	}
	if heap, _ := b.Resident(); sum-heap > (1<<30)/unsettledShare*9/8/2 {
		t.Errorf("%d bytes are unsettled", sum-heap)
	}
}

// While the owner counts, another goroutine settles the account: each byte is settled once. Proves U1.
func TestConcurrentSettleCountsEachByteOnce(t *testing.T) {
	b := NewBudget(1 << 20)
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
		t.Errorf("settled: %d heap, %d mapped", heap, mapped)
	}
}

func TestPressureLevels(t *testing.T) {
	b := NewBudget(1000)
	var a Account
	for _, step := range []struct {
		heap, mapped int64
		want         Pressure
	}{
		{1000, 0, PressureNone},
		{0, 1, PressureSoft},
		{19, 0, PressureSoft},
		{0, 1, PressureHard},
		{-21, 0, PressureNone},
		{-1000, 999, PressureNone},
		{0, 2, PressureSoft},
	} {
		if got := b.Count(&a, step.heap, step.mapped); got != step.want {
			t.Errorf("after %+v: %v", step, got)
		}
	}
	if b.Excess() != 1 {
		t.Errorf("excess %d", b.Excess())
	}
	b.SetCapacity(500)
	if got := b.Settle(&a); got != PressureHard {
		t.Errorf("half the capacity: %v", got)
	}
}

func TestStringOfUnknownValues(t *testing.T) {
	if got := Pressure(9).String(); got != "Pressure(9)" {
		t.Error(got)
	}
	if got := Outcome(200).String(); got != "Outcome(200)" {
		t.Error(got)
	}
}

func TestCountDoesNotAllocate(t *testing.T) {
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

// A budget without a limit has no pressure, also while more bytes have gone than come, as far as it knows.
func TestUnlimitedCapacity(t *testing.T) {
	for _, capacity := range []int64{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 / 2} {
		b := NewBudget(capacity)
		var a Account
		b.Register(&a)
		b.Count(&a, -1<<20, -1<<20)
		if p := b.Settle(&a); p != PressureNone || b.Excess() > 0 {
			t.Errorf("capacity %d: pressure %v, excess %d", capacity, p, b.Excess())
		}
		b.Count(&a, 8<<20, 0)
		if heap, _ := b.Resident(); heap != 7<<20 {
			t.Errorf("capacity %d: %d bytes are resident, want %d", capacity, heap, 7<<20)
		}
	}
}
