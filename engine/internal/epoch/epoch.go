// Package epoch tells when every goroutine that could have seen an object has gone.
//
//	E1  Retire returns an epoch r for objects that no new reader can find. Once Oldest is at least r, no reader
//	    holds one of them.
//	E2  Entering costs one uncontended compare-and-swap, leaving one store.
//	E3  The cost of Oldest and Readers follows the readers that are inside now, not those that ever were (trap 48):
//	    slots that nobody uses leave the domain, and a look at the slots pays for those that it finds unused. While
//	    the oldest reader stays inside, Oldest looks at its slot only.
//
// (Epoch-based reclamation: Fraser, Practical Lock-Freedom, 2004.)
package epoch

import (
	"math"
	"sync"
	"sync/atomic"
)

// Domain is a set of slots and their common clock. The zero Domain is ready for use. Safe for concurrent use, except
// where a method says otherwise.
type Domain struct {
	// clock is the current epoch. Written by Retire; publishes nothing. It only rises, from 0. A stale read makes a
	// slot look older when it enters, which delays reclamation.
	clock atomic.Uint64
	// sparse is called after a look at the slots that found most of them outside; see OnSparse.
	sparse func()

	mu sync.Mutex
	// slots are registered for ever, guests until Trim removes them. Both are guarded by mu. Elements are never changed
	// in place, since each looks at them without mu.
	slots, guests []*Slot
	// pin is the slot that held the earliest epoch at the last look, and pinned its state at that time. Guarded by mu.
	pin    *Slot
	pinned uint64
	looked int64 // the number of slots that all looks have loaded; guarded by mu
}

// Slot marks one reader as inside or outside.
//
//	           TryEnter                  Loosen              Trim
//	outside ─────────────▶ inside(epoch) ───────▶ loose    outside ──────▶ removed
//	        ◀─────────────               ◀───────
//	            Leave                    Tighten
//
// A loose reader counts as one, and holds nothing: the objects that it looks at are kept for it in another way. Leave
// takes it outside, too.
//
// The reader stores the mark before it loads anything that may be retired (atomics are sequentially consistent). So
// if a goroutine unlinks an object, then calls Retire, and then finds the slot outside or newer, the slot's reader
// cannot reach the object.
type Slot struct {
	// state is the mark. Written by the goroutine that enters and leaves, and by Trim; publishes nothing but itself. A
	// stale read in Oldest is an older mark, which delays reclamation, or one from before the reader entered, which
	// cannot find anything that was retired before.
	//
	//	bits 63…1   the epoch in which the reader entered
	//	bit  0      inside
	//
	// 0 is outside; removed stands for a slot that is outside for ever. No reader can tell a loose slot from one that
	// has entered since, or has left, but by its count.
	state atomic.Uint64
	_     [56]byte // a cache line of its own
}

const (
	inside  = 1
	loose   = 2
	removed = math.MaxUint64 &^ inside
)

// Register adds a slot to the domain. The slot stays there for ever.
func (d *Domain) Register(s *Slot) {
	d.mu.Lock()
	d.slots = append(d.slots, s)
	d.mu.Unlock()
}

// Join adds a slot to the domain. It stays there until Trim removes it.
func (d *Domain) Join(s *Slot) {
	d.mu.Lock()
	d.guests = append(d.guests, s)
	d.mu.Unlock()
}

// OnSparse makes Oldest and Readers call f when they found far more slots outside than inside; f calls Trim. To be
// called before the domain is shared.
func (d *Domain) OnSparse(f func()) { d.sparse = f }

// spare is the number of slots that Trim leaves outside, beside as many as are inside. A look at the slots is sparse
// above twice that number.
const spare = 32

// isSparse reports whether Trim is worth its cost.
func isSparse(in, out int) bool { return out > 2*(in+spare) }

// Trim removes joined slots that are outside, except for a few, and returns whether there were any. They are outside
// for ever, and IsRemoved says so.
func (d *Domain) Trim() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	in := 0
	for _, s := range d.guests {
		if s.Present() {
			in++
		}
	}
	keep := in + spare
	if len(d.guests)-in <= keep {
		return false
	}
	kept := make([]*Slot, 0, in+keep)
	for _, s := range d.guests {
		if keep > 0 && !s.Inside() {
			keep--
		} else if s.state.CompareAndSwap(0, removed) {
			continue
		}
		kept = append(kept, s)
	}
	trimmed := len(kept) < len(d.guests)
	d.guests = kept
	return trimmed
}

