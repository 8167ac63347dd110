package segments

import (
	"strconv"
	"sync/atomic"

	"pagecache/segments/format"
)

// State is the state of a slot. The package comment draws the transitions.
type State uint32

// The states of a slot.
const (
	StateFree     State = iota // the slot holds no segment
	StateActive                // an io buffer holds the segment
	StateInactive              // the whole segment is durable
	StateDraining              // nothing in the segment is live, and it waits to be recycled
)

// String returns the state's name.
func (s State) String() string {
	if names := [...]string{"free", "active", "inactive", "draining"}; int(s) < len(names) {
		return names[s]
	}
	return "state(" + strconv.FormatUint(uint64(s), 10) + ")"
}

// Segment describes one slot and the segment in it. Its methods are safe for concurrent use.
type Segment struct {
	// state is written by the transitions below only, and read without a lock. It publishes base and seed, which are
	// written before the slot leaves StateFree. A stale StateActive sends a reader to the io buffers, which then send
	// it to the file.
	state atomic.Uint32
	// live is the number of bytes of current messages, each rounded up as on disk. Any writer adds to it and subtracts
	// from it; in an Inactive segment it only falls. A stale value delays cleaning.
	live atomic.Int64
	// base is the LSN of the segment's first byte, NoLSN once the segment was recycled. Written under Space.mu. A
	// reader that finds another base than the one it expects knows that the segment was recycled.
	base atomic.Int64
	// seed is written with base, and used by readers that found the segment by its base.
	seed atomic.Uint32
	// pages is the list of the segment's pages, nil if there is none. The seal transition sets it, before the state;
	// the recycle transition clears it. A stale nil makes the cleaner read the segment.
	pages atomic.Pointer[PageList]
	// identity is that of the segment, and means nothing in a free slot. Guarded by Space.mu; constant while the slot
	// is Draining.
	identity format.Identity
	// keep says that the slot never drains. Written before the slot leaves StateFree.
	keep bool
}

// State returns the slot's state.
func (s *Segment) State() State { return State(s.state.Load()) }

// Live returns the live bytes.
func (s *Segment) Live() int64 { return s.live.Load() }

// Base returns the LSN of the segment's first byte.
func (s *Segment) Base() format.LSN { return format.LSN(s.base.Load()) }

// Pages returns the list of the segment's pages, and false if it has none.
func (s *Segment) Pages() (PageList, bool) {
	if l := s.pages.Load(); l != nil {
		return *l, true
	}
	return nil, false
}

// Seed returns the value from which the checksums of the segment's messages start.
func (s *Segment) Seed() format.Seed { return format.Seed(s.seed.Load()) }

// adopt is the transition of a slot in which Open found a segment: Free → Active or Inactive.
func (s *Segment) adopt(base format.LSN, seed format.Seed, to State) {
	s.base.Store(int64(base))
	s.seed.Store(uint32(seed))
	s.state.Store(uint32(to))
}

// open is the transition Free → Active. Space.mu is held.
func (s *Segment) open(base format.LSN, seed format.Seed) { s.adopt(base, seed, StateActive) }

// seal is the transition Active → Inactive. It does nothing and returns false if the slot is not Active with that base.
// Only the leader that flushed the end of the segment calls it.
func (s *Segment) seal(base format.LSN, pages PageList) bool {
	if s.State() != StateActive || s.Base() != base {
		return false
	}
	if pages != nil {
		s.pages.Store(&pages)
	}
	s.state.Store(uint32(StateInactive))
	return true
}

// drain is the transition Inactive → Draining of a segment without live bytes. It returns false if it was not made.
func (s *Segment) drain() bool {
	return s.Live() == 0 && !s.keep && s.state.CompareAndSwap(uint32(StateInactive), uint32(StateDraining))
}

// recycle is the transition Draining → Free. Space.mu is held.
func (s *Segment) recycle() {
	s.base.Store(int64(format.NoLSN))
	s.pages.Store(nil)
	s.state.Store(uint32(StateFree))
}
