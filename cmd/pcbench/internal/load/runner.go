package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/pick"
	"pagecache/internal/versus"
)

// Runner runs jobs.
type Runner struct {
	Jobs     []*job.Spec
	Progress *Progress
	// Status gets a report of the jobs that run, each time that Ask asks for one.
	Status func(*Result)
	// Opened is called when all stores are open, with their directories.
	Opened func(dirs []string)
	// Timelines makes the sections record their work over time, for Result.Timelines.
	Timelines bool
	// Settle makes all stores stable after the jobs, unmeasured, for Result.Written and Result.Space.
	Settle bool

	mu       sync.Mutex
	started  time.Time
	sections []*section // that have begun
	ended    []*Job     // of the sections that have ended
	of       map[*section]bool
}

// Run opens the stores, runs all jobs, and closes and removes the stores. If a job fails, the result holds the
// operations before the error. A nil result means that no job ran, or that none is reported. When ctx is done, the jobs
// end after their current operation.
func (r *Runner) Run(ctx context.Context) (*Result, error) {
	err := checkHost(r.Jobs)
	if err != nil {
		return nil, err
	}
	stores, err := openAll(r.Jobs)
	if err != nil {
		return nil, err
	}
	byJob := map[*job.Spec]*store{}
	var dirs []string
	for _, st := range stores {
		for _, s := range st.jobs {
			byJob[s] = st.store
		}
		dirs = append(dirs, st.place.dir)
	}
	if r.Opened != nil {
		r.Opened(dirs)
	}
	r.mu.Lock()
	r.started, r.of = time.Now(), map[*section]bool{}
	r.mu.Unlock()
	disk := diskOf(stores[0].place.dir)
	runErr := r.stages(ctx, byJob)
	res := r.result(ctx)
	if disk != nil && r.Jobs[0].DiskUtil {
		if now := diskOf(stores[0].place.dir); now != nil {
			res.Disks = append(res.Disks, now.since(disk, time.Since(r.started).Milliseconds()))
		}
	}
	errs := []error{runErr}
	if r.Settle {
		errs = append(errs, r.settle(stores, res))
	}
	for _, st := range stores {
		errs = append(errs, st.close())
	}
	err = errors.Join(errs...)
	if len(res.Jobs) == 0 {
		return nil, errors.Join(res.Err, err)
	}
	return res, err
}

// settle makes all stores stable, and measures them.
func (r *Runner) settle(stores []*opened, res *Result) error {
	var errs []error
	for _, st := range stores {
		errs = append(errs, st.flush())
		n, err := versus.Space(st.place.dir)
		errs = append(errs, err)
		res.Space += n
	}
	if len(r.sections) > 0 {
		g := r.sections[0]
		now := getUsage()
		g.mu.Lock()
		defer g.mu.Unlock()
		res.Written = (now.Oublock - g.usage.Oublock) * versus.Block
	}
	return errors.Join(errs...)
}

// opened is a store with the jobs that share it.
type opened struct {
	*store
	jobs []*job.Spec
}

// openAll opens the stores of the jobs. After an error none is open.
func openAll(specs []*job.Spec) (all []*opened, err error) {
	for _, s := range specs {
		found := false
		for _, o := range all {
			if job.SameStore(o.jobs[0], s) {
				o.jobs, found = append(o.jobs, s), true
			}
		}
		if !found {
			all = append(all, &opened{jobs: []*job.Spec{s}})
		}
	}
	taken := space{}
	for i, o := range all {
		if o.store, err = openStore(o.jobs, taken); err != nil {
			for _, before := range all[:i] {
				err = errors.Join(err, before.close())
			}
			return nil, err
		}
	}
	return all, nil
}

// stages runs the jobs, those between two stonewalls at the same time.
func (r *Runner) stages(ctx context.Context, of map[*job.Spec]*store) error {
	group, number := 0, 1
	for at := 0; at < len(r.Jobs) && (at == 0 || ctx.Err() == nil); { // an interrupted run reports its first stage
		end := at + 1
		for end < len(r.Jobs) && !r.Jobs[end].Stonewall {
			end++
		}
		stage := r.Jobs[at:end]
		if err := r.prepare(ctx, stage, of); err != nil {
			return err
		}
		var sections []*section
		for k, s := range stage {
			if at+k > 0 && (s.Stonewall || s.NewGroup) {
				group++
			}
			g, err := newSection(s, of[s], number, group)
			if err != nil {
				return err
			}
			if r.Timelines {
				g.tracker = newTracker(g)
			}
			number += s.NumJobs
			sections = append(sections, g)
		}
		if stop, err := r.stage(ctx, sections); stop || err != nil {
			return err
		}
		at = end
	}
	return nil
}

// prepare lays out the pages that a stage needs, and reopens the stores that shall not be cached.
func (r *Runner) prepare(ctx context.Context, stage []*job.Spec, of map[*job.Spec]*store) error {
	reopened := map[*store]bool{}
	for _, s := range stage {
		st := of[s]
		if s.NeedsPages() && !s.Engine.ReadOnly && !s.Verify.Only && ctx.Err() == nil {
			pages := min(int64(len(st.table)), s.AllPages())
			if st.isLog && st.log.n > 0 {
				pages = 0
			}
			if err := st.layout(ctx, s, pages, r.Progress); err != nil {
				return err
			}
		}
	}
	for _, s := range stage {
		if st := of[s]; s.Invalidate && !reopened[st] && ctx.Err() == nil {
			reopened[st] = true
			if err := st.invalidate(); err != nil {
				return fmt.Errorf("--invalidate: %w", err)
			}
		}
	}
	return nil
}

