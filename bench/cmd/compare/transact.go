//go:build !abtest

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"

	"pagecache/bench"
	"pagecache/engine"
)

// Parameters of the comparisons of transactions: see docs/BENCHMARKS.md.
const (
	txReads = 4   // pages that a transaction reads
	txLinks = 2   // of these, pages that it changes
	txPage  = 100 // bytes of a page at the beginning
	txDelta = 8
	txZipf  = 0.99
	txView  = 100 // pages that a View reads
)

// txWork is a load of transactions. Lines that take different figures share a run in each round: a new run of a side
// begins when a line asks for its figure again.
type txWork struct {
	name       string
	goroutines int
	durable    bool
	zipf       bool // the popularity of the pages; else it is uniform
	lines      int
	runs       map[string]*txRun // of each side
}

// txRun is a side's run, and the lines that have taken their figures of it.
type txRun struct {
	changed float64 // pages per second
	aborted float64 // percent of the attempts
	used    map[int]bool
}

func changedOf(r *txRun) float64 { return r.changed }
func abortedOf(r *txRun) float64 { return r.aborted }

// line returns a comparison of our transactions with those of the peers that have optimistic or serial ones.
func (t *txWork) line(name, what, unit string, figure func(*txRun) float64) *comparison {
	t.lines++
	m := &comparison{name: name, what: what, unit: unit, cost: cost{8, 3, 3000}, run: t.name}
	if t.lines > 1 {
		m.cost = cost{0.5, 0, 1}
	}
	options := bench.PeerOptions{Sync: t.durable, Goroutines: t.goroutines}
	m.ours = t.side(ourName, figure, func(c *config, dir string) (bench.Store, error) {
		return bench.OpenPagecache(dir, c.part(pages), engine.Options{FlushEvery: interval})
	})
	for _, p := range bench.Peers() {
		if p.Name != "Badger" && p.Name != "bbolt" {
			continue
		}
		open := func(_ *config, dir string) (bench.Store, error) { return p.Open(dir, options) }
		m.rivals = append(m.rivals, rival{p.Name, t.side(p.Name, figure, open)})
	}
	return m
}

// side is the side of a store in the line that was made last.
func (t *txWork) side(store string, figure func(*txRun) float64,
	open func(c *config, dir string) (bench.Store, error)) side {
	line := t.lines
	return func(_ context.Context, c *config, dir string) (float64, error) {
		run := t.runs[store]
		if run == nil || run.used[line] {
			s, err := open(c, dir)
			if err != nil {
				return 0, err
			}
			if run, err = t.measure(c, s.(bench.Transactor)); err != nil {
				return 0, err
			}
			t.runs[store] = run
			fmt.Fprintf(os.Stderr, "  %s, %s: %.0f changed pages/s, %.2f %% of the attempts aborted\n", t.name, store,
				run.changed, run.aborted)
		}
		run.used[line] = true
		return figure(run), nil
	}
}

// txJob is the transactions of one goroutine.
type txJob struct {
	bench.Transaction
	draw                func() int // nil: uniform
	attempts, conflicts int
	_                   [64]byte // the next one belongs to another goroutine
}

// next sets the pages of the next transaction, which differ.
func (j *txJob) next(w *bench.Worker) {
	draw := j.draw
	if draw == nil {
		draw = w.Page
	}
	for n := range j.Pages {
		page := draw()
		for slices.Contains(j.Pages[:n], page) {
			page = draw()
		}
		j.Pages[n] = page
	}
	j.Delta = w.Values.Next()
}

// measure loads a store, measures it and closes it.
func (t *txWork) measure(c *config, s bench.Transactor) (run *txRun, err error) {
	defer func() { err = errors.Join(err, s.Close()) }()
	count := c.part(pages)
	if err := bench.Load(s, count, txPage); err != nil {
		return nil, err
	}
	jobs := make([]txJob, t.goroutines)
	popular := popularPages(count)
	for i := range jobs {
		jobs[i].Pages, jobs[i].Links, jobs[i].Durable = make([]int, txReads), txLinks, t.durable
		if t.zipf {
			jobs[i].draw = popular(uint64(i))
		}
	}
	c.collect()
	l := bench.Workload{Goroutines: t.goroutines, Pages: count, Value: txDelta, Seed: 1}
	r, err := bench.RunFor(l, c.during(), func(w *bench.Worker) error {
		j := &jobs[w.Number]
		j.next(w)
		n, err := s.Transact(&j.Transaction)
		j.attempts, j.conflicts = j.attempts+n+1, j.conflicts+n
		return err
	}, nil)
	if err != nil {
		return nil, err
	}
	run = &txRun{changed: r.Rate() * txLinks, used: map[int]bool{}}
	attempts, conflicts := 0, 0
	for i := range jobs {
		attempts, conflicts = attempts+jobs[i].attempts, conflicts+jobs[i].conflicts
	}
	run.aborted = 100 * float64(conflicts) / float64(max(attempts, 1))
	return run, nil
}

