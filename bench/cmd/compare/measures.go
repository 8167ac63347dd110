package main

import (
	"context"
	"errors"
	"time"

	"pagecache/bench"
	"pagecache/engine"
)

// Parameters of the comparisons: see docs/BENCHMARKS.md.
const (
	pages     = 100_000
	pageSize  = 1 << 10
	deltaSize = 100
	writers   = 4
	manyComm  = 64 // goroutines of commit-64
	interval  = 500 * time.Millisecond
)

// measure measures a store that holds all pages.
type measure func(c *config, s bench.Store) (float64, error)

// onStore loads s, measures it and closes it.
func onStore(c *config, s bench.Store, m measure) (v float64, err error) {
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := bench.Load(s, c.part(pages), pageSize); err != nil {
		return 0, err
	}
	c.collect()
	return m(c, s)
}

// open opens our store as most comparisons use it.
func open(c *config, dir string) (*bench.Pagecache, error) {
	return bench.OpenPagecache(dir, c.part(pages), engine.Options{FlushEvery: interval})
}

// ours measures m on our store.
func ours(m measure) side {
	return func(_ context.Context, c *config, dir string) (float64, error) {
		s, err := open(c, dir)
		if err != nil {
			return 0, err
		}
		return onStore(c, s, m)
	}
}

// pebble measures m on Pebble.
func pebble(m measure) side {
	return func(_ context.Context, c *config, dir string) (float64, error) {
		s, err := bench.OpenPebble(dir, bench.PeerOptions{})
		if err != nil {
			return 0, err
		}
		return onStore(c, s, m)
	}
}

func rate(r bench.Result, err error) (float64, error) {
	if err != nil {
		return 0, err
	}
	return r.Rate(), nil
}

// link makes the same number of Links on both sides. Links make pages grow, so a side that made more of them in the
// same time would have to handle larger pages.
func link(c *config, s bench.Store) (float64, error) {
	const perSecond = 500_000
	l := bench.Workload{Goroutines: writers, Pages: c.part(pages), Value: deltaSize, Seed: 1}
	op := func(w *bench.Worker) error { return s.Link(w.Page(), w.Values.Next()) }
	return rate(bench.Run(l, int64(c.seconds*perSecond), op, nil))
}

func replace(c *config, s bench.Store) (float64, error) {
	l := bench.Workload{Goroutines: writers, Pages: c.part(pages), Value: pageSize, Seed: 1}
	op := func(w *bench.Worker) error { return s.Replace(w.Page(), w.Values.Next()) }
	return rate(bench.RunFor(l, c.during(), op, nil))
}

func commitMany(c *config, s bench.Store) (float64, error) {
	l := bench.Workload{Goroutines: manyComm, Pages: c.part(pages), Value: deltaSize, Seed: 1}
	op := func(w *bench.Worker) error { return s.Commit(w.Page(), w.Values.Next()) }
	return rate(bench.RunFor(l, c.during(), op, nil))
}

func commitOne(c *config, s bench.Store) (float64, error) {
	l := bench.Workload{Goroutines: 1, Pages: c.part(pages), Value: deltaSize, Seed: 1, Latencies: true}
	op := func(w *bench.Worker) error { return s.Commit(w.Page(), w.Values.Next()) }
	r, err := bench.RunFor(l, c.during(), op, nil)
	return r.Percentile(50) / 1e3, err
}

// logBandwidth does the same as `pcbench run --rw=randwrite --bs=64k --numjobs=4 --size=1g --io_size=3g --end_fsync=1`.
func logBandwidth(_ context.Context, c *config, dir string) (mb float64, err error) {
	const size = 64 << 10
	count := c.part(1 << 30 / size)
	s, err := bench.OpenPagecache(dir, count, engine.Options{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	ops := c.space(c.logMiB<<20) / size
	l := bench.Workload{Goroutines: writers, Pages: count, Value: size, Seed: 1}
	op := func(w *bench.Worker) error { return s.Replace(w.Page(), w.Values.Next()) }
	r, err := bench.Run(l, ops, op, s.Flush)
	return r.Rate() * size / 1e6, err
}

func fioBandwidth(ctx context.Context, c *config, dir string) (float64, error) {
	job, err := fio(ctx, dir, c.space(c.logMiB<<20), "--bs=8m", "--ioengine=io_uring", "--iodepth=2")
	if err != nil {
		return 0, err
	}
	return job.Write.BWBytes / 1e6, nil
}

func fioLatency(ctx context.Context, c *config, dir string) (float64, error) {
	space := c.space(1 << 30)
	job, err := fio(ctx, dir, space, "--bs=4k", "--ioengine=psync", "--iodepth=1", "--runtime="+c.during().String())
	if err != nil {
		return 0, err
	}
	return job.Write.Latency.Percentile["50.000000"] / 1e3, nil
}
