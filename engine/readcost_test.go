package engine_test

import (
	"sync"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/invariants"
)

// readPages and readSize are the number of pages that the benchmarks below read, and the length in bytes of each. They
// are more than the processor's caches hold.
const readPages, readSize = 100_000, 1 << 10

// readStore returns a store in which all pages are resident.
func readStore(b *testing.B) (*engine.PageCache[[]byte], []engine.PageID) {
	pc := enginetest.Open(b, "", &engine.Options{Temporary: true})
	pids := make([]engine.PageID, 0, readPages)
	tx := enginetest.Begin(b, pc)
	defer tx.End()
	for i := range readPages {
		v := make([]byte, readSize)
		v[0] = byte(i)
		pid, _, err := pc.Allocate(tx, v)
		if err != nil {
			b.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pc, pids
}

// lcg is a generator of random numbers that costs next to nothing.
type lcg uint64

func (s *lcg) below(n int) int {
	*s = *s*6364136223846793005 + 1442695040888963407
	return int(uint64(*s>>32) * uint64(n) >> 32)
}

// BenchmarkGet measures Get of resident pages, with the first byte of each value read: always the same page, a random
// one, and a random one in two goroutines.
func BenchmarkGet(b *testing.B) {
	pc, pids := readStore(b)
	read := func(b *testing.B, pids []engine.PageID, seed lcg, n int) {
		tx := enginetest.Begin(b, pc)
		defer tx.End()
		sum := byte(0)
		for range n {
			p, err := pc.Get(tx, pids[seed.below(len(pids))])
			if err != nil || len(p.Value) != readSize {
				b.Error(len(p.Value), err)
				return
			}
			sum += p.Value[0]
		}
		readSink.Store(&sum, true)
	}
	b.Run("hot", func(b *testing.B) { read(b, pids[:1], 1, b.N) })
	b.Run("random", func(b *testing.B) { read(b, pids, 1, b.N) })
	b.Run("goroutines=2", func(b *testing.B) {
		var wg sync.WaitGroup
		for g := range 2 {
			wg.Go(func() { read(b, pids, lcg(g), (b.N+1)/2) })
		}
		wg.Wait()
	})
}

// BenchmarkGetMany measures GetMany of 16 random resident pages, with the first byte of each value read. ns/op is the
// time of one page.
func BenchmarkGetMany(b *testing.B) {
	pc, pids := readStore(b)
	tx := enginetest.Begin(b, pc)
	defer tx.End()
	const many = 16
	var seed lcg
	var pages []engine.Page[[]byte]
	wanted, sum := make([]engine.PageID, many), byte(0)
	b.ReportAllocs()
	b.ResetTimer()
	for range (b.N + many - 1) / many {
		for i := range wanted {
			wanted[i] = pids[seed.below(len(pids))]
		}
		var err error
		if pages, err = pc.GetMany(tx, wanted, pages[:0]); err != nil {
			b.Fatal(err)
		}
		for i := range pages {
			sum += pages[i].Value[0]
		}
	}
	readSink.Store(&sum, true)
}

// readSink keeps what the benchmarks have read.
var readSink sync.Map

// BenchmarkBegin measures Begin and End.
func BenchmarkBegin(b *testing.B) {
	pc := enginetest.Open(b, "", &engine.Options{Temporary: true})
	b.ReportAllocs()
	for range b.N {
		tx, err := pc.Begin()
		if err != nil {
			b.Fatal(err)
		}
		tx.End()
	}
}

// BenchmarkBeginParallel measures Begin and End of goroutines on all cores.
func BenchmarkBeginParallel(b *testing.B) {
	pc := enginetest.Open(b, "", &engine.Options{Temporary: true})
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			tx, err := pc.Begin()
			if err != nil {
				b.Error(err)
				return
			}
			tx.End()
		}
	})
}

// BenchmarkGenerateID measures GenerateID.
func BenchmarkGenerateID(b *testing.B) {
	pc := enginetest.Open(b, "", &engine.Options{Temporary: true})
	b.ReportAllocs()
	for range b.N {
		if _, err := pc.GenerateID(); err != nil {
			b.Fatal(err)
		}
	}
}

// A Get of a resident page allocates nothing.
func TestGetAllocatesNothing(t *testing.T) {
	pc, tx := simPages(t, 0)
	pid := enginetest.AllocateMany(t, pc, 1, 100)[0]
	if n := testing.AllocsPerRun(1000, func() { _, _ = pc.Get(tx, pid) }); n != 0 && !invariants.Enabled {
		t.Errorf("Get allocates %v times", n)
	}
}