// popularPages returns a constructor of sources of pages by zipf. The popular ones are spread over all pages, and are
// the same for all sources.
func popularPages(count int) func(seed uint64) func() int {
	zipf := bench.NewZipfian(rand.New(rand.NewPCG(0, 0)), txZipf, count)
	return func(seed uint64) func() int {
		const scatter = 0x9e3779b97f4a7c15
		z := zipf.For(rand.New(rand.NewPCG(seed, 5)))
		return func() int { return int(uint64(z.Next()) * scatter % uint64(count)) }
	}
}

// viewMicros measures the time of reading txView random ones of all pages, which are resident, by read.
func viewMicros(read func(s *bench.Pagecache, list []int) error) side {
	return func(_ context.Context, c *config, dir string) (float64, error) {
		return onResident(c, dir, func(s *bench.Pagecache, ids []engine.PageID) (float64, error) {
			list := make([]int, txView)
			l := bench.Workload{Goroutines: 1, Pages: len(ids), Seed: 1}
			r, err := bench.RunFor(l, c.during(), func(w *bench.Worker) error {
				for i := range list {
					list[i] = w.Page()
				}
				return read(s, list)
			}, nil)
			return r.NanosPerOp(1) / 1e3, err
		})
	}
}

// txLines compare transactions.
func txLines() []*comparison {
	const changed, aborted = "pages/s", "%"
	work := func(w txWork) *txWork {
		w.runs = map[string]*txRun{}
		return &w
	}
	uniform := work(txWork{name: "tx-2of4", goroutines: writers})
	durable := work(txWork{name: "tx-2of4-durable", goroutines: manyComm, durable: true})
	zipf := work(txWork{name: "tx-2of4-zipf", goroutines: writers, zipf: true})
	crowd := work(txWork{name: "tx-2of4-zipf-64", goroutines: manyComm, durable: true, zipf: true})
	lines := []*comparison{
		uniform.line("tx-2of4", "transactions that read 4 of 100 000 pages and link to 2, 4 goroutines: changed pages",
			changed, changedOf),
		durable.line("tx-2of4-durable", "the same, durable, 64 goroutines", changed, changedOf),
		zipf.line("tx-2of4-zipf", "the same by zipf 0.99, not durable, 4 goroutines", changed, changedOf),
		zipf.line("tx-2of4-zipf-aborts", "… attempts that are aborted", aborted, abortedOf),
		crowd.line("tx-2of4-zipf-64", "the same, durable, 64 goroutines", changed, changedOf),
		crowd.line("tx-2of4-zipf-64-aborts", "… attempts that are aborted", aborted, abortedOf),
		{name: "view-100", what: "View of 100 random ones of 100 000 resident pages", unit: "µs", cost: cost{3, 2, 600},
			ours: viewMicros((*bench.Pagecache).View), other: "100 Gets in a Tx",
			theirs: viewMicros((*bench.Pagecache).GetMany), ratioMax: 1.3},
	}
	for _, i := range []int{3, 5} { // bbolt aborts none
		lines[i].rivals = slices.DeleteFunc(lines[i].rivals, func(r rival) bool { return r.name == "bbolt" })
	}
	lines[0].oursMin = 600_000
	lines[0].atLeast = []atLeast{{"Badger", 5}, {"bbolt", 20}}
	lines[1].atLeast = []atLeast{{"Badger", 3}, {"bbolt", 20}}
	lines[2].atLeast = []atLeast{{"Badger", 3}}
	lines[4].atLeast = []atLeast{{"Badger", 3}}
	return lines
}
