package main

import (
	"context"
	"runtime"
	"time"

	"pagecache/bench"
	"pagecache/engine"
)

// What the comparisons are made with: see docs/BENCHMARKS.md.
const (
	pages     = 100_000
	pageSize  = 1 << 10
	deltaSize = 100
	writers   = 4
	manyComm  = 64
	interval  = 500 * time.Millisecond
)

// comparisons are the lines of the table.
func comparisons() []*comparison {
	uniform, zipf := overwrite(0), overwrite(0.99)
	return []*comparison{
		{name: "log-bandwidth", what: "log bandwidth, 4 goroutines replacing 64 KiB pages", unit: "MB/s", ours: logBandwidth, other: "fio 8 MiB", theirs: fioBandwidth, ratioMin: 0.85},
		{name: "link", what: "Link of 100 B to 1 KiB pages, 4 goroutines", unit: "op/s", ours: ours(link), other: "Pebble Merge NoSync", theirs: pebble(link), oursMin: 1e6, ratioMin: 3},
		{name: "replace", what: "Replace of 1 KiB pages, 4 goroutines", unit: "op/s", ours: ours(replace), other: "Pebble Set NoSync", theirs: pebble(replace), ratioMin: 3},
		{name: "commit-64", what: "durable commit, 64 goroutines", unit: "op/s", ours: ours(commitMany), other: "Pebble Merge Sync", theirs: pebble(commitMany), ratioMin: 1.5},
		{name: "commit-1", what: "durable commit, 1 goroutine, median latency", unit: "µs", ours: ours(commitOne), other: "fio 4 KiB dsync", theirs: fioLatency, ratioMax: 1.3},
		{name: "commit-1-pebble", what: "the same against Pebble", unit: "µs", ours: ours(commitOne), other: "Pebble Merge Sync", theirs: pebble(commitOne)},
		{name: "get", what: "Get of a resident page", unit: "ns", ours: getNanos(fewPages, 1), oursMax: 30},
		{name: "get-2", what: "Get, 2 goroutines against 1", unit: "op/s", ours: getRate(2), other: "1 goroutine", theirs: getRate(1), ratioMin: 1.8},
		{name: "control-2", what: "the same for pure computation", unit: "op/s", ours: spin(2), other: "1 goroutine", theirs: spin(1)},
		{name: "get-wide", what: "Get of one of 100 000 resident pages at random", unit: "ns", ours: getNanos(pages, 1)},
		{name: "get-allocs", what: "allocations for a Get", unit: "1/op", ours: getAllocs, oursMax: 0.001},
		{name: "tx", what: "Begin + End", unit: "ns", ours: txNanos, oursMax: 40},
		{name: "tx-allocs", what: "allocations for Begin + End", unit: "1/op", ours: txAllocs, oursMax: 0.001},
		{name: "link-allocs", what: "allocations for a Link, all in", unit: "1/op", ours: linkAllocs, oursMax: 3},
		{name: "space", what: "random overwrites of 4 KiB, 8 times 240 MiB: space in use at the end", unit: "× live", ours: uniform(func(o overwritten) float64 { return o.space }), oursMax: 1.5},
		{name: "space-worst", what: "… at its worst", unit: "× live", ours: uniform(func(o overwritten) float64 { return o.worst }), oursMax: 1.8},
		{name: "space-write", what: "… bytes written", unit: "× given", ours: uniform(func(o overwritten) float64 { return o.write }), oursMax: 2.5},
		{name: "space-p999", what: "… Get and Replace, 99.9 %", unit: "ms", ours: uniform(func(o overwritten) float64 { return o.p999 }), oursMax: 10},
		{name: "space-max", what: "… the slowest", unit: "ms", ours: uniform(func(o overwritten) float64 { return o.max }), oursMax: 250},
		{name: "space-zipf", what: "the same by zipf 0.99: bytes written", unit: "× given", ours: zipf(func(o overwritten) float64 { return o.write }), oursMax: 1.8},
		{name: "open", what: "Open to the first Get, 5 000 000 pages of 100 B, closed cleanly, cold", unit: "ms", ours: opening(5_000_000), oursMax: 300},
		{name: "open-killed", what: "Open after a kill with 1 GiB of log since the snapshot, cold", unit: "MB/s", ours: openingKilled, other: "fio reading 1 GiB", theirs: fioRead, ratioMin: 0.5},
		{name: "snapshot", what: "Links while snapshots of 2 000 000 pages are written", unit: "op/s", ours: snapshotting(true, 0, rateOf), other: "none written", theirs: snapshotting(false, 0, rateOf), ratioMin: 0.9},
		{name: "snapshot-max", what: "… the slowest Link of those that come every 50 µs", unit: "ms", ours: snapshotting(true, 50*time.Microsecond, slowestOf), oursMax: 20},
		{name: "steady", what: "overwriting 1 GiB of 64 KiB pages 8 times, 4 goroutines", unit: "MB/s", ours: steadyBandwidth, other: "fio overwriting", theirs: fioOverwrite, ratioMin: 0.8},
		{name: "commit-recycled", what: "durable commit on recycled segments, 1 goroutine", unit: "µs", ours: commitRecycled, other: "fio overwriting 4 KiB", theirs: fioOverwriteLatency, ratioMax: 1.3},
		{name: "open-many", what: "Open to the first Get, 50 000 000 pages against 5 000 000", unit: "ms", ours: opening(50_000_000), other: "5 000 000", theirs: opening(5_000_000), ratioMax: 2},
		{name: "cold", what: "Get of pages of 4 KiB that nothing has cached, 64 goroutines", unit: "op/s", ours: coldGets(64, coldRate), other: "fio 4 KiB, depth 64", theirs: fioRandom, ratioMin: 0.7},
		{name: "cold-faults", what: "the same against faults through a map", unit: "op/s", ours: coldGets(64, coldRate), other: "plain faults", theirs: coldFaults, ratioMin: 2},
		{name: "cold-chains", what: "the same of pages of 1 KiB, each in one message", unit: "op/s", ours: coldChains(0), other: "in four", theirs: coldChains(3)},
		{name: "cold-1", what: "the same, 1 goroutine, median latency", unit: "µs", ours: coldGets(1, coldMedian), other: "pread", theirs: coldReads, ratioMax: 1.25},
		{name: "cold-beside", what: "Get of a resident page while 64 goroutines read cold, 99 %", unit: "µs", ours: coldBeside, oursMax: 50},
		{name: "warm", what: "Get of a page of 1 KiB in the page cache", unit: "ns", ours: warmGets(warmPages, nanosOf, false), oursMax: 700},
		{name: "warm-allocs", what: "… allocations", unit: "1/op", ours: warmGets(warmPages, allocsOf, false), oursMax: 2},
		{name: "warm-wide", what: "… of one of 200 000, which are more than the processor's caches hold", unit: "ns", ours: warmGets(widePages, nanosOf, false)},
		{name: "warm-churn", what: "… while as much is paged out", unit: "ns", ours: warmGets(widePages, nanosOf, true)},
		{name: "bounded", what: "1 GiB of 1 KiB pages in 128 MiB, 4 goroutines, a quarter writes: resident at worst", unit: "× capacity", ours: bounded(func(m memory) float64 { return m.Resident }), oursMax: 1.05},
		{name: "bounded-anon", what: "… anonymous memory, above which 2 × capacity + 64 MiB are allowed", unit: "MiB", ours: bounded(func(m memory) float64 { return m.Anon }), oursMax: 2*boundedCapacity>>20 + 64},
		{name: "evicted", what: "10 000 000 pages, all paged out: heap for each", unit: "B", ours: evicted(func(e afterwards) float64 { return e.PerPage }), oursMax: 48},
		{name: "evicted-gc", what: "… the collector's part of the processors while resident pages are read", unit: "%", ours: evicted(func(e afterwards) float64 { return e.Collector }), oursMax: 3},
	}
}

