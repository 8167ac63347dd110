// Package epoch tells when everybody who could have seen something has gone.
//
//	E1  After Retire has returned r for something that no new reader can find, nobody can still hold it once Oldest
//	    is at least r.
//	E2  Entering and leaving cost one uncontended atomic each.
//
// (Epoch-based reclamation: Fraser, Practical Lock-Freedom, 2004.)
package epoch

import (
	"math"
	"sync"
	"sync/atomic"
)

// Domain is a set of slots and their common clock. The zero Domain is ready. Safe for concurrent use.
type Domain struct {
	// clock is the current epoch, from 0 up. Written by Retire; a stale read when entering only delays reclaiming.
	clock atomic.Uint64
	mu    sync.Mutex
	slots []*Slot
}

// Slot marks one reader as inside or outside.
//
//	bit 0       inside
//	bits 63…1   the epoch in which it entered
//
// Written by its owner on entering and leaving (and by who tries to own it); read by Oldest. The mark is stored before
// its owner reads anything that may be retired (sequentially consistent), so whoever unlinks, then calls Retire, then
// finds the slot outside or newer knows that its owner cannot reach what was unlinked.
type Slot struct {
	state atomic.Uint64
	_     [56]byte
}

const inside = 1

// Register adds a slot to the domain, for good.
func (d *Domain) Register(s *Slot) {
	d.mu.Lock()
	d.slots = append(d.slots, s)
	d.mu.Unlock()
}

// TryEnter marks the slot inside; false if it is inside already.
func (s *Slot) TryEnter(d *Domain) bool {
	old := s.state.Load()
	return old&inside == 0 && s.state.CompareAndSwap(old, d.clock.Load()<<1|inside)
}

// Leave marks the slot outside; false if it was outside already.
func (s *Slot) Leave() bool {
	if s.state.Load()&inside == 0 {
		return false
	}
	s.state.Store(0)
	return true
}

// Inside reports whether the slot is marked inside.
func (s *Slot) Inside() bool { return s.state.Load()&inside != 0 }

// Retire moves the clock on and returns the new epoch: what was unlinked before the call can be reclaimed once
// Oldest is at least that.
func (d *Domain) Retire() uint64 { return d.clock.Add(1) }

// Oldest is the earliest epoch in which anybody inside has entered, or the greatest number if nobody is inside.
func (d *Domain) Oldest() uint64 {
	oldest := uint64(math.MaxUint64)
	d.each(func(state uint64) { oldest = min(oldest, state>>1) })
	return oldest
}

// Readers is how many are inside.
func (d *Domain) Readers() int {
	n := 0
	d.each(func(uint64) { n++ })
	return n
}

func (d *Domain) each(visit func(state uint64)) {
	d.mu.Lock()
	slots := d.slots // only ever appended to
	d.mu.Unlock()
	for _, s := range slots {
		if state := s.state.Load(); state&inside != 0 {
			visit(state)
		}
	}
}
