// Package scope makes the scopes of the calls on a store: each pins an epoch, and has the memory that its calls work
// in and the accesses that the eviction policy has not been notified of. It knows no pages. A Tx of package engine is a
// Scope, and so is a call outside of a Tx.
package scope

import (
	"sync/atomic"
	"time"

	"pagecache/engine/internal/epoch"
	"pagecache/engine/internal/scratch"
	"pagecache/internal/invariants"
	"pagecache/lru"
	"pagecache/segments/format"
)

// A Scope pins an epoch: nothing that was reachable when it began is reclaimed before it ends. It belongs to one
// goroutine and must not be used after End. In builds with the invariants tag, a Scope that is dropped without End
// panics and says where it was begun.
type Scope struct {
	tracker invariants.Tracker
	owner   *Set
	state   invariants.Box[State]
	// Outer contains the Scope. It is set by Set.New.
	Outer any
}

// State is the part of a Scope that the store keeps and uses again. Its exported fields belong to the owner, except
// where a comment says otherwise.
type State struct {
	Slot epoch.Slot
	// TS is written by Begin. It is read by the owner, and by Stats of other goroutines, for which a stale value is
	// good enough.
	TS atomic.Uint64
	// bytes counts the messages written with this Tx over all its lives. It is written by the owner and read by the
	// cleaner, for which a stale value is good enough.
	bytes atomic.Int64
	// buffer is the scratch memory of the write call that is under way; nil: it has needed none yet.
	buffer *scratch.Buffer
	lane   uint32 // which Buffers the Tx takes first
	turn   uint32 // the number of its begins while Txs overlap
	// The fields below record accesses and changes of resident bytes that the policy has not been notified of. They
	// belong to the owner.
	Hits     lru.Hits
	Account  lru.Account
	Pressure lru.Pressure // of the bytes that became resident since the last reclaim
	Changes  int64        // the number of hits that are changes of resident bytes, not hits
	Touched  byte         // from the values that GetMany has fetched ahead
	// seen is the timestamp with which a look found the Tx open first, and seenAt is when that was. announced says that
	// it was announced as open for long. Guarded by Set.mu.
	seen      uint64
	seenAt    time.Time
	announced bool
}

// S returns the state of the Scope.
func (tx *Scope) S() *State { return tx.state.P() }

// IsOf reports whether the Scope was made by t.
func (tx *Scope) IsOf(t *Set) bool { return tx.owner == t }

// IsDone reports whether End was called. Only in builds with the invariants tag; false in others.
func (tx *Scope) IsDone() bool { return tx.tracker.Ended() }

// Wrote counts a message with a body of n bytes that is in the log for a caller.
func (tx *Scope) Wrote(n int) {
	s := tx.S()
	s.bytes.Store(s.bytes.Load() + int64(format.HeaderSize+n))
}

// TS returns the timestamp of the Tx: an id like those of GenerateID, unique and rising over the life of the store.
func (tx *Scope) TS() uint64 { return tx.S().TS.Load() }

// Hold makes a Scope hold everything that can be reached from now on, if it is loose, and reports whether it was.
func (tx *Scope) Hold() (was bool) {
	s := tx.S()
	if was = s.Slot.IsLoose(); was {
		s.Slot.Tighten(&tx.owner.Domain)
	}
	return was
}

// Buffer returns scratch memory for the write call that is under way, which ends with release.
func (tx *Scope) Buffer() *scratch.Buffer {
	s := tx.S()
	if s.buffer == nil {
		s.buffer = tx.owner.Buffers.Take(s.lane)
	}
	return s.buffer
}

// Release gives the scratch memory back, if the call has used any.
func (tx *Scope) Release() {
	if s := tx.S(); s.buffer != nil {
		tx.owner.Buffers.Put(s.lane, s.buffer)
		s.buffer = nil
	}
}

// End ends the Tx, once. The store uses an ended Tx again at once, so a later call with it may meet another caller's
// Tx; in builds with the invariants tag such a call fails with ErrEnded.
func (tx *Scope) End() {
	s := tx.S()
	if !s.Slot.Present() {
		return
	}
	if s.buffer != nil {
		tx.Release() // a call that panicked has not
	}
	s.Slot.Leave()
	tx.tracker.Done()
	owner := tx.owner
	if owner.solo.Load() != tx {
		owner.pool.Put(tx)
	}
	if owner.watchers.Load() > 0 { // after Leave: a watcher adds itself, then looks for Txs
		owner.wake()
	}
}
