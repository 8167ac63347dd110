package main

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/bench"
	"pagecache/engine"
)

// fewPages pages and their table entries fit the processor's caches, so that the measurement shows the cost of Get
// and not of the memory.
const fewPages = 1000

// resident opens a store whose pages are all resident, and returns their ids.
func resident(c *config, dir string) (*bench.Pagecache, []engine.PageID, error) {
	s, err := open(c, dir)
	if err != nil {
		return nil, nil, err
	}
	count := c.part(pages)
	if err := bench.Load(s, count, pageSize); err != nil {
		_ = s.Close()
		return nil, nil, err
	}
	ids := make([]engine.PageID, count)
	for i := range ids {
		ids[i] = s.PageID(i)
	}
	c.collect()
	return s, ids, nil
}

// gets reads random ones of the pages ids for the time d, in several goroutines, each with a Tx that stays open for
// many reads. It returns the number of reads and the time that they took.
func gets(s *bench.Pagecache, ids []engine.PageID, goroutines int, d time.Duration) (int64, time.Duration, error) {
	const perTx = 1024
	var stop atomic.Bool
	var wg sync.WaitGroup
	total, failed := make([]int64, goroutines), make([]error, goroutines)
	start := time.Now()
	time.AfterFunc(d, func() { stop.Store(true) })
	for g := range goroutines {
		wg.Go(func() {
			seed := uint64(g)*2654435761 + 1
			for !stop.Load() {
				tx, err := s.PC.Begin()
				if err != nil {
					failed[g] = err
					return
				}
				for range perTx {
					seed = seed*6364136223846793005 + 1442695040888963407 // a generator of negligible cost
					p, err := s.PC.Get(tx, ids[(seed>>32)*uint64(len(ids))>>32])
					if err != nil || len(p.Value) != pageSize {
						failed[g] = err
						tx.End()
						return
					}
				}
				tx.End()
				total[g] += perTx
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	sum := int64(0)
	for g := range goroutines {
		if failed[g] != nil {
			return 0, 0, failed[g]
		}
		sum += total[g]
	}
	return sum, took, nil
}

// residentMeasure measures a store whose pages, with the given ids, are all resident.
type residentMeasure func(s *bench.Pagecache, ids []engine.PageID) (float64, error)

func onResident(c *config, dir string, f residentMeasure) (v float64, err error) {
	s, ids, err := resident(c, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return f(s, ids)
}

func getNanos(n, goroutines int) side {
	return func(_ context.Context, c *config, dir string) (float64, error) {
		return onResident(c, dir, func(s *bench.Pagecache, ids []engine.PageID) (float64, error) {
			count, took, err := gets(s, ids[:c.part(n)], goroutines, c.during()/2)
			return float64(took.Nanoseconds()) * float64(goroutines) / float64(count), err
		})
	}
}

func getRate(goroutines int) side {
	return func(_ context.Context, c *config, dir string) (float64, error) {
		return onResident(c, dir, func(s *bench.Pagecache, ids []engine.PageID) (float64, error) {
			count, took, err := gets(s, ids[:c.part(fewPages)], goroutines, c.during()/2)
			return float64(count) / took.Seconds(), err
		})
	}
}

// spin computes in several goroutines that share nothing. It shows how well the machine lets anything scale at the
// moment.
func spin(goroutines int) side {
	return func(_ context.Context, c *config, _ string) (float64, error) {
		const perTurn = 1 << 16
		var stop atomic.Bool
		var turns, sink atomic.Int64
		var wg sync.WaitGroup
		start := time.Now()
		time.AfterFunc(c.during()/2, func() { stop.Store(true) })
		for g := range goroutines {
			wg.Go(func() {
				n, seed := int64(0), uint64(g)
				for ; !stop.Load(); n++ {
					for range perTurn {
						seed = seed*6364136223846793005 + 1442695040888963407
					}
				}
				turns.Add(n)
				sink.Add(int64(seed)) // keeps the compiler from removing the loop
			})
		}
		wg.Wait()
		return float64(turns.Load()*perTurn) / time.Since(start).Seconds(), nil
	}
}

// allocations returns the allocations of the whole process while f runs its n operations, for each operation.
func allocations(n int, f func() error) (float64, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := f()
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(n), err
}

func getAllocs(_ context.Context, c *config, dir string) (float64, error) {
	return onResident(c, dir, func(s *bench.Pagecache, ids []engine.PageID) (float64, error) {
		n := c.part(1_000_000)
		tx, err := s.PC.Begin()
		if err != nil {
			return 0, err
		}
		defer tx.End()
		return allocations(n, func() error {
			for i := range n {
				if _, err := s.PC.Get(tx, ids[i%c.part(fewPages)]); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func beginEnd(s *bench.Pagecache, n int) error {
	for range n {
		tx, err := s.PC.Begin()
		if err != nil {
			return err
		}
		tx.End()
	}
	return nil
}

func txNanos(_ context.Context, c *config, dir string) (float64, error) {
	return onResident(c, dir, func(s *bench.Pagecache, _ []engine.PageID) (float64, error) {
		n := c.part(100_000)
		count, start := 0, time.Now()
		for time.Since(start) < c.during()/2 {
			if err := beginEnd(s, n); err != nil {
				return 0, err
			}
			count += n
		}
		return float64(time.Since(start).Nanoseconds()) / float64(count), nil
	})
}

func txAllocs(_ context.Context, c *config, dir string) (float64, error) {
	return onResident(c, dir, func(s *bench.Pagecache, _ []engine.PageID) (float64, error) {
		n := c.part(1_000_000)
		return allocations(n, func() error { return beginEnd(s, n) })
	})
}

// linkAllocs counts all allocations that Links cause, those of consolidations, flushes and the Tx included.
func linkAllocs(_ context.Context, c *config, dir string) (float64, error) {
	return onResident(c, dir, func(s *bench.Pagecache, _ []engine.PageID) (float64, error) {
		n := c.part(1_000_000)
		l := bench.Workload{Goroutines: 1, Pages: c.part(pages), Value: deltaSize, Seed: 1}
		return allocations(n, func() error {
			op := func(w *bench.Worker) error { return s.Link(w.Page(), w.Values.Next()) }
			_, err := bench.Run(l, int64(n), op, nil)
			return err
		})
	})
}
