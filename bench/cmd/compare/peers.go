//go:build !abtest

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"pagecache/bench"
	"pagecache/engine"
)

// peerGroups are the comparisons of transactions, and those with other stores and logs than Pebble and fio. abtest does
// not compile them.
var peerGroups = []group{{"Transactions", txLines}, {"Against other stores", peerLines},
	{"Against another log", logLines}}

// Parameters of the comparisons with all peers.
const (
	peerColdPages  = 256 << 10 // of coldPage bytes: 1 GiB
	peerSpaceTurns = 4
	peerOpenPages  = 500_000 // of deltaSize bytes
)

// peerWork measures a store that was loaded with pages.
type peerWork struct {
	pages, size int // of the load
	options     bench.PeerOptions
	cold        bool // the store is closed, the file cache is dropped, and the store is opened again
	// measure returns the figure. If it is nil, the figure is the time of the opening to the first Get, in ms.
	measure func(c *config, s bench.Store, dir string) (float64, error)
}

// ours measures our side.
func (w peerWork) ours(_ context.Context, c *config, dir string) (float64, error) {
	return w.run(c, dir, func(dir string, _ bench.PeerOptions) (bench.Store, error) {
		return bench.OpenKept(dir, c.part(w.pages), engine.Options{FlushEvery: interval})
	})
}

// rivals are the sides of all peers.
func (w peerWork) rivals() (all []rival) {
	for _, p := range bench.Peers() {
		all = append(all, rival{p.Name, func(_ context.Context, c *config, dir string) (float64, error) {
			return w.run(c, dir, p.Open)
		}})
	}
	return all
}

// opener opens a store.
type opener func(dir string, o bench.PeerOptions) (bench.Store, error)

// run loads a store and measures it.
func (w peerWork) run(c *config, dir string, open opener) (v float64, err error) {
	s, err := open(dir, w.options)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := bench.Load(s, c.part(w.pages), w.size); err != nil {
		return 0, err
	}
	if w.cold {
		if err := errors.Join(s.Close(), c.forget()); err != nil {
			s = closed{}
			return 0, err
		}
		c.settle()
		start := time.Now()
		if s, err = open(dir, w.options); err != nil {
			s = closed{}
			return 0, err
		}
		if w.measure == nil { // the opening itself, to the first Get
			_, err := s.Get(c.part(w.pages) / 2)
			return time.Since(start).Seconds() * 1e3, err
		}
	}
	c.settle()
	return w.measure(c, s, dir)
}

// closed stands for a store that is closed already.
type closed struct{ bench.Store }

func (closed) Close() error { return nil }

// peerLines compare with all peers at once.
func peerLines() []*comparison {
	read := peerWork{pages: pages, size: pageSize, measure: peerRead}
	cold := peerWork{pages: peerColdPages, size: coldPage, cold: true, measure: peerCold}
	write := peerWork{pages: pages, size: pageSize, measure: peerReplace,
		options: bench.PeerOptions{Goroutines: writers}}
	commit := peerWork{pages: pages, size: pageSize, measure: peerCommit,
		options: bench.PeerOptions{Goroutines: manyComm, Sync: true}}
	space := peerWork{pages: overwriteLive / overwritePage, size: overwritePage, measure: peerSpace}
	open := peerWork{pages: peerOpenPages, size: deltaSize, cold: true}
	line := func(name, what, unit string, w peerWork, k cost) *comparison {
		return &comparison{name: name, what: what, unit: unit, ours: w.ours, rivals: w.rivals(), cost: k}
	}
	return []*comparison{
		line("peer-read", "Get of a random 1 KiB page, 4 goroutines, all in memory", "op/s", read, cost{25, 5, 700}),
		line("peer-cold", "Get of 4 KiB pages that are not cached, 64 goroutines", "op/s", cold, cost{90, 5, 2600}),
		line("peer-write", "Replace of 1 KiB pages, 4 goroutines, durable later", "op/s", write, cost{25, 5, 8000}),
		line("peer-commit", "durable append of 100 B, 64 goroutines", "op/s", commit, cost{25, 5, 4000}),
		line("peer-space", "240 MiB of 4 KiB pages, overwritten 4 times at random: space on disk", "× live", space,
			cost{90, 0, 2000}),
		line("peer-open", "Open to the first Get, 500 000 pages of 100 B, closed cleanly, cold", "ms", open,
			cost{25, 0, 400}),
	}
}

func peerRead(c *config, s bench.Store, _ string) (float64, error) {
	l := bench.Workload{Goroutines: writers, Pages: c.part(pages), Seed: 1}
	op := func(w *bench.Worker) error { return getWhole(s, w.Page(), pageSize) }
	return rate(bench.RunFor(l, c.during(), op, nil))
}

func peerCold(c *config, s bench.Store, _ string) (float64, error) {
	read := func(i int) error { return getWhole(s, i, coldPage) }
	r, _, err := inParallel(64, c.part(peerColdPages), c.during(), read)
	return r, err
}

// getWhole gets a page, which has size bytes.
func getWhole(s bench.Store, page, size int) error {
	n, err := s.Get(page)
	if err == nil && n != size {
		err = errors.New("a page of another size")
	}
	return err
}

