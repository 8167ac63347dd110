package lru

import (
	"sync"
	"sync/atomic"
	"time"
)

// Outcome is what became of a page that was to be paged out.
type Outcome uint8

// The outcomes of PageOut.
const (
	Out     Outcome = iota // it was resident and is no more, but for what is worth more than it costs
	Nothing                // it was not resident
	Busy                   // its writes are not stable yet
)

// String returns the outcome's name.
func (o Outcome) String() string { return [...]string{"out", "nothing", "busy"}[o] }

// Pages is the store whose pages the policy pages out. The methods are called by the policy's goroutine, one at a time. What
// PageOut and Sweep free is to be settled with the budget before they return, since the policy goes by it. A panic in one
// is nobody's to catch: it ends the process.
type Pages interface {
	// Cost is how many bytes of the page are resident now, 0: none.
	Cost(key uint64) int64
	// PageOut drops what is resident of the page, unless it is busy.
	PageOut(key uint64) Outcome
	// Each visits every resident page until visit returns false. visit may call Cost.
	Each(visit func(key uint64) bool)
	// Sweep pages out what it finds, by clock, until so many bytes are freed or it has gone round, and says out of each key
	// that it has. It passes over pages that are busy and, the first time, over those that were touched.
	// more says that it stopped because that was enough, so that there may be more.
	Sweep(want int64, out func(key uint64)) (freed int64, more bool)
	// Touch marks a page for the next Sweep.
	Touch(key uint64)
}

// Options tune a Policy; the zero Options is the default.
type Options struct {
	// Counters is how many keys the adviser counts hits of, at 4 to 8 bytes each. 0: ten for each page that fits, by the mean of
	// what is resident when it starts. Fewer make it forget; many more make it slow to follow a change.
	Counters int64
	// Passive has nothing paged out by the policy: those who pass the bound see to it alone, in an order that depends on them only.
	Passive bool
}

// Stats are the counts of a Policy since it was made, and where it stands.
type Stats struct {
	Active     bool  // the adviser is there
	Capacity   int64 // bytes
	Heap       int64 // bytes resident, as far as told
	Mapped     int64
	Keys       int64 // known to the adviser
	Cost       int64 // bytes of those
	Idle       int64 // keys recorded while there was nothing to decide
	Taken      int64 // keys fed to the adviser
	Hits       int64 // of those: known and unchanged
	Dropped    int64 // keys not fed because there were too many
	Evictions  int64 // keys the adviser gave up
	Rejections int64 // keys it did not let in
	Busy       int64 // times a page could not be paged out yet
	Swept      int64 // bytes paged out by clock
}

const (
	// queueLen is how many full Hits may wait for the policy.
	queueLen = 64
	// restAfter is how many keys are fed between two pauses, so that they cost the policy some 5 % of a core, and where each is new 20 %,
	// however many there are. What comes meanwhile is dropped only once the queue is full.
	restAfter = 1024
	// pause is how long it rests after that, thrice that if any were dropped, and how soon what was busy is tried again. So
	// up to 200,000 keys a second are all fed, and of many more some 80,000. Being woken for each batch would cost more.
	pause = 4 * time.Millisecond
	// loadBurst is for how long an adviser that starts is told what is resident before the policy rests, and loadRest how many times as long it then does.
	loadBurst, loadRest = time.Millisecond, 4
	// startFull is the part of the capacity from which on the adviser is told what is used, and stopFull that below which it is not any more: far apart, so that
	// it does not go to and fro. While less than nearFull is resident, in percent, it is told half as much.
	startFull, stopFull, nearFull = 50, 25, 90
	// sweeps is how often a round sweeps before it sees to the queue again.
	sweeps = 4
	// slackShare is the part of the capacity that the adviser is not told of. Pages that it does not know of yet live there.
	slackShare = 128
)

// counts are written by the policy's goroutine, but for idle and dropped, and read by Stats; stale ones are lower.
type counts struct {
	idle, dropped                      atomic.Int64
	taken, hits, evictions, rejections atomic.Int64
	busy, swept, keys, cost            atomic.Int64
}

