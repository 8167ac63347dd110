package scope

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/epoch"
	"pagecache/engine/internal/report"
	"pagecache/engine/internal/scratch"
	"pagecache/internal/invariants"
	"pagecache/lru"
)

// ErrEnded reports a Scope that has ended, is nil, or belongs to another Set.
var ErrEnded = errors.New("transaction has ended")

// Set makes and reuses the Scopes of a store. Those that nobody uses are given up, except for a few, when a look at
// them finds many, or at a tick. So time and memory follow the Txs that are open now (trap 48).
type Set struct {
	Domain epoch.Domain
	pool   sync.Pool // may still hold Txs that were given up
	// solo is the Tx that is begun again and again while no other is open, which takes half the time of the pool; nil:
	// some overlap, so the cores would take its memory from each other. It is a hint: a goroutine that enters its slot
	// has it. Set by Begin to a Tx of its own, and cleared by the first Begin that finds it in use.
	solo atomic.Pointer[Scope]
	mu   sync.Mutex
	all  []*Scope // that the domain knows: the collector may empty the pool
	next int
	made uint32
	gone int64 // bytes of messages that Txs wrote that were given up
	// Buffers is nil if nothing is encoded in these Txs, Budget if nothing becomes resident in them. HandOver gives the
	// policy the accesses that a Tx recorded; nil: there are none.
	Buffers  *scratch.Buffers
	keeper   *scratch.Keeper
	Budget   *lru.Budget
	HandOver func(*Scope)
	// New makes a Scope as a part of something else; nil: Scopes are alone.
	New func() *Scope
	// watchers is the number of goroutines in Await. Written by Await; publishes nothing. A Tx that ends looks at it
	// once it is outside the epoch.
	watchers atomic.Int32
	left     chan struct{} // guarded by mu: closed when a Tx ends; nil if no goroutine waits for that
	closed   *atomic.Bool  // of the store
	// Watch calls look while Txs of callers are open.
	Watch  report.Watch
	report *report.Reporter
}

// Init is called before the first begin.
func (t *Set) Init(closed *atomic.Bool, k *scratch.Keeper, r *report.Reporter) {
	t.closed, t.keeper, t.report = closed, k, r
	t.Watch.Init(patience/looks, func() bool { return !closed.Load() && t.Look().Open > 0 })
	t.Domain.OnSparse(t.trim)
	k.OnTick(func(bool) bool {
		t.trim()
		return t.isMany()
	})
}

// Many is the number of Txs above which ticks look for some to give up.
const Many = 64

// isMany reports whether there are so many Txs that a tick may give some up.
func (t *Set) isMany() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.all) > Many
}

// trim gives up the Txs that nobody uses, except for a few. Nobody can begin them again, so they belong to trim.
func (t *Set) trim() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.Domain.Trim() {
		return
	}
	var kept []*Scope // and not the long array of a burst
	var accounts []*lru.Account
	for _, tx := range t.all {
		s := tx.S()
		if !s.Slot.IsRemoved() {
			kept = append(kept, tx)
			continue
		}
		t.gone += s.bytes.Load()
		accounts = append(accounts, &s.Account)
		if t.HandOver != nil && s.Hits.Len() > 0 {
			t.HandOver(tx)
		}
	}
	t.all, t.next = kept, 0
	if t.Budget != nil {
		t.Budget.Unregister(accounts)
	}
}

// Begin returns a Tx that is inside the epoch.
func (t *Set) Begin() *Scope {
	if tx := t.solo.Load(); tx != nil {
		if tx.S().Slot.TryEnter(&t.Domain) {
			return t.give(tx)
		}
		t.solo.CompareAndSwap(tx, nil)
	}
	return t.beginShared()
}

// beginShared is Begin while Txs overlap. The loop ends because make returns Txs that no other goroutine has, unless
// the pool, or solo, gives the same one to another goroutine at the same time, whose begin then succeeds, or trim
// removes it, which leaves some.
func (t *Set) beginShared() *Scope {
	for {
		tx, _ := t.pool.Get().(*Scope)
		if tx == nil {
			tx = t.make()
		}
		s := tx.S()
		if !s.Slot.TryEnter(&t.Domain) {
			continue
		}
		const turns = 4096 // after that many, it is worth a cache miss to find out whether Txs still overlap
		if s.turn++; s.turn%turns == 0 {
			t.solo.CompareAndSwap(nil, tx)
		}
		return t.give(tx)
	}
}

// give returns the Scope that a caller of Begin gets for one whose slot it has entered.
func (t *Set) give(tx *Scope) *Scope {
	if invariants.Enabled {
		given := t.new()
		given.tracker = invariants.Track("engine.Tx", t.closed)
		tx.state.Share(&given.state)
		return given
	}
	return tx
}