func peerReplace(c *config, s bench.Store, _ string) (float64, error) {
	l := bench.Workload{Goroutines: writers, Pages: c.part(pages), Value: pageSize, Seed: 1}
	op := func(w *bench.Worker) error { return s.Replace(w.Page(), w.Values.Next()) }
	return rate(bench.RunFor(l, c.during(), op, s.Flush))
}

func peerCommit(c *config, s bench.Store, _ string) (float64, error) { return commitMany(c, s) }

// peerSpace overwrites pages, and returns the space that the store's files take on disk, as a multiple of the pages.
func peerSpace(c *config, s bench.Store, dir string) (float64, error) {
	count := c.part(overwriteLive / overwritePage)
	l := bench.Workload{Goroutines: 1, Pages: count, Value: overwritePage, Seed: 1}
	op := func(w *bench.Worker) error { return s.Replace(w.Page(), w.Values.Next()) }
	if _, err := bench.Run(l, int64(count)*peerSpaceTurns, op, s.Flush); err != nil {
		return 0, err
	}
	bytes, err := diskUsage(dir)
	return bytes / (float64(count) * overwritePage), err
}

// Parameters of the comparisons of logs.
const (
	logRecord  = 256
	logBatch   = 64
	logRecords = 1_000_000
)

// logWork measures a log.
type logWork struct {
	fill bool // it holds logRecords records, and is opened again
	cold bool // the file cache is dropped before that
	what func(c *config, open func() (bench.Log, error)) (float64, error)
}

// run fills and measures a log.
func (w logWork) run(c *config, open func() (bench.Log, error)) (float64, error) {
	if w.fill {
		l, err := open()
		if err != nil {
			return 0, err
		}
		batch, many := logRecordsOf(logBatch*16), c.part(logRecords)
		for n := 0; n < many && err == nil; n += len(batch) {
			err = l.Append(batch[:min(len(batch), many-n)])
		}
		if err := errors.Join(err, l.Close()); err != nil {
			return 0, err
		}
	}
	if w.cold {
		if err := c.forget(); err != nil {
			return 0, err
		}
	}
	c.settle()
	return w.what(c, open)
}

// logRecordsOf returns n records.
func logRecordsOf(n int) [][]byte {
	values, batch := bench.NewValues(1, logRecord), make([][]byte, n)
	for i := range batch {
		batch[i] = values.Next()
	}
	return batch
}

func logAppend(c *config, open func() (bench.Log, error)) (float64, error) {
	l, err := open()
	if err != nil {
		return 0, err
	}
	batch, n, start := logRecordsOf(logBatch), 0, time.Now()
	for time.Since(start) < c.during() && err == nil {
		err = l.Append(batch)
		n += len(batch)
	}
	took := time.Since(start)
	return float64(n) / took.Seconds(), errors.Join(err, l.Close())
}

func logScan(c *config, open func() (bench.Log, error)) (float64, error) {
	l, err := open()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	n, err := l.Scan()
	took := time.Since(start)
	if want := c.part(logRecords); err == nil && n != want {
		err = errors.New("another number of records than were written")
	}
	return float64(n) / took.Seconds(), errors.Join(err, l.Close())
}

func logOpen(_ *config, open func() (bench.Log, error)) (float64, error) {
	start := time.Now()
	l, err := open()
	if err != nil {
		return 0, err
	}
	return time.Since(start).Seconds() * 1e3, l.Close()
}

// logLines compare logs.
func logLines() []*comparison {
	line := func(name, what, unit string, w logWork, k cost) *comparison {
		return &comparison{name: name, what: what, unit: unit, cost: k, other: "raft-wal",
			ours: func(_ context.Context, c *config, dir string) (float64, error) {
				return w.run(c, func() (bench.Log, error) { return bench.OpenPagecacheLog(dir) })
			},
			theirs: func(_ context.Context, c *config, dir string) (float64, error) {
				sub := filepath.Join(dir, "wal")
				if err := os.MkdirAll(sub, 0o755); err != nil {
					return 0, err
				}
				return w.run(c, func() (bench.Log, error) { return bench.OpenRaftWAL(sub) })
			}}
	}
	return []*comparison{
		line("log-append", "64 records of 256 B made durable at a time, 1 goroutine", "op/s",
			logWork{what: logAppend}, cost{1, 2, 4000}),
		line("log-scan", "reading 1 000 000 records of 256 B in order, in the file cache", "op/s",
			logWork{fill: true, what: logScan}, cost{10, 0, 700}),
		line("log-open", "opening of a log of 1 000 000 records of 256 B, closed cleanly, cold", "ms",
			logWork{fill: true, cold: true, what: logOpen}, cost{10, 0, 700}),
	}
}

// otherUpdaters are the stores of the comparisons of programs that read pages and change them.
func otherUpdaters() (all []updaterStore) {
	for _, p := range bench.Peers() {
		if p.OpenNodes == nil {
			continue
		}
		all = append(all, updaterStore{p.Name, func(dir string, o bench.PeerOptions) (bench.Updater, error) {
			s, err := p.Open(dir, o)
			if err != nil {
				return nil, err
			}
			return s.(bench.Updater), nil
		}})
	}
	return all
}

// otherNodes are the stores that keep the nodes of a B-tree.
func otherNodes() (all []nodeStore) {
	for _, p := range bench.Peers() {
		if p.OpenNodes != nil {
			all = append(all, nodeStore{p.Name, p.OpenNodes})
		}
	}
	return all
}
