package engine_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// On a full disk with garbage, writers that retry do not take the space that the cleaner needs to make room. They go on
// writing, and pages can be freed. Proves rule 9, and L5.
func TestWritersOnFullDiskGoOn(t *testing.T) {
	t.Parallel()
	for _, fill := range []struct {
		live   int
		writes int64
	}{{60, 4000}, {75, 2500}, {85, 1000}} {
		c := newCrowd(t, crowdConfig{live: fill.live})
		c.keepCleaning()
		c.again(8, c.replace)
		c.watch(fill.writes)
		for _, pid := range c.pids[:50] {
			if err := c.free(pid); err != nil {
				t.Fatalf("%d %% live: free: %v", fill.live, err)
			}
		}
		c.close()
	}
}

// Cleaning a full disk goes on as long as it makes room, although it moves more bytes for each byte written than the
// budget credits for it: 85 % of the disk is live, so that hardly more than two pages of each segment are garbage.
// Proves rule 9.
func TestCleaningOnFullDiskPaysForItself(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, crowdConfig{live: 85, unflushed: true})
	rng := rand.New(rand.NewPCG(5, 5))
	for range 2000 {
		c.try("replace", func() error { return c.replace(rng) })
	}
	c.close()
}

// Many concurrent frees of small pages do not take the last space either: until all pages are freed there is always
// room for more frees. Proves rule 9.
func TestAllPagesOfFullDiskAreFreed(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, crowdConfig{live: 97, size: 100})
	left := make(chan engine.PageID, len(c.pids))
	for _, i := range rand.New(rand.NewPCG(5, 5)).Perm(len(c.pids)) {
		left <- c.pids[i]
	}
	var freed atomic.Int64
	c.again(8, func(*rand.Rand) error {
		var pid engine.PageID
		select {
		case pid = <-left:
		default:
			return nil
		}
		if err := c.free(pid); err != nil {
			left <- pid
			return err
		}
		freed.Add(1)
		return nil
	})
	c.keepCleaning()
	c.again(4, c.replace)
	for start := time.Now(); int(freed.Load()) < len(c.pids) && time.Since(start) < hung; {
		time.Sleep(10 * time.Millisecond)
	}
	c.stop()
	if n := int(freed.Load()); n < len(c.pids) {
		t.Errorf("%d of %d pages freed: %+v", n, len(c.pids), c.Stats())
	}
	c.try("allocate after all pages were freed", func() error { _, err := c.allocate(1000); return err })
	c.close()
}

// Flushes while the cleaner moves pages do not use up the last slots by the padding of half-filled blocks. Proves rule
// 9.
func TestFlushesOnFullDiskLeaveTheReserve(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, crowdConfig{live: 97, size: 100})
	var cleaning atomic.Bool
	c.again(1, func(*rand.Rand) error {
		runtime.Gosched()
		if !cleaning.Load() {
			return nil
		}
		_, err := c.Flush()
		return err
	})
	pids := slices.Clone(c.pids)
	rand.New(rand.NewPCG(5, 5)).Shuffle(len(pids), func(i, j int) { pids[i], pids[j] = pids[j], pids[i] })
	for _, pid := range pids[:len(pids)/2] {
		c.try("free", func() error {
			cleaning.Store(false)
			err := c.free(pid)
			cleaning.Store(err != nil)
			return err
		})
	}
	c.stop()
	c.close()
}

// If an open Tx holds back cleaned segments on a full disk, the cleaner does not use up the reserve: pages can still be
// freed. Proves rule 9.
func TestOpenTxOnFullDiskLeavesTheReserve(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, crowdConfig{live: 60})
	held := enginetest.Begin(t, c.PageCache)
	for i := range 20 * len(c.pids) {
		tx := enginetest.Begin(t, c.PageCache)
		pid := c.pids[i*7%len(c.pids)]
		p, err := c.Get(tx, pid)
		if err == nil {
			_, _, err = c.Replace(tx, pid, p.Ptr, make([]byte, crowdPage))
		}
		tx.End()
		if errors.Is(err, engine.ErrNoSpace) {
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
		enginetest.Flush(t, c.PageCache)
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
	c.close()
}

// On a full disk with garbage, the cleaner does not begin with segments that hold a few live deltas: it would have to
// write whole pages and use up the reserve. Writers go on, and pages can be freed. If no segment is worth cleaning,
// writers go on once some pages have been freed. Proves rule 9.
func TestWritersOfDeltasOnFullDiskGoOn(t *testing.T) {
	t.Parallel()
	const writes, refused = 40_000, 4000
	for _, live := range []int{40, 50, 60, 70} {
		c := newCrowd(t, crowdConfig{live: live})
		c.keepCleaning()
		c.again(4, c.link)
		if live <= 50 {
			c.watch(writes)
		} else {
			before := int64(0)
			for start := time.Now(); c.writes.Load() < writes && c.refused.Load() < refused; {
				if now := c.writes.Load() + c.refused.Load(); now > before {
					before, start = now, time.Now()
				}
				if time.Since(start) > hung {
					t.Fatalf("%d %% live: writers hang: %+v", live, c.Stats())
				}
				time.Sleep(time.Millisecond)
			}
			c.stop()
		}
		for _, pid := range c.pids[:len(c.pids)/3] {
			if err := c.free(pid); err != nil {
				t.Fatalf("%d %% live: free: %v", live, err)
			}
		}
		c.try("allocate after a third was freed", func() error { _, err := c.allocate(crowdPage); return err })
		c.close()
	}
}

// All small pages of a large full disk can be freed in random order, although for long no segment is worth cleaning.
// Proves rule 9.
func TestSmallPagesOfFullDiskAreFreed(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, crowdConfig{segment: 16 << 10, segments: 300, live: 100, size: 100})
	for _, i := range rand.New(rand.NewPCG(5, 5)).Perm(len(c.pids)) {
		c.try("free", func() error { return c.free(c.pids[i]) })
	}
	c.close()
}

