package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/engine"
)

// session is an open store with the table of its pages. Groups of jobs run on it one after another.
type session struct {
	place   *place
	opts    engine.Options
	patched bool // the pages accept deltas
	pc      *engine.PageCache[[]byte]
	bs      int64
	// table holds the id of each page; 0 means that the page does not exist yet, claimed that a goroutine is
	// allocating it. Workers and layout write it, by compare-and-swap from 0; an id never changes. A stale read costs
	// another read.
	table []atomic.Uint64
	// laid is the first page that no goroutine of layout has taken yet. Written by layout (Add).
	laid atomic.Int64
}

// claimed is not the id of a page of pcbench: the store reserves pages 0 and 1.
const claimed = 1

// open makes a store for the pages of s.
func open(s *spec) (*session, error) {
	pages := s.pages()
	p, err := newPlace(s.Directory, s.Name)
	if err != nil {
		return nil, err
	}
	ses := &session{place: p, opts: s.Engine, patched: s.Delta > 0, bs: s.BS, table: make([]atomic.Uint64, pages)}
	if err = os.Mkdir(p.store(), 0o755); err == nil {
		err = ses.start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the store: %w", err), p.remove())
	}
	return ses, nil
}

// start opens the store.
func (ses *session) start() (err error) {
	if ses.patched {
		ses.pc, err = engine.Open(ses.place.store(), patched{}, &ses.opts)
	} else {
		ses.pc, err = engine.Open(ses.place.store(), engine.Bytes{}, &ses.opts)
	}
	return err
}

// invalidate reopens the store, with no page resident and none of its files in the file cache.
func (ses *session) invalidate() error {
	if err := ses.pc.Close(); err != nil {
		return err
	}
	err := filepath.WalkDir(ses.place.store(), func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		// The kernel drops only data that it has written back, so Sync comes first.
		return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
	})
	return errors.Join(err, ses.start())
}

// close closes and removes the store.
func (ses *session) close() error {
	err := ses.pc.Close()
	if err != nil {
		err = fmt.Errorf("close the store: %w", err)
	}
	return errors.Join(err, ses.place.remove())
}

// layout allocates all missing pages and makes them stable. It ends early when ctx is done or a page cannot be
// allocated.
func (ses *session) layout(ctx context.Context, s *spec, pr *progress) error {
	var wg sync.WaitGroup
	errs := make([]error, layoutWorkers())
	defer pr.watch("laying out", func() progressState {
		done := min(ses.laid.Load(), int64(len(ses.table)))
		return progressState{share: float64(done) / float64(len(ses.table)), writeBytes: done * ses.bs, writes: done}
	})()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i := range errs {
		wg.Go(func() {
			v := newValues(int(s.BS), s.Refill, newRand(s.Seed, layoutStream+i))
			if errs[i] = ses.layoutSome(ctx, v); errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("lay out: %w", err)
	}
	if ctx.Err() != nil {
		return nil
	}
	if _, err := ses.pc.Flush(); err != nil {
		return fmt.Errorf("lay out: %w", err)
	}
	return nil
}

// layoutSome allocates one run of pages after another until no pages are left.
func (ses *session) layoutSome(ctx context.Context, v *values) error {
	const run = 64
	for ctx.Err() == nil {
		from := ses.laid.Add(run) - run
		if from >= int64(len(ses.table)) {
			return nil
		}
		tx, err := ses.pc.Begin()
		if err != nil {
			return err
		}
		for i := from; i < min(from+run, int64(len(ses.table))) && err == nil; i++ {
			_, _, err = ses.allocate(tx, i, v)
		}
		tx.End()
		if err != nil {
			return err
		}
	}
	return nil
}

// allocate makes page i if it does not exist, and returns the LSN of the page. It returns false if another goroutine
// has made the page or is making it.
func (ses *session) allocate(tx *engine.Tx, i int64, v *values) (engine.LSN, bool, error) {
	if ses.table[i].Load() != 0 || !ses.table[i].CompareAndSwap(0, claimed) {
		return 0, false, nil
	}
	pid, ptr, err := ses.pc.Allocate(tx, v.take())
	if err != nil {
		ses.table[i].Store(0)
		return 0, false, err
	}
	ses.table[i].Store(uint64(pid))
	return ptr.LastLSN(), true, nil
}

// cursor is the next page of a job that goes in order. It fills a cache line. Written by the workers of the job (Add).
type cursor struct {
	atomic.Int64
	_ [56]byte
}

// group is one run of a spec on a session.
type group struct {
	spec    *spec
	ses     *session
	picker  *picker
	workers []*worker
	cursors []cursor
	// stop ends all workers after their current operation. Set when the context is done or a worker has failed.
	stop     atomic.Bool
	base     time.Time
	ramp     int64      // when measuring begins, in ns after base
	deadline int64      // when the workers end by themselves, in ns after base
	sampled  [][]sample // of each job
}

// run runs the jobs of s. If an operation on the store fails, the result holds the error and the operations before it.
func (ses *session) run(ctx context.Context, s *spec, pr *progress) (*result, error) {
	if s.layout() {
		if err := ses.layout(ctx, s, pr); err != nil {
			return nil, err
		}
	}
	if s.Invalidate {
		if err := ses.invalidate(); err != nil {
			return nil, fmt.Errorf("--invalidate: %w", err)
		}
	}
	pages := int64(len(ses.table))
	g := &group{spec: s, ses: ses, picker: newPicker(pages, s.Theta), cursors: make([]cursor, s.NumJobs)}
	for j := range g.cursors {
		g.cursors[j].Store(int64(j) * pages / int64(s.NumJobs))
	}
	for i := range s.workers() {
		g.workers = append(g.workers, newWorker(g, i))
	}
	g.stop.Store(ctx.Err() != nil) // after an interrupted layout, some pages are missing
	unwatch := context.AfterFunc(ctx, func() { g.stop.Store(true) })
	defer unwatch()
	before := ses.pc.Stats()
	g.base = time.Now()
	g.ramp, g.deadline = int64(s.Ramp), 1<<62
	if !s.untimed() {
		g.deadline = g.ramp + int64(s.Runtime)
	}
	r := g.execute(pr)
	r.store = storeStats(before, ses.pc.Stats())
	return r, nil
}

// execute starts the workers, waits for them, and makes their writes stable if --end_fsync is set.
func (g *group) execute(pr *progress) *result {
	endProgress := pr.watch(g.spec.Name, g.progress)
	endSampling := g.sample()
	var wg sync.WaitGroup
	usage := startUsage(g)
	for _, w := range g.workers {
		wg.Go(func() {
			if w.err = w.run(); w.err != nil {
				g.stop.Store(true)
			}
		})
	}
	wg.Wait()
	endSampling()
	r := &result{spec: g.spec, started: g.base, elapsed: time.Since(g.base)}
	if g.spec.EndFsync {
		_, r.err = g.ses.pc.Flush()
		r.flushed = g.now()
	}
	endProgress()
	r.usage = usage()
	r.collect(g)
	return r
}

// now returns the time since the group began, in ns.
func (g *group) now() int64 { return int64(time.Since(g.base)) }
