package slab

import (
	"math/bits"
	"strconv"
)

// A span is memory for values of one class. The class's lock guards its fields, except for those that never change.
type span struct {
	home  *class
	chunk *chunk
	mem   []byte // all of it
	at    int    // its first page in the chunk
	size  int    // of a slot, in bytes
	slots int
	// used has a bit for each slot that is live or retired, and live is the number of these.
	used uint64
	live int
	// fresh is the first slot that was never handed out, and touched the number of pages that are touched.
	fresh, touched int
	state          state
	// next and prev link the spans of one state.
	next, prev *span
}

// state says what a span is used for.
type state uint8

const (
	stateFull    state = iota // no slot is free, or it is the one that Alloc uses
	statePartial              // some are
	stateEmpty                // all are
)

// String returns the state's name.
func (s state) String() string {
	switch s {
	case stateFull:
		return "full"
	case statePartial:
		return "partial"
	case stateEmpty:
		return "empty"
	}
	return "state(" + strconv.Itoa(int(s)) + ")"
}

// take takes a free slot, of which there is one. A low slot comes first, so that high ones stay untouched.
func (s *span) take() (slot int) {
	slot = bits.TrailingZeros64(^s.used)
	s.used |= 1 << slot
	s.live++
	return slot
}

// drop frees a slot. It returns false if the slot was free.
func (s *span) drop(slot int) bool {
	bit := uint64(1) << slot
	if s.used&bit == 0 {
		return false
	}
	s.used &^= bit
	s.live--
	return true
}

// slotOf returns the number of the slot that has the address.
func (s *span) slotOf(at uintptr) int { return int(at-address(s.mem)) / s.size }

// memory returns the first n bytes of a slot, without the room behind them.
func (s *span) memory(slot, n int) []byte {
	at := slot * s.size
	return s.mem[at : at+n : at+n]
}

// list is a list of spans.
type list struct{ first *span }

func (l *list) push(s *span) {
	s.prev, s.next = nil, l.first
	if l.first != nil {
		l.first.prev = s
	}
	l.first = s
}

func (l *list) remove(s *span) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.first = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.next, s.prev = nil, nil
}
