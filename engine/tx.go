package engine

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/epoch"
	"pagecache/engine/internal/report"
	"pagecache/engine/internal/scratch"
	"pagecache/engine/internal/slab"
	"pagecache/internal/invariants"
	"pagecache/lru"
	"pagecache/segments/format"
)

// A Tx is the scope of the calls on a store. It pins an epoch: nothing that was reachable when it began is reclaimed
// before it ends. It gives no isolation: calls in different Txs see each other at once. A Tx belongs to one goroutine
// and must not be used after End. Keep transactions short, since they delay the reuse of space. In builds with the
// invariants tag, a Tx that is dropped without End panics and says where it was begun.
type Tx struct {
	tracker invariants.Tracker
	owner   *txs
	state   invariants.Box[txState]
}

// txState is the part of a Tx that the store keeps and uses again.
type txState struct {
	slot epoch.Slot
	// ts is written by Begin. It is read by the owner, and by Stats of other goroutines, for which a stale value is
	// good enough.
	ts atomic.Uint64
	// bytes counts the messages written with this Tx over all its lives. It is written by the owner and read by the
	// cleaner, for which a stale value is good enough.
	bytes atomic.Int64
	// buffer is the scratch memory of the write call that is under way; nil: it has needed none yet.
	buffer *scratch.Buffer
	lane   uint32 // which Buffers the Tx takes first
	// The fields below record accesses and changes of resident bytes that the policy has not been notified of. They
	// belong to the owner.
	hits     lru.Hits
	account  lru.Account
	pressure lru.Pressure // of the bytes that became resident since the last reclaim
	changes  int64        // the number of hits that are changes of resident bytes, not hits
	touched  byte         // from the values that GetMany has fetched ahead
	// seen is the timestamp with which a look found the Tx open first, and seenAt is when that was. announced says that
	// it was announced as open for long. Guarded by txs.mu.
	seen      uint64
	seenAt    time.Time
	announced bool
}

// s returns the state of the Tx.
func (tx *Tx) s() *txState { return tx.state.P() }

// wrote counts a message with a body of n bytes that is in the log for a caller.
func (tx *Tx) wrote(n int) {
	s := tx.s()
	s.bytes.Store(s.bytes.Load() + int64(format.HeaderSize+n))
}

// TS returns the timestamp of the Tx: an id like those of GenerateID, unique and rising over the life of the store.
func (tx *Tx) TS() uint64 { return tx.s().ts.Load() }

// buffer returns scratch memory for the write call that is under way, which ends with release.
func (tx *Tx) buffer() *scratch.Buffer {
	s := tx.s()
	if s.buffer == nil {
		s.buffer = tx.owner.buffers.Take(s.lane)
	}
	return s.buffer
}

// release gives the scratch memory back, if the call has used any.
func (tx *Tx) release() {
	if s := tx.s(); s.buffer != nil {
		tx.owner.buffers.Put(s.lane, s.buffer)
		s.buffer = nil
	}
}

// End ends the Tx. A second End right after the first does nothing. The store uses an ended Tx again, so a later call
// with it may meet another caller's Tx; in builds with the invariants tag such a call fails with ErrTxEnded.
func (tx *Tx) End() {
	if !tx.s().slot.Inside() {
		return
	}
	tx.release() // a call that panicked has not
	if tx.s().slot.Leave() {
		tx.tracker.Done()
		owner := tx.owner
		owner.pool.Put(tx)
		if owner.watchers.Load() > 0 { // after Leave: a watcher adds itself, then looks for Txs
			owner.wake()
		}
		if p := owner.slabs; p != nil && p.Waits() { // after Leave, as above
			p.Collect()
		}
	}
}

// txs makes and reuses the Txs of a store. Those that nobody uses are given up, except for a few, when a look at them
// finds many, or at a tick. So time and memory follow the Txs that are open now (trap 48).
type txs struct {
	domain epoch.Domain
	pool   sync.Pool // may still hold Txs that were given up
	mu     sync.Mutex
	all    []*Tx // that the domain knows: the collector may empty the pool
	next   int
	made   uint32
	gone   int64 // bytes of messages that Txs wrote that were given up
	// buffers is nil if nothing is encoded in these Txs, budget if nothing becomes resident in them. handOver gives the
	// policy the accesses that a Tx recorded; nil: there are none.
	buffers  *scratch.Buffers
	keeper   *scratch.Keeper
	budget   *lru.Budget
	handOver func(*Tx)
	slabs    *slab.Pool // has values that wait for Txs to end; nil: there are none
	// watchers is the number of goroutines in await. Written by await; publishes nothing. A Tx that ends looks at it
	// once it is outside the epoch.
	watchers atomic.Int32
	left     chan struct{} // guarded by mu: closed when a Tx ends; nil if no goroutine waits for that
	closed   *atomic.Bool  // of the store
	// watch calls look while Txs of callers are open.
	watch  report.Watch
	report *report.Reporter
}

// init is called before the first begin.
func (t *txs) init(closed *atomic.Bool, k *scratch.Keeper, r *report.Reporter) {
	t.closed, t.keeper, t.report = closed, k, r
	t.watch.Init(txPatience/txLooks, func() bool { return !closed.Load() && t.look().open > 0 })
	t.domain.OnSparse(t.trim)
	k.OnTick(func(bool) bool {
		t.trim()
		return t.isMany()
	})
}

