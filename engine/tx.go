package engine

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/epoch"
	"pagecache/lru"
	"pagecache/segments/format"
)

// Tx is what the calls on a store happen in. It pins an epoch: nothing that was reachable when it began is taken
// away before it ends. It gives no isolation: calls in different Txs see each other at once. A Tx belongs to one
// goroutine, and is not used after End. Transactions should be short, since they hold back the reuse of space.
type Tx struct {
	slot  epoch.Slot
	owner *txs
	// ts is written by Begin; read by its owner, and by Stats of other goroutines, for which a stale one is good enough.
	ts atomic.Uint64
	// bytes that were written with it, over all its lives. Written by its owner; read by the cleaner, for which a stale one is good enough.
	bytes   atomic.Int64
	scratch []byte // for encoding
	zipped  []byte // for compressing
	// What was used and has become resident, not told yet. The owner's.
	hits     lru.Hits
	account  lru.Account
	pressure lru.Pressure // of what became resident since the last relieve
	changes  int64        // how many of hits are not hits, but changes of what is resident
}

// wrote counts a message with a body of n bytes.
func (tx *Tx) wrote(n int) { tx.bytes.Store(tx.bytes.Load() + int64(format.HeaderSize+n)) }

// TS is the timestamp of the Tx: an id like those of GenerateID, unique and rising over the life of the store.
func (tx *Tx) TS() uint64 { return tx.ts.Load() }

// End ends the Tx. Ending it twice in a row does nothing.
func (tx *Tx) End() {
	if tx.slot.Leave() {
		tx.owner.pool.Put(tx)
	}
}

// txs makes and reuses a store's Txs.
type txs struct {
	domain epoch.Domain
	pool   sync.Pool
	mu     sync.Mutex
	all    []*Tx // for ever: the collector may empty the pool, and the domain still knows the slots
	next   int
	budget *lru.Budget // nil: nothing is made resident in them
}

// begin returns a Tx that is inside. The loop ends because make returns Txs that nobody else has, unless it finds one that
// the pool gives somebody else at the same time, which takes a begin of theirs.
func (t *txs) begin() *Tx {
	for {
		tx, _ := t.pool.Get().(*Tx)
		if tx == nil {
			tx = t.make()
		}
		if tx.slot.TryEnter(&t.domain) {
			return tx
		}
	}
}

// make finds a Tx that is not in use, or makes one.
func (t *txs) make() *Tx {
	t.mu.Lock()
	defer t.mu.Unlock()
	const tries = 64
	for range min(tries, len(t.all)) {
		t.next = (t.next + 1) % len(t.all)
		if tx := t.all[t.next]; !tx.slot.Inside() {
			return tx
		}
	}
	tx := &Tx{owner: t}
	t.all = append(t.all, tx)
	if t.budget != nil {
		t.budget.Register(&tx.account)
	}
	t.domain.Register(&tx.slot)
	return tx
}

// closePatience is how long Close waits for open Txs.
const closePatience = 5 * time.Second

// wait waits until no Tx is open, and returns how many are when it loses its patience.
func (t *txs) wait() int {
	for deadline := time.Now().Add(closePatience); ; time.Sleep(200 * time.Microsecond) {
		if n := t.domain.Readers(); n == 0 || time.Now().After(deadline) {
			return n
		}
	}
}

// written is how many bytes of messages all Txs have written.
func (t *txs) written() (n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, tx := range t.all {
		n += tx.bytes.Load()
	}
	return n
}

// checkTx reports whether tx is one of this store's and has not ended.
func (t *txs) checkTx(tx *Tx) error {
	if tx != nil && tx.owner == t && tx.slot.Inside() {
		return nil
	}
	return txError(t, tx)
}

func txError(t *txs, tx *Tx) error {
	switch {
	case tx == nil:
		return fmt.Errorf("no Tx given: %w", ErrTxEnded)
	case tx.owner != t:
		return fmt.Errorf("Tx of another store: %w", ErrTxEnded)
	}
	return ErrTxEnded
}

// oldest returns how many Txs are open and the timestamp of the oldest. A Tx that is just beginning counts with its
// last timestamp.
func (t *txs) oldest() (n int, ts uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, tx := range t.all {
		if !tx.slot.Inside() {
			continue
		}
		n++
		if s := tx.ts.Load(); n == 1 || s < ts {
			ts = s
		}
	}
	return n, ts
}