// TryEnter marks the slot as inside. It returns false if the slot is inside already, or removed.
func (s *Slot) TryEnter(d *Domain) bool {
	return s.state.Load() == 0 && s.state.CompareAndSwap(0, d.clock.Load()<<1|inside)
}

// Leave marks the slot as outside. It returns false if the slot was outside already.
func (s *Slot) Leave() bool {
	if !s.Present() {
		return false
	}
	s.state.Store(0)
	return true
}

// Inside reports whether the slot is marked as inside.
func (s *Slot) Inside() bool { return s.state.Load()&inside != 0 }

// Loosen lets a slot that is inside hold nothing any more. Its reader alone calls it.
func (s *Slot) Loosen() { s.state.Store(loose) }

// Tighten marks a loose slot as inside, as if it had just entered. Its reader alone calls it.
func (s *Slot) Tighten(d *Domain) { s.state.Store(d.clock.Load()<<1 | inside) }

// IsLoose reports whether the slot is loose.
func (s *Slot) IsLoose() bool { return s.state.Load() == loose }

// Present reports whether the slot is inside or loose.
func (s *Slot) Present() bool { return isPresent(s.state.Load()) }

func isPresent(state uint64) bool { return state&inside != 0 || state == loose }

// Epoch returns the epoch in which the reader of a slot that is inside has entered, or an earlier one.
func (s *Slot) Epoch() uint64 { return s.state.Load() >> 1 }

// IsRemoved reports whether Trim has removed the slot.
func (s *Slot) IsRemoved() bool { return s.state.Load() == removed }

// Retire advances the clock and returns the new epoch. Objects that were unlinked before the call can be reclaimed once
// Oldest is at least that epoch.
func (d *Domain) Retire() uint64 { return d.clock.Add(1) }

// Oldest returns the earliest epoch in which a reader that is inside has entered, or the current epoch, if that is
// earlier or no reader is inside. So it never says anything about an object that is retired after the call has begun.
//
// A look at the slots misses a reader that enters a slot behind it, and may find one in another slot that has entered
// even later. It is right about the objects that were retired before it began: a reader that holds one of them has
// entered before that, and one that has entered since then cannot find the object, even if it read the clock long ago.
// So a reader is remembered only if its epoch is not later than the look. While it is inside, the result stays the
// same: objects with an epoch up to that were retired before the look.
func (d *Domain) Oldest() uint64 {
	began := d.clock.Load() // before the look
	d.mu.Lock()
	s, pinned := d.pin, d.pinned
	if s != nil {
		d.looked++
	}
	d.mu.Unlock()
	if s != nil && s.state.Load() == pinned {
		return pinned >> 1
	}
	s, pinned = nil, math.MaxUint64
	d.each(func(slot *Slot, state uint64) {
		if state < pinned && state != loose {
			s, pinned = slot, state
		}
	})
	if s != nil && pinned>>1 > began {
		s = nil
	}
	d.mu.Lock()
	d.pin, d.pinned = s, pinned
	d.mu.Unlock()
	if s == nil {
		return began
	}
	return pinned >> 1
}

// Len returns the number of slots in the domain.
func (d *Domain) Len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.slots) + len(d.guests)
}

// Readers returns the number of slots that are inside or loose.
func (d *Domain) Readers() int { return d.each(func(*Slot, uint64) {}) }

// each calls visit with every slot that is inside or loose and its state, and returns their number.
func (d *Domain) each(visit func(s *Slot, state uint64)) (in int) {
	d.mu.Lock()
	slots, guests := d.slots, d.guests
	d.looked += int64(len(slots) + len(guests))
	d.mu.Unlock()
	look := func(slots []*Slot) (in int) {
		for _, s := range slots {
			if state := s.state.Load(); isPresent(state) {
				in++
				visit(s, state)
			}
		}
		return in
	}
	n := look(guests)
	if d.sparse != nil && isSparse(n, len(guests)-n) {
		d.sparse()
	}
	return n + look(slots)
}