// manyTxs is the number of Txs above which ticks look for some to give up.
const manyTxs = 64

// isMany reports whether there are so many Txs that a tick may give some up.
func (t *txs) isMany() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.all) > manyTxs
}

// trim gives up the Txs that nobody uses, except for a few. Nobody can begin them again, so they belong to trim.
func (t *txs) trim() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.domain.Trim() {
		return
	}
	var kept []*Tx // and not the long array of a burst
	var accounts []*lru.Account
	for _, tx := range t.all {
		s := tx.s()
		if !s.slot.IsRemoved() {
			kept = append(kept, tx)
			continue
		}
		t.gone += s.bytes.Load()
		accounts = append(accounts, &s.account)
		if t.handOver != nil && s.hits.Len() > 0 {
			t.handOver(tx)
		}
	}
	t.all, t.next = kept, 0
	if t.budget != nil {
		t.budget.Unregister(accounts)
	}
}

// begin returns a Tx that is inside the epoch. The loop ends because make returns Txs that no other goroutine has,
// unless the pool gives the same one to another goroutine at the same time, whose begin then succeeds, or trim removes
// it, which leaves some.
func (t *txs) begin() *Tx {
	for {
		tx, _ := t.pool.Get().(*Tx)
		if tx == nil {
			tx = t.make()
		}
		if tx.s().slot.TryEnter(&t.domain) {
			if invariants.Enabled {
				given := &Tx{owner: t, tracker: invariants.Track("engine.Tx", t.closed)}
				tx.state.Share(&given.state)
				return given
			}
			return tx
		}
	}
}

// ownTS is the timestamp of the Txs of the store's own work.
const ownTS = math.MaxUint64

// beginOwn is begin for the store's own work: no caller can end such a Tx.
func (t *txs) beginOwn() *Tx {
	tx := t.begin()
	tx.s().ts.Store(ownTS)
	return tx
}

// make finds a Tx that is not in use, or makes one.
func (t *txs) make() *Tx {
	t.mu.Lock()
	defer t.mu.Unlock()
	const tries = 64
	for range min(tries, len(t.all)) {
		t.next = (t.next + 1) % len(t.all)
		if tx := t.all[t.next]; !tx.s().slot.Inside() {
			return tx
		}
	}
	tx := &Tx{owner: t}
	t.made++
	tx.s().lane = t.made
	t.all = append(t.all, tx)
	if t.budget != nil {
		t.budget.Register(&tx.s().account)
	}
	t.domain.Join(&tx.s().slot)
	if len(t.all) == manyTxs+1 {
		t.keeper.Wake()
	}
	return tx
}

// wake lets the goroutines in await look again.
func (t *txs) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left != nil {
		close(t.left)
		t.left = nil
	}
}

// await waits until done returns true, or ctx ends, and returns what done returned last. It calls done at the beginning
// and whenever a Tx has ended.
func (t *txs) await(ctx context.Context, done func() bool) bool {
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

// closePatience is the longest time that Close waits for Txs and batches to end.
const closePatience = 5 * time.Second

// wait waits until no Tx is open, for closePatience at most or until ctx ends, and returns how many are still open.
func (t *txs) wait(ctx context.Context) (open int) {
	ctx, cancel := context.WithTimeout(ctx, closePatience)
	defer cancel()
	t.await(ctx, func() bool {
		open = t.domain.Readers()
		return open == 0
	})
	return open
}

// written returns the bytes of messages that all Txs have written.
func (t *txs) written() (n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n = t.gone
	for _, tx := range t.all {
		n += tx.s().bytes.Load()
	}
	return n
}

// check reports whether tx belongs to this store and has not ended.
func (t *txs) check(tx *Tx) error {
	switch {
	case tx == nil:
		return fmt.Errorf("no Tx given: %w", ErrTxEnded)
	case tx.owner != t:
		return fmt.Errorf("Tx of another store: %w", ErrTxEnded)
	case !tx.s().slot.Inside(), tx.tracker.Ended():
		return ErrTxEnded
	}
	return nil
}

// txsState is the state of the Txs at a look.
type txsState struct {
	open, kept int
	oldest     uint64        // timestamp of the oldest open Tx; 0 if there is none
	age        time.Duration // since the first look that found that Tx
}

// look returns the state of the Txs, and announces those that are open for long, each once. Begin is too fast for
// reading a clock, so the age of a Tx counts from the first look that finds it. A Tx that is just beginning counts with
// its previous timestamp, and Txs of the store's own work do not count.
func (t *txs) look() (st txsState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for _, tx := range t.all {
		id := tx.s().ts.Load()
		if id == ownTS || !tx.s().slot.Inside() {
			continue
		}
		st.open++
		s := tx.s()
		if s.seen != id || s.seenAt.IsZero() {
			s.seen, s.seenAt, s.announced = id, now, false
		}
		age := now.Sub(s.seenAt)
		if st.open == 1 || id < st.oldest {
			st.oldest, st.age = id, age
		}
		if age >= txPatience && !s.announced {
			s.announced = true
			t.report.TxOpen(id, age)
		}
	}
	st.kept = len(t.all)
	return st
}

// txPatience is the age from which on an open Tx is announced, counted from the first look that found it. txLooks is
// the number of looks in that time.
const txPatience, txLooks = time.Second, 4
