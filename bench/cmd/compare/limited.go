package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"pagecache/bench"
	"pagecache/engine"
)

// Parameters of the comparisons of stores that have less memory than data.
const (
	limitedPages      = 32 << 10
	limitedPage       = 16 << 10
	limitedDelta      = 1000
	limitedLive       = limitedPages * limitedPage
	limitedCache      = limitedLive / 4 // of the store
	limitedMemory     = limitedLive / 2 // of the process, the file cache that it uses included
	limitedBuffer     = 8 << 20
	limitedGoroutines = 16
	limitedZipf       = 0.99
	limitedWarmUp     = 2 // length of the warming up, as a multiple of --seconds
)

// limitedResult is the outcome of a run in a process of its own.
type limitedResult struct {
	Rate          float64 // operations per second
	Read, Written float64 // bytes from and to the disk for each operation
	Space         float64 // on disk at the end, as a multiple of the data
	Anon          float64 // anonymous memory at most, as a multiple of the data
}

func rateOfLimited(r limitedResult) float64  { return r.Rate }
func readOfLimited(r limitedResult) float64  { return r.Read / 1024 }
func spaceOfLimited(r limitedResult) float64 { return r.Space }
func anonOfLimited(r limitedResult) float64  { return r.Anon }

// limited is a work with limited memory. Lines that take different figures share a run in each round: a new run of a
// side begins when a line asks for its figure again.
type limited struct {
	name  string
	lines int
	runs  map[string]*limitedRun // of each side
}

// limitedRun is a side's run, and the lines that have taken their figures of it.
type limitedRun struct {
	result limitedResult
	shares bench.Shares
	used   map[int]bool
}

func newLimited(name string) *limited { return &limited{name: name, runs: map[string]*limitedRun{}} }

// ours returns our side of the next line.
func (t *limited) ours(figure func(limitedResult) float64) side {
	t.lines++
	return t.side(ourName, t.lines, figure)
}

// rivals returns the other sides of the same line, with the floor.
func (t *limited) rivals(figure func(limitedResult) float64) []rival {
	return append(t.stores(figure), rival{floorName, t.side(floorName, t.lines, figure)})
}

// stores returns the other stores as sides of the same line.
func (t *limited) stores(figure func(limitedResult) float64) (all []rival) {
	for _, s := range otherUpdaters() {
		all = append(all, rival{s.name, t.side(s.name, t.lines, figure)})
	}
	return all
}

func (t *limited) side(store string, line int, figure func(limitedResult) float64) side {
	return func(ctx context.Context, c *config, dir string) (float64, error) {
		run := t.runs[store]
		if run == nil || run.used[line] {
			run = &limitedRun{used: map[int]bool{}}
			if err := t.measure(ctx, c, store, dir, run); err != nil {
				return 0, err
			}
			t.runs[store] = run
		}
		run.used[line] = true
		c.shares = run.shares
		return figure(run.result), nil
	}
}

// measure lets one process load the store and another one, with little memory, measure it.
func (t *limited) measure(ctx context.Context, c *config, store, dir string, run *limitedRun) error {
	defer dropLimit()
	name := "limited " + t.name + " " + store
	if t.name != "churn" {
		if err := inChild(ctx, c, name+" load", dir, &run.result); err != nil {
			return err
		}
		if err := c.forget(); err != nil {
			return err
		}
	}
	err := inChild(ctx, c, name+" run", dir, &run.result)
	var exit *exec.ExitError
	if errors.As(err, &exit) && strings.Contains(exit.Error(), "killed") && store != ourName && ctx.Err() == nil {
		fmt.Fprintf(os.Stderr, "  %s, %s: it needs more memory, and gets 0\n", t.name, store)
		return nil
	}
	if err != nil {
		return err
	}
	run.shares = c.shares
	fmt.Fprintf(os.Stderr, "  %s, %s: %.0f op/s, %.1f KiB read and %.1f written for each, space %.2f\n", t.name, store,
		run.result.Rate, run.result.Read/1024, run.result.Written/1024, run.result.Space)
	return nil
}

// limitedChild returns the child of that name: limited WORK STORE load, or run.
func limitedChild(name string) func(c *config, dir string) (any, error) {
	f := strings.Fields(name)
	if len(f) != 4 || f[0] != "limited" {
		return nil
	}
	w := limitedWork{work: f[1], store: f[2]}
	return func(c *config, dir string) (any, error) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		if w.work == "churn" {
			return w.churn(c, dir)
		}
		if f[3] == "load" {
			return limitedResult{}, w.load(c, dir)
		}
		return w.run(c, dir)
	}
}

// limitedWork is the work of a child.
type limitedWork struct{ work, store string }

// peerOptions are the settings of the other stores.
func (limitedWork) peerOptions() bench.PeerOptions {
	return bench.PeerOptions{Cache: limitedCache, Buffer: limitedBuffer, Goroutines: limitedGoroutines}
}

// isNodes reports whether the pages are nodes of a B-tree.
func (w limitedWork) isNodes() bool { return strings.HasPrefix(w.work, "nodes") }

func (w limitedWork) openNodes(c *config, dir string) (bench.NodeStore, error) {
	if w.store == ourName {
		o := ourLimited(c)
		o.CopyOnRead = true // the kernel evicts blocks of views that the cache keeps
		return bench.OpenPagecacheNodes(dir, o)
	}
	if w.store == floorName {
		return bench.OpenFloorNodes(dir, c.part(limitedPages), popularNodes(c.part(limitedPages)))
	}
	for _, s := range otherNodes() {
		if s.name == w.store {
			return s.open(dir, w.peerOptions())
		}
	}
	return nil, fmt.Errorf("no store %q", w.store)
}

