package lru

// sweepsPerRound is the number of sweeps in a round, before the policy reads its queue again.
const sweepsPerRound = 4

// evict evicts a page that the adviser does not know. If the page is busy it is retried.
func (p *Policy) evict(key uint64) Outcome {
	o := p.pages.Evict(key)
	if o == OutcomeBusy {
		p.counts.busy.Add(1)
		p.retries.add(key)
	}
	return o
}

// enforce evicts until the resident bytes are within the capacity, or nothing is evictable.
func (p *Policy) enforce() {
	if p.exhausted || p.budget.Excess() <= 0 {
		return
	}
	p.retries.try(p.evict, p.closing)
	for rounds, n := 0, 0; n < sweepsPerRound && !p.closing(); n++ {
		excess := p.budget.Excess()
		if excess <= 0 {
			return
		}
		freed, more := p.pages.Sweep(excess, p.forget)
		p.counts.swept.Add(freed)
		if more {
			rounds = 0
		} else if rounds++; rounds == 2 { // in the first, all pages may have been touched
			p.exhausted = true
			return
		}
	}
	p.Kick() // continue after the next look at the queue
}

// forget removes a page that the clock evicted from the retries and from the adviser.
func (p *Policy) forget(key uint64) {
	p.retries.cancel(key)
	if p.adviser != nil {
		p.adviser.forget(key)
	}
}
