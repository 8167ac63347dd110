package load

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/pick"
	"pagecache/cmd/pcbench/internal/stats"
	"pagecache/engine"
)

// layoutWorkers returns the number of goroutines that lay out pages.
func layoutWorkers() int { return 2 * processors() }

// lane is what the goroutines of one job share.
type lane struct {
	first, pages int64 // the pages of the job
	pacer        *pacer
	permuted     *pick.Permutation
	// depth is the number of goroutines that may work. Written by the section's watcher (Store); a stale read costs one
	// operation at the old depth.
	depth atomic.Int64
	// cursor counts the pages taken in order. It fills a cache line. Written by the workers of the job (Add).
	_      [64]byte
	cursor atomic.Int64
	_      [56]byte
	stop   atomic.Bool // ends the job alone; set by the watcher
	// After writing, the goroutines of a job wait for each other, and read the pages again from reread on (Add).
	written barrier
	reread  atomic.Int64
}

// section is one section of jobs on a store.
type section struct {
	spec    *job.Spec
	st      *store
	group   int
	number  int // of the section in the run
	picker  *pick.Pages
	lanes   []*lane
	workers []*worker
	// stop ends all workers after their current operation. Set when the context is done, a worker has failed, or
	// another
	// job ends this one.
	stop     atomic.Bool
	asked    atomic.Int64 // number of status reports that were asked for
	begun    atomic.Bool  // publishes base, ramp and deadline to reports
	base     time.Time
	ramp     int64 // when measuring begins, in ns after base
	deadline int64 // when the workers end by themselves, in ns after base

	mu     sync.Mutex // guards before, usage and sampled, which the end of the ramp and reports use
	before engine.Stats
	usage  unix.Rusage

	tracker *tracker // of the timeline; nil: none

	sampled  [][]sample // of each job
	verified atomic.Int64
	steady   Steadiness
	err      error // that of the flush at the end, or of a goroutine beside the load
	done     chan struct{}
}

// newSection prepares a section. Its pages exist, if it needs them.
func newSection(s *job.Spec, st *store, number, group int) (*section, error) {
	g := &section{spec: s, st: st, number: number, group: group, done: make(chan struct{})}
	pages := max(1, s.Size/s.PageSize())
	g.sampled = make([][]sample, s.NumJobs)
	g.picker = pick.NewPages(pages, s.Dist, s.PageSize())
	seed := s.Seed
	if !s.Repeat {
		seed = uint64(time.Now().UnixNano())
	}
	for j := range s.NumJobs {
		l := &lane{pages: pages}
		l.first = s.FirstPage() + int64(j)*(s.OffsetIncrement/s.PageSize())
		l.pages = min(pages, int64(len(st.table))-l.first)
		if s.OffsetIncrement == 0 {
			l.cursor.Store(int64(j) * pages / int64(s.NumJobs))
		}
		if s.Map && s.Random {
			l.cursor.Store(0)
			l.permuted = pick.NewPermutation(l.pages, seed+uint64(j))
		}
		l.depth.Store(int64(s.IODepth))
		l.written.expect(s.IODepth)
		l.pacer = newPacer(s, pick.New(seed, paceStream+j))
		g.lanes = append(g.lanes, l)
	}
	for i := range s.Workers() {
		g.workers = append(g.workers, newWorker(g, i, seed))
	}
	return g, nil
}

// run runs the jobs. It returns when all of them have ended and their writes are stable, if that was asked for.
func (g *section) run(ctx context.Context) {
	defer close(g.done)
	s := g.spec
	g.stop.Store(g.stop.Load() || ctx.Err() != nil) // after an interrupted layout, some pages are missing
	unwatch := context.AfterFunc(ctx, func() { g.stop.Store(true) })
	defer unwatch()
	g.before, g.usage = g.st.stats(), getUsage()
	g.base = time.Now()
	g.ramp, g.deadline = int64(s.Ramp), 1<<62
	if !s.Untimed() {
		g.deadline = g.ramp + int64(s.Runtime)
	}
	g.begun.Store(true)
	endBeside := g.beside()
	var wg sync.WaitGroup
	for _, w := range g.workers {
		wg.Go(func() {
			if w.err = w.run(); w.err != nil {
				g.stop.Store(true)
			}
			if w.err == nil {
				w.err = w.late
			}
			w.ended.Store(true)
		})
	}
	wg.Wait()
	endBeside()
}

// now returns the time since the section began, in ns.
func (g *section) now() int64 { return int64(time.Since(g.base)) }

// fail notes an error of a goroutine beside the load and stops the jobs.
func (g *section) fail(err error) {
	g.mu.Lock()
	if g.err == nil {
		g.err = err
	}
	g.mu.Unlock()
	g.stop.Store(true)
}

