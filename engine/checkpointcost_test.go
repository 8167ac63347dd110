//go:build linux

package engine_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

var (
	checkpointBytes = flag.Int64("checkpoint.bytes", 16<<20, "the bytes of the stores whose checkpoints are measured")
	checkpointDir   = flag.String("checkpoint.dir", "", "the directory for these stores; empty: a temporary one")
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

// costDir returns a directory for a store, which is removed after the store was closed and checked.
func costDir(t *testing.T) string {
	t.Helper()
	if *checkpointDir == "" {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(*checkpointDir, "store")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// costStore makes a store of pages of 4000 bytes in dir.
func costStore(t *testing.T, dir string) (pc *engine.PageCache[[]byte], pids []engine.PageID) {
	t.Helper()
	pc = enginetest.Open(t, dir, nil)
	const size = 4000
	v := enginetest.Random(size, 1)
	for n := int64(0); n < *checkpointBytes; n += size {
		tx := enginetest.Begin(t, pc)
		pid, _, err := pc.Allocate(tx, v)
		if tx.End(); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	enginetest.Flush(t, pc)
	return pc, pids
}

// writeSpeed writes a checkpoint. It returns the bytes of the stream, and its speed in bytes a second.
func writeSpeed(t *testing.T, pc *engine.PageCache[[]byte]) (n int64, bytesPerSecond float64) {
	t.Helper()
	c := take(t, pc)
	defer c.Close()
	start := time.Now()
	n, err := c.WriteTo(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return n, float64(n) / time.Since(start).Seconds()
}

// A checkpoint is written at the speed of the disk, writers go on at their rate meanwhile, and nothing is held once it
// is closed. The test prints the speeds, in turns, beside that of reading the same file past the page cache. With
// default flags the store is too small for the numbers to mean much.
func TestCheckpointCost(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("measures")
	}
	dir := costDir(t)
	pc, pids := costStore(t, dir)
	r := &costRun{pc: pc, pids: pids}
	for range 3 {
		speed, ratio, slowest := r.beside(t)
		t.Logf("writes beside a checkpoint of %.0f MB/s have %.2f of their rate; the slowest took %v",
			speed/1e6, ratio, slowest)
	}
	enginetest.Flush(t, pc)
	for range 3 {
		raw := rawSpeed(t, filepath.Join(dir, "log"))
		_, speed := writeSpeed(t, pc)
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

// fioReads returns the speed at which fio reads n bytes of a file from its beginning, past the page cache, in bytes a
// second, with depth reads of 1 MiB in flight.
func fioReads(t *testing.T, fio, file string, n int64, depth int) float64 {
	t.Helper()
	io := "psync"
	if depth > 1 {
		io = "io_uring"
	}
	out, err := exec.Command(fio, "--name=read", "--readonly", "--rw=read", "--direct=1", "--bs=1m",
		"--ioengine="+io, fmt.Sprint("--iodepth=", depth), "--filename="+file, fmt.Sprint("--size=", n),
		"--output-format=json").Output()
	if err != nil {
		t.Skipf("fio: %v: %s", err, out)
	}
	var r struct {
		Jobs []struct {
			Read struct {
				Bytes   int64   `json:"io_bytes"`
				Runtime float64 `json:"runtime"` // in milliseconds
				Speed   float64 `json:"bw_bytes"`
			} `json:"read"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(out, &r); err != nil || len(r.Jobs) != 1 || r.Jobs[0].Read.Bytes != n {
		t.Fatalf("%v, %+v of %d bytes", err, r, n)
	}
	return r.Jobs[0].Read.Speed
}

// A backup has 0.7 of the speed, at least, at which fio reads the same bytes of the log from the beginning to the end.
// Both take turns. With default flags the store is too small for the numbers to mean much.
func TestCheckpointBesideFio(t *testing.T) {
	if testing.Short() {
		t.Skip("measures")
	}
	fio, err := exec.LookPath("fio")
	if err != nil {
		t.Skip("needs fio")
	}
	dir := costDir(t)
	pc, _ := costStore(t, dir)
	log := filepath.Join(dir, "log")
	var ratios []float64
	for range 5 {
		n, speed := writeSpeed(t, pc)
		n -= n % (1 << 20)
		one, deep := fioReads(t, fio, log, n, 1), fioReads(t, fio, log, n, 8)
		t.Logf("a checkpoint: %.0f MB/s; fio: %.0f MB/s: %.2f; with 8 reads in flight: %.0f MB/s: %.2f", speed/1e6,
			one/1e6, speed/one, deep/1e6, speed/deep)
		ratios = append(ratios, speed/one)
	}
	slices.Sort(ratios)
	if r := ratios[len(ratios)/2]; r < 0.7 && *checkpointBytes >= 256<<20 {
		t.Errorf("a checkpoint has %.2f of fio's speed", r)
	}
}

// An incremental stream after 1 % of the pages have changed has 3 % of the bytes of a complete one, at most.
func TestCheckpointIncrementalIsShort(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("writes 64 MiB")
	}
	o, size := &engine.Options{SegmentSize: 256 << 10}, int64(64<<20)
	if *checkpointBytes > size { // then with default options
		o, size = nil, *checkpointBytes
	}
	pc := enginetest.Open(t, costDir(t), o)
	pages := int(size / 1000)
	tx := enginetest.Begin(t, pc)
	var pids []engine.PageID
	for i := range pages {
		pid, _, err := pc.Allocate(tx, enginetest.Random(1000, uint64(i)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	tx.End()
	c := take(t, pc)
	n, err := c.WriteTo(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	rng := rand.New(rand.NewPCG(3, 3))
	for range pages / 100 {
		tx := enginetest.Begin(t, pc)
		pid := pids[rng.IntN(len(pids))]
		p, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		enginetest.Must(t)(pc.Replace(tx, pid, p.Ptr, enginetest.Random(1000, rng.Uint64())))
		tx.End()
	}
	more := take(t, pc)
	m, err := more.Write(t.Context(), io.Discard, c.LSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, then %d: %.2f %%", n, m, 100*float64(m)/float64(n))
	if m*100 > 3*n {
		t.Errorf("%d bytes after 1 %% changed, of %d", m, n)
	}
}
