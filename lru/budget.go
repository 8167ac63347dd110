package lru

import (
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
)

// Pressure says whether the resident bytes exceed the capacity, a little or by more.
type Pressure uint8

// The levels of pressure, in ascending order.
const (
	PressureNone Pressure = iota // within the capacity, or the account has settled nothing
	// PressureSoft is above the capacity. The caller kicks the policy, and hands over its hits if there are many.
	PressureSoft
	// PressureHard is more than 2 % above the capacity. The caller evicts before it goes on, in small steps until
	// Excess is at most 0, because other goroutines evict at the same time.
	PressureHard
)

// String returns the level's name.
func (p Pressure) String() string {
	switch p {
	case PressureNone:
		return "none"
	case PressureSoft:
		return "soft"
	case PressureHard:
		return "hard"
	}
	return "Pressure(" + strconv.Itoa(int(p)) + ")"
}

const (
	unsettledShare = 64 // all accounts together hold back at most capacity/unsettledShare
	hardShare      = 50 // pressure is hard above capacity + capacity/hardShare
	minAccounts    = 16 // with fewer accounts, shares are as small as with this many
)

// A Budget counts resident bytes against a capacity. It is safe for concurrent use.
type Budget struct {
	// capacity in bytes, at least 1. Written by SetCapacity. A stale read yields the previous capacity.
	capacity atomic.Int64
	// grain is the number of bytes that an account may hold back of each kind. Written by Register, Unregister and
	// SetCapacity under mu. After a stale read an account may hold back up to the previous grain until it counts again.
	grain atomic.Int64
	_     [48]byte // keeps the fields that every goroutine reads out of the cache line that settle writes
	// heap and mapped are the settled bytes. Any account adds to them. A stale or torn pair lacks the latest
	// settlements.
	heap   atomic.Int64
	mapped atomic.Int64
	_      [48]byte

	mu       sync.Mutex
	accounts []*Account // registered
	settled  int        // number of accounts when settleAll last ran, or fewer
}

// An Account holds the bytes that one goroutine has counted and not yet settled. One goroutine at a time adds to it;
// the Budget may settle it at any moment.
type Account struct {
	heap, mapped atomic.Int64
	left         bool // it was unregistered; guarded by Budget.mu
}

// NewBudget returns a budget with the given capacity in bytes.
func NewBudget(capacity int64) *Budget {
	b := new(Budget)
	b.SetCapacity(capacity)
	return b
}

// Register adds an account. Every account's share shrinks. Idle accounts may then hold back more than their share, so
// Register settles all accounts each time their number has grown by an eighth.
func (b *Budget) Register(a *Account) {
	b.mu.Lock()
	b.accounts = append(b.accounts, a)
	b.setGrain()
	if n := len(b.accounts); n > minAccounts && n > b.settled+b.settled/8 {
		b.settleAll()
	}
	b.mu.Unlock()
}

// Unregister settles accounts that nobody uses any more and removes them. The shares of the others grow.
func (b *Budget) Unregister(gone []*Account) {
	b.mu.Lock()
	for _, a := range gone {
		b.settle(a)
		a.left = true
	}
	b.accounts = slices.DeleteFunc(b.accounts, func(a *Account) bool { return a.left })
	b.settled = min(b.settled, len(b.accounts))
	b.setGrain()
	b.mu.Unlock()
}

// Accounts returns the number of registered accounts.
func (b *Budget) Accounts() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.accounts)
}

// mostCapacity is the highest capacity. With it, the resident bytes may be below zero for a moment, since each account
// holds back some, and Excess does not overflow.
const mostCapacity = math.MaxInt64 / 2

// SetCapacity sets the capacity in bytes and settles all registered accounts. A capacity below 1 counts as 1, and one
// above 2^62 as that.
func (b *Budget) SetCapacity(capacity int64) {
	b.mu.Lock()
	b.capacity.Store(min(max(1, capacity), mostCapacity))
	b.setGrain()
	b.settleAll()
	b.mu.Unlock()
}

// mostGrain is the highest grain: more would save nothing, and Stats would not show what is resident.
const mostGrain = 1 << 20

// setGrain sets grain to half of an account's share, because there are two kinds of bytes.
func (b *Budget) setGrain() {
	share := b.capacity.Load() / unsettledShare / max(minAccounts, int64(len(b.accounts)))
	b.grain.Store(min(share/2, mostGrain))
}

func (b *Budget) settleAll() {
	for _, a := range b.accounts {
		b.settle(a)
	}
	b.settled = len(b.accounts)
}

// Capacity returns the capacity in bytes.
func (b *Budget) Capacity() int64 { return b.capacity.Load() }

// Count adds bytes that have become resident to the account; negative numbers are bytes that no longer are. It settles
// the account once it holds back more than its grain, which is at most capacity/2048, and then returns the pressure.
// Otherwise it returns PressureNone.
func (b *Budget) Count(a *Account, heap, mapped int64) Pressure {
	h, m := a.heap.Add(heap), a.mapped.Add(mapped)
	if max(h, -h, m, -m) <= b.grain.Load() {
		return PressureNone
	}
	return b.Settle(a)
}

// settle moves the account's bytes to the totals. The account's owner and settleAll may run it at the same time: Swap
// gives each byte to one of them.
func (b *Budget) settle(a *Account) {
	if n := a.heap.Swap(0); n != 0 {
		b.heap.Add(n)
	}
	if n := a.mapped.Swap(0); n != 0 {
		b.mapped.Add(n)
	}
}

// Settle moves all bytes that the account holds back to the totals, and returns the pressure.
func (b *Budget) Settle(a *Account) Pressure {
	b.settle(a)
	switch excess, capacity := b.Excess(), b.Capacity(); {
	case excess > capacity/hardShare:
		return PressureHard
	case excess > 0:
		return PressureSoft
	}
	return PressureNone
}

// Resident returns the settled resident bytes.
func (b *Budget) Resident() (heap, mapped int64) { return b.heap.Load(), b.mapped.Load() }

// Excess returns the settled bytes above the capacity. A negative result is the free capacity.
func (b *Budget) Excess() int64 { return b.total() - b.Capacity() }

// UsedPercent returns the settled bytes in percent of the capacity, rounded toward zero.
func (b *Budget) UsedPercent() int64 { return int64(100 * float64(b.total()) / float64(b.Capacity())) }

func (b *Budget) total() int64 { return b.heap.Load() + b.mapped.Load() }
