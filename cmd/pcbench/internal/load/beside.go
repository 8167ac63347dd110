package load

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/cmd/pcbench/internal/job"
)

func processors() int { return runtime.GOMAXPROCS(0) }

// beside starts the goroutines that work beside the load, and returns a function that ends them.
func (g *section) beside() (end func()) {
	s := g.spec
	quit := make(chan struct{})
	var wg sync.WaitGroup
	every := func(d time.Duration, do func()) {
		wg.Go(func() {
			tick := time.NewTicker(d)
			defer tick.Stop()
			for {
				select {
				case <-quit:
					return
				case <-tick.C:
					do()
				}
			}
		})
	}
	if g.ramp > 0 {
		wg.Go(func() {
			select {
			case <-quit:
			case <-time.After(time.Duration(g.ramp)):
				now, usage := g.st.stats(), getUsage()
				g.mu.Lock()
				g.before, g.usage = now, usage
				g.mu.Unlock()
			}
		})
	}
	every(min(s.Logs.BWEvery, s.Logs.IOPSEvery), g.sampler())
	if g.tracker != nil {
		wg.Go(func() { g.tracker.run(quit) })
	}
	if s.Pace.RateMin != [3]int64{} || s.Pace.IOPSMin != [3]int64{} {
		every(s.Pace.Cycle, g.minimum())
	}
	if s.Target.Latency > 0 {
		for i := range g.lanes {
			every(s.Target.Window, g.targeter(i))
		}
	}
	if s.Steady.What != "" {
		every(s.Steady.Every, g.steadier())
	}
	if s.Own.Snapshots > 0 {
		every(s.Own.Snapshots, func() {
			if err := g.st.all.Snapshot(); err != nil {
				g.fail(fmt.Errorf("snapshot: %w", err))
			}
		})
	}
	if s.Own.Cold {
		every(5*time.Millisecond, func() { _ = g.st.forget(false) }) // the report shows how cold the reads were
	}
	return func() { close(quit); wg.Wait() }
}

// sample is the speed of one job during one interval, per second.
type sample struct {
	at         int64 // end of the interval, in ns after the base
	bytes, ops [3]float64
}

// counts are the numbers of operations and bytes done so far, and those of operations that latency_target counts.
type counts struct {
	ops, bytes [3]int64
	fast       int64
	latency    int64 // ns, the sum of all
}

func (c counts) all() int64 { return c.ops[0] + c.ops[1] + c.ops[2] }

// counts returns the counts of job i.
func (g *section) counts(i int) (c counts) {
	for _, w := range g.workers[i*g.spec.IODepth : (i+1)*g.spec.IODepth] {
		for d := range c.ops {
			c.ops[d] += w.done.ops[d].Load()
			c.bytes[d] += w.done.bytes[d].Load()
		}
		c.fast += w.done.fast.Load()
		c.latency += w.done.latency.Load()
	}
	return c
}

// total returns the counts of all jobs.
func (g *section) total() (sum counts) {
	for i := range g.lanes {
		c := g.counts(i)
		for d := range c.ops {
			sum.ops[d] += c.ops[d]
			sum.bytes[d] += c.bytes[d]
		}
		sum.fast += c.fast
		sum.latency += c.latency
	}
	return sum
}

// sampler returns a function that records the speed of all jobs since its last call.
func (g *section) sampler() func() {
	last, before := make([]counts, len(g.lanes)), g.ramp
	every := int64(min(g.spec.Logs.BWEvery, g.spec.Logs.IOPSEvery))
	return func() {
		now := g.now()
		if now-before < every/2 { // still ramping
			return
		}
		seconds := float64(now-before) / 1e9
		before = now
		g.mu.Lock()
		defer g.mu.Unlock()
		for i := range g.lanes {
			c, s := g.counts(i), sample{at: now}
			for d := range c.ops {
				s.bytes[d] = float64(c.bytes[d]-last[i].bytes[d]) / seconds
				s.ops[d] = float64(c.ops[d]-last[i].ops[d]) / seconds
			}
			g.sampled[i] = append(g.sampled[i], s)
			last[i] = c
		}
	}
}

