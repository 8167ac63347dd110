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

// Memory is measured in processes of their own, since what a process has had once stays with it.

// children are what such a process does, by name. It prints what it returns as JSON.
var children = map[string]func(c *config, dir string) (any, error){
	"bounded": func(c *config, dir string) (any, error) { return runBounded(c, dir) },
	"evicted": func(c *config, dir string) (any, error) { return runEvicted(c, dir) },
}

// inChild runs the child of that name and reads what it prints into v.
func inChild(ctx context.Context, c *config, name, dir string, v any) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, "--child", name, "--dir", dir, "--seconds", fmt.Sprint(c.seconds))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("child %s: %w", name, err)
	}
	return json.Unmarshal(out, v)
}

func runChild(c *config, name string) error {
	f := children[name]
	if f == nil {
		return fmt.Errorf("no child %q", name)
	}
	v, err := f(c, filepath.Join(c.dir, "store"))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(v)
}

const (
	boundedCapacity = 128 << 20
	boundedPages    = 1 << 20
	// boundedSeconds is how many times --seconds it runs.
	boundedSeconds = 5
)

// memory is what a bounded store took at worst.
type memory struct {
	Resident float64 // in multiples of the capacity
	Anon     float64 // MiB
	Rate     float64 // of operations a second
}

func bounded(figure func(memory) float64) side {
	return func(ctx context.Context, c *config, dir string) (float64, error) {
		var m memory
		err := inChild(ctx, c, "bounded", dir, &m)
		fmt.Fprintf(os.Stderr, "  bounded: %+v\n", m)
		return figure(m), err
	}
}

// runBounded reads pages at random, and replaces one in four of them.
func runBounded(c *config, dir string) (m memory, err error) {
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{CacheCapacity: boundedCapacity})
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
			m.Resident = max(m.Resident, float64(st.HeapResident+st.MappedResident)/boundedCapacity)
			m.Anon = max(m.Anon, anonymous()/(1<<20))
		}
	}()
	err = fillPages(pc, boundedPages, pageSize)
	l := bench.Workload{Goroutines: writers, Pages: boundedPages, Value: pageSize, Seed: 3}
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
	fmt.Fprintf(os.Stderr, "  %+v\n", pc.Stats().Cache)
	return m, errors.Join(err, pc.Close())
}

// getOrReplace reads a page, and writes it if write.
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
	value := append([]byte(nil), w.Values.Next()...) // as the pages of a database are memory of their own
	_, _, err = pc.Replace(tx, pid, p.Ptr, value)
	return err
}

// anonymous is the anonymous memory of this process in bytes.
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

// afterwards is what pages that were paged out cost.
type afterwards struct {
	PerPage   float64 // bytes of heap for each page
	Collector float64 // percent of the processors
	Cycles    float64
	Gets      float64 // a second
}

func evicted(figure func(afterwards) float64) side {
	return func(ctx context.Context, c *config, dir string) (float64, error) {
		var e afterwards
		err := inChild(ctx, c, "evicted", dir, &e)
		fmt.Fprintf(os.Stderr, "  evicted: %+v\n", e)
		return figure(e), err
	}
}

// runEvicted makes pages that have all been in memory and were paged out, but for a few thousand, and reads those.
func runEvicted(c *config, dir string) (e afterwards, err error) {
	const few, capacity = 10_000, 32 << 20
	before := heapBytes()
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{CacheCapacity: capacity})
	if err != nil {
		return e, err
	}
	if err := errors.Join(fillPages(pc, evictedPages, deltaSize), pc.SetCacheCapacity(1)); err != nil {
		return e, errors.Join(err, pc.Close())
	}
	if _, err := pc.Flush(); err != nil {
		return e, errors.Join(err, pc.Close())
	}
	for n := 0; pc.Stats().HeapResident > 1<<20 && n < 1000; n++ {
		time.Sleep(10 * time.Millisecond)
	}
	e.PerPage = (heapBytes() - before) / evictedPages
	st := pc.Stats()
	fmt.Fprintf(os.Stderr, "  %d bytes resident after paging out, %d evictions\n", st.HeapResident+st.MappedResident, st.Evictions)
	if err := pc.SetCacheCapacity(capacity); err != nil {
		return e, errors.Join(err, pc.Close())
	}
	samples := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/total:cpu-seconds"}, {Name: "/gc/cycles/total:gc-cycles"}}
	read := func() (v [3]float64) {
		runtime.GC() // the classes are brought up to date by it
		metrics.Read(samples)
		return [3]float64{samples[0].Value.Float64(), samples[1].Value.Float64(), float64(samples[2].Value.Uint64())}
	}
	was := read()
	l := bench.Workload{Goroutines: 2, Pages: few, Value: deltaSize, Seed: 3}
	r, err := bench.RunFor(l, 2*boundedSeconds*c.during(), func(w *bench.Worker) error {
		return getOrReplace(pc, engine.FirstUserPage+engine.PageID(w.Page()), w, false)
	}, nil)
	now := read()
	e.Collector, e.Cycles, e.Gets = 100*(now[0]-was[0])/(now[1]-was[1]), now[2]-was[2], r.Rate()
	return e, errors.Join(err, pc.Close())
}
