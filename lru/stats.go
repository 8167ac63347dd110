package lru

import "sync/atomic"

// Stats are the state of a Policy and its counts since New.
type Stats struct {
	Active     bool  // the adviser is running
	Capacity   int64 // bytes
	Heap       int64 // settled resident bytes on the heap
	Mapped     int64 // settled resident bytes of the mapping
	Keys       int64 // keys that the adviser knows
	Cost       int64 // bytes of those keys
	Idle       int64 // hits recorded while the adviser was not running
	Taken      int64 // hits fed to the adviser
	Hits       int64 // of Taken: the key was known and its cost unchanged
	Dropped    int64 // hits dropped because the queue was full
	Evictions  int64 // keys that the adviser evicted
	Rejections int64 // keys that the adviser did not admit
	Busy       int64 // attempts to evict a page that was busy
	Swept      int64 // bytes evicted by clock
}

// counts are written by the policy's goroutine, except idle and dropped, which Take adds to. Stats reads them; a stale
// read is too low.
type counts struct {
	idle, dropped                      atomic.Int64
	taken, hits, evictions, rejections atomic.Int64
	busy, swept, keys, cost            atomic.Int64
}

// Stats returns the counts. It is safe for concurrent use.
func (p *Policy) Stats() Stats {
	heap, mapped := p.budget.Resident()
	c := &p.counts
	return Stats{
		Active: p.active.Load(), Capacity: p.budget.Capacity(), Heap: heap, Mapped: mapped,
		Keys: c.keys.Load(), Cost: c.cost.Load(),
		Idle: c.idle.Load(), Taken: c.taken.Load(), Hits: c.hits.Load(), Dropped: c.dropped.Load(),
		Evictions: c.evictions.Load(), Rejections: c.rejections.Load(), Busy: c.busy.Load(), Swept: c.swept.Load(),
	}
}
