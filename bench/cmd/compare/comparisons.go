package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
)

// group is the comparisons of one kind.
type group struct {
	title string
	lines func() []*comparison
}

// groups are the comparisons by what they measure, in order.
var groups = []group{
	{"Writing", writingLines}, {"In memory", residentLines}, {"Space", spaceLines},
	{"Opening, snapshots and recycled segments", openingLines}, {"Reading", readingLines}, {"Memory", memoryLines},
	{"Reading and then changing", workLines},
}

// comparisons returns the lines of the table, in order. docs/BENCHMARKS.md explains each.
func comparisons() (all []*comparison) {
	for _, g := range slices.Concat(groups, peerGroups) {
		all = append(all, g.lines()...)
	}
	return all
}

// section returns the title of the group of a comparison.
func section(name string) string {
	for _, g := range slices.Concat(groups, peerGroups) {
		if slices.ContainsFunc(g.lines(), func(m *comparison) bool { return m.name == name }) {
			return g.title
		}
	}
	return "Others"
}

// writingLines compare writes and commits.
func writingLines() []*comparison {
	return []*comparison{
		{name: "log-bandwidth", what: "log bandwidth, 4 goroutines that replace 64 KiB pages",
			cost: cost{6, 0, 3500},
			unit: "MB/s", ours: logBandwidth, other: "fio 8 MiB", theirs: fioBandwidth, ratioMin: 0.85},
		{name: "link", what: "Link of 100 B to 1 KiB pages, 4 goroutines",
			cost: cost{3, 1.5, 1500},
			unit: "op/s", ours: ours(link), other: "Pebble Merge NoSync", theirs: pebble(link), oursMin: 1e6,
			ratioMin: 3},
		{name: "replace", what: "Replace of 1 KiB pages, 4 goroutines",
			cost: cost{3, 2, 5000},
			unit: "op/s", ours: ours(replace), other: "Pebble Set NoSync", theirs: pebble(replace), ratioMin: 3},
		{name: "commit-64", what: "durable commit, 64 goroutines",
			cost: cost{3, 2, 1500},
			unit: "op/s", ours: ours(commitMany), other: "Pebble Merge Sync", theirs: pebble(commitMany),
			ratioMin: 1.5},
		{name: "commit-1", what: "durable commit, 1 goroutine, median latency",
			cost: cost{3, 2, 1100},
			unit: "µs", ours: ours(commitOne), other: "fio 4 KiB dsync", theirs: fioLatency, ratioMax: 1.3},
		{name: "commit-1-pebble", what: "the same against Pebble",
			cost: cost{3, 2, 600},
			unit: "µs", ours: ours(commitOne), other: "Pebble Merge Sync", theirs: pebble(commitOne),
			repeats: "commit-1"},
	}
}

// residentLines measure reads of resident pages, and allocations.
func residentLines() []*comparison {
	return []*comparison{
		{name: "get", what: "Get of a resident page",
			cost: cost{1.5, 0.5, 300},
			unit: "ns", ours: getNanos(fewPages, 1), oursMax: 30},
		{name: "get-2", what: "Get, 2 goroutines against 1",
			cost: cost{3, 1, 300},
			unit: "op/s", ours: getRate(2), other: "1 goroutine", theirs: getRate(1), ratioMin: 1.8},
		{name: "control-2", what: "the same for pure computation",
			cost: cost{0.5, 1, 1},
			unit: "op/s", ours: spin(2), other: "1 goroutine", theirs: spin(1)},
		{name: "get-wide", what: "Get of a random one of 100 000 resident pages",
			cost: cost{1.5, 0.5, 300},
			unit: "ns", ours: getNanos(pages, 1)},
		{name: "get-allocs", what: "allocations of a Get",
			cost: cost{1.5, 0, 300},
			unit: "1/op", ours: getAllocs, oursMax: 0.001},
		{name: "tx", what: "Begin + End",
			cost: cost{1.5, 0.5, 300},
			unit: "ns", ours: txNanos, oursMax: 40},
		{name: "tx-allocs", what: "allocations of Begin + End",
			cost: cost{1.5, 0, 300},
			unit: "1/op", ours: txAllocs, oursMax: 0.001},
		{name: "link-allocs", what: "allocations of a Link, with all work it causes",
			cost: cost{2.5, 0, 500},
			unit: "1/op", ours: linkAllocs, oursMax: 3},
	}
}

