package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"pagecache/bench"
	"pagecache/engine"
)

// Parameters of overwriting: random pages are read and replaced until overwriteTurns times the live data has been
// written.
const (
	overwritePage    = 4 << 10
	overwriteLive    = 240 << 20
	overwriteTurns   = 8
	overwriteSegment = 1 << 20
)

// overwritten is the outcome of overwriting.
type overwritten struct {
	space, worst, file float64 // slots in use at the end and at worst, and the file, as multiples of the live data
	write              float64 // bytes written to the device, as a multiple of the bytes replaced
	p999, max          float64 // ms, of Get and Replace
	rate               float64 // operations per second
}

// overwrite returns a constructor of sides that share one run a round: a new run begins when a side asks for its
// figure again.
func overwrite(theta float64) func(figure func(overwritten) float64) side {
	var last overwritten
	used := map[int]bool{} // sides that have taken their figure of last
	next := 0
	return func(figure func(overwritten) float64) side {
		id := next
		next++
		return func(ctx context.Context, c *config, dir string) (float64, error) {
			if len(used) == 0 || used[id] {
				o, err := overwriteOnce(ctx, c, dir, theta)
				if err != nil {
					return 0, err
				}
				last = o
				clear(used)
			}
			used[id] = true
			return figure(last), nil
		}
	}
}

// overwriteOnce measures one run, in which pages are drawn by zipf with exponent theta, or uniformly if theta is 0.
func overwriteOnce(ctx context.Context, c *config, dir string, theta float64) (o overwritten, err error) {
	count := c.part(overwriteLive / overwritePage)
	s, err := bench.OpenPagecache(dir, count, engine.Options{SegmentSize: overwriteSegment})
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := bench.Load(s, count, overwritePage); err != nil {
		return o, err
	}
	rng := rand.New(rand.NewPCG(1, 2))
	page := func() int { return rng.IntN(count) }
	if theta > 0 {
		z := bench.NewZipfian(rng, theta, count)
		const scatter = 0x9e3779b97f4a7c15
		page = func() int { return int(uint64(z.Next()) * scatter % uint64(count)) }
	}
	before := s.PC.Stats()
	l := bench.Workload{Goroutines: 1, Pages: count, Value: overwritePage, Seed: 1, Latencies: true}
	stop := make(chan struct{})
	worst := make(chan float64)
	go watchSpace(s, float64(count)*overwritePage, stop, worst)
	r, err := bench.Run(l, int64(count)*overwriteTurns, func(w *bench.Worker) error {
		i := page()
		if _, err := s.Get(i); err != nil {
			return err
		}
		return s.Replace(i, w.Values.Next())
	}, nil)
	close(stop)
	o.worst = <-worst
	if err != nil {
		return o, err
	}
	st := s.PC.Stats()
	live := float64(count) * overwritePage
	o.space = float64(st.Space.SegmentsInUse) * overwriteSegment / live
	o.file = float64(st.Space.Segments) * overwriteSegment / live
	o.write = float64(st.Log.BytesWritten-before.Log.BytesWritten) / (live * overwriteTurns)
	o.p999, o.max, o.rate = r.Percentile(99.9)/1e6, r.Percentile(100)/1e6, r.Rate()
	fmt.Fprintf(os.Stderr, "  overwriting, theta %v: %+v\n", theta, o)
	return o, nil
}

// watchSpace samples the slots in use every 20 ms until stop is closed, and then sends the largest number, as a
// multiple of the live data.
func watchSpace(s *bench.Pagecache, live float64, stop <-chan struct{}, worst chan<- float64) {
	largest := 0
	for {
		select {
		case <-stop:
			worst <- float64(largest) * overwriteSegment / live
			return
		case <-time.After(20 * time.Millisecond):
			largest = max(largest, s.PC.Stats().Space.SegmentsInUse)
		}
	}
}

