package engine_test

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/invariants"
)

// fewBytes allocates n pages of 100 bytes each.
func fewBytes(t testing.TB, pc *engine.PageCache[[]byte], n int) []engine.PageID {
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	pids := make([]engine.PageID, n)
	for i := range pids {
		var err error
		if pids[i], _, err = pc.Allocate(tx, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	return pids
}

// linkAlone is a Get and a Link, and linkInTransaction the same as a transaction.
func linkAlone(pc *engine.PageCache[[]byte], pid engine.PageID, delta []byte) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	p, err := pc.Get(tx, pid)
	if err == nil {
		_, _, err = pc.Link(tx, pid, p.Ptr, delta)
	}
	return err
}

func linkInTransaction(pc *engine.PageCache[[]byte], pid engine.PageID, delta []byte) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	if _, err := tx.Get(pid); err != nil {
		return err
	}
	if err := tx.Link(pid, delta); err != nil {
		return err
	}
	_, err = tx.Commit()
	return err
}

// A transaction of one Link allocates little more than a Link alone.
func TestTransactionOfOneLinkIsCheap(t *testing.T) {
	if enginetest.Raced || invariants.Enabled {
		t.Skip("the race detector and the checks of invariants allocate")
	}
	pc := enginetest.Open(t, "", &engine.Options{Temporary: true})
	defer enginetest.Close(t, pc)
	pids := fewBytes(t, pc, 1)
	count := func(f func(*engine.PageCache[[]byte], engine.PageID, []byte) error) float64 {
		return testing.AllocsPerRun(1000, func() {
			if err := f(pc, pids[0], []byte("delta")); err != nil {
				t.Fatal(err)
			}
		})
	}
	alone, within := count(linkAlone), count(linkInTransaction)
	t.Logf("%v allocations, in a transaction %v", alone, within)
	if within > alone+2 {
		t.Errorf("a transaction of one Link takes %v allocations, a Link alone %v", within, alone)
	}
}

// twoOfFour is a transaction that reads four pages and links to two of them.
func twoOfFour(ctx context.Context, pc *engine.PageCache[[]byte], pids [4]engine.PageID) error {
	_, err := pc.Update(ctx, func(tx *engine.Tx[[]byte]) error {
		for _, pid := range pids {
			if _, err := tx.Get(pid); err != nil {
				return err
			}
		}
		if err := tx.Link(pids[0], []byte("delta")); err != nil {
			return err
		}
		return tx.Link(pids[1], []byte("delta"))
	})
	return err
}

// A transaction of two Links allocates little more than two Links: a record, the pages that it has read, and for each
// page a function that makes its entry.
func TestTransactionOfTwoLinksIsCheap(t *testing.T) {
	if enginetest.Raced || invariants.Enabled {
		t.Skip("the race detector and the checks of invariants allocate")
	}
	pc := enginetest.Open(t, "", &engine.Options{Temporary: true})
	defer enginetest.Close(t, pc)
	pids := [4]engine.PageID(fewBytes(t, pc, 4))
	alone := testing.AllocsPerRun(1000, func() {
		if err := linkAlone(pc, pids[0], []byte("delta")); err != nil {
			t.Fatal(err)
		}
	})
	within := testing.AllocsPerRun(1000, func() {
		if err := twoOfFour(t.Context(), pc, pids); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%v allocations, in a transaction of two %v", alone, within)
	if within > 2*alone+6 {
		t.Errorf("a transaction of two Links takes %v allocations, a Link alone %v", within, alone)
	}
}

// BenchmarkLinkInTransaction compares a Get and a Link with the same as a transaction.
func BenchmarkLinkInTransaction(b *testing.B) {
	for _, c := range []struct {
		name string
		f    func(*engine.PageCache[[]byte], engine.PageID, []byte) error
	}{{"alone", linkAlone}, {"transaction", linkInTransaction}} {
		b.Run(c.name, func(b *testing.B) {
			pc := enginetest.Open(b, "", &engine.Options{Temporary: true})
			defer enginetest.Close(b, pc)
			pids := fewBytes(b, pc, 10000)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				if err := c.f(pc, pids[i%len(pids)], []byte("delta")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkTwoOfFour is a transaction that reads four pages, uniformly chosen of 100 000, and links to two of them.
func BenchmarkTwoOfFour(b *testing.B) {
	pc := enginetest.Open(b, "", &engine.Options{Temporary: true})
	defer enginetest.Close(b, pc)
	pids := fewBytes(b, pc, 100_000)
	var seed atomic.Uint64
	b.SetParallelism(2) // goroutines for each processor
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		rng := rand.New(rand.NewPCG(seed.Add(1), 0))
		for pb.Next() {
			var of [4]engine.PageID
			for i := range of {
				of[i] = pids[rng.IntN(len(pids))]
			}
			if err := twoOfFour(b.Context(), pc, of); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "pages/s")
}