// OwnTS is the timestamp of the Txs of the store's own work.
const OwnTS = math.MaxUint64

// BeginOwn is begin for the store's own work: no caller can end such a Tx.
func (t *Set) BeginOwn() *Scope {
	tx := t.Begin()
	tx.S().TS.Store(OwnTS)
	return tx
}

// new returns a new Scope.
func (t *Set) new() *Scope {
	tx := new(Scope)
	if t.New != nil {
		tx = t.New()
	}
	tx.owner = t
	return tx
}

// Lone returns a Scope that is never inside the epoch, for its memory alone. The Set does not know it.
func (t *Set) Lone() Scope { return Scope{owner: t} }

// make finds a Tx that is not in use, or makes one.
func (t *Set) make() *Scope {
	t.mu.Lock()
	defer t.mu.Unlock()
	const tries = 64
	for range min(tries, len(t.all)) {
		t.next = (t.next + 1) % len(t.all)
		if tx := t.all[t.next]; !tx.S().Slot.Present() {
			return tx
		}
	}
	tx := t.new()
	t.made++
	tx.S().lane = t.made
	t.all = append(t.all, tx)
	if t.Budget != nil {
		t.Budget.Register(&tx.S().Account)
	}
	t.Domain.Join(&tx.S().Slot)
	if len(t.all) == Many+1 {
		t.keeper.Wake()
	}
	return tx
}

// wake lets the goroutines in await look again.
func (t *Set) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left != nil {
		close(t.left)
		t.left = nil
	}
}

// Await waits until done returns true, or ctx ends, and returns what done returned last. It calls done at the beginning
// and whenever a Tx has ended.
func (t *Set) Await(ctx context.Context, done func() bool) bool {
	t.watchers.Add(1)
	defer t.watchers.Add(-1)
	for {
		t.mu.Lock()
		if t.left == nil {
			t.left = make(chan struct{})
		}
		left := t.left // before done: a Tx that ends from here on closes it
		t.mu.Unlock()
		if done() {
			return true
		}
		select {
		case <-left:
		case <-ctx.Done():
			return done()
		}
	}
}

// Patience is the longest time that Close waits for Txs and batches to end.
const Patience = 5 * time.Second

// Wait waits until no Tx is open, for Patience at most or until ctx ends, and returns how many are still open.
func (t *Set) Wait(ctx context.Context) (open int) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	t.Await(ctx, func() bool {
		open = t.Domain.Readers()
		return open == 0
	})
	return open
}

// Written returns the bytes of messages that all Txs have written.
func (t *Set) Written() (n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n = t.gone
	for _, tx := range t.all {
		n += tx.S().bytes.Load()
	}
	return n
}

// Check returns an error if tx does not belong to this store, or has ended. Else it holds everything from then on.
func (t *Set) Check(tx *Scope) error {
	err := t.CheckLoose(tx)
	if err == nil {
		tx.Hold()
	}
	return err
}

// CheckLoose is Check for a call that works in a loose Scope.
func (t *Set) CheckLoose(tx *Scope) error {
	switch {
	case tx == nil:
		return fmt.Errorf("no Tx given: %w", ErrEnded)
	case tx.owner != t:
		return fmt.Errorf("a Tx of another store: %w", ErrEnded)
	case !tx.S().Slot.Present(), tx.IsDone():
		return ErrEnded
	}
	return nil
}

// A Look is the state of the Scopes at some moment.
type Look struct {
	Open, Kept int
	Oldest     uint64        // timestamp of the oldest open Tx; 0 if there is none
	Age        time.Duration // since the first look that found that Tx
}

// Look returns the state of the Txs, and announces those that are open for long, each once. Begin is too fast for
// reading a clock, so the age of a Tx counts from the first look that finds it. A Tx that is just beginning counts with
// its previous timestamp, and Txs of the store's own work do not count.
func (t *Set) Look() (st Look) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for _, tx := range t.all {
		id := tx.S().TS.Load()
		if id == OwnTS || !tx.S().Slot.Present() {
			continue
		}
		st.Open++
		s := tx.S()
		if s.seen != id || s.seenAt.IsZero() {
			s.seen, s.seenAt, s.announced = id, now, false
		}
		age := now.Sub(s.seenAt)
		if st.Open == 1 || id < st.Oldest {
			st.Oldest, st.Age = id, age
		}
		if age >= patience && !s.announced {
			s.announced = true
			t.report.TxOpen(id, age)
		}
	}
	st.Kept = len(t.all)
	return st
}

// patience is the age from which on an open Tx is announced, counted from the first look that found it. looks is
// the number of looks in that time.
const patience, looks = time.Second, 4
