package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"pagecache/engine"
)

// The pages of warm fetches are in the file cache, but not resident. warmPages of them fit the processor's caches; of
// widePages nothing does, so that the memory's latency shows beside the cost of a fetch.
const (
	warmPages    = 10_000
	widePages    = 200_000
	warmCapacity = 1 << 20
)

// warmFigure chooses the figure of a run of warm fetches.
type warmFigure func(fetches int64, took time.Duration, allocs uint64) float64

func nanosOf(fetches int64, took time.Duration, _ uint64) float64 {
	return float64(took.Nanoseconds()) / float64(fetches)
}

func allocsOf(fetches int64, _ time.Duration, allocs uint64) float64 {
	return float64(allocs) / float64(fetches)
}

// How the pages of warmGets are evicted.
const (
	evictFirst = false // all of them, before each round gets each page once
	evictChurn = true  // while others are fetched, since the capacity is small
)

// warmGets measures Gets of count pages that are fetched from the file cache.
func warmGets(count int, figure warmFigure, churn bool) side {
	return func(_ context.Context, c *config, dir string) (float64, error) {
		count := c.part(count)
		few := int64(min(warmCapacity, count*pageSize/4))
		pc, err := coldStore(c, dir, count, pageSize, engine.Options{})
		if err != nil {
			return 0, err
		}
		for i := range count { // makes all pages resident
			err = errors.Join(err, getOnce(pc, i, pageSize))
		}
		if churn {
			err = errors.Join(err, pc.SetCacheCapacity(few))
		}
		var took time.Duration
		var allocs uint64
		first := pc.Stats().Pages.Fetches
		for start := time.Now(); err == nil && (took == 0 || time.Since(start) < c.during()); {
			if !churn {
				err = evictAll(pc, few)
			}
			if err == nil {
				took, allocs, err = warmRound(pc, count, took, allocs)
			}
		}
		st := pc.Stats()
		fmt.Fprintf(os.Stderr, "  %d warm fetches in %v; %d fetches from disk, %d evictions\n",
			st.Pages.Fetches-first, took, st.Pages.FetchesCold, st.Cache.Evictions)
		return figure(st.Pages.Fetches-first, took, allocs), errors.Join(err, pc.Close())
	}
}

// warmRound gets each page once. It returns took and allocs, increased by the time and the allocations of that.
func warmRound(pc *engine.PageCache[[]byte], count int, took time.Duration, allocs uint64) (
	time.Duration, uint64, error) {
	const step = 7919 // keeps neighbours in the log from being read one after another
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	for i := 0; i < count; {
		tx, err := pc.Begin()
		if err != nil {
			return 0, 0, err
		}
		for range 256 {
			p, err := pc.Get(tx, engine.FirstUserPage+engine.PageID(i*step%count))
			if err == nil && len(p.Value) != pageSize {
				err = fmt.Errorf("page has %d bytes, want %d", len(p.Value), pageSize)
			}
			if err != nil {
				tx.End()
				return 0, 0, err
			}
			if i++; i == count {
				break
			}
		}
		tx.End()
	}
	took += time.Since(start)
	runtime.ReadMemStats(&after)
	return took, allocs + after.Mallocs - before.Mallocs, nil
}

// evictAll waits up to 5 s until all pages are evicted but few bytes, and then sets a capacity that holds all.
func evictAll(pc *engine.PageCache[[]byte], few int64) error {
	if err := pc.SetCacheCapacity(1); err != nil {
		return err
	}
	for n := 0; n < 1000; n++ {
		if st := pc.Stats(); st.Cache.HeapResident+st.Cache.MappedResident < few {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := pc.SetCacheCapacity(4 << 30); err != nil {
		return err
	}
	for n := 0; n < 1000 && pc.Stats().Cache.Policy.Active; n++ { // until the policy is idle
		time.Sleep(time.Millisecond)
	}
	return nil
}
