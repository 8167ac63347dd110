package lru

import (
	"sync"
	"sync/atomic"
)

// Pressure is what Count has to say about the bytes that are resident.
type Pressure uint8

// From none at all to too much.
const (
	None Pressure = iota // there is room, or nothing new to say
	Over                 // above the capacity: hand over the hits and kick the policy
	Hard                 // above it by more than 2 %: page out before going on, in small steps until Excess is none, for others do too
)

// String returns the pressure's name.
func (p Pressure) String() string { return [...]string{"none", "over", "hard"}[p] }

const (
	hiddenShare = 64 // all accounts together hide at most this part of the capacity
	hardShare   = 50 // what may be above the capacity before pressure is hard
	minAccounts = 16 // shares are as small as for this many
)

// Budget counts resident bytes against a capacity. Safe for concurrent use.
type Budget struct {
	// capacity in bytes, at least 1. Written by SetCapacity; a stale one is the bound of a moment ago.
	capacity atomic.Int64
	// grain is what an account may hide of each kind. Written by Register and SetCapacity under mu; a stale one is that of a
	// moment ago, and the account may hide for once what it has just counted.
	grain atomic.Int64
	_     [48]byte // what everybody reads is not what tell writes
	// heap and mapped are the bytes told. Added to by any account; a stale or torn pair is off by what was told meanwhile.
	heap   atomic.Int64
	mapped atomic.Int64
	_      [48]byte

	mu       sync.Mutex
	accounts []*Account // registered
	settled  int        // how many there were when all were settled last
}

// Account is what one goroutine has counted and not yet told. It belongs to one goroutine at a time, which adds to it; the Budget may settle it meanwhile.
type Account struct{ heap, mapped atomic.Int64 }

// NewBudget returns a budget of so many bytes.
func NewBudget(capacity int64) *Budget {
	b := new(Budget)
	b.SetCapacity(capacity)
	return b
}

// Register takes the account in, for good: every account's share becomes smaller. Those who may lie idle with more than that are settled, once there
// are an eighth more than the last time.
func (b *Budget) Register(a *Account) {
	b.mu.Lock()
	b.accounts = append(b.accounts, a)
	b.share()
	if n := len(b.accounts); n > minAccounts && n > b.settled+b.settled/8 {
		b.settleAll()
	}
	b.mu.Unlock()
}

// SetCapacity changes the capacity, and settles every account that is registered.
func (b *Budget) SetCapacity(capacity int64) {
	b.mu.Lock()
	b.capacity.Store(max(1, capacity))
	b.share()
	b.settleAll()
	b.mu.Unlock()
}

// share works out the grain: half an account's share, because there are two kinds.
func (b *Budget) share() {
	b.grain.Store(b.capacity.Load() / hiddenShare / max(minAccounts, int64(len(b.accounts))) / 2)
}

func (b *Budget) settleAll() {
	for _, a := range b.accounts {
		b.tell(a)
	}
	b.settled = len(b.accounts)
}

// Capacity is the bound in bytes.
func (b *Budget) Capacity() int64 { return b.capacity.Load() }

// Count counts bytes that have become resident, or if negative are no more. Pressure is news: it comes once the account
// has something to tell, every capacity/2048 bytes at the latest, and is None in between.
func (b *Budget) Count(a *Account, heap, mapped int64) Pressure {
	h, m := a.heap.Add(heap), a.mapped.Add(mapped)
	if max(h, -h, m, -m) <= b.grain.Load() {
		return None
	}
	return b.Settle(a)
}

// tell adds what the account hides to what everybody knows. Both its owner and who settles all may be at it: each byte is told by one of them.
func (b *Budget) tell(a *Account) {
	if n := a.heap.Swap(0); n != 0 {
		b.heap.Add(n)
	}
	if n := a.mapped.Swap(0); n != 0 {
		b.mapped.Add(n)
	}
}

// Settle tells all that the account hides.
func (b *Budget) Settle(a *Account) Pressure {
	b.tell(a)
	switch excess, capacity := b.Excess(), b.Capacity(); {
	case excess > capacity/hardShare:
		return Hard
	case excess > 0:
		return Over
	}
	return None
}

// Resident is how many bytes are resident, as far as has been told.
func (b *Budget) Resident() (heap, mapped int64) { return b.heap.Load(), b.mapped.Load() }

// Excess is how many bytes are resident above the capacity; negative: how many there is room for.
func (b *Budget) Excess() int64 { return b.total() - b.Capacity() }

// Full is how much of the capacity is used, in percent.
func (b *Budget) Full() int64 { return int64(100 * float64(b.total()) / float64(b.Capacity())) }

func (b *Budget) total() int64 { return b.heap.Load() + b.mapped.Load() }