// minimum returns a function that fails the jobs if one was slower than rate_min since its last call.
func (g *section) minimum() func() {
	last, before := make([]counts, len(g.lanes)), g.ramp
	p := &g.spec.Pace
	return func() {
		now := g.now()
		if now-before < int64(p.Cycle)/2 {
			return
		}
		seconds := float64(now-before) / 1e9
		before = now
		for i := range g.lanes {
			c := g.counts(i)
			for _, d := range job.Dirs {
				bytes, ops := float64(c.bytes[d]-last[i].bytes[d])/seconds, float64(c.ops[d]-last[i].ops[d])/seconds
				if !g.spec.Does[d] || bytes >= float64(p.RateMin[d]) && ops >= float64(p.IOPSMin[d]) {
					continue
				}
				g.fail(fmt.Errorf("rate_min: %.0f bytes/s and %.0f %ss/s are too slow: %w", bytes, ops, d, unix.ETIME))
			}
			last[i] = c
		}
	}
}

// targeter returns a function that moves the queue depth of a job after each window.
func (g *section) targeter(i int) func() {
	find, last, over := newSearch(g.spec.IODepth), counts{}, false
	return func() {
		c := g.counts(i)
		n, fast := c.all()-last.all(), c.fast-last.fast
		last = c
		if over || n == 0 {
			return
		}
		over = find.step(float64(fast)*100 >= g.spec.Target.Percentile*float64(n))
		g.lanes[i].depth.Store(int64(find.now))
		if over && !g.spec.Target.Keep {
			g.lanes[i].stop.Store(true)
		}
	}
}

// steadier returns a function that ends the jobs once their speed is steady.
func (g *section) steadier() func() {
	s := &g.spec.Steady
	window := max(2, int(s.Duration/s.Every))
	last, before := counts{}, int64(0)
	var values, iops, bw []float64
	attained := false
	keep := func(to []float64, v float64) []float64 {
		if to = append(to, v); len(to) > window {
			to = to[1:]
		}
		return to
	}
	return func() {
		now, c := g.now(), g.total()
		seconds, n := float64(now-before)/1e9, float64(c.all()-last.all())
		bytes := float64(c.bytes[0]+c.bytes[1]+c.bytes[2]-last.bytes[0]-last.bytes[1]-last.bytes[2]) / seconds
		v := n / seconds
		switch s.What {
		case "bw", "bw_slope":
			v = bytes
		case "lat", "lat_slope":
			v = float64(c.latency-last.latency) / math.Max(1, n)
		}
		last, before = c, now
		if now < g.ramp+int64(s.Ramp) || attained { // then the jobs are ending
			return
		}
		values, iops, bw = keep(values, v), keep(iops, n/seconds), keep(bw, bytes)
		steady := Steadiness{IOPS: slices.Clone(iops), BW: slices.Clone(bw)}
		steady.look(values, s.Every.Seconds(), s)
		steady.Attained = steady.Attained && len(values) == window
		g.mu.Lock()
		g.steady = steady
		g.mu.Unlock()
		if attained = steady.Attained; attained {
			g.stop.Store(true)
		}
	}
}

// progress returns the state of a running section for the progress line.
func (g *section) progress() progressState {
	sum, s, now := g.total(), g.spec, g.now()
	share := 0.0
	if n, limited := s.Operations(); limited && n > 0 {
		share = float64(sum.all()) / float64(n)
	}
	if !s.Untimed() {
		share = max(share, float64(now-g.ramp)/float64(s.Runtime))
	}
	return progressState{ramping: now < g.ramp, share: min(max(share, 0), 1), ops: sum.ops, bytes: sum.bytes}
}
