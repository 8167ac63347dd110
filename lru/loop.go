package lru

import (
	"context"
	"runtime/pprof"
	"time"
)

const (
	// feedLimit is the number of keys fed between two pauses. It costs the policy some 5 % of a core, and 20 % if each
	// key is new, at any load. Hits that arrive meanwhile are dropped only once the queue is full.
	feedLimit = 1024
	// pause is the time between two feeds of up to feedLimit keys, tripled if hits were dropped, and the time after
	// which busy pages are retried. The policy thus feeds every hit of up to 200,000 a second, and some 80,000 of
	// more. To wake for each batch would cost more.
	pause = 4 * time.Millisecond
	// nearFullPercent is the use below which the policy feeds only half of the keys.
	nearFullPercent = 90
)

// policyLabels are the profiling labels of the policy; it would have those of the goroutine that started it.
var policyLabels = pprof.WithLabels(context.Background(), pprof.Labels("pagecache", "policy"))

// run is the policy's goroutine. It sleeps until there is work.
func (p *Policy) run() {
	pprof.SetGoroutineLabels(policyLabels)
	defer close(p.done)
	defer p.stopAdviser() // also if a value's method ends the goroutine
	timer := time.NewTimer(pause)
	timer.Stop()
	for armed := false; ; p.round() {
		if !armed && (p.pausing() || p.exhausted || p.retries.waiting()) {
			armed = true
			timer.Reset(p.pauseLength())
		}
		queue := p.queue
		if p.pausing() {
			queue = nil
		}
		select {
		case h := <-queue:
			p.feed(&h)
		case <-p.kick:
		case <-timer.C:
			armed = false
			p.endPause()
		case <-p.quit:
			return
		}
	}
}

// pauseLength returns the length of the pause that begins.
func (p *Policy) pauseLength() time.Duration {
	before := p.droppedBefore
	if p.droppedBefore = p.counts.dropped.Load(); p.droppedBefore != before {
		return 3 * pause
	}
	return pause
}

// pausing reports whether keys were fed since the last pause. Hits that arrive now wait for its end, so that they are
// fed together.
func (p *Policy) pausing() bool { return p.fed > 0 }

// endPause ends a pause.
func (p *Policy) endPause() {
	p.fed, p.exhausted = 0, false
	p.retries.try(p.evict, p.closing)
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

// round first follows the adviser, then enforces the capacity.
func (p *Policy) round() {
	p.adjustAdviser()
	p.feedQueue()
	p.enforce()
	if p.adviser != nil {
		p.counts.keys.Store(p.adviser.known)
		p.counts.cost.Store(p.adviser.cost())
	}
}

// mayFeed reports whether more keys may be fed before the next pause. If more hits arrive than that, those fed are a
// sample of them, and the clock evicts the pages that the adviser does not know.
func (p *Policy) mayFeed() bool {
	if p.budget.UsedPercent() < nearFullPercent {
		return p.fed < feedLimit/2
	}
	return p.fed < feedLimit
}

// feedQueue feeds the queue until it is empty or a pause is due.
func (p *Policy) feedQueue() {
	for n := 0; n < queueLen && p.mayFeed(); n++ {
		select {
		case h := <-p.queue:
			p.feed(&h)
		default:
			return
		}
	}
}