// stage runs sections at the same time. It reports whether the run is to stop after it.
func (r *Runner) stage(ctx context.Context, sections []*section) (stop bool, err error) {
	defer r.Progress.watch(progressName(sections), func() progressState { return allOf(sections) })()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, g := range sections {
		wg.Go(func() {
			r.await(ctx, g, sections)
			r.mu.Lock()
			r.sections = append(r.sections, g)
			r.mu.Unlock()
			g.run(ctx)
			jobs := g.outcome()
			logErr := g.writeLogs(g.number)
			r.mu.Lock()
			r.of[g] = true
			r.ended = append(r.ended, jobs...)
			r.mu.Unlock()
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, logErr)
			failed := g.workersErr() != nil || g.err != nil
			if g.spec.ExitAll || failed && g.spec.ExitOnError {
				stop = stop || g.spec.ExitWhat == "all" || failed && g.spec.ExitOnError
				for _, o := range sections {
					if o.group == g.group || g.spec.ExitWhat != "group" {
						o.stop.Store(true)
					}
				}
			}
		})
	}
	wg.Wait()
	return stop, errors.Join(errs...)
}

// progressName names sections that run at the same time.
func progressName(sections []*section) string {
	if n := len(sections); n > 1 {
		return fmt.Sprintf("%s and %d more", sections[0].spec.Name, n-1)
	}
	return sections[0].spec.Name
}

// allOf returns the state of sections that run at the same time.
func allOf(sections []*section) (sum progressState) {
	sum.ramping, sum.waiting = true, true
	for _, g := range sections {
		if !g.begun.Load() {
			continue
		}
		sum.waiting = false
		s := g.progress()
		for d := range s.ops {
			sum.ops[d] += s.ops[d]
			sum.bytes[d] += s.bytes[d]
		}
		sum.share += s.share / float64(len(sections))
		sum.ramping = sum.ramping && s.ramping
	}
	return sum
}

// await waits until a section may begin: after the jobs of wait_for, and after its startdelay. It ends when ctx does.
func (r *Runner) await(ctx context.Context, g *section, sections []*section) {
	defer context.AfterFunc(ctx, func() { g.stop.Store(true) })()
	for _, o := range sections {
		if o != g && g.spec.WaitFor != "" && o.spec.Name == g.spec.WaitFor {
			select {
			case <-o.done:
			case <-ctx.Done():
			}
		}
	}
	delay := g.spec.StartDelay
	if more := g.spec.StartDelayMost - delay; more > 0 {
		delay += time.Duration(pick.Uniform(pick.New(g.spec.Seed, paceStream-g.number), uint64(more)))
	}
	until(r.started, int64(delay), &g.stop)
}

// result makes the result of all sections that have ended.
func (r *Runner) result(ctx context.Context) *Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	res := &Result{Started: r.started, Interrupted: ctx.Err() != nil, Timelines: r.timelines()}
	res.finish(inOrder(r.Jobs, r.ended))
	return res
}

// Now returns what is known of a run that has begun, without the jobs: the timelines of the sections so far. It returns
// nil before the stores are open. Safe for concurrent use.
func (r *Runner) Now() *Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started.IsZero() {
		return nil
	}
	return &Result{Started: r.started, Timelines: r.timelines()}
}

// timelines returns the timelines of the sections that have begun, in order. The caller holds r.mu.
func (r *Runner) timelines() (all []*Timeline) {
	for _, s := range r.Jobs {
		for _, g := range r.sections {
			if g.spec == s && g.tracker != nil && g.begun.Load() {
				all = append(all, g.tracker.timeline())
			}
		}
	}
	return all
}

// inOrder sorts jobs as their sections were given.
func inOrder(specs []*job.Spec, jobs []*Job) (out []*Job) {
	for _, s := range specs {
		for _, j := range jobs {
			if j.Spec == s {
				out = append(out, j)
			}
		}
	}
	return out
}

// Ask makes a report of the jobs so far and passes it to Status. Jobs that are blocked in a call are reported as they
// were at an earlier report. Safe for concurrent use.
func (r *Runner) Ask(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	const patience = 50 * time.Millisecond
	jobs := append([]*Job(nil), r.ended...)
	for _, g := range r.sections {
		if r.of[g] || !g.begun.Load() {
			continue
		}
		asked := g.asked.Add(1)
		for end := time.Now().Add(patience); time.Now().Before(end) && !g.answered(asked); {
			time.Sleep(time.Millisecond)
		}
		jobs = append(jobs, g.collect(func(w *worker) *workerStats {
			if w.ended.Load() {
				return &w.workerStats
			}
			if c := w.copied.Load(); c != nil {
				return c
			}
			return &workerStats{}
		}, g.now())...)
	}
	if len(jobs) == 0 {
		return
	}
	res := &Result{Started: r.started, Interrupted: ctx.Err() != nil}
	res.finish(inOrder(r.Jobs, jobs))
	r.Status(res)
}

// answered reports whether all goroutines that work have made their copies.
func (g *section) answered(asked int64) bool {
	for _, w := range g.workers {
		if !w.ended.Load() && w.made.Load() < asked {
			return false
		}
	}
	return true
}
