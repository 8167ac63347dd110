// Package epoch tells when every goroutine that could have seen an object has gone.
//
//	E1  Retire returns an epoch r for objects that no new reader can find. Once Oldest is at least r, no reader
//	    holds one of them.
//	E2  Entering costs one uncontended compare-and-swap, leaving one store.
//
// (Epoch-based reclamation: Fraser, Practical Lock-Freedom, 2004.)
package epoch

import (
	"math"
	"sync"
	"sync/atomic"
)

// Domain is a set of slots and their common clock. The zero Domain is ready for use. Safe for concurrent use.
type Domain struct {
	// clock is the current epoch. Written by Retire; publishes nothing. It only rises, from 0. A stale read makes a
	// slot look older when it enters, which delays reclamation.
	clock atomic.Uint64
	mu    sync.Mutex
	slots []*Slot // guarded by mu; only ever appended to
}

// Slot marks one reader as inside or outside.
//
//	           TryEnter
//	outside ─────────────▶ inside(epoch)
//	        ◀─────────────
//	            Leave
//
// The reader stores the mark before it loads anything that may be retired (atomics are sequentially consistent). So
// if a goroutine unlinks an object, then calls Retire, and then finds the slot outside or newer, the slot's reader
// cannot reach the object.
type Slot struct {
	// state is the mark. Written by the goroutine that enters and leaves; publishes nothing but itself. A stale read in
	// Oldest is an older mark, which delays reclamation, or one from before the reader entered, which cannot find
	// anything that was retired before.
	//
	//	bits 63…1   the epoch in which the reader entered
	//	bit  0      inside
	state atomic.Uint64
	_     [56]byte // a cache line of its own
}

const inside = 1

// Register adds a slot to the domain. The slot stays there for ever.
func (d *Domain) Register(s *Slot) {
	d.mu.Lock()
	d.slots = append(d.slots, s)
	d.mu.Unlock()
}

// TryEnter marks the slot as inside. It returns false if the slot is inside already.
func (s *Slot) TryEnter(d *Domain) bool {
	old := s.state.Load()
	return old&inside == 0 && s.state.CompareAndSwap(old, d.clock.Load()<<1|inside)
}

// Leave marks the slot as outside. It returns false if the slot was outside already.
func (s *Slot) Leave() bool {
	if s.state.Load()&inside == 0 {
		return false
	}
	s.state.Store(0)
	return true
}

// Inside reports whether the slot is marked as inside.
func (s *Slot) Inside() bool { return s.state.Load()&inside != 0 }

// Retire advances the clock and returns the new epoch. Objects that were unlinked before the call can be reclaimed once
// Oldest is at least that epoch.
func (d *Domain) Retire() uint64 { return d.clock.Add(1) }

// Oldest returns the earliest epoch in which a reader that is inside has entered, or math.MaxUint64 if none is inside.
func (d *Domain) Oldest() uint64 {
	oldest := uint64(math.MaxUint64)
	d.each(func(state uint64) { oldest = min(oldest, state>>1) })
	return oldest
}

// Readers returns the number of slots that are inside.
func (d *Domain) Readers() int {
	n := 0
	d.each(func(uint64) { n++ })
	return n
}

// each calls visit with the state of every slot that is inside.
func (d *Domain) each(visit func(state uint64)) {
	d.mu.Lock()
	slots := d.slots
	d.mu.Unlock()
	for _, s := range slots {
		if state := s.state.Load(); state&inside != 0 {
			visit(state)
		}
	}
}
