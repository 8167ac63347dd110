package engine_test

import (
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

var (
	checkpointBytes = flag.Int64("checkpoint.bytes", 16<<20, "the bytes of the store of TestCheckpointCost")
	checkpointDir   = flag.String("checkpoint.dir", "", "the directory for TestCheckpointCost; empty: a temporary one")
)

// costRun is a store with writers that a checkpoint must not slow down.
type costRun struct {
	pc      *engine.PageCache[[]byte]
	pids    []engine.PageID
	links   atomic.Int64
	mu      sync.Mutex
	slowest time.Duration
}

// work lets two goroutines replace pages until ctx ends, one in ten waits until it is stable.
func (r *costRun) work(ctx context.Context, t *testing.T) *sync.WaitGroup {
	var all sync.WaitGroup
	for w := range 2 {
		all.Go(func() {
			var slowest time.Duration
			for i := w; ctx.Err() == nil; i += 7 {
				tx, err := r.pc.Begin()
				if err != nil {
					t.Error(err)
					return
				}
				pid := r.pids[i%len(r.pids)]
				p, err := r.pc.Get(tx, pid)
				start := time.Now()
				if err == nil {
					_, _, err = r.pc.Replace(tx, pid, p.Ptr, p.Value)
				}
				slowest = max(slowest, time.Since(start))
				if tx.End(); err != nil {
					t.Error(err)
					return
				}
				if r.links.Add(1); i%10 == 0 {
					if _, err := r.pc.Flush(); err != nil {
						t.Error(err)
						return
					}
				}
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.slowest = max(r.slowest, slowest)
		})
	}
	return &all
}

// gate lets a stream go on while it is open.
type gate struct{ sync.RWMutex }

func (g *gate) Write(p []byte) (int, error) {
	g.RLock()
	defer g.RUnlock()
	return len(p), nil
}

// beside writes a checkpoint while goroutines replace pages. In turns of 100 ms, the stream stands still and goes on.
// It returns the speed of the stream while it goes on, in bytes a second, the rate of the writes beside it as a part of
// their rate while it stands still, and the slowest write.
func (r *costRun) beside(t *testing.T) (speed, ratio float64, slowest time.Duration) {
	const turn = 100 * time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	r.slowest = 0
	all := r.work(ctx, t)
	time.Sleep(turn)
	c := take(t, r.pc)
	var g gate
	g.Lock()
	type written struct {
		n   int64
		err error
	}
	done := make(chan written)
	go func() {
		n, err := c.WriteTo(&g)
		done <- written{n, err}
	}()
	var writes [2]int64
	var took [2]time.Duration
	count := func(k int) {
		time.Sleep(turn / 5) // what was read ahead ends, or begins
		start, n := time.Now(), r.links.Load()
		time.Sleep(turn)
		writes[k], took[k] = writes[k]+r.links.Load()-n, took[k]+time.Since(start)
	}
	for w := (written{}); w.n == 0; {
		count(0)
		g.Unlock()
		count(1)
		select {
		case w = <-done:
			if w.err != nil {
				t.Fatal(w.err)
			}
			speed = float64(w.n) / took[1].Seconds() / 1.2
		default:
			g.Lock()
		}
	}
	c.Close()
	stop()
	all.Wait()
	return speed, float64(writes[1]) / took[1].Seconds() / (float64(writes[0]) / took[0].Seconds()), r.slowest
}

// A checkpoint is written at the speed of the disk, writers go on at their rate meanwhile, and nothing is held once it
// is closed. The test prints the speeds, in turns, beside that of reading the same file past the page cache. With
// default flags the store is too small for the numbers to mean much.
func TestCheckpointCost(t *testing.T) {
	if testing.Short() {
		t.Skip("measures")
	}
	dir := *checkpointDir
	if dir == "" {
		dir = t.TempDir()
	}
	dir = filepath.Join(dir, "store")
	t.Cleanup(func() { os.RemoveAll(dir) }) // after the store was closed and checked
	pc := enginetest.Open(t, dir, nil)
	r := &costRun{pc: pc}
	const size = 4000
	v := enginetest.Random(size, 1)
	for n := int64(0); n < *checkpointBytes; n += size {
		tx := enginetest.Begin(t, pc)
		pid, _, err := pc.Allocate(tx, v)
		if tx.End(); err != nil {
			t.Fatal(err)
		}
		r.pids = append(r.pids, pid)
	}
	enginetest.Flush(t, pc)
	write := func() (bytesPerSecond float64) {
		c := take(t, pc)
		start := time.Now()
		n, err := c.WriteTo(io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		return float64(n) / time.Since(start).Seconds()
	}
	for range 3 {
		speed, ratio, slowest := r.beside(t)
		t.Logf("writes beside a checkpoint of %.0f MB/s have %.2f of their rate; the slowest took %v",
			speed/1e6, ratio, slowest)
	}
	enginetest.Flush(t, pc)
	for range 3 {
		raw := rawSpeed(t, filepath.Join(dir, "log"))
		speed := write()
		t.Logf("a checkpoint alone: %.0f MB/s, reading the log past the page cache: %.0f MB/s: %.2f",
			speed/1e6, raw/1e6, speed/raw)
	}
	if s := pc.Stats().Space; s.Draining > 0 {
		enginetest.CleanAll(t, pc)
		if s := pc.Stats().Space; s.Draining > 0 {
			t.Errorf("%d segments are held after all checkpoints were closed", s.Draining)
		}
	}
}
