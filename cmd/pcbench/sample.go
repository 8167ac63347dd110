package main

import (
	"math"
	"time"
)

// sampleEvery is the interval between two samples of the speed of each job. It is the default of fio.
const sampleEvery = 500 * time.Millisecond

// sample is the speed of one job during one interval, per second.
type sample struct{ readBytes, writeBytes, reads, writes float64 }

// sample records the speed of all jobs until the caller calls end.
func (g *group) sample() (end func()) {
	g.sampled = make([][]sample, g.spec.NumJobs)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		last, before := make([]counts, g.spec.NumJobs), max(g.now(), g.ramp)
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			now := g.now()
			if now-before < int64(sampleEvery)/2 { // still ramping
				continue
			}
			seconds := float64(now-before) / 1e9
			before = now
			for j, c := range g.counts() {
				g.sampled[j] = append(g.sampled[j], c.minus(last[j]).per(seconds, g.spec))
				last[j] = c
			}
		}
	}()
	return func() { close(quit); <-done }
}

// counts are the numbers of operations done so far.
type counts struct{ reads, writes int64 }

func (c counts) minus(d counts) counts { return counts{c.reads - d.reads, c.writes - d.writes} }

func (c counts) per(seconds float64, s *spec) sample {
	r, w := float64(c.reads)/seconds, float64(c.writes)/seconds
	return sample{r * float64(s.BS), w * float64(s.writeSize()), r, w}
}

// counts returns the counts of each job.
func (g *group) counts() []counts {
	c := make([]counts, g.spec.NumJobs)
	for _, w := range g.workers {
		c[w.job].reads += w.done.reads.Load()
		c[w.job].writes += w.done.writes.Load()
	}
	return c
}

// progress returns the state of a running group for the progress line.
func (g *group) progress() progressState {
	var sum counts
	for _, c := range g.counts() {
		sum.reads, sum.writes = sum.reads+c.reads, sum.writes+c.writes
	}
	s, now := g.spec, g.now()
	bytes := sum.reads*s.BS + sum.writes*s.writeSize()
	share := 0.0
	if !s.TimeBased {
		share = float64(bytes) / float64(s.IOSize)
	}
	if !s.untimed() {
		share = max(share, float64(now-g.ramp)/float64(s.Runtime))
	}
	return progressState{ramping: now < g.ramp, share: min(max(share, 0), 1), reads: sum.reads, writes: sum.writes,
		readBytes: sum.reads * s.BS, writeBytes: sum.writes * s.writeSize()}
}

// spread is the distribution of a speed over its samples.
type spread struct {
	n                          int
	least, most, mean, dev, of float64 // of: the speed of all jobs together, for shares
}

func newSpread(values []float64) spread {
	s := spread{n: len(values)}
	if s.n == 0 {
		return s
	}
	s.least = math.Inf(1)
	for _, v := range values {
		s.least, s.most = min(s.least, v), max(s.most, v)
		s.mean += v / float64(s.n)
	}
	for _, v := range values {
		s.dev += (v - s.mean) * (v - s.mean)
	}
	s.dev = math.Sqrt(s.dev / float64(max(s.n-1, 1)))
	return s
}
