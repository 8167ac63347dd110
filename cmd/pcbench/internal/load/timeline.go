package load

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/stats"
	"pagecache/engine"
)

// KindCommit is the kind of waits for stability in a timeline. The other kinds are the directions of package job.
const KindCommit = 3

const numKinds = 4

// Timeline is the work of a section over time, for pictures. Nothing of the ramp is in it.
type Timeline struct {
	Spec      *job.Spec
	Before    engine.Stats // when measuring began
	Intervals []Interval   // of equal lengths, except the last one
	Whole     *Job         // all jobs of the section as one; nil while it runs
}

// Interval is the work since the end of the interval before. An operation that ends just after the interval may count
// for it.
type Interval struct {
	End   int64 // ns since measuring began
	Kinds [numKinds]Work
	Stats engine.Stats // at the end
}

// Work is the operations of one kind. Their latencies are since the intended start in an open loop.
type Work struct {
	Bytes int64
	Bins  []stats.Bin // ascending
}

// N returns the number of operations.
func (w *Work) N() (n int64) {
	for _, b := range w.Bins {
		n += b.Count
	}
	return n
}

// plus returns the work of two intervals.
func (w Work) plus(v Work) Work {
	sum := Work{Bytes: w.Bytes + v.Bytes}
	for a, b := w.Bins, v.Bins; len(a) > 0 || len(b) > 0; {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Value < b[0].Value:
			sum.Bins, a = append(sum.Bins, a[0]), a[1:]
		case len(a) == 0 || b[0].Value < a[0].Value:
			sum.Bins, b = append(sum.Bins, b[0]), b[1:]
		default:
			sum.Bins = append(sum.Bins, stats.Bin{Value: a[0].Value, Count: a[0].Count + b[0].Count})
			a, b = a[1:], b[1:]
		}
	}
	return sum
}

// join returns two intervals, the second of which follows the first, as one.
func (a *Interval) join(b *Interval) Interval {
	sum := Interval{End: b.End, Stats: b.Stats}
	for k := range sum.Kinds {
		sum.Kinds[k] = a.Kinds[k].plus(b.Kinds[k])
	}
	return sum
}

// shot is a copy of a worker's counts.
type shot struct {
	bytes  [numKinds]int64
	counts [numKinds]*[stats.Buckets]int64 // nil: no operations
}

// latencies returns the latencies of a kind.
func (c *workerStats) latencies(kind int, open bool) *stats.Latencies {
	switch {
	case kind == KindCommit:
		return &c.sync
	case open:
		return &c.dirs[kind].lat
	}
	return &c.dirs[kind].clat
}

// of copies the counts of a worker.
func (s *shot) of(c *workerStats, open bool) {
	for k := range s.counts {
		l := c.latencies(k, open)
		if l.N == 0 {
			continue
		}
		if s.counts[k] == nil {
			s.counts[k] = new([stats.Buckets]int64)
		}
		*s.counts[k] = *l.Counts()
		if k < KindCommit {
			s.bytes[k] = c.dirs[k].bytes
		}
	}
}

// shots pass copies of a worker's counts to the tracker. The worker never waits: it writes one of the two copies when
// the tracker has begun an interval, and the tracker reads it before it begins the next one.
type shots struct {
	two [2]shot
	// turn is the copy that the worker writes. The tracker writes it before it begins an interval, which publishes it.
	turn int
	// made is the interval at whose beginning the newest copy was made. The worker writes it, which publishes the copy
	// to the tracker. A stale read delays the copy's operations by one interval.
	made atomic.Int64
	over bool // the worker has ended, and all its work was collected; the tracker's
}

// take makes a copy if an interval has begun since the last one. The worker calls it. It reports whether it made one.
func (s *shots) take(c *workerStats, t *tracker) bool {
	began := t.began.Load()
	if began <= s.made.Load() {
		return false
	}
	s.two[s.turn].of(c, t.open)
	s.made.Store(began)
	return true
}

const (
	// trackEvery is the length of the intervals of a timeline. When there are mostIntervals, pairs of them become one,
	// and the length doubles: a timeline takes the same memory for a long run as for a short one.
	trackEvery    = 200 * time.Millisecond
	mostIntervals = 1000
)

// tracker records the timeline of a section.
type tracker struct {
	g    *section
	open bool // the loop
	// began is the number of the interval that has begun last. The tracker writes it, which asks the workers for a
	// copy each. A stale read delays the copy by one operation.
	began atomic.Int64
	whole atomic.Pointer[Job] // set once, at the end

	// These belong to run, and to finish after run has ended.
	every, at int64 // ns; at is when the last interval began, after the base
	stats     engine.Stats
	most      int

	mu        sync.Mutex // guards intervals; its elements do not change
	intervals []Interval
}

