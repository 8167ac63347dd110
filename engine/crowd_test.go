package engine_test

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// yielding lets other goroutines run when a page is decoded, as a read from disk does.
type yielding struct{ engine.Bytes }

func (yielding) Decode(b []byte) ([]byte, error) {
	runtime.Gosched()
	return b, nil
}

const (
	crowdSegment, crowdSegments = 64 << 10, 60
	crowdPage                   = 2000

	// vainSteps is the number of steps of cleaning after which a store that makes no progress counts as stuck. A step
	// that does nothing takes a millisecond.
	vainSteps = 3000
	// hung is the time after which a test gives up waiting for goroutines that do nothing, not even fail.
	hung = 2 * time.Minute
)

// crowdConfig describes a full disk. The zero values stand for the constants above.
type crowdConfig struct {
	materializer engine.Materializer[[]byte] // nil: yielding
	segment      int                         // bytes
	segments     int                         // of the disk
	live         int                         // percent of the disk that pages fill
	size         int                         // bytes of a page
	unflushed    bool                        // nothing is flushed, and so padded, in the background
}

// crowd is a full disk with goroutines that use it at the same time, without waiting for the cleaner. The disk is
// simulated, so nothing is cleaned in the background: a goroutine calls AttemptGC.
type crowd struct {
	*engine.PageCache[[]byte]
	t    *testing.T
	d    *simdisk.Disk
	pids []engine.PageID

	writes  atomic.Int64 // calls that succeeded
	refused atomic.Int64 // calls that failed with ErrNoSpace
	steps   atomic.Int64 // of cleaning
	since   atomic.Int64 // steps when a call succeeded last
	done    chan struct{}
	wg      sync.WaitGroup
}

// newCrowd fills a disk with pages.
func newCrowd(t *testing.T, f crowdConfig) *crowd {
	t.Helper()
	if f.materializer == nil {
		f.materializer = yielding{}
	}
	if f.segment == 0 {
		f.segment, f.segments = crowdSegment, crowdSegments
	}
	if f.size == 0 {
		f.size = crowdPage
	}
	d := simdisk.New(3, simdisk.Options{})
	o := enginetest.WithSeam(&engine.Options{SegmentSize: f.segment, IOBuffers: 2, FlushEvery: 10 * time.Millisecond,
		SnapshotEvery: 1 << 30, CacheCapacity: 1}, seam.Options{FS: d})
	if f.unflushed {
		o.FlushEvery = -1
	}
	c := &crowd{PageCache: enginetest.OpenWith(t, "/store", f.materializer, o), t: t, d: d, done: make(chan struct{})}
	d.SetCapacity(int64(f.segments*f.segment + 8<<10))
	for n := f.segments * f.live / 100 * (f.segment - format.SegmentStart) / (f.size + 24); len(c.pids) < n; {
		pid, err := c.allocate(f.size)
		if errors.Is(err, engine.ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		c.pids = append(c.pids, pid)
	}
	return c
}

func (c *crowd) allocate(size int) (engine.PageID, error) {
	tx := enginetest.Begin(c.t, c.PageCache)
	defer tx.End()
	pid, _, err := c.Allocate(tx, make([]byte, size))
	return pid, err
}

func (c *crowd) free(pid engine.PageID) error {
	tx, err := c.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	p, err := c.Get(tx, pid)
	if err == nil {
		_, _, err = c.Free(tx, pid, p.Ptr)
	}
	return err
}

// replace replaces a random page by a value of the same length.
func (c *crowd) replace(rng *rand.Rand) error {
	tx, err := c.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	pid := c.pids[rng.IntN(len(c.pids))]
	p, err := c.Get(tx, pid)
	if err == nil && p.Kind == engine.KindMaterialized {
		_, _, err = c.Replace(tx, pid, p.Ptr, make([]byte, len(p.Value)))
	}
	return err
}

// link links a little to a random page, until that is long enough to be replaced.
func (c *crowd) link(rng *rand.Rand) error {
	tx, err := c.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	pid := c.pids[rng.IntN(len(c.pids))]
	p, err := c.Get(tx, pid)
	switch {
	case err != nil || p.Kind != engine.KindMaterialized:
	case len(p.Value) > crowdPage+200:
		_, _, err = c.Replace(tx, pid, p.Ptr, make([]byte, crowdPage))
	default:
		_, _, err = c.Link(tx, pid, p.Ptr, make([]byte, 20))
	}
	return err
}

// clean does a step of cleaning. If there is nothing to do, the cleaner may have to wait until an emptied segment is
// stable.
func (c *crowd) clean() error {
	did, err := c.AttemptGC()
	c.steps.Add(1)
	if err == nil && !did {
		time.Sleep(time.Millisecond)
	}
	return err
}

// keepCleaning cleans in another goroutine until watch or stop ends it.
func (c *crowd) keepCleaning() {
	c.wg.Go(func() {
		for !c.ended() {
			if err := c.clean(); err != nil && !errors.Is(err, engine.ErrNoSpace) {
				c.t.Errorf("clean: %v", err)
				return
			}
			time.Sleep(500 * time.Microsecond) // the writers take what space there is
		}
	})
}

func (c *crowd) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// again starts goroutines that call do over and over, until watch or stop ends them. They try again soon after
// ErrNoSpace.
func (c *crowd) again(goroutines int, do func(rng *rand.Rand) error) {
	for g := range uint64(goroutines) {
		c.wg.Go(func() {
			rng := rand.New(rand.NewPCG(g, 1))
			for !c.ended() {
				switch err := do(rng); {
				case err == nil:
					c.writes.Add(1)
					c.since.Store(c.steps.Load())
				case errors.Is(err, engine.ErrNoSpace):
					c.refused.Add(1)
					time.Sleep(500 * time.Microsecond)
				default:
					c.t.Error(err)
					return
				}
			}
		})
	}
}

// watch waits until the goroutines have made n more calls that succeeded, and ends them. It fails the test if they
// are stuck.
func (c *crowd) watch(n int64) {
	c.t.Helper()
	c.since.Store(c.steps.Load())
	before := c.writes.Load()
	last := before + n
	for start := time.Now(); c.writes.Load() < last; time.Sleep(10 * time.Millisecond) {
		if now := c.writes.Load(); now > before {
			before, start = now, time.Now()
		}
		if vain := c.steps.Load() - c.since.Load(); vain > vainSteps || time.Since(start) > hung {
			c.t.Errorf("no write succeeded in %d steps of cleaning and %v, %d were to go: %+v",
				vain, time.Since(start), last-c.writes.Load(), c.Stats())
			break
		}
	}
	c.t.Logf("%d writes, %d without space, %d steps of cleaning", c.writes.Load(), c.refused.Load(), c.steps.Load())
	c.stop()
}

// stop ends the goroutines.
func (c *crowd) stop() {
	close(c.done)
	c.wg.Wait()
}

// try calls do, and cleans as long as there is no space for it. It fails the test if that is in vain.
func (c *crowd) try(what string, do func() error) {
	c.t.Helper()
	for vain := 0; ; vain++ {
		err := do()
		if err == nil {
			return
		}
		if !errors.Is(err, engine.ErrNoSpace) || vain > vainSteps {
			c.t.Fatalf("%s, after %d steps of cleaning: %v: %+v", what, vain, err, c.Stats())
		}
		_ = c.clean() // which may fail for lack of space, too
	}
}

// close closes the store and checks it.
func (c *crowd) close() {
	c.t.Helper()
	enginetest.Close(c.t, c.PageCache)
}
