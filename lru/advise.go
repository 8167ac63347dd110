package lru

import "time"

const (
	// startPercent is the use above which the adviser runs, stopPercent the use below which it does not. They are far
	// apart, so that it does not start and stop repeatedly.
	startPercent, stopPercent = 50, 25
	// slackShare is the part of the capacity that the adviser's limit leaves out, for pages that it does not know yet.
	slackShare = 128
	// loadBurst is the time for which the policy loads an adviser before it rests; the rest is loadRest times as long.
	loadBurst, loadRest = time.Millisecond, 4
)

// adjustAdviser starts, replaces, resizes or stops the adviser as the use of the capacity demands.
func (p *Policy) adjustAdviser() {
	capacity := p.budget.Capacity()
	limit := max(1, capacity-capacity/slackShare)
	a := p.adviser
	switch {
	case a == nil && p.budget.UsedPercent() > startPercent,
		a != nil && a.known > a.counters/2 && a.counters < p.countersFor(a.known, a.cost(), limit)/2:
		p.start(limit)
	case a != nil && p.budget.UsedPercent() < stopPercent:
		p.stopAdviser()
	case a != nil && a.limit != limit:
		a.resize(limit, func() bool {
			p.evictVerdicts()
			return p.closing()
		})
		p.evictVerdicts()
	}
}

// start starts an adviser, in place of the current one if there is one, and loads it with the resident pages.
func (p *Policy) start(limit int64) {
	n := int64(0)
	p.pages.Each(func(uint64) bool {
		n++
		return true
	})
	a, err := newAdviser(p.pages, limit, p.countersFor(n, p.budget.total(), limit))
	if err != nil {
		return // cannot happen: the settings are valid; without an adviser the clock enforces the capacity
	}
	if p.adviser != nil {
		p.adviser.close()
	}
	p.adviser, p.retries = a, retries{} // the new adviser is loaded with every resident key, including pending retries
	p.active.Store(true)
	p.burstStart = time.Now()
	a.load(p.interruptLoad)
	p.evictVerdicts()
}

// stopAdviser stops the adviser, if it runs.
func (p *Policy) stopAdviser() {
	if p.adviser == nil {
		return
	}
	p.active.Store(false)
	p.adviser.close()
	p.adviser = nil
	p.counts.keys.Store(0)
	p.counts.cost.Store(0)
}

// countersFor returns the number of counters for an adviser with the given limit, if the given number of keys costs
// cost bytes.
func (p *Policy) countersFor(keys, cost, limit int64) int64 {
	if p.options.Counters > 0 {
		return p.options.Counters
	}
	mean := max(1, cost/max(1, keys))
	return min(max(minCounters, countersPerPage*(limit/mean)), maxCounters)
}

// interruptLoad reports whether loading the adviser must stop because something is more urgent. Hits and the clock then
// find the pages that were not loaded. Called once for each batch, it sleeps after each loadBurst, so that other
// goroutines keep the processor.
func (p *Policy) interruptLoad() bool {
	if worked := time.Since(p.burstStart); worked > loadBurst {
		time.Sleep(loadRest * min(worked, loadRest*loadBurst)) // a longer burst was not work: the goroutine did not run
		p.burstStart = time.Now()
	}
	return p.closing() || p.budget.Excess() > p.budget.Capacity()/hardShare/2
}

// feed gives a batch of hits to the adviser and evicts accordingly.
func (p *Policy) feed(h *Hits) {
	if p.adviser == nil {
		return
	}
	keys := h.held()
	for _, key := range keys {
		p.retries.cancel(key)
	}
	hits := p.adviser.feed(keys)
	p.counts.taken.Add(int64(len(keys)))
	p.counts.hits.Add(int64(hits))
	p.fed += len(keys)
	p.evictVerdicts()
}

// evictVerdicts evicts the pages that the adviser evicted or rejected.
func (p *Policy) evictVerdicts() {
	evicted, rejected := p.adviser.verdicts()
	p.counts.evictions.Add(int64(len(evicted)))
	p.counts.rejections.Add(int64(len(rejected)))
	for _, list := range [][]uint64{evicted, rejected} {
		for _, key := range list {
			if p.closing() {
				return
			}
			p.evict(key)
		}
	}
}