func newTracker(g *section) *tracker {
	return &tracker{g: g, open: g.spec.Open(), every: int64(trackEvery), most: mostIntervals}
}

// run records intervals until quit is closed.
func (t *tracker) run(quit <-chan struct{}) {
	select {
	case <-quit:
		return
	case <-time.After(time.Duration(t.g.ramp - t.g.now())):
	}
	tick := time.NewTicker(time.Duration(t.every))
	defer tick.Stop()
	for {
		select {
		case <-quit:
			return
		case <-tick.C:
			if t.step() {
				tick.Reset(time.Duration(t.every))
			}
		}
	}
}

// step ends an interval: it collects the copies that the workers have made since its end was announced, and announces
// the end of the next. It reports whether the length of the intervals has changed.
func (t *tracker) step() (longer bool) {
	if t.began.Load() > 0 {
		longer = t.add(Interval{End: t.at - t.g.ramp, Kinds: t.collect(false), Stats: t.stats})
	}
	t.at, t.stats = t.g.now(), t.g.st.stats()
	t.began.Add(1)
	return longer
}

// collect returns the work of all workers since it was called last. Those that have made no copy have done nothing, or
// the next call returns their work. With all, the workers have ended, and it returns all of their work.
func (t *tracker) collect(all bool) (kinds [numKinds]Work) {
	var sum [numKinds][]int64
	for _, w := range t.g.workers {
		s := &w.shots
		switch ended := w.ended.Load(); {
		case s.over:
			continue
		case !all && s.made.Load() == t.began.Load(): // the copy is as the interval began
		case ended:
			s.two[s.turn].of(&w.workerStats, t.open)
			s.over = true
		default:
			continue
		}
		now, last := &s.two[s.turn], &s.two[1-s.turn]
		for k := range kinds {
			if now.counts[k] == nil {
				continue
			}
			if sum[k] == nil {
				sum[k] = make([]int64, stats.Buckets)
			}
			kinds[k].Bytes += now.bytes[k] - last.bytes[k]
			for i, n := range now.counts[k] {
				sum[k][i] += n
			}
			if last.counts[k] != nil {
				for i, n := range last.counts[k] {
					sum[k][i] -= n
				}
			}
		}
		s.turn = 1 - s.turn
	}
	for k := range kinds {
		for i, n := range sum[k] {
			if n > 0 {
				kinds[k].Bins = append(kinds[k].Bins, stats.Bin{Value: stats.BucketValue(i), Count: n})
			}
		}
	}
	return kinds
}

// add adds an interval. It reports whether the length of the intervals has changed.
func (t *tracker) add(i Interval) (longer bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.intervals = append(t.intervals, i); len(t.intervals) < t.most {
		return false
	}
	half := make([]Interval, 0, t.most)
	for at := 0; at+1 < len(t.intervals); at += 2 {
		half = append(half, t.intervals[at].join(&t.intervals[at+1]))
	}
	t.intervals, t.every = half, 2*t.every
	return true
}

// finish records the rest of the work, after run and all workers have ended, until end, in ns after the base. A short
// rest becomes a part of the interval before.
func (t *tracker) finish(end int64) {
	if end <= t.g.ramp {
		return
	}
	if t.began.Load() > 0 {
		t.step()
	}
	rest := Interval{End: end - t.g.ramp, Kinds: t.collect(true), Stats: t.g.st.stats()}
	if n := len(t.intervals); n > 0 && end-t.g.ramp-t.intervals[n-1].End < t.every/2 {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.intervals = append(slices.Clone(t.intervals[:n-1]), t.intervals[n-1].join(&rest))
		return
	}
	t.add(rest)
}

// timeline returns the timeline so far.
func (t *tracker) timeline() *Timeline {
	l := &Timeline{Spec: t.g.spec, Whole: t.whole.Load()}
	t.g.mu.Lock()
	l.Before = t.g.before
	t.g.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	l.Intervals = slices.Clip(t.intervals)
	return l
}

// Sum returns the work of all intervals of one kind.
func (l *Timeline) Sum(kind int) (sum Work) {
	counts := map[int64]int64{}
	for i := range l.Intervals {
		w := &l.Intervals[i].Kinds[kind]
		sum.Bytes += w.Bytes
		for _, b := range w.Bins {
			counts[b.Value] += b.Count
		}
	}
	for v, n := range counts {
		sum.Bins = append(sum.Bins, stats.Bin{Value: v, Count: n})
	}
	slices.SortFunc(sum.Bins, func(a, b stats.Bin) int { return cmp.Compare(a.Value, b.Value) })
	return sum
}
