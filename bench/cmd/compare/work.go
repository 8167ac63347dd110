package main

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"time"

	"pagecache/bench"
)

// Parameters of the comparisons of programs that read pages and then change them: see docs/BENCHMARKS.md.
const (
	wholeEach = 8  // one operation of this number writes a whole page, so that pages do not grow for ever
	txGets    = 64 // Gets of a Tx of get-wide-64
	churnLive = 256 << 20
	churnMin  = 100
	churnMax  = 64 << 10
)

// updaterStore is a store that these comparisons measure, and nodeStore one that keeps the nodes of a B-tree.
type (
	updaterStore struct {
		name string
		open func(dir string, o bench.PeerOptions) (bench.Updater, error)
	}
	nodeStore struct {
		name string
		open func(dir string, o bench.PeerOptions) (bench.NodeStore, error)
	}
)

// floorName is the name of the side that is a plain loop over memory or the disk.
const floorName = "floor"

// updaterWork measures a store with pages of pageSize bytes that are all in memory.
type updaterWork func(c *config, s bench.Updater) (float64, error)

// on loads a store and measures it.
func (w updaterWork) on(open func(c *config, dir string) (bench.Updater, error)) side {
	return func(_ context.Context, c *config, dir string) (float64, error) {
		s, err := open(c, dir)
		if err != nil {
			return 0, err
		}
		return onStore(c, s, func(c *config, _ bench.Store) (float64, error) { return w(c, s) })
	}
}

// ours measures our side.
func (w updaterWork) ours() side {
	return w.on(func(c *config, dir string) (bench.Updater, error) { return open(c, dir) })
}

// rivals are the sides of the other stores, and the floor.
func (w updaterWork) rivals() (all []rival) {
	for _, p := range otherUpdaters() {
		all = append(all, rival{p.name, w.on(func(_ *config, dir string) (bench.Updater, error) {
			return p.open(dir, bench.PeerOptions{Goroutines: writers})
		})})
	}
	return append(all, rival{floorName, w.on(func(c *config, _ string) (bench.Updater, error) {
		return bench.NewFloor(c.part(pages), 2*pageSize)
	})})
}

// updates lets goroutines call update with random pages and deltas. One operation in wholeEach writes a whole page.
func updates(c *config, s bench.Updater, update func(page int, delta []byte) error) (float64, error) {
	var whole [writers]*bench.Values
	for i := range whole {
		whole[i] = bench.NewValues(uint64(i), pageSize)
	}
	l := bench.Workload{Goroutines: writers, Pages: c.part(pages), Value: deltaSize, Seed: 1}
	op := func(w *bench.Worker) error {
		if w.Uint64()%wholeEach == 0 {
			return s.Replace(w.Page(), whole[w.Number].Next())
		}
		return update(w.Page(), w.Values.Next())
	}
	return rate(bench.RunFor(l, c.during(), op, nil))
}

func getLink(c *config, s bench.Updater) (float64, error)   { return updates(c, s, s.GetLink) }
func blindLink(c *config, s bench.Updater) (float64, error) { return updates(c, s, s.BlindLink) }
func fragsLink(c *config, s bench.Updater) (float64, error) { return updates(c, s, s.FragmentsLink) }

func getReplace(c *config, s bench.Updater) (float64, error) {
	l := bench.Workload{Goroutines: writers, Pages: c.part(pages), Value: pageSize, Seed: 1}
	op := func(w *bench.Worker) error { return s.GetReplace(w.Page(), w.Values.Next()) }
	return rate(bench.RunFor(l, c.during(), op, nil))
}

// getsPerTx measures the time of a Get of a random page by one goroutine, n of them in a transaction.
func getsPerTx(n int) updaterWork {
	return func(c *config, s bench.Updater) (float64, error) {
		list := make([]int, n)
		l := bench.Workload{Goroutines: 1, Pages: c.part(pages), Seed: 1}
		r, err := bench.RunFor(l, c.during(), func(w *bench.Worker) error {
			for i := range list {
				list[i] = w.Page()
			}
			return s.GetMany(list)
		}, nil)
		return r.NanosPerOp(1) / float64(n), err
	}
}