// outcome returns the results of the jobs, after all workers have ended: one for each of numjobs.
func (g *section) outcome() []*Job {
	end := g.now()
	inFlight := g.st.inFlight()
	flushed := int64(0)
	if g.spec.EndFsync && g.workersErr() == nil {
		if err := g.st.flush(); err != nil {
			g.fail(fmt.Errorf("flush: %w", err))
		}
		flushed = g.now()
		end = flushed
	}
	if g.tracker != nil {
		g.tracker.finish(end)
	}
	jobs := g.collect(func(w *worker) *workerStats { return &w.workerStats }, end)
	for _, j := range jobs {
		if flushed > 0 {
			j.Runtime = max(0, flushed-g.ramp)
			for d := range j.Dirs {
				if j.Dirs[d].N() > 0 {
					j.Dirs[d].Runtime = j.Runtime
				}
			}
		}
		j.Store.InFlight = inFlight
	}
	for i, j := range jobs {
		j.NotBegun = g.notBegun(i)
	}
	if g.tracker != nil {
		g.tracker.whole.Store(together(jobs))
	}
	return jobs
}

// notBegun returns the number of operations of job i, in an open loop, that were due when it ended early.
func (g *section) notBegun(i int) (n int64) {
	l, end := g.lanes[i], int64(0)
	for _, w := range g.workers[i*g.spec.IODepth : (i+1)*g.spec.IODepth] {
		if w.open && w.early > 0 {
			if end = max(end, w.early); w.taken >= 0 && w.taken < w.early {
				n++
			}
		}
	}
	switch {
	case end == 0:
	case l.pacer != nil:
		n += l.pacer.left(g.spec, end)
	default:
		for k := l.cursor.Load(); k < int64(len(g.spec.Trace.Ops)) && intendedStart(g.spec, k) < end; k++ {
			n++
		}
	}
	return n
}

func (g *section) workersErr() error {
	for _, w := range g.workers {
		if w.err != nil {
			return w.err
		}
	}
	return nil
}

// collect makes the results from the counts of the workers.
func (g *section) collect(of func(*worker) *workerStats, now int64) (jobs []*Job) {
	s := g.spec
	g.mu.Lock()
	before, usage, sideErr, steady := g.before, g.usage, g.err, g.steady
	sampled := make([][]sample, len(g.sampled))
	copy(sampled, g.sampled)
	g.mu.Unlock()
	after := g.st.stats()
	ramping := now < g.ramp // nothing of the ramp is reported
	if ramping {
		before = after
	}
	reads, given := int64(0), int64(0)
	for i := range s.NumJobs {
		j := &Job{Spec: s, Group: g.group, Jobs: 1, Started: g.base, Elapsed: time.Duration(now), Err: sideErr,
			Depth: int(g.lanes[i].depth.Load()), Steady: &steady}
		for _, w := range g.workers[i*s.IODepth : (i+1)*s.IODepth] {
			c := of(w)
			j.add(c, g.ramp)
			reads, given = reads+c.dirs[job.DirRead].clat.N, given+c.dirs[job.DirWrite].bytes
			if j.Err == nil && w.ended.Load() {
				j.Err = w.err
			}
		}
		for d := range j.Dirs {
			if j.Dirs[d].N() > 0 {
				j.Dirs[d].Runtime = j.Runtime
			}
		}
		if i < len(sampled) {
			j.spreads(sampled[i])
		}
		j.Verified = g.verified.Load() / int64(s.NumJobs)
		if !ramping {
			j.Usage = usageBetween(usage, getUsage(), now-g.ramp).share(s.NumJobs)
		}
		jobs = append(jobs, j)
	}
	use := storeUse(before, after, reads, given)
	for _, j := range jobs {
		j.Store = use
	}
	return jobs
}

// add adds the counts of a worker.
func (j *Job) add(c *workerStats, ramp int64) {
	for d := range j.Dirs {
		j.Dirs[d].Clat.Merge(&c.dirs[d].clat)
		j.Dirs[d].Lat.Merge(&c.dirs[d].lat)
		j.Dirs[d].Bytes += c.dirs[d].bytes
	}
	j.Sync.Merge(&c.sync)
	j.Runtime = max(j.Runtime, c.end-ramp)
	j.Errors += c.errors
	if j.First == nil {
		j.First = c.first
	}
}

// spreads sets the spreads of the speeds of a job.
func (j *Job) spreads(all []sample) {
	for d := range j.Dirs {
		if j.Dirs[d].N() == 0 {
			continue
		}
		bytes, ops := make([]float64, len(all)), make([]float64, len(all))
		for i, s := range all {
			bytes[i], ops[i] = s.bytes[d], s.ops[d]
		}
		j.Dirs[d].BW, j.Dirs[d].IOPS = stats.NewSpread(bytes), stats.NewSpread(ops)
	}
}
