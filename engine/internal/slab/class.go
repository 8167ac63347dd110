package slab

import (
	"sync"
	"sync/atomic"
)

// A class has the spans with slots of one size. Where many goroutines run, there are several classes of each size.
type class struct {
	pool  *Pool
	size  int
	slots int
	pages int

	mu sync.Mutex // guards the fields below
	// current is the span that Alloc uses; nil: none yet.
	current *span
	// partial has the spans of which some slots are free, and empty those of which all are. The one that was changed
	// last comes first.
	partial, empty list
	// live is the number of slots that are live or retired. Written under mu; read by Stats, for which a stale value is
	// good enough.
	live atomic.Int64
	_    [64]byte
}

func (c *class) push(s *span, st state) {
	switch s.state = st; st {
	case statePartial:
		c.partial.push(s)
	case stateEmpty:
		c.empty.push(s)
	}
}

// remove removes a span from its list.
func (c *class) remove(s *span) {
	switch s.state {
	case statePartial:
		c.partial.remove(s)
	case stateEmpty:
		c.empty.remove(s)
	}
	s.state = stateFull
}

// alloc returns the first n bytes of a slot that was free; nil if there is no memory.
func (c *class) alloc(n int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pool.closed.Load() {
		return nil
	}
	s := c.current
	if s == nil || s.live == s.slots {
		if s = c.next(); s == nil {
			return nil
		}
		c.current = s
	}
	slot := s.take()
	c.live.Add(1)
	if slot >= s.fresh {
		s.fresh = slot + 1
		if n := (s.fresh*s.size + pageSize - 1) / pageSize; n > s.touched {
			c.pool.resident.Add(int64(n-s.touched) * pageSize)
			s.touched = n
		}
	} else {
		checkReleased(s.memory(slot, s.size))
	}
	return s.memory(slot, n)
}

// next takes a span with a free slot off its list, or makes one.
func (c *class) next() *span {
	if s := c.partial.first; s != nil {
		c.remove(s)
		return s
	}
	if s := c.empty.first; s != nil {
		c.pool.empty.Add(-int64(len(s.mem)))
		c.remove(s)
		return s
	}
	return c.pool.grow(c)
}

// release frees a slot. Spans that become empty are kept for the next values as long as the pool has few of them.
func (c *class) release(s *span, slot int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.drop(slot) {
		panic("slab: a value was released twice")
	}
	c.live.Add(-1)
	poison(s.memory(slot, s.size))
	switch {
	case s == c.current:
	case s.live > 0:
		c.remove(s)
		c.push(s, statePartial)
	default:
		c.remove(s)
		if c.pool.empty.Add(int64(len(s.mem))) > c.pool.keep.Load() {
			c.pool.empty.Add(-int64(len(s.mem)))
			c.pool.shrink(s)
			return
		}
		c.push(s, stateEmpty)
	}
}

// trim gives the empty spans back to the pool, and also the current one if it is empty.
func (c *class) trim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := c.empty.first; s != nil; s = c.empty.first {
		c.remove(s)
		c.pool.empty.Add(-int64(len(s.mem)))
		c.pool.shrink(s)
	}
	if s := c.current; s != nil && s.live == 0 {
		c.current = nil
		c.pool.shrink(s)
	}
}
