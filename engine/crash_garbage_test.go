package engine_test

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	garbagePoints = flag.Int64("garbage.points", 5000, "the number of crashes of TestCrashLeavesGarbage")
	garbageFirst  = flag.Uint64("garbage.first", 1, "the first seed that TestCrashLeavesGarbage tries")
	garbageSeed   = flag.Uint64("garbage.seed", 0, "if not 0, the only seed that it tries, 200 times")
)

// garbageRun runs one seed and returns the number of crashes. It panics if the run does not end.
func garbageRun(seed uint64, counts *crashCounts, trace func(string, ...any)) (int, error) {
	r := newCrashRun(seed, planted{})
	r.trace, r.counts = trace, counts
	r.deep, r.seam.Eager = true, true
	r.disk.LeaveGarbage()
	hang := time.AfterFunc(time.Minute, func() {
		debug.SetTraceback("all")
		panic(fmt.Sprintf("garbage seed %d hangs", seed))
	})
	defer hang.Stop()
	if err := r.run(); err != nil {
		return r.crashes, fmt.Errorf("seed %d, %d crashes: %w\n%v", seed, r.crashes, err, r.h)
	}
	return r.crashes, nil
}

// A power cut leaves anything in the sectors of the writes that were in flight: old or new bytes, or garbage. Segments
// are recycled all the time, and most openings are cut off, up to four in a row. Every store opens, and has everything
// that was acknowledged. Proves rules 1, 10, 11 and 16; trap 33.
func TestCrashLeavesGarbage(t *testing.T) {
	t.Parallel()
	counts := new(crashCounts)
	if *garbageSeed != 0 {
		for range 200 { // the seed does not decide what the flusher does beside the caller
			var lines []string
			trace := func(f string, a ...any) { lines = append(lines, fmt.Sprintf(f, a...)) }
			if _, err := garbageRun(*garbageSeed, counts, trace); err != nil {
				for _, l := range lines {
					t.Log(l)
				}
				t.Fatal(err)
			}
		}
		return
	}
	want := *garbagePoints
	if testing.Short() {
		want = min(want, 500)
	}
	start := time.Now()
	var next atomic.Uint64
	next.Store(*garbageFirst)
	var points, failures atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for points.Load() < want && failures.Load() < 5 {
				seed := next.Add(1) - 1
				n, err := garbageRun(seed, counts, nil)
				points.Add(int64(n))
				if err != nil {
					failures.Add(1)
					t.Errorf("%v\nreplay: go test ./engine -run TestCrashLeavesGarbage -args -garbage.seed=%d", err,
						seed)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d crashes, %d seeds, %.0f crashes/s, %d segments recycled", points.Load(), next.Load()-*garbageFirst,
		float64(points.Load())/time.Since(start).Seconds(), counts.recycled.Load())
	if n := counts.recycled.Load(); n < want/20 {
		t.Errorf("%d segments were recycled, want at least %d to prove anything about recycling", n, want/20)
	}
}
