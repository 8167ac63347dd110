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
	bytes   atomic.Int64
	scratch []byte // for encoding
	zipped  []byte // for compressing
	// The fields below record accesses and changes of resident bytes that the policy has not been notified of. They
	// belong to the owner.
	hits     lru.Hits
	account  lru.Account
	pressure lru.Pressure // of the bytes that became resident since the last reclaim
	changes  int64        // the number of hits that are changes of resident bytes, not hits
	// seen is the timestamp with which oldest found the Tx open first, and seenAt is when that was. Guarded by txs.mu.
	seen   uint64
	seenAt time.Time
}

// s returns the state of the Tx.
func (tx *Tx) s() *txState { return tx.state.P() }

// wrote counts a message with a body of n bytes.
func (tx *Tx) wrote(n int) {
	s := tx.s()
	s.bytes.Store(s.bytes.Load() + int64(format.HeaderSize+n))
}

// TS returns the timestamp of the Tx: an id like those of GenerateID, unique and rising over the life of the store.
func (tx *Tx) TS() uint64 { return tx.s().ts.Load() }

// End ends the Tx. A second End right after the first does nothing. The store uses an ended Tx again, so a later call
// with it may meet another caller's Tx; in builds with the invariants tag such a call fails with ErrTxEnded.
func (tx *Tx) End() {
	if tx.s().slot.Leave() {
		tx.tracker.Done()
		owner := tx.owner
		owner.pool.Put(tx)
		if owner.watchers.Load() > 0 { // after Leave: a watcher adds itself, then looks for Txs
			owner.wake()
		}
	}
}

// txs makes and reuses the Txs of a store.
type txs struct {
	domain epoch.Domain
	pool   sync.Pool
	mu     sync.Mutex
	all    []*Tx // for ever: the collector may empty the pool, and the domain still knows the slots
	next   int
	budget *lru.Budget // nil: nothing becomes resident in these Txs
	// watchers is the number of goroutines in await. Written by await; publishes nothing. A Tx that ends looks at it
	// once it is outside the epoch.
	watchers atomic.Int32
	left     chan struct{} // guarded by mu: closed when a Tx ends; nil if no goroutine waits for that
	closed   *atomic.Bool  // of the store
	watch    txWatch
}

// begin returns a Tx that is inside the epoch. The loop ends because make returns Txs that no other goroutine has,
// unless the pool gives the same one to another goroutine at the same time, whose begin then succeeds.
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
	t.all = append(t.all, tx)
	if t.budget != nil {
		t.budget.Register(&tx.s().account)
	}
	t.domain.Register(&tx.s().slot)
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

// oldest returns how many Txs are open, and the timestamp and age of the oldest. A Tx that is just beginning counts
// with its previous timestamp. Begin does not look at a clock, so the age is counted from when oldest found the Tx
// first. The cleaner calls it every 100 ms while there is something to clean, and txWatch at each look.
func (t *txs) oldest() (n int, ts uint64, age time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for _, tx := range t.all {
		id := tx.s().ts.Load()
		if id == ownTS || !tx.s().slot.Inside() {
			continue
		}
		n++
		s := tx.s()
		if s.seen != id || s.seenAt.IsZero() {
			s.seen, s.seenAt = id, now
		}
		if n == 1 || id < ts {
			ts, age = id, now.Sub(s.seenAt)
		}
	}
	return n, ts, age
}

const (
	// txPatience is the age from which on an open Tx is reported, and txLooks the number of looks at it until then.
	txPatience, txLooks = 10 * time.Second, 4
)

// txWatch reports Txs that are open for long. Its timer runs only while a Tx is open, except for the next look. Begin
// is too fast for reading a clock, so the age of a Tx counts from the first look that finds it.
type txWatch struct {
	txs    *txs
	report *report.Reporter
	// on says that look will be called. Written by begun and look; publishes nothing. A Begin that reads a stale true
	// has its Tx found by the look that makes it false, or by the one before.
	on   atomic.Bool
	seen map[uint64]seenTx // by timestamp; belongs to look
}

// seenTx is an open Tx that a look has found.
type seenTx struct {
	at       time.Time // of the first look
	reported bool
}

// begun notes that a Tx has begun.
func (w *txWatch) begun() {
	if !w.on.Load() {
		w.start()
	}
}

func (w *txWatch) start() {
	if w.on.CompareAndSwap(false, true) {
		w.arm()
	}
}

// arm has look called later.
func (w *txWatch) arm() { time.AfterFunc(txPatience/txLooks, w.look) }

// look reports the Txs that have been open for long, each once.
func (w *txWatch) look() {
	if w.txs.closed.Load() {
		return
	}
	w.txs.oldest() // notes how old the open Txs are
	now, open := time.Now(), map[uint64]seenTx{}
	for _, ts := range w.txs.open() {
		x, found := w.seen[ts]
		if !found {
			x.at = now
		}
		if age := now.Sub(x.at); age >= txPatience && !x.reported {
			x.reported = true
			w.report.TxOpen(ts, age)
		}
		open[ts] = x
	}
	w.seen = open
	if len(open) > 0 {
		w.arm()
		return
	}
	w.on.Store(false)
	if len(w.txs.open()) > 0 { // it began before the store above, and saw that on was true
		w.start()
	}
}

// open returns the timestamps of the open Txs. One that is just beginning may be missing or have an old timestamp.
func (t *txs) open() (all []uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, tx := range t.all {
		if ts := tx.s().ts.Load(); ts != ownTS && tx.s().slot.Inside() {
			all = append(all, ts)
		}
	}
	return all
}
