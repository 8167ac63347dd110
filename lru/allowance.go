package lru

import (
	"sync"
	"sync/atomic"
)

const (
	// longChain is the number of messages, beside the first, of a page that may use up a whole allowance. The fewer a
	// page has, the more must be left for it: a long chain saves more reads, and would soon be written as a whole
	// anyway.
	longChain = 8
	// recount is the number of refused requests between two looks at what callers have written.
	recount = 16
	// calmMisses is the number of Gets that had to read, over which it is decided whether next to nothing is written.
	calmMisses = 1024
	// An allowance that is not used is saved up to the larger of a share of the capacity and a number of bytes.
	savedShare, savedLeast = 16, 64 << 10
)

// An Allowance limits the bytes that evictions write, to a share of those that callers write. Without it, if the cache
// is much smaller than the data, each page that is read, changed and evicted again would be written as a whole each
// time. It is safe for concurrent use.
type Allowance struct {
	percent int64 // of what callers write; negative: nothing
	budget  *Budget
	written atomic.Int64 // bytes that evictions have written

	mu      sync.Mutex // of the fields below; no goroutine takes it but the policy's, one eviction at a time
	left    int64      // bytes that evictions may still write
	refused int        // requests
	last    Activity   // when it was looked at last
	since   Activity   // at the beginning of the time over which calm is decided next
	calm    bool       // next to nothing is written
}

// Activity counts what callers have done.
type Activity struct {
	Written int64 // bytes, including those that were written on behalf of callers, and not by evictions
	Misses  int64 // Gets that had to read
}

// NewAllowance returns an allowance of the given percentage of what callers write; a negative one allows nothing.
func NewAllowance(percent int, b *Budget) *Allowance {
	return &Allowance{percent: int64(percent), budget: b}
}

// Allow reports whether an eviction may write a page of about size bytes, of which the next Get then reads that many
// fewer messages. While callers write less than a byte for each page that they read, there is no limit: each page is
// written once, and consists of one message then. Allow calls activity now and then.
func (a *Allowance) Allow(size int64, fewer int, activity func() Activity) bool {
	if a.percent < 0 {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	want := size * longChain / int64(max(1, min(fewer, longChain)))
	if want <= a.left {
		return true
	}
	if a.refused++; a.refused%recount == 1 {
		a.count(activity())
	}
	return a.calm || want <= a.left
}

// count adds the share of what callers have written since the last count.
func (a *Allowance) count(now Activity) {
	saved := max(a.budget.Capacity()/savedShare, savedLeast)
	a.left = min(a.left+(now.Written-a.last.Written)*a.percent/100, saved)
	a.last = now
	if misses := now.Misses - a.since.Misses; misses >= calmMisses {
		a.calm = now.Written-a.since.Written < misses
		a.since = now
	}
}

// Wrote counts n bytes that an eviction has written.
func (a *Allowance) Wrote(n int64) {
	a.written.Add(n)
	a.mu.Lock()
	a.left = max(0, a.left-n)
	a.mu.Unlock()
}

// Written returns the number of bytes that evictions have written.
func (a *Allowance) Written() int64 { return a.written.Load() }
