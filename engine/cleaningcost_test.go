package engine_test

import (
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/logstore"
	"pagecache/internal/simdisk"
	"pagecache/segments"
	"pagecache/segments/format"
)

// On a full disk, the last segment may hold no live data. It becomes free only after the next segment has begun, which
// only the cleaner can do then. Therefore the cleaner does not wait for this segment. Proves rule 9.
func TestCleanerDoesNotWaitForTheLastSegment(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, crowdConfig{live: 60, unflushed: true}) // a pad at the end of the segment would fill it
	rng := rand.New(rand.NewPCG(1, 1))
	s := engine.StoreOf(c.PageCache)
	kept, per := s.Reserved()
	kept += crowdSegments / per
	resume := engine.CleanerOf(c.PageCache).Pause()
	for last := false; !last; {
		if err := c.replace(rng); err != nil {
			t.Fatal(err)
		}
		_, used, _ := s.Space.Totals()
		last = used == crowdSegments-kept-1 && s.Log.Tail()%crowdSegment > crowdSegment-crowdPage
	}
	for {
		r, err := s.Log.Reserve(format.KindAppend, 1, crowdPage)
		if err != nil {
			if !logstore.IsNoSpace(err) {
				t.Fatal(err)
			}
			break
		}
		r.Abort()
	}
	resume()
	for range 100 {
		if _, err := c.AttemptGC(); err != nil {
			t.Fatal(err)
		}
		enginetest.Flush(t, c.PageCache)
	}
	if err := c.replace(rng); err != nil {
		t.Errorf("replace after cleaning: %v", err)
	}
	c.close()
}

// The cleaner may pick a segment while the file can grow, and leave it because the file then cannot. It can pick that
// segment again. Proves rule 9.
func TestVictimLeftOnFullDiskIsPickedAgain(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, crowdConfig{live: 60})
	s, cleaner := engine.StoreOf(c.PageCache), engine.CleanerOf(c.PageCache)
	resume := cleaner.Pause()
	for _, pid := range c.pids[:len(c.pids)/2] {
		if err := c.free(pid); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.AllocateMany(t, c.PageCache, 10, crowdPage)
	var v segments.Candidate
	s.Space.Inactive(func(found segments.Candidate) {
		if found.Live > 0 {
			v = found
		}
	})
	for !s.Space.DiskFull() {
		r, err := s.Log.Reserve(format.KindAppend, 1, crowdPage)
		if err != nil {
			break
		}
		r.Abort()
	}
	did, err := cleaner.TryClean(v)
	if live := s.Space.Segment(v.ID).Live(); !did || err != nil || live != v.Live {
		t.Errorf("clean on a full disk: %v, %v; %d live bytes, %d before", did, err, live, v.Live)
	}
	if cleaner.IsStuck(v) {
		t.Error("the cleaner skips the segment from now on")
	}
	resume()
	c.close()
}

// slowMerge counts merges, and makes them as slow as reads from a slow disk once slow is set.
type slowMerge struct {
	newest
	slow   *atomic.Bool
	merges *atomic.Int64
}

func (m slowMerge) Merge(fragments [][]byte) []byte {
	if m.slow.Load() {
		m.merges.Add(1)
		time.Sleep(time.Millisecond)
	}
	return m.newest.Merge(fragments)
}

// Close does not wait until the cleaner has computed the cost of a segment with thousands of pages. Proves rule 9;
// trap 20.
func TestCloseInterruptsCostEstimate(t *testing.T) {
	t.Parallel()
	m := slowMerge{slow: new(atomic.Bool), merges: new(atomic.Int64)}
	c := newCrowd(t, crowdConfig{materializer: m, segment: 256 << 10, segments: 20, live: 30, size: 40})
	for _, pid := range c.pids {
		tx := enginetest.Begin(t, c.PageCache)
		p, err := c.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		_, ok, err := c.Link(tx, pid, p.Ptr, make([]byte, 40))
		tx.End()
		if errors.Is(err, engine.ErrNoSpace) { // the flushes took space, too
			break
		}
		enginetest.Must(t)(p.Ptr, ok, err)
	}
	for i := 0; i < len(c.pids); i += 9 { // so that there is garbage in every segment
		if err := c.free(c.pids[i]); err != nil {
			t.Fatal(err)
		}
	}
	m.slow.Store(true)
	for err := error(nil); !errors.Is(err, engine.ErrNoSpace); {
		if _, err = c.allocate(crowdPage); err != nil && !errors.Is(err, engine.ErrNoSpace) {
			t.Fatal(err)
		}
	}
	c.wg.Go(func() {
		for err := error(nil); err == nil; { // as the loop of the cleaner does
			_, err = c.AttemptGC()
		}
	})
	for start := time.Now(); m.merges.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > hung {
			t.Fatal("the cleaner merges nothing")
		}
	}
	before := m.merges.Load()
	c.close()
	c.wg.Wait()
	if n := m.merges.Load() - before; n > 500 { // of some thousands in a segment
		t.Errorf("the cleaner merged %d pages after Close had begun", n)
	}
}

// The estimated cost of cleaning a segment is exactly the number of bytes that the cleaner then writes, whatever pages
// are in it.
func TestCostEstimateIsExact(t *testing.T) {
	t.Parallel()
	for _, compression := range []engine.Compression{engine.CompressionNone, engine.CompressionZstd} {
		o := enginetest.SimOptions(simdisk.New(1, simdisk.Options{}))
		o.SegmentSize, o.Compression = 32<<10, compression
		pc := enginetest.Open(t, "/store", o)
		rng := rand.New(rand.NewPCG(1, 2))
		value := func(n int) []byte { // compresses somewhat
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(rng.IntN(4))
			}
			return b
		}
		tx := enginetest.Begin(t, pc)
		var pids []engine.PageID
		for i := range 300 {
			n := rng.IntN(900)
			if i%40 == 0 {
				n = 20_000 // a blob
			}
			pid, ptr, err := pc.Allocate(tx, value(n))
			if err != nil {
				t.Fatal(err)
			}
			if n < 1000 {
				for range rng.IntN(4) {
					ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, value(rng.IntN(300))))
				}
			}
			pids = append(pids, pid)
			if i%7 == 0 {
				enginetest.Must(t)(pc.Free(tx, pid, ptr))
			}
		}
		tx.End()
		enginetest.Flush(t, pc)
		if err := engine.EvictAll(pc, pids[:150]); err != nil {
			t.Fatal(err)
		}
		c := engine.CleanerOf(pc)
		resume := c.Pause()
		var all []segments.Candidate
		engine.StoreOf(pc).Space.Inactive(func(v segments.Candidate) { all = append(all, v) })
		if len(all) < 4 {
			t.Fatalf("only %d segments can be cleaned", len(all))
		}
		for _, v := range all {
			want, before := c.CostOf(v, 1<<40), c.Stats().Moved
			if err := c.Empty(v); err != nil {
				t.Fatal(err)
			}
			if n := c.Stats().Moved - before; n != want || n == 0 {
				t.Errorf("segment %v, compression %v: %d bytes were written, %d estimated", v.ID, compression, n, want)
			}
		}
		resume()
		enginetest.Close(t, pc)
	}
}