// Policy keeps resident bytes within a budget.
type Policy struct {
	budget  *Budget
	pages   Pages
	options Options
	counts  counts

	// active says that hits are wanted. Written by the policy's goroutine; who reads a stale one loses a few hits, or leaves some
	// in the queue for nobody.
	active atomic.Bool
	queue  chan Hits
	kick   chan struct{}
	quit   chan struct{}
	done   chan struct{} // closed by the goroutine as it ends
	once   sync.Once     // closes quit

	// The goroutine's own:
	adviser *adviser // nil while idle
	retries retries
	since   time.Time // when loading the adviser went on after a rest
	rested  int       // keys fed since the last pause
	dropped int64     // keys dropped before the last pause
	stuck   bool      // sweeping went round and found too little; not again before the next pause
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

// Close ends the policy's goroutine once it has done what it is at. Nothing is paged out any more. More than one may call it.
func (p *Policy) Close() {
	p.once.Do(func() { close(p.quit) })
	<-p.done
}

// Take empties h, which is full or, under pressure, need not be. It never waits.
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
		if p.budget.Full() > startFull {
			p.Kick()
		}
	}
	h.n = 0
}

// Kick wakes the policy, because the budget is exceeded. It never waits.
func (p *Policy) Kick() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Resize changes the capacity. What does not fit any more is paged out soon.
func (p *Policy) Resize(capacity int64) {
	p.budget.SetCapacity(capacity)
	p.Kick()
}

// Stats returns the counts.
func (p *Policy) Stats() Stats {
	heap, mapped := p.budget.Resident()
	c := &p.counts
	return Stats{Active: p.active.Load(), Capacity: p.budget.Capacity(), Heap: heap, Mapped: mapped,
		Keys: c.keys.Load(), Cost: c.cost.Load(), Idle: c.idle.Load(), Taken: c.taken.Load(), Hits: c.hits.Load(),
		Dropped: c.dropped.Load(), Evictions: c.evictions.Load(), Rejections: c.rejections.Load(),
		Busy: c.busy.Load(), Swept: c.swept.Load()}
}

// run is the policy's goroutine. It sleeps until there is something to do.
func (p *Policy) run() {
	defer close(p.done)
	timer := time.NewTimer(pause)
	timer.Stop()
	for paused := false; ; p.round() {
		if !paused && (p.resting() || p.stuck || p.retries.waiting()) {
			paused = true
			timer.Reset(p.nextPause())
		}
		queue := p.queue
		if p.resting() {
			queue = nil
		}
		select {
		case h := <-queue:
			p.feed(&h)
		case <-p.kick:
		case <-timer.C:
			paused = false
			p.wake()
		case <-p.quit:
			p.shut()
			return
		}
	}
}

// nextPause is how long the next pause is to be.
func (p *Policy) nextPause() time.Duration {
	was := p.dropped
	if p.dropped = p.counts.dropped.Load(); p.dropped != was {
		return 3 * pause
	}
	return pause
}

// resting reports whether anything was fed: what comes next is fed together, after a pause.
func (p *Policy) resting() bool { return p.rested > 0 }

// hungry reports whether more of the queue is to be fed now. Where more comes than that it is a sample, and sweeping does what the adviser is not asked for.
func (p *Policy) hungry() bool {
	if p.budget.Full() < nearFull {
		return p.rested < restAfter/2
	}
	return p.rested < restAfter
}

// wake ends a pause.
func (p *Policy) wake() {
	p.rested, p.stuck = 0, false
	p.retries.try(p.pageOut, p.closing)
}

// shut ends what the goroutine has.
func (p *Policy) shut() {
	if p.adviser != nil {
		p.stop()
	}
}

// closing reports whether Close was called.
func (p *Policy) closing() bool {
	select {
	case <-p.quit:
		return true
	default:
		return false
	}
}

// round does what there is to do: first what the adviser has to say, then what the bound asks for.
func (p *Policy) round() {
	p.advise()
	for n := 0; n < queueLen && p.hungry(); n++ {
		select {
		case h := <-p.queue:
			p.feed(&h)
			continue
		default:
		}
		break
	}
	p.enforce()
	if p.adviser != nil {
		p.counts.keys.Store(p.adviser.known)
		p.counts.cost.Store(p.adviser.cost())
	}
}

