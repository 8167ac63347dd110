// Package enginetest is what the tests of package engine share: helpers that open, use and close stores, faulty file
// systems, and a model of a store with a driver that compares a real store with it. Only tests import it.
//
// Every store that a test opens through this package is verified by engine.Check when it is closed, unless the test
// calls NoCheck.
//
// Reading the code: open.go opens, checks and closes stores; use.go has short calls for pages; disk.go works on the
// files of a store; lying.go has file systems with faults; model.go is the model and the history of a store, and
// driver.go does random things to a store and its model. specimen.go describes a store that sweep.go corrupts in every
// place; pieces.go has what it shows then, agree.go compares the ways of opening it, and filler.go finds what means
// nothing in it.
package enginetest

import (
	"errors"
	"sync"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
)

// Store is an open store or standalone log.
type Store interface {
	Close() error
	Stats() engine.Stats
}

// opened is a store that a test has opened through this package.
type opened struct {
	t       testing.TB
	store   Store // nil after Close: a closed store must not stay in memory until its test ends
	dir     string
	opts    engine.Options
	noCheck bool
}

// stores are the open stores of all tests.
var stores struct {
	sync.Mutex
	m map[Store]*opened
}

// SimOptions returns the options of a small store on the simulated disk. It has segments of 16 KiB, two io buffers and
// no background flushing.
func SimOptions(d *simdisk.Disk) *engine.Options {
	return WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1}, seam.Options{FS: d})
}

// WithSeam replaces the extra options of o, which embedders do not have, and returns o.
func WithSeam(o *engine.Options, s seam.Options) *engine.Options {
	seam.Set(o, s)
	return o
}

// Open opens a store of byte strings. When the test ends, the store is closed, if it is still open, and checked.
func Open(t testing.TB, dir string, o *engine.Options) *engine.PageCache[[]byte] {
	t.Helper()
	return OpenWith(t, dir, engine.Bytes{}, o)
}

// OpenSim is Open of /store on a simulated disk, with SimOptions.
func OpenSim(t testing.TB, d *simdisk.Disk) *engine.PageCache[[]byte] {
	t.Helper()
	return Open(t, "/store", SimOptions(d))
}

// OpenWith is Open of a store with any Materializer.
func OpenWith[P any](t testing.TB, dir string, m engine.Materializer[P], o *engine.Options) *engine.PageCache[P] {
	t.Helper()
	pc, err := engine.Open(dir, m, o)
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	Watch(t, pc, o)
	return pc
}

// OpenLog is Open of a standalone log.
func OpenLog(t testing.TB, dir string, o *engine.Options) *engine.Log {
	t.Helper()
	l, err := engine.OpenLog(dir, o)
	if err != nil {
		t.Fatalf("open log: %v", err)
	}
	Watch(t, l, o)
	return l
}

// Watch does for a store that the test has opened itself, with o, what Open does: when the test ends, the store is
// closed, if it is still open, and checked. Close accepts the store.
func Watch(t testing.TB, s Store, o *engine.Options) {
	t.Helper()
	w := &opened{t: t, store: s, dir: s.Stats().Dir}
	if o != nil {
		w.opts = *o
	}
	stores.Lock()
	defer stores.Unlock()
	if stores.m == nil {
		stores.m = map[Store]*opened{}
	}
	stores.m[s] = w
	t.Cleanup(w.end)
}

// forget removes the store from the open stores.
func (w *opened) forget() {
	stores.Lock()
	defer stores.Unlock()
	delete(stores.m, w.store)
	w.store = nil
}

// end closes the store as its test ends, unless the test did, and checks it, unless Close did.
func (w *opened) end() {
	if w.store == nil {
		return
	}
	err := w.store.Close()
	w.forget()
	if err != nil && !w.noCheck && !errors.Is(err, engine.ErrClosed) && !errors.Is(err, simdisk.ErrCrashed) &&
		!errors.Is(err, engine.ErrBatchOpen) {
		w.t.Errorf("close store: %v", err)
	}
	w.check(w.t)
}

// check checks the closed store, unless it was temporary, NoCheck was called, or a benchmark measured it.
func (w *opened) check(t testing.TB) {
	t.Helper()
	if _, bench := t.(*testing.B); !bench && !w.noCheck && !w.opts.Temporary {
		Check(t, w.dir, &w.opts)
	}
}

// Close closes the store, which must succeed, and checks it.
func Close(t testing.TB, s Store) {
	t.Helper()
	w := take(t, s)
	if err := s.Close(); err != nil {
		t.Errorf("close store: %v", err)
		return
	}
	w.check(t)
}

// CloseInBatch closes a store or log in which a batch is open, and checks it. Close must say that everything from LSN
// from on will be missing. It waits 5 s for the batch, unless the store is on a simulated disk.
func CloseInBatch(t testing.TB, s Store, from engine.LSN) {
	t.Helper()
	w := take(t, s)
	var left *engine.BatchOpenError
	err := s.Close()
	if !errors.As(err, &left) || !errors.Is(err, engine.ErrBatchOpen) || left.LSN != from {
		t.Errorf("close store with a batch open from LSN %d: %v", from, err)
	}
	w.check(t)
}

// take removes an open store from the open stores.
func take(t testing.TB, s Store) *opened {
	t.Helper()
	stores.Lock()
	w := stores.m[s]
	stores.Unlock()
	if w == nil {
		t.Fatal("close store: it is closed, or was not opened by package enginetest")
	}
	w.forget()
	return w
}

// NoCheck says that the open store is not checked, because the test corrupts it, its files or its disk. Closing it at
// the end of the test may fail.
func NoCheck(t testing.TB, s Store) {
	t.Helper()
	stores.Lock()
	defer stores.Unlock()
	w := stores.m[s]
	if w == nil {
		t.Fatal("the store is closed, or was not opened by package enginetest")
	}
	w.noCheck = true
}

// Check fails the test if engine.Check finds a problem in the store or log in dir, which is not open for writing. If a
// simulated disk has crashed, there is nothing to check: its contents are those of the next disk.
func Check(t testing.TB, dir string, o *engine.Options) {
	t.Helper()
	if err := Problems(dir, o); err != nil && !errors.Is(err, simdisk.ErrCrashed) {
		t.Errorf("check of the closed store: %v", err)
	}
}

// Problems returns the problems that engine.Check finds in the store or log in dir, as one error.
func Problems(dir string, o *engine.Options) error {
	var problems []error
	_, err := engine.Check(dir, o, func(problem error) { problems = append(problems, problem) })
	return errors.Join(append(problems, err)...)
}