// Four pages fit into a segment, with an eighth to spare, so that the cleaner moves them in vain until its budget is
// spent. Freed pages then let it go on. Proves rule 9.
func TestFreesRefillTheBudgetOnFullDisk(t *testing.T) {
	t.Parallel()
	const segment = 256 << 10
	c := newCrowd(t, crowdConfig{segment: segment, segments: 40, live: 100, size: segment * 22 / 100})
	for n := 0; !engine.CleanerOf(c.PageCache).BudgetSpent(); n++ {
		if _, err := c.allocate(100); err != nil && !errors.Is(err, engine.ErrNoSpace) {
			t.Fatal(err)
		}
		if n > 10*vainSteps {
			t.Fatalf("the cleaner has not spent its budget: %+v", c.Stats())
		}
		_ = c.clean()
	}
	for i, pid := range c.pids {
		if i%4 < 2 {
			if err := c.free(pid); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.try("make room without writes", func() error {
		if engine.StoreOf(c.PageCache).Space.DiskFull() {
			return engine.ErrNoSpace
		}
		return nil
	})
	if _, err := c.allocate(100); err != nil {
		t.Errorf("allocate after the cleaner made room: %v", err)
	}
	c.close()
}

// newest is a page whose value is the fragment that was linked last.
type newest struct{ engine.Bytes }

func (newest) Merge(fragments [][]byte) []byte { return bytes.Clone(fragments[len(fragments)-1]) }

// Pages that merging makes much shorter are worth cleaning, however long their fragments are. Proves rule 9.
func TestWritersOfUpdatesOnFullDiskGoOn(t *testing.T) {
	t.Parallel()
	for _, live := range []int{8, 15} {
		c := newCrowd(t, crowdConfig{materializer: newest{}, live: live})
		c.keepCleaning()
		c.again(2, func(rng *rand.Rand) error {
			tx, err := c.Begin()
			if err != nil {
				return err
			}
			defer tx.End()
			pid := c.pids[rng.IntN(len(c.pids))]
			p, err := c.Get(tx, pid)
			if err == nil {
				_, _, err = c.Link(tx, pid, p.Ptr, make([]byte, crowdPage))
			}
			return err
		})
		c.watch(16_000)
		c.close()
	}
}

// Consolidating a blob with a delta writes another blob, for which a full disk may have no room. The cleaner cleans
// other segments than that of the delta. Proves rule 9.
func TestBlobWithDeltaOnFullDisk(t *testing.T) {
	const blob = 20_000 // it would fit into a segment
	c := newCrowd(t, crowdConfig{live: 1})
	c.d.SetCapacity(1 << 40)
	tx := enginetest.Begin(t, c.PageCache)
	pid, ptr, err := c.Allocate(tx, make([]byte, blob))
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Must(t)(c.Link(tx, pid, ptr, make([]byte, 20)))
	tx.End()
	c.d.SetCapacity(crowdSegments*crowdSegment + 8<<10 + blob + 100)
	for err == nil {
		var pid engine.PageID
		if pid, err = c.allocate(crowdPage); err == nil {
			c.pids = append(c.pids, pid)
		}
	}
	rng := rand.New(rand.NewPCG(5, 5))
	for i, pid := range c.pids { // all pages of the first segments except the blob: these segments are cleaned first
		if i < 60 || rng.IntN(2) == 0 {
			c.try("free", func() error { return c.free(pid) })
		}
	}
	c.try("allocate", func() error { _, err := c.allocate(crowdPage); return err })
	c.close()
}

// If no writer flushes on a full disk, the cleaner does, so that the segments that it has emptied become free. Proves
// rule 9.
func TestCleanerFlushesOnFullDisk(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	c := &crowd{PageCache: enginetest.OpenSim(t, d), t: t, d: d}
	d.SetCapacity(40*16<<10 + 8<<10)
	var err error
	for err == nil {
		var pid engine.PageID
		if pid, err = c.allocate(1000); err == nil {
			c.pids = append(c.pids, pid)
		}
	}
	for _, pid := range c.pids[:len(c.pids)/2] {
		if err := c.free(pid); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		_ = c.clean()
	}
	for range 10 {
		if _, err := c.allocate(1000); err != nil {
			t.Fatalf("allocate after cleaning: %v: %+v", err, c.Stats())
		}
	}
	c.close()
}
