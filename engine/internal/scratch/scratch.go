// Package scratch keeps memory that calls have worked in, for later calls, and gives it back to the collector when the
// store is idle.
//
//	J1  Whatever the number of calls and Txs that ever were, a store keeps at most Limit bytes of scratch memory,
//	    beside the memory that the calls under way use (trap 48).
//	J2  Memory that was not used for a tick or two is released, by a timer and not by a later call. An idle store has
//	    no timer.
//	J3  Bytes counts all memory that is kept, and the part of it that calls have borrowed.
package scratch

import (
	"sync"
	"sync/atomic"
	"time"
)

// Interval is the time between two ticks of a Keeper.
const Interval = time.Second

// A Keeper counts the scratch memory of one store, limits it, and releases it when it is idle. Safe for concurrent use
// once all Tasks are set.
type Keeper struct {
	limit int64 // bytes
	// bytes is the sum of all counts. Written by Add; publishes nothing. A stale value keeps or drops one piece too
	// many.
	bytes atomic.Int64
	// used says that memory was used since the last tick. Set by Use, cleared by tick; publishes nothing. A stale value
	// delays a release by a tick.
	used  atomic.Bool
	tasks []func(idle bool) (again bool)

	mu sync.Mutex // guards the fields below
	// timer is nil before the first tick.
	timer *time.Timer
	// ticking says that a tick is due or under way. again asks a tick that is under way for another.
	ticking, again, stopped bool
}

// New returns a Keeper for at most limit bytes.
func New(limit int64) *Keeper { return &Keeper{limit: limit} }

// OnTick makes every tick call f. idle says that no memory was used since the last tick, so that f releases what is
// kept; f returns whether it wants another tick. To be called before the Keeper is shared. f must not block.
func (k *Keeper) OnTick(f func(idle bool) (again bool)) { k.tasks = append(k.tasks, f) }

// Limit returns the most bytes that are kept.
func (k *Keeper) Limit() int64 { return k.limit }

// Bytes returns the bytes of scratch memory that are kept or borrowed.
func (k *Keeper) Bytes() int64 { return k.bytes.Load() }

// Add counts n bytes more, or fewer, and returns whether the sum is within the limit.
func (k *Keeper) Add(n int64) bool {
	if n == 0 {
		return k.bytes.Load() <= k.limit
	}
	return k.bytes.Add(n) <= k.limit
}

// Use notes that memory is in use, so that it is released after the second tick from now at the latest, unless it is
// used again.
func (k *Keeper) Use() {
	if !k.used.Load() {
		k.used.Store(true)
		k.Wake()
	}
}

// Wake asks for a tick.
func (k *Keeper) Wake() {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.stopped:
	case k.ticking:
		k.again = true
	case k.timer == nil:
		k.ticking, k.timer = true, time.AfterFunc(Interval, k.tick)
	default:
		k.ticking = true
		k.timer.Reset(Interval)
	}
}

// tick runs the tasks, and sets the timer again if any of them, or a Wake meanwhile, asks for it.
func (k *Keeper) tick() {
	k.mu.Lock()
	stopped := k.stopped
	k.again = false
	k.mu.Unlock()
	if stopped {
		return
	}
	idle := !k.used.Swap(false)
	again := !idle
	for _, f := range k.tasks {
		again = f(idle) || again
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ticking = !k.stopped && (again || k.again); k.ticking {
		k.timer.Reset(Interval)
	}
}

// Stop ends the ticks. A tick that is under way goes on.
func (k *Keeper) Stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stopped = true
	if k.timer != nil {
		k.timer.Stop()
	}
}
