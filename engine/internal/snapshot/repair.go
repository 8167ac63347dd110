package snapshot

import (
	"context"
	"fmt"
	"maps"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/report"
	"pagecache/recovery"
)

// Pages finds out from the log what the pages of corrupt blocks of Base are.
type Pages interface {
	// Rebuild returns the state of the pages of the record blocks with these numbers. It stops with an error when ctx
	// ends.
	Rebuild(ctx context.Context, numbers []int64) ([]*recovery.Block, error)
	// Supply is called when Base knows the rebuilt blocks.
	Supply()
}

// repair is the rebuilding of the corrupt blocks of Base (N4). A block goes through these states:
//
//	        want            serve           rebuild
//	good ─────────▶ wanted ───────▶ served ─────────▶ rebuilt
//	                  ▲                │
//	                  │ want, retry    │ an error
//	                  └──── corrupt ◀──┘
type repair struct {
	pages Pages // set before Base is read for a page

	mu      sync.Mutex
	corrupt map[int64]bool // numbers of the blocks in the states wanted, served and corrupt
	wanted  map[int64]bool // of those: that the next scan serves
	served  map[int64]bool // of those: that the scan under way serves
	now     *scan          // under way
	next    *scan          // that serves wanted
	idle    chan struct{}  // closed when the goroutine that scans has ended; nil before the first
	running bool           // that goroutine was started and has not found wanted empty
	failed  int            // scans in a row that have failed
	again   *time.Timer    // calls retry; nil before the first failure

	// left is len(corrupt). Written under mu; publishes nothing. The cleaner reads it before and during each step. A
	// stale zero lets it go on with one page, which is safe (N5).
	left atomic.Int64
	// rebuilt counts the blocks that were rebuilt. Written under mu; statistics read it.
	rebuilt atomic.Int64
}

// scan is one reading of the log. err is set before done is closed.
type scan struct {
	done chan struct{}
	err  error
}

func newScan() *scan { return &scan{done: make(chan struct{})} }

func (r *repair) init() {
	r.corrupt, r.wanted, r.next = map[int64]bool{}, map[int64]bool{}, newScan()
}

// Serve sets what rebuilds corrupt blocks. To be called before a page of Base is looked up.
func (s *Store) Serve(p Pages) { s.repair.pages = p }

// Rebuilding returns the number of blocks of Base that are known to be corrupt and not rebuilt.
func (s *Store) Rebuilding() int64 { return s.repair.left.Load() }

// Rebuilt returns the number of blocks of Base that were rebuilt.
func (s *Store) Rebuilt() int64 { return s.repair.rebuilt.Load() }

// Note notes that a block of Base is corrupt. It starts to rebuild the block in the background, if that was not begun,
// and does not wait.
func (s *Store) Note(b *recovery.BlockError) { s.want(b) }

// mostRetries is the number of times that a failed scan is repeated although no call needs its pages. After the first
// failure the next try waits for Patience, and after each more for twice as long as before. Nothing is cleaned until a
// scan succeeds (N5).
const mostRetries = 8

// Await is Note that waits until the block is rebuilt, until ctx ends, or until Stop; then the error is
// iobuf.ErrClosed. An error of reading the log is returned to every goroutine that waits for the block; a later call
// tries again at once.
func (s *Store) Await(ctx context.Context, b *recovery.BlockError) error {
	scan := s.want(b)
	select {
	case <-scan.done:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.run.Done():
		return iobuf.ErrClosed
	}
	if scan.err != nil && s.run.Err() != nil {
		return fmt.Errorf("%w: %w", iobuf.ErrClosed, scan.err)
	}
	return scan.err
}

// want returns the scan that serves a block. The scan is over if the block was rebuilt since the caller looked.
func (s *Store) want(b *recovery.BlockError) *scan {
	r := &s.repair
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case s.Base.IsReplaced(b.Block):
		over := newScan()
		close(over.done)
		return over
	case r.served[b.Block]:
		return r.now
	}
	r.corrupt[b.Block], r.wanted[b.Block] = true, true
	r.left.Store(int64(len(r.corrupt)))
	s.scanLocked()
	return r.next
}

// scanLocked starts the goroutine that scans, if it does not run and Stop was not called. repair.mu is held.
func (s *Store) scanLocked() {
	if r := &s.repair; !r.running && s.run.Err() == nil {
		r.running, r.idle = true, make(chan struct{})
		go s.serveAll(r.idle)
	}
}

// retry wants all blocks that are corrupt and that no scan serves.
func (s *Store) retry() {
	r := &s.repair
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := range r.corrupt {
		if !r.served[n] {
			r.wanted[n] = true
		}
	}
	if len(r.wanted) > 0 {
		s.scanLocked()
	}
}

