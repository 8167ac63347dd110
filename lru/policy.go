package lru

import (
	"sync"
	"sync/atomic"
	"time"
)

// Options tune a Policy; the zero Options is the default.
type Options struct {
	// Counters is the number of keys whose hits the adviser counts, at 4 to 8 bytes each. 0: ten for each page that
	// fits, by the mean cost of the pages that are resident when the adviser starts. With fewer counters it forgets;
	// with many more it follows a change slowly.
	Counters int64
	// Passive starts no goroutine. Only callers under hard pressure evict, so the order of evictions depends on them
	// alone.
	Passive bool
}

// queueLen is the number of full Hits that wait for the policy before Take drops some.
const queueLen = 64

// A Policy keeps the resident bytes of a store within a budget.
type Policy struct {
	budget  *Budget
	pages   Pages
	options Options
	counts  counts

	// active is true while the adviser runs. Written by the policy's goroutine. After a stale read Take loses a few
	// hits, or leaves some in the queue for the next adviser.
	active atomic.Bool
	queue  chan Hits
	kick   chan struct{}
	quit   chan struct{}
	done   chan struct{} // closed by the goroutine when it ends
	once   sync.Once     // closes quit

	// Owned by the goroutine:
	adviser       *adviser // nil while idle
	retries       retries
	burstStart    time.Time // start of the current burst of loading the adviser
	fed           int       // keys fed since the last pause
	droppedBefore int64     // counts.dropped when the last pause began
	exhausted     bool      // the clock went round without freeing enough; no sweep before the next pause
}

// New starts a policy.
func New(b *Budget, pages Pages, o Options) *Policy {
	p := newPolicy(b, pages, o)
	if o.Passive {
		close(p.done)
	} else {
		go p.run()
	}
	return p
}

func newPolicy(b *Budget, pages Pages, o Options) *Policy {
	return &Policy{budget: b, pages: pages, options: o, queue: make(chan Hits, queueLen),
		kick: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
}

// Close stops the policy goroutine after its current step and waits for it. It is safe to call more than once,
// concurrently.
func (p *Policy) Close() {
	p.once.Do(func() { close(p.quit) })
	<-p.done
}

// Take hands the keys of h to the policy and empties h. The caller calls it when h is full or under pressure. It never
// waits: if the queue is full it drops the keys. It is safe for concurrent use.
func (p *Policy) Take(h *Hits) {
	n := int64(len(h.held()))
	switch {
	case n == 0:
		return
	case p.active.Load():
		select {
		case p.queue <- *h:
		default:
			p.counts.dropped.Add(n)
		}
	default:
		p.counts.idle.Add(n)
		if p.budget.UsedPercent() > startPercent {
			p.Kick()
		}
	}
	h.n = 0
}

// Kick wakes the policy because the capacity is exceeded. It never waits. It is safe for concurrent use.
func (p *Policy) Kick() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Resize sets the capacity in bytes. The policy soon evicts the pages that no longer fit. It is safe for concurrent
// use.
func (p *Policy) Resize(capacity int64) {
	p.budget.SetCapacity(capacity)
	p.Kick()
}