// spaceLines measure the cost of overwriting in space, bytes written and latency.
func spaceLines() []*comparison {
	uniform, zipf := overwrite(0), overwrite(0.99)
	return []*comparison{
		{name: "space", what: "random overwrites of 4 KiB, 8 times 240 MiB: space in use at the end",
			cost: cost{15, 0, 700},
			unit: "× live", ours: uniform(func(o overwritten) float64 { return o.space }), oursMax: 1.5, run: "space"},
		{name: "space-worst", what: "… at worst",
			cost: cost{0.5, 0, 1},
			unit: "× live", ours: uniform(func(o overwritten) float64 { return o.worst }), oursMax: 1.8, run: "space"},
		{name: "space-write", what: "… bytes written",
			cost: cost{0.5, 0, 1},
			unit: "× given", ours: uniform(func(o overwritten) float64 { return o.write }), oursMax: 2.5, run: "space"},
		{name: "space-p999", what: "… Get and Replace, 99.9 %",
			cost: cost{0.5, 0, 1},
			unit: "ms", ours: uniform(func(o overwritten) float64 { return o.p999 }), oursMax: 10, run: "space"},
		{name: "space-max", what: "… the slowest",
			cost: cost{0.5, 0, 1},
			unit: "ms", ours: uniform(func(o overwritten) float64 { return o.max }), oursMax: 250, run: "space"},
		{name: "space-zipf", what: "the same by zipf 0.99: bytes written",
			cost: cost{15, 0, 700},
			unit: "× given", ours: zipf(func(o overwritten) float64 { return o.write }), oursMax: 1.8},
	}
}

// openingLines measure opening, snapshots and recycled segments.
func openingLines() []*comparison {
	return []*comparison{
		{name: "open", what: "Open to the first Get, 5 000 000 pages of 100 B, closed cleanly, cold",
			cost: cost{15, 0, 1200},
			unit: "ms", ours: opening(5_000_000), oursMax: 300},
		{name: "open-killed", what: "Open after a kill with 1 GiB of log since the snapshot, cold",
			cost: cost{15, 0, 3300},
			unit: "MB/s", ours: openingKilled, other: "fio reading 1 GiB", theirs: fioRead, ratioMin: 0.5},
		{name: "snapshot", what: "Links while snapshots of 2 000 000 pages are written",
			cost: cost{12, 2, 1500},
			unit: "op/s", ours: snapshotting(withSnapshots, 0, rateOf),
			other: "none written", theirs: snapshotting(withoutSnapshots, 0, rateOf), ratioMin: 0.9},
		{name: "snapshot-max", what: "… the slowest Link, with one Link every 50 µs",
			cost: cost{6, 1, 1000},
			unit: "ms", ours: snapshotting(withSnapshots, 50*time.Microsecond, slowestOf), oursMax: 20},
		{name: "steady", what: "overwriting 1 GiB of 64 KiB pages 8 times, 4 goroutines",
			cost: cost{10, 0, 2500},
			unit: "MB/s", ours: steadyBandwidth, other: "fio overwriting", theirs: fioOverwrite, ratioMin: 0.8},
		{name: "commit-recycled", what: "durable commit on recycled segments, 1 goroutine",
			cost: cost{5, 2, 700},
			unit: "µs", ours: commitRecycled, other: "fio overwriting 4 KiB", theirs: fioOverwriteLatency,
			ratioMax: 1.3},
		{name: "open-many", what: "Open to the first Get, 50 000 000 pages against 5 000 000",
			cost: cost{170, 0, 11000},
			unit: "ms", ours: opening(50_000_000), other: "5 000 000", theirs: opening(5_000_000), ratioMax: 2},
	}
}