// retryLaterLocked calls retry later, unless the last scans have failed too often, or Stop was called. repair.mu is
// held.
func (s *Store) retryLaterLocked() {
	r := &s.repair
	if r.again != nil {
		r.again.Stop()
	}
	if r.failed++; r.failed <= mostRetries && s.run.Err() == nil {
		r.again = time.AfterFunc(s.Patience<<(r.failed-1), s.retry)
	}
	if s.run.Err() == nil { // nothing is cleaned meanwhile (N5)
		s.c.Report.CleaningStopped(r.now.err)
	}
}

// rebuilderLabels are the profiling labels of the rebuilder; it would have those of the goroutine that started it.
var rebuilderLabels = pprof.WithLabels(context.Background(), pprof.Labels("pagecache", "rebuilder"))

// serveAll scans the log until no block is wanted, and then closes idle.
func (s *Store) serveAll(idle chan struct{}) {
	pprof.SetGoroutineLabels(rebuilderLabels)
	defer close(idle)
	for s.serve(s.run) {
	}
}

// serve rebuilds the blocks that are wanted. It returns false if there are none. One call runs at a time.
func (s *Store) serve(ctx context.Context) bool {
	r := &s.repair
	r.mu.Lock()
	if len(r.wanted) == 0 {
		r.running = false
		r.mu.Unlock()
		return false
	}
	r.now, r.next = r.next, newScan()
	r.served, r.wanted = r.wanted, map[int64]bool{}
	numbers := slices.Collect(maps.Keys(r.served))
	r.mu.Unlock()
	r.now.err = s.rebuild(ctx, numbers)
	r.mu.Lock()
	if r.served = nil; r.now.err == nil {
		r.failed = 0
	} else {
		s.retryLaterLocked()
	}
	r.mu.Unlock()
	close(r.now.done)
	return true
}

// rebuild rebuilds the blocks with these numbers, and all others that turn out to be corrupt, with one scan of the log.
func (s *Store) rebuild(ctx context.Context, numbers []int64) error {
	r, start, file := &s.repair, time.Now(), s.Path(s.Base.ID())
	// The scan before may have found out that they are corrupt, and rebuilt them.
	if numbers = slices.DeleteFunc(numbers, s.Base.IsReplaced); len(numbers) == 0 {
		return nil
	}
	found := s.Base.CorruptBlocks(func() bool { return ctx.Err() != nil })
	found = slices.DeleteFunc(found, func(n int64) bool { return s.Base.IsReplaced(n) || slices.Contains(numbers, n) })
	r.mu.Lock()
	for _, n := range found {
		r.corrupt[n], r.served[n] = true, true
	}
	r.left.Store(int64(len(r.corrupt)))
	r.mu.Unlock()
	numbers = append(numbers, found...)
	text := "%d blocks of snapshot %s are corrupt; their pages are looked up in the log"
	s.c.Report.Corruption(fmt.Sprintf(text, len(numbers), file), nil)
	blocks, err := r.pages.Rebuild(ctx, numbers)
	if err != nil {
		r.mu.Lock()
		for _, n := range found { // the next scan finds those that are corrupt by then
			delete(r.corrupt, n)
		}
		r.left.Store(int64(len(r.corrupt)))
		r.mu.Unlock()
		return fmt.Errorf("rebuild blocks of %s from the log: %w", file, err)
	}
	s.Base.Replace(blocks)
	r.pages.Supply()
	lost := 0
	r.mu.Lock()
	for _, b := range blocks {
		delete(r.corrupt, b.Number)
		lost += len(b.Errors)
	}
	r.left.Store(int64(len(r.corrupt)))
	r.rebuilt.Add(int64(len(blocks)))
	r.mu.Unlock()
	if lost == 0 && s.written.Load() == 0 { // else no snapshot can be written, or the corrupt one is gone
		s.overdue.Store(true)
		select {
		case s.due <- struct{}{}: // wakes Run
		default:
		}
	}
	s.c.Report.SnapshotRebuilt(report.SnapshotRebuiltInfo{
		File: file, Blocks: len(blocks), LostPages: lost, Took: time.Since(start),
	})
	s.c.Report.CleaningGoesOn()
	return nil
}

// rebuildFor is Await for the last snapshot, which Close writes: since nothing scans in the background any more, it
// scans itself, for Patience at most.
func (s *Store) rebuildFor(ctx context.Context, b *recovery.BlockError) error {
	ctx, cancel := context.WithTimeout(ctx, s.Patience)
	defer cancel()
	scan := s.want(b)
	s.serve(ctx)
	<-scan.done // served above, or rebuilt before
	return scan.err
}