// advise starts the adviser if it is time to, and sees that it is of the right size.
func (p *Policy) advise() {
	capacity := p.budget.Capacity()
	limit := max(1, capacity-capacity/slackShare)
	a := p.adviser
	switch {
	case a == nil && p.budget.Full() > startFull,
		a != nil && a.known > a.counters/2 && a.counters < p.counters(a.known, a.cost(), limit)/2:
		p.start(limit)
	case a != nil && p.budget.Full() < stopFull:
		p.stop()
	case a != nil && a.limit != limit:
		a.resize(limit, func() bool {
			p.execute()
			return p.closing()
		})
		p.execute()
	}
}

// pressed reports whether there is something more urgent than telling the adviser what is resident. It is called once for each batch, and rests now and then, so that
// nobody notices.
func (p *Policy) pressed() bool {
	if worked := time.Since(p.since); worked > loadBurst {
		time.Sleep(loadRest * min(worked, loadRest*loadBurst)) // more was not work
		p.since = time.Now()
	}
	return p.closing() || p.budget.Excess() > p.budget.Capacity()/hardShare/2 // then what is not known yet is swept, or met
}

// stop gives the adviser up.
func (p *Policy) stop() {
	p.active.Store(false)
	p.adviser.close()
	p.adviser = nil
	p.counts.keys.Store(0)
	p.counts.cost.Store(0)
}

// start makes an adviser, in place of the one there is, if any, and tells it what is resident.
func (p *Policy) start(limit int64) {
	n := int64(0)
	p.pages.Each(func(uint64) bool {
		n++
		return true
	})
	a, err := newAdviser(p.pages, limit, p.counters(n, p.budget.total(), limit))
	if err != nil {
		return // it has been given nothing to complain of; without one we still sweep
	}
	if p.adviser != nil {
		p.adviser.close()
	}
	p.adviser, p.retries = a, retries{} // what is resident it is told of, be it to be paged out or not
	p.active.Store(true)
	p.since = time.Now()
	a.load(p.pressed)
	p.execute()
}

// counters is how many the adviser should have, if so many keys cost so much.
func (p *Policy) counters(keys, cost, limit int64) int64 {
	if p.options.Counters > 0 {
		return p.options.Counters
	}
	mean := max(1, cost/max(1, keys))
	return min(max(minCounters, perPage*(limit/mean)), maxCounters)
}

// feed tells the adviser of a batch and does what it says.
func (p *Policy) feed(h *Hits) {
	if p.adviser == nil {
		return
	}
	keys := h.held()
	for _, key := range keys {
		p.retries.drop(key)
	}
	hits := p.adviser.feed(keys)
	p.counts.taken.Add(int64(len(keys)))
	p.counts.hits.Add(int64(hits))
	p.rested += len(keys)
	p.execute()
}

// execute pages out what the adviser gives up.
func (p *Policy) execute() {
	evicted, rejected := p.adviser.verdicts()
	p.counts.evictions.Add(int64(len(evicted)))
	p.counts.rejections.Add(int64(len(rejected)))
	for _, list := range [][]uint64{evicted, rejected} {
		for _, key := range list {
			if p.closing() {
				return
			}
			p.pageOut(key)
		}
	}
}

// pageOut pages out a page that the adviser does not know, now or later.
func (p *Policy) pageOut(key uint64) Outcome {
	o := p.pages.PageOut(key)
	if o == Busy {
		p.counts.busy.Add(1)
		p.retries.add(key)
	}
	return o
}

// enforce gets what is resident below the capacity, as far as can be.
func (p *Policy) enforce() {
	if p.stuck || p.budget.Excess() <= 0 {
		return
	}
	p.retries.try(p.pageOut, p.closing)
	for rounds, n := 0, 0; n < sweeps && !p.closing(); n++ {
		excess := p.budget.Excess()
		if excess <= 0 {
			return
		}
		freed, more := p.pages.Sweep(excess, p.swept)
		p.counts.swept.Add(freed)
		if more {
			rounds = 0
		} else if rounds++; rounds == 2 { // the first may have found all of them touched
			p.stuck = true
			return
		}
	}
	p.Kick() // go on, but hear what is new first
}

// swept takes what Sweep has paged out off the adviser's books.
func (p *Policy) swept(key uint64) {
	p.retries.drop(key)
	if p.adviser != nil {
		p.adviser.forget(key)
	}
}
