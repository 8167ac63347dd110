package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"time"

	"pagecache/bench"
	"pagecache/engine"
)

// children are the measurements of memory, by name. Each runs in a process of its own, since a process keeps the
// memory that it once had. The process prints the result as JSON.
var children = map[string]func(c *config, dir string) (any, error){
	"bounded": func(c *config, dir string) (any, error) { return runBounded(c, dir) },
	"evicted": func(c *config, dir string) (any, error) { return runEvicted(c, dir) },
}

// inChild runs the named child and decodes its output into v.
func inChild(ctx context.Context, c *config, name, dir string, v any) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, "--child", name, "--dir", dir, "--seconds", fmt.Sprint(c.seconds),
		"--divide", fmt.Sprint(max(c.divide, 1)))
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("run child %s: %w", name, err)
	}
	out := childOutput{Value: v}
	if err := json.Unmarshal(text, &out); err != nil {
		return fmt.Errorf("run child %s: %w", name, err)
	}
	if out.Skipped != "" {
		return errSkip(out.Skipped)
	}
	c.shares = out.Shares
	return nil
}

// childOutput is what a child prints as JSON.
type childOutput struct {
	Value   any
	Shares  bench.Shares
	Skipped string // the reason, if this machine cannot measure it
}

// runChild is the main function of a child.
func runChild(c *config, name string) error {
	f := children[name]
	if f == nil {
		f = limitedChild(name)
	}
	if f == nil {
		return fmt.Errorf("no child %q", name)
	}
	c.sampler = &bench.Sampler{}
	c.sampler.Restart()
	v, err := f(c, filepath.Join(c.dir, "store"))
	out := childOutput{Value: v, Shares: c.sampler.Stop()}
	var skip errSkip
	if errors.As(err, &skip) {
		out.Skipped, err = string(skip), nil
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

const (
	boundedCapacity = 128 << 20
	boundedPages    = 1 << 20
	boundedSeconds  = 5 // length of the measurement, as a multiple of --seconds
)

// memory is the largest memory use of a bounded store.
type memory struct {
	Resident float64 // in multiples of the capacity
	Anon     float64 // MiB
	Rate     float64 // operations per second
}

// bounded measures the memory of a store that is much larger than its cache capacity.
func bounded(figure func(memory) float64) side {
	return func(ctx context.Context, c *config, dir string) (float64, error) {
		var m memory
		err := inChild(ctx, c, "bounded", dir, &m)
		fmt.Fprintf(os.Stderr, "  bounded: %+v\n", m)
		return figure(m), err
	}
}

// runBounded reads random pages and replaces every fourth of them.
func runBounded(c *config, dir string) (m memory, err error) {
	capacity := int64(c.part(boundedCapacity))
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{CacheCapacity: capacity})
	if err != nil {
		return m, err
	}
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			st := pc.Stats()
			resident := st.Cache.HeapResident + st.Cache.SlabResident + st.Cache.MappedResident
			m.Resident = max(m.Resident, float64(resident)/float64(capacity))
			m.Anon = max(m.Anon, anonymous()/(1<<20))
		}
	}()
	count := c.part(boundedPages)
	err = fillPages(pc, count, pageSize)
	l := bench.Workload{Goroutines: writers, Pages: count, Value: pageSize, Seed: 3}
	if err == nil {
		var r bench.Result
		var turn [writers]int
		r, err = bench.RunFor(l, boundedSeconds*c.during(), func(w *bench.Worker) error {
			turn[w.Number]++
			return getOrReplace(pc, engine.FirstUserPage+engine.PageID(w.Page()), w, turn[w.Number]%4 == 0)
		}, nil)
		m.Rate = r.Rate()
	}
	close(stop)
	<-watched
	fmt.Fprintf(os.Stderr, "  %+v\n", pc.Stats().Cache.Policy)
	return m, errors.Join(err, pc.Close())
}

// getOrReplace reads a page and, if write is set, replaces it.
func getOrReplace(pc *engine.PageCache[[]byte], pid engine.PageID, w *bench.Worker, write bool) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	p, err := pc.Get(tx, pid)
	if err != nil || !write {
		return err
	}
	value := append([]byte(nil), w.Values.Next()...) // a database has memory of its own for each page, too
	_, _, err = pc.Replace(tx, pid, p.Ptr, value)
	return err
}

// anonymous returns the anonymous memory of this process in bytes, or 0 if the kernel does not report it.
func anonymous() float64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		var kb float64
		if _, err := fmt.Sscanf(line, "RssAnon: %f kB", &kb); err == nil {
			return kb * 1024
		}
	}
	return 0
}

const evictedPages = 10_000_000

// evictedCost is the cost of evicted pages.
type evictedCost struct {
	PerPage   float64 // bytes of heap for each page
	Collector float64 // percent of the processor time that the garbage collector used
	Cycles    float64 // of the collector
	Gets      float64 // per second
}

// evicted measures the cost of pages that are evicted.
func evicted(figure func(evictedCost) float64) side {
	return func(ctx context.Context, c *config, dir string) (float64, error) {
		var e evictedCost
		err := inChild(ctx, c, "evicted", dir, &e)
		fmt.Fprintf(os.Stderr, "  evicted: %+v\n", e)
		return figure(e), err
	}
}

// runEvicted makes pages, evicts all of them, and then reads a few thousand of them again and again.
func runEvicted(c *config, dir string) (e evictedCost, err error) {
	const few, capacity = 10_000, 32 << 20
	before := heapBytes()
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{CacheCapacity: capacity})
	if err != nil {
		return e, err
	}
	count := c.part(evictedPages)
	if err := errors.Join(fillPages(pc, count, deltaSize), pc.SetCacheCapacity(1)); err != nil {
		return e, errors.Join(err, pc.Close())
	}
	if _, err := pc.Flush(); err != nil {
		return e, errors.Join(err, pc.Close())
	}
	for n := 0; pc.Stats().Cache.HeapResident > 1<<20 && n < 1000; n++ {
		time.Sleep(10 * time.Millisecond)
	}
	e.PerPage = (heapBytes() - before) / float64(count)
	st := pc.Stats()
	fmt.Fprintf(os.Stderr, "  %d bytes resident after evicting all, %d evictions\n",
		st.Cache.HeapResident+st.Cache.MappedResident, st.Cache.Evictions)
	if err := pc.SetCacheCapacity(capacity); err != nil {
		return e, errors.Join(err, pc.Close())
	}
	samples := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/total:cpu-seconds"},
		{Name: "/gc/cycles/total:gc-cycles"}}
	read := func() (v [3]float64) {
		runtime.GC() // updates the samples
		metrics.Read(samples)
		return [3]float64{samples[0].Value.Float64(), samples[1].Value.Float64(), float64(samples[2].Value.Uint64())}
	}
	was := read()
	l := bench.Workload{Goroutines: 2, Pages: min(few, count), Value: deltaSize, Seed: 3}
	r, err := bench.RunFor(l, 2*boundedSeconds*c.during(), func(w *bench.Worker) error {
		return getOnce(pc, w.Page(), deltaSize)
	}, nil)
	now := read()
	e.Collector, e.Cycles, e.Gets = 100*(now[0]-was[0])/(now[1]-was[1]), now[2]-was[2], r.Rate()
	return e, errors.Join(err, pc.Close())
}