// ourLimited are the options of our side.
func ourLimited(c *config) engine.Options {
	return engine.Options{CacheCapacity: int64(c.part(limitedCache)), FlushEvery: interval}
}

func (w limitedWork) openPages(c *config, dir string) (bench.Updater, error) {
	if w.store == ourName {
		return bench.OpenKept(dir, c.part(limitedPages), ourLimited(c))
	}
	if w.store == floorName {
		return bench.OpenFloorPages(dir, c.part(limitedPages))
	}
	for _, s := range otherUpdaters() {
		if s.name == w.store {
			return s.open(dir, w.peerOptions())
		}
	}
	return nil, fmt.Errorf("no store %q", w.store)
}

// load makes the store.
func (w limitedWork) load(c *config, dir string) error {
	if w.isNodes() {
		s, err := w.openNodes(c, dir)
		if err != nil {
			return err
		}
		return errors.Join(s.Load(c.part(limitedPages)), s.Close())
	}
	s, err := w.openPages(c, dir)
	if err != nil {
		return err
	}
	return errors.Join(bench.Load(s, c.part(limitedPages), limitedPage), s.Close())
}

// run opens the store with little memory, warms it up and measures it.
func (w limitedWork) run(c *config, dir string) (r limitedResult, err error) {
	if !c.small() {
		const runtimeLimit = limitedMemory / 8 * 7
		debug.SetMemoryLimit(runtimeLimit)
		if err := limitMemory(limitedMemory); err != nil {
			return r, err
		}
	}
	op, end, err := w.operation(c, dir)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, end()) }()
	l := bench.Workload{Goroutines: limitedGoroutines, Pages: c.part(limitedPages), Value: limitedDelta, Seed: 1}
	if _, err := bench.RunFor(l, limitedWarmUp*c.during(), op, nil); err != nil {
		return r, err
	}
	c.sampler.Restart()
	l.Seed++
	read, written := diskBytes()
	got, err := bench.RunFor(l, c.during(), op, nil)
	if err != nil {
		return r, err
	}
	readNow, writtenNow := diskBytes()
	r.Rate, r.Read, r.Written = got.Rate(), (readNow-read)/float64(got.Ops), (writtenNow-written)/float64(got.Ops)
	space, err := diskUsage(dir)
	r.Space = space / float64(c.part(limitedPages)*limitedPage)
	return r, err
}

// operation opens the store and returns one operation on it, and what closes it.
func (w limitedWork) operation(c *config, dir string) (op func(*bench.Worker) error, end func() error, err error) {
	if w.isNodes() {
		s, err := w.openNodes(c, dir)
		if err != nil {
			return nil, nil, err
		}
		updates := map[string]float64{"nodes-a": 0.5, "nodes-b": 0.05}[w.work]
		return nodesOperation(s, c.part(limitedPages), updates), s.Close, nil
	}
	s, err := w.openPages(c, dir)
	if err != nil {
		return nil, nil, err
	}
	update := s.GetLink
	if w.work == "blind-cold" {
		update = s.BlindLink
	}
	values := make([]*bench.Values, limitedGoroutines)
	for i := range values {
		values[i] = bench.NewValues(uint64(i), limitedPage)
	}
	return func(w *bench.Worker) error {
		if w.Uint64()%wholeEach == 0 {
			return s.Replace(w.Page(), values[w.Number].Next())
		}
		return update(w.Page(), w.Values.Next())
	}, s.Close, nil
}

// nodesOperation reads an item or, in that share of the cases, updates one.
func nodesOperation(s bench.NodeStore, count int, updates float64) func(*bench.Worker) error {
	first, keys := popularKeys(count), make([]func() uint64, limitedGoroutines)
	for i := range keys {
		keys[i] = first(uint64(i))
	}
	return func(w *bench.Worker) error {
		key := keys[w.Number]()
		if w.Float64() >= updates {
			return s.Read(key)
		}
		item := make([]byte, bench.NodeItem) // a store may keep it
		binary.BigEndian.PutUint64(item, key)
		copy(item[bench.NodeKey:], w.Values.Next())
		return s.Update(item)
	}
}

// popularKeys returns a constructor of sources of keys of the items of count nodes. The popular keys are spread over
// all nodes.
func popularKeys(count int) func(seed uint64) func() uint64 {
	items := count * bench.NodeItems
	zipf := bench.NewZipfian(rand.New(rand.NewPCG(0, 0)), limitedZipf, items)
	return func(seed uint64) func() uint64 {
		const scatter = 0x9e3779b97f4a7c15
		z := zipf.For(rand.New(rand.NewPCG(seed, 5)))
		return func() uint64 { return uint64(z.Next()) * scatter % uint64(items) }
	}
}

// popularNodes returns the quarter of count nodes that have the most popular items.
func popularNodes(count int) []int {
	const draws = 100 // for each node
	hits, next := make([]int, count), popularKeys(count)(99)
	for range draws * count {
		hits[next()/bench.NodeItems]++
	}
	nodes := make([]int, count)
	for i := range nodes {
		nodes[i] = i
	}
	slices.SortStableFunc(nodes, func(a, b int) int { return hits[b] - hits[a] })
	return nodes[:count/4]
}

// churn opens a store, and measures it.
func (w limitedWork) churn(c *config, dir string) (r limitedResult, err error) {
	var s bench.Updater
	switch w.store {
	case floorName:
		return floorChurn(c, dir)
	case ourName:
		s, err = bench.OpenKept(filepath.Join(dir, "pages"), churnPages(c), engine.Options{FlushEvery: interval})
	default:
		for _, p := range otherUpdaters() {
			if p.name == w.store {
				s, err = p.open(dir, bench.PeerOptions{Goroutines: writers})
			}
		}
	}
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return runChurn(c, s, dir)
}