// steadyBandwidth does the same as `pcbench run --rw=write --bs=64k --numjobs=4 --size=1g --io_size=8g
// --end_fsync=1`. Most of the writes go to recycled segments.
func steadyBandwidth(_ context.Context, c *config, dir string) (mb float64, err error) {
	const size, turns = 64 << 10, 8
	count := c.part(1<<30/size) / writers * writers
	s, err := bench.OpenPagecache(dir, count, engine.Options{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	l := bench.Workload{Goroutines: writers, Pages: count, Value: size, Seed: 1}
	share := count / writers
	var at [writers]int // each goroutine cycles through its share of the pages
	r, err := bench.Run(l, int64(count)*turns, func(w *bench.Worker) error {
		at[w.Number]++
		return s.Replace(w.Number*share+at[w.Number]%share, w.Values.Next())
	}, s.Flush)
	return r.Rate() * size / 1e6, err
}

// fioOverwrite returns the bandwidth of fio overwriting a file that was written before.
func fioOverwrite(ctx context.Context, c *config, dir string) (float64, error) {
	size := c.space(1 << 30)
	if _, err := fio(ctx, dir, size, "--bs=8m", "--ioengine=io_uring", "--iodepth=2"); err != nil {
		return 0, err
	}
	job, err := fioAgain(ctx, dir, size, "--bs=8m", "--ioengine=io_uring", "--iodepth=2",
		fmt.Sprintf("--io_size=%d", 8*size))
	if err != nil {
		return 0, err
	}
	return job.Write.BWBytes / 1e6, nil
}

// commitRecycled returns the median latency of a durable commit in a store whose segments were recycled.
func commitRecycled(_ context.Context, c *config, dir string) (us float64, err error) {
	count := c.part(pages)
	s, err := bench.OpenPagecache(dir, count, engine.Options{SegmentSize: overwriteSegment, FlushEvery: interval})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := bench.Load(s, count, pageSize); err != nil {
		return 0, err
	}
	age := bench.Workload{Goroutines: 1, Pages: count, Value: pageSize, Seed: 2}
	op := func(w *bench.Worker) error { return s.Replace(w.Page(), w.Values.Next()) }
	if _, err := bench.Run(age, int64(5*count), op, s.Flush); err != nil {
		return 0, err
	}
	return commitOne(c, s)
}

// fioOverwriteLatency returns the median latency of fio overwriting a file that was written before.
func fioOverwriteLatency(ctx context.Context, c *config, dir string) (float64, error) {
	size := c.space(256 << 20)
	if _, err := fio(ctx, dir, size, "--bs=8m", "--ioengine=io_uring", "--iodepth=2"); err != nil {
		return 0, err
	}
	job, err := fioAgain(ctx, dir, size, "--bs=4k", "--ioengine=psync", "--iodepth=1", "--time_based",
		"--runtime="+c.during().String())
	if err != nil {
		return 0, err
	}
	return job.Write.Latency.Percentile["50.000000"] / 1e3, nil
}

// snapshotPages is the number of pages of the store. It is large, so that writing a snapshot takes a while.
const snapshotPages = 2_000_000

const (
	withSnapshots    = true  // snapshots are written one after another while snapshotting measures
	withoutSnapshots = false // no snapshot is written meanwhile
)

// linkFigure chooses a figure of a run of Links: its result, and the slowest Link.
type linkFigure func(r bench.Result, slowest time.Duration) float64

// snapshotting measures Links by two goroutines, each of which pauses after each Link.
func snapshotting(snapshots bool, pause time.Duration, figure linkFigure) side {
	return func(_ context.Context, c *config, dir string) (v float64, err error) {
		count := c.part(snapshotPages)
		s, err := bench.OpenPagecache(dir, count, engine.Options{FlushEvery: interval})
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		if err := bench.Load(s, count, deltaSize); err != nil {
			return 0, err
		}
		c.settle()
		var stop atomic.Bool
		done := make(chan error, 1)
		go func() {
			var err error
			for snapshots && err == nil && !stop.Load() {
				err = s.PC.Snapshot()
			}
			done <- err
		}()
		l := bench.Workload{Goroutines: 2, Pages: count, Value: deltaSize, Seed: 1}
		var slowest [2]time.Duration
		r, err := bench.RunFor(l, c.during(), func(w *bench.Worker) error {
			start := time.Now()
			err := s.Link(w.Page(), w.Values.Next())
			slowest[w.Number] = max(slowest[w.Number], time.Since(start))
			time.Sleep(pause)
			return err
		}, nil)
		stop.Store(true)
		err = errors.Join(err, <-done)
		worst := max(slowest[0], slowest[1])
		fmt.Fprintf(os.Stderr, "  snapshots %v: %d written, %.0f Links/s, slowest %v\n",
			snapshots, s.PC.Stats().Snapshots, r.Rate(), worst)
		return figure(r, worst), err
	}
}

func rateOf(r bench.Result, _ time.Duration) float64 { return r.Rate() }

func slowestOf(_ bench.Result, slowest time.Duration) float64 { return float64(slowest) / 1e6 }

// diskUsage returns the bytes that the files below dir take on disk. Holes take none.
func diskUsage(dir string) (bytes float64, err error) {
	const block = 512 // the unit of Blocks, whatever the file system's is
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += float64(s.Blocks) * block
		}
		return nil
	})
	return bytes, err
}