// readingLines measure reads of pages that are not resident.
func readingLines() []*comparison {
	return []*comparison{
		{name: "cold", what: "Get of 4 KiB pages that are not cached, 64 goroutines",
			cost: cost{18, 2, 2300},
			unit: "op/s", ours: coldGets(64, coldRate), other: "fio 4 KiB, depth 64", theirs: fioRandom, ratioMin: 0.7},
		{name: "cold-faults", what: "the same against page faults of a memory map",
			cost: cost{18, 2, 2300},
			unit: "op/s", ours: coldGets(64, coldRate), other: "plain faults", theirs: coldFaults, ratioMin: 2,
			repeats: "cold"},
		{name: "cold-chains", what: "the same for pages of 1 KiB, each in one message",
			cost: cost{25, 2, 1500},
			unit: "op/s", ours: coldChains(0), other: "in four", theirs: coldChains(3)},
		{name: "cold-1", what: "the same, 1 goroutine, median latency",
			cost: cost{18, 2, 2300},
			unit: "µs", ours: coldGets(1, coldMedian), other: "pread", theirs: coldReads, ratioMax: 1.25},
		{name: "cold-beside", what: "Get of a resident page while 64 goroutines read from disk, 99 %",
			cost: cost{9, 1, 2300},
			unit: "µs", ours: coldBeside, oursMax: 50},
		{name: "warm", what: "Get of a 1 KiB page in the page cache that is not resident",
			cost: cost{2, 1, 64},
			unit: "ns", ours: warmGets(warmPages, nanosOf, evictFirst), oursMax: 700},
		{name: "warm-allocs", what: "… allocations",
			cost: cost{2, 1, 64},
			unit: "1/op", ours: warmGets(warmPages, allocsOf, evictFirst), oursMax: 2},
		{name: "warm-wide", what: "… of one of 200 000, which exceed the processor's caches",
			cost: cost{4, 1, 400},
			unit: "ns", ours: warmGets(widePages, nanosOf, evictFirst)},
		{name: "warm-churn", what: "… while the same number of pages is evicted",
			cost: cost{4, 1, 400},
			unit: "ns", ours: warmGets(widePages, nanosOf, evictChurn)},
	}
}

// memoryLines measure the memory that resident and evicted pages take.
func memoryLines() []*comparison {
	return []*comparison{
		{name: "bounded", what: "1 GiB of 1 KiB pages in 128 MiB, 4 goroutines, a quarter writes: resident at worst",
			cost: cost{8, 5, 3000},
			unit: "× capacity", ours: bounded(func(m memory) float64 { return m.Resident }), oursMax: 1.05},
		{name: "bounded-anon", what: "… anonymous memory; the target is 2 × capacity + 64 MiB",
			cost: cost{8, 5, 3000},
			unit: "MiB", ours: bounded(func(m memory) float64 { return m.Anon }), oursMax: 2*boundedCapacity>>20 + 64},
		{name: "evicted", what: "10 000 000 evicted pages: heap for each",
			cost: cost{25, 10, 2000},
			unit: "B", ours: evicted(func(e evictedCost) float64 { return e.PerPage }), oursMax: 48},
		{name: "evicted-gc", what: "… the collector's share of the processors while resident pages are read",
			cost: cost{25, 10, 2000},
			unit: "%", ours: evicted(func(e evictedCost) float64 { return e.Collector }), oursMax: 3},
	}
}

// printList prints the names of all comparisons. As JSON it prints the facts that abtest needs, one object a line.
func printList(w io.Writer, asJSON bool) error {
	for _, m := range comparisons() {
		if !asJSON {
			fmt.Fprintf(w, "%-16s %s\n", m.name, m.what)
			continue
		}
		line := struct {
			Name    string `json:"name"`
			Unit    string `json:"unit"`
			Higher  bool   `json:"higher"` // a higher figure is better
			Repeats string `json:"repeats"`
			Run     string `json:"run"`
		}{m.name, m.unit, m.higher(), m.repeats, m.run}
		if err := json.NewEncoder(w).Encode(line); err != nil {
			return err
		}
	}
	return nil
}
