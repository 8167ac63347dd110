package engine

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// yielding lets others run where a page is decoded, as reading a cold one does.
type yielding struct{ Bytes }

func (yielding) Decode(b []byte) ([]byte, error) {
	runtime.Gosched()
	return b, nil
}

// crowd is a full disk, and goroutines on it that do not wait for the cleaner.
type crowd struct {
	*PageCache[[]byte]
	t    *testing.T
	pids []PageID
	last atomic.Int64 // when something was written, in Unix nanoseconds
	done chan struct{}
	wg   sync.WaitGroup
}

const (
	crowdSegment, crowdSegments = 64 << 10, 60
	crowdPage                   = 2000
)

// newCrowd fills so many percent of a disk with pages.
func newCrowd(t *testing.T, live, size int) *crowd {
	d := simdisk.New(3, simdisk.Options{})
	o := &Options{SegmentSize: crowdSegment, IOBuffers: 2, FlushEvery: 10 * time.Millisecond, SnapshotEvery: 1 << 30, CacheCapacity: 1, fs: d}
	pc, err := Open[[]byte]("/store", yielding{}, o)
	if err != nil {
		t.Fatal(err)
	}
	c := &crowd{PageCache: pc, t: t, done: make(chan struct{})}
	d.SetCapacity(crowdSegments*crowdSegment + 8<<10)
	for n := crowdSegments * live / 100 * crowdSegment / (size + 24); len(c.pids) < n; {
		tx := begin(t, pc)
		pid, _, err := pc.Allocate(tx, make([]byte, size))
		tx.End()
		if errors.Is(err, ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		c.pids = append(c.pids, pid)
	}
	c.last.Store(time.Now().UnixNano())
	return c
}

// again does something over and over; ErrNoSpace is no reason to wait for long.
func (c *crowd) again(goroutines int, do func(rng *rand.Rand) error) {
	for g := range uint64(goroutines) {
		c.wg.Go(func() {
			rng := rand.New(rand.NewPCG(g, 1))
			for {
				select {
				case <-c.done:
					return
				default:
				}
				switch err := do(rng); {
				case err == nil:
					c.last.Store(time.Now().UnixNano())
				case errors.Is(err, ErrNoSpace):
					time.Sleep(500 * time.Microsecond)
				default:
					c.t.Error(err)
					return
				}
			}
		})
	}
}

func (c *crowd) replace(rng *rand.Rand) error {
	tx := begin(c.t, c.PageCache)
	defer tx.End()
	pid := c.pids[rng.IntN(len(c.pids))]
	p, err := c.Get(tx, pid)
	if err == nil && p.Kind == Materialized {
		_, _, err = c.Replace(tx, pid, p.Ptr, make([]byte, len(p.Value)))
	}
	return err
}

// clean is what the cleaner does. Now and then it has to wait until what it has made empty is stable.
func (c *crowd) clean(*rand.Rand) error {
	did, err := c.AttemptGC()
	if err == nil && !did {
		time.Sleep(time.Millisecond)
	}
	return errors.Join(err, ErrNoSpace) // what it does is not what was to be done
}

// watch lets them for some time, and then sees that they can still write.
func (c *crowd) watch(d time.Duration) {
	c.t.Helper()
	const patience = 3 * time.Second
	for start := time.Now(); time.Since(start) < d || time.Since(time.Unix(0, c.last.Load())) > patience/4; time.Sleep(10 * time.Millisecond) {
		if since := time.Since(time.Unix(0, c.last.Load())); since > patience {
			c.t.Errorf("nothing was written for %v: %+v", since, c.Stats())
			break
		}
	}
	close(c.done)
	c.wg.Wait()
}

// On a full disk with garbage on it writers that try again and again do not take the place that the cleaner needs to make room: they go on writing, and pages can be
// freed. Proves rule 9, and B5 of the log.
func TestFullOfWriters(t *testing.T) {
	for _, live := range []int{60, 75, 85} {
		c := newCrowd(t, live, crowdPage)
		c.again(1, c.clean)
		c.again(8, c.replace)
		c.watch(time.Second)
		for _, pid := range c.pids[:50] {
			tx := begin(t, c.PageCache)
			p, err := c.Get(tx, pid)
			if err == nil {
				_, _, err = c.Free(tx, pid, p.Ptr)
			}
			tx.End()
			if err != nil {
				t.Fatalf("%d %% live: %v", live, err)
			}
		}
		_ = c.Close()
	}
}

// Frees of many small pages at once do not take the last place either: until all are freed there is always room for more. Proves rule 9.
func TestFullOfFrees(t *testing.T) {
	c := newCrowd(t, 97, 100)
	left := make(chan PageID, len(c.pids))
	for _, i := range rand.New(rand.NewPCG(5, 5)).Perm(len(c.pids)) {
		left <- c.pids[i]
	}
	var freed atomic.Int64
	c.again(8, func(*rand.Rand) error {
		var pid PageID
		select {
		case pid = <-left:
		default:
			return nil
		}
		tx := begin(t, c.PageCache)
		defer tx.End()
		p, err := c.Get(tx, pid)
		if err == nil {
			_, _, err = c.Free(tx, pid, p.Ptr)
		}
		if err != nil {
			left <- pid
			return err
		}
		freed.Add(1)
		return nil
	})
	c.again(1, c.clean)
	c.again(4, c.replace)
	for start := time.Now(); int(freed.Load()) < len(c.pids) && time.Since(start) < 30*time.Second; {
		time.Sleep(10 * time.Millisecond)
	}
	c.watch(0)
	if n := int(freed.Load()); n < len(c.pids) {
		t.Errorf("%d of %d pages freed: %+v", n, len(c.pids), c.Stats())
	}
	for start := time.Now(); ; {
		tx := begin(t, c.PageCache)
		_, _, err := c.Allocate(tx, make([]byte, 1000))
		tx.End()
		if err == nil {
			break
		}
		if !errors.Is(err, ErrNoSpace) || time.Since(start) > 10*time.Second {
			t.Fatal(err)
		}
		_ = c.clean(nil)
	}
	_ = c.Close()
}

// Where a Tx that stays open holds up what was cleaned, on a full disk, the cleaner does not use up what is kept: pages can still be freed. Proves rule 9.
func TestFullAndHeldUp(t *testing.T) {
	c := newCrowd(t, 60, crowdPage)
	held := begin(t, c.PageCache)
	for i := range 20 * len(c.pids) {
		tx := begin(t, c.PageCache)
		pid := c.pids[i*7%len(c.pids)]
		p, err := c.Get(tx, pid)
		if err == nil {
			_, _, err = c.Replace(tx, pid, p.Ptr, make([]byte, crowdPage))
		}
		tx.End()
		if errors.Is(err, ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		if _, err := c.AttemptGC(); err != nil {
			t.Fatal(err)
		}
		flushTest(t, c.PageCache)
	}
	for _, pid := range c.pids[:100] {
		p, err := c.Get(held, pid)
		if err == nil {
			_, _, err = c.Free(held, pid, p.Ptr)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	held.End()
	_ = c.Close()
}

// On a full disk the last segment may hold nothing that counts. It can be freed only once the next one is begun, which only the cleaner can do then, so
// it is none of those that the cleaner waits for. Proves rule 9.
func TestFullAndNothingLastCounts(t *testing.T) {
	c := newCrowd(t, 60, crowdPage)
	rng := rand.New(rand.NewPCG(1, 1))
	overwrite := func() error {
		tx := begin(t, c.PageCache)
		defer tx.End()
		pid := c.pids[rng.IntN(len(c.pids))]
		p, err := c.Get(tx, pid)
		if err == nil {
			_, _, err = c.Replace(tx, pid, p.Ptr, make([]byte, crowdPage))
		}
		return err
	}
	c.cleaner.mu.Lock() // nothing is cleaned meanwhile
	for last := false; !last; {
		if err := overwrite(); err != nil {
			t.Fatal(err)
		}
		_, used, _ := c.space.Totals()
		last = used == crowdSegments-c.reserved()-1 && c.log.Tail()%crowdSegment > crowdSegment-crowdPage
	}
	for {
		r, err := c.log.Reserve(format.KindAppend, 1, crowdPage)
		if err != nil {
			if !isNoSpace(err) {
				t.Fatal(err)
			}
			break
		}
		r.Abort()
	}
	c.cleaner.mu.Unlock()
	for range 100 {
		if _, err := c.AttemptGC(); err != nil {
			t.Fatal(err)
		}
		flushTest(t, c.PageCache)
	}
	if err := overwrite(); err != nil {
		t.Error(err)
	}
	_ = c.Close()
}