// workLines compare programs that read pages and change them.
func workLines() []*comparison {
	line := func(name, what, unit string, w updaterWork, k cost) *comparison {
		return &comparison{name: name, what: what, unit: unit, ours: w.ours(), rivals: w.rivals(), cost: k}
	}
	memory := cost{8, 5, 6000}
	rmw := line("rmw", "Get and Link of 100 B to 1 KiB pages, 4 goroutines", "op/s", getLink, memory)
	blind := line("blind", "the same without reading: State and Link", "op/s", blindLink, memory)
	frags := line("frags", "the same by Fragments and Link", "op/s", fragsLink, memory)
	replace := line("rmw-replace", "Get and Replace of 1 KiB pages, 4 goroutines", "op/s", getReplace, memory)
	rmw.ratioMin, blind.ratioMin, replace.ratioMin = 2, 3, 4
	lines := []*comparison{
		rmw, blind, frags, replace,
		line("get-wide-1", "Get of a random one of 100 000 resident pages, a Tx each", "ns", getsPerTx(1), memory),
		line("get-wide-64", "… 64 in a Tx", "ns", getsPerTx(txGets), memory),
	}
	for _, k := range []struct {
		name, what string
		least      float64
	}{{"nodes-a", "A: half updates", 1.5}, {"nodes-b", "B: 5 % updates", 2}, {"nodes-c", "C: no updates", 1.5}} {
		w := newLimited(k.name)
		lines = append(lines,
			&comparison{name: k.name, what: "B-tree nodes of 16 KiB, a quarter in cache, zipf 0.99, YCSB " + k.what,
				unit: "op/s", ours: w.ours(rateOfLimited), rivals: w.rivals(rateOfLimited), ratioMin: k.least,
				cost: cost{60, 15, 2500}, run: k.name},
			&comparison{name: k.name + "-read", what: "… read from the disk for each operation", unit: "KiB",
				ours: w.ours(readOfLimited), rivals: w.rivals(readOfLimited), cost: cost{0.5, 0, 1}, run: k.name})
		if k.name == "nodes-a" {
			lines = append(lines, &comparison{name: "nodes-a-space", what: "… space on disk at the end",
				unit: "× live", ours: w.ours(spaceOfLimited), rivals: w.stores(spaceOfLimited), cost: cost{0.5, 0, 1},
				run: k.name})
		}
	}
	for _, k := range []struct{ name, what string }{
		{"rmw-cold", "Get and Link of 1 KB to 16 KiB pages, a quarter of the data in cache, 16 goroutines"},
		{"blind-cold", "the same without reading: State and Link"}} {
		w := newLimited(k.name)
		lines = append(lines, &comparison{name: k.name, what: k.what, unit: "op/s", ours: w.ours(rateOfLimited),
			rivals: w.rivals(rateOfLimited), cost: cost{60, 15, 4000}})
	}
	churn := newLimited("churn")
	return append(lines,
		&comparison{name: "churn", what: "Get and Replace of pages of 100 B to 64 KiB, 256 MiB, 4 goroutines",
			unit: "op/s", ours: churn.ours(rateOfLimited), rivals: churn.rivals(rateOfLimited),
			cost: cost{40, 15, 6000}, run: "churn"},
		&comparison{name: "churn-memory", what: "… anonymous memory of the process at most, all pages resident",
			unit: "× live", ours: churn.ours(anonOfLimited), cost: cost{0.5, 0, 1}, run: "churn"},
		&comparison{name: "churn-space", what: "… space on disk at the end", unit: "× live",
			ours: churn.ours(spaceOfLimited), rivals: churn.stores(spaceOfLimited), cost: cost{0.5, 0, 1},
			run: "churn"})
}

// churnPages returns the number of pages of churn: their mean size is (max − min) / ln(max / min).
func churnPages(c *config) int { return c.part(churnLive / 10098) }

// churnSize draws a size. Its logarithm is uniform.
func churnSize(w interface{ Float64() float64 }) int {
	return int(churnMin * math.Pow(float64(churnMax)/churnMin, w.Float64()))
}

// runChurn replaces pages by others of another size.
func runChurn(c *config, s bench.Updater, dir string) (r limitedResult, err error) {
	count, load := churnPages(c), bench.NewValues(0, churnMax)
	sizes, live := rand.New(rand.NewPCG(1, 1)), 0
	before := anonymous()
	for i := range count {
		n := churnSize(sizes)
		live += n
		if err := s.Replace(i, load.Next()[:n]); err != nil {
			return r, err
		}
	}
	c.settle()
	l := bench.Workload{Goroutines: writers, Pages: count, Value: churnMax, Seed: 1}
	op := func(w *bench.Worker) error { return s.GetReplace(w.Page(), w.Values.Next()[:churnSize(w)]) }
	stop, most := make(chan struct{}), make(chan float64)
	go func() {
		worst := 0.0
		for {
			select {
			case <-stop:
				most <- worst
				return
			case <-time.After(10 * time.Millisecond):
				worst = max(worst, anonymous())
			}
		}
	}()
	got, err := bench.RunFor(l, 2*c.during(), op, s.Flush)
	close(stop)
	r.Anon = (<-most - before) / float64(live)
	if err != nil {
		return r, err
	}
	r.Rate = got.Rate()
	space, err := diskUsage(dir)
	r.Space = space / float64(live)
	return r, err
}

// floorChurn is the floor of churn: the values are written directly to the disk.
func floorChurn(c *config, dir string) (r limitedResult, err error) {
	log, err := bench.NewDirectLog(filepath.Join(dir, "log"), c.space(1<<30)/(8<<20)*(8<<20))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	l := bench.Workload{Goroutines: writers, Pages: churnPages(c), Value: churnMax, Seed: 1}
	op := func(w *bench.Worker) error { return log.Append(w.Values.Next()[:churnSize(w)]) }
	got, err := bench.RunFor(l, 2*c.during(), op, log.Flush)
	r.Rate = got.Rate()
	return r, err
}