// measure is a measurement on a store that holds all pages.
type measure func(c *config, s bench.Store) (float64, error)

func onStore(c *config, s bench.Store, m measure) (v float64, err error) {
	defer func() {
		if cerr := s.Close(); err == nil {
			err = cerr
		}
	}()
	if err := bench.Load(s, pages, pageSize); err != nil {
		return 0, err
	}
	runtime.GC()
	return m(c, s)
}

func open(dir string) (*bench.Pagecache, error) {
	return bench.OpenPagecache(dir, pages, engine.Options{FlushEvery: interval})
}

func ours(m measure) side {
	return func(_ context.Context, c *config, dir string) (float64, error) {
		s, err := open(dir)
		if err != nil {
			return 0, err
		}
		return onStore(c, s, m)
	}
}

func pebble(m measure) side {
	return func(_ context.Context, c *config, dir string) (float64, error) {
		s, err := bench.OpenPebble(dir)
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

// link does the same number of Links on both sides: pages grow by them, and a side that did more in the same time would
// have to deal with larger ones.
func link(c *config, s bench.Store) (float64, error) {
	const perSecond = 500_000
	l := bench.Workload{Goroutines: writers, Pages: pages, Value: deltaSize, Seed: 1}
	return rate(bench.Run(l, int64(c.seconds*perSecond), func(w *bench.Worker) error { return s.Link(w.Page(), w.Values.Next()) }, nil))
}

func replace(c *config, s bench.Store) (float64, error) {
	l := bench.Workload{Goroutines: writers, Pages: pages, Value: pageSize, Seed: 1}
	return rate(bench.RunFor(l, c.during(), func(w *bench.Worker) error { return s.Replace(w.Page(), w.Values.Next()) }, nil))
}

func commitMany(c *config, s bench.Store) (float64, error) {
	l := bench.Workload{Goroutines: manyComm, Pages: pages, Value: deltaSize, Seed: 1}
	return rate(bench.RunFor(l, c.during(), func(w *bench.Worker) error { return s.Commit(w.Page(), w.Values.Next()) }, nil))
}

func commitOne(c *config, s bench.Store) (float64, error) {
	l := bench.Workload{Goroutines: 1, Pages: pages, Value: deltaSize, Seed: 1, Latencies: true}
	r, err := bench.RunFor(l, c.during(), func(w *bench.Worker) error { return s.Commit(w.Page(), w.Values.Next()) }, nil)
	return r.Percentile(50) / 1e3, err
}

// logBandwidth is `pcbench run --rw=randwrite --bs=64k --numjobs=4 --size=1g --io_size=3g --end_fsync=1`.
func logBandwidth(_ context.Context, c *config, dir string) (mb float64, err error) {
	const size, count = 64 << 10, 1 << 30 / (64 << 10)
	s, err := bench.OpenPagecache(dir, count, engine.Options{})
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := s.Close(); err == nil {
			err = cerr
		}
	}()
	ops := c.logMiB << 20 / size
	l := bench.Workload{Goroutines: writers, Pages: count, Value: size, Seed: 1}
	r, err := bench.Run(l, ops, func(w *bench.Worker) error { return s.Replace(w.Page(), w.Values.Next()) }, s.Flush)
	return r.Rate() * size / 1e6, err
}

func fioBandwidth(ctx context.Context, c *config, dir string) (float64, error) {
	const engineName = "io_uring"
	job, err := fio(ctx, dir, c.logMiB<<20, "--bs=8m", "--ioengine="+engineName, "--iodepth=2")
	if err != nil {
		return 0, err
	}
	return job.Write.BWBytes / 1e6, nil
}

func fioLatency(ctx context.Context, c *config, dir string) (float64, error) {
	const space = 1 << 30
	job, err := fio(ctx, dir, space, "--bs=4k", "--ioengine=psync", "--iodepth=1", "--runtime="+c.during().String())
	if err != nil {
		return 0, err
	}
	return job.Write.Latency.Percentile["50.000000"] / 1e3, nil
}
