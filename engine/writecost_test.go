package engine_test

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

// processorTime returns the processor time that the process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// writeSizes are the lengths in bytes of the values that the benchmarks below write.
var writeSizes = []int{100, 1 << 10, 4 << 10, 16 << 10}

// writeLive is the number of bytes of the values that the benchmarks keep resident, so that the collector runs as
// seldom as beside a cache.
const writeLive = 128 << 20

// benchmarkWrites writes values of each length to pages in turns. It measures the calls and not the disk: a Temporary
// store lies in memory. cpu-ns/op is the processor time of the process, the collector and the flusher included.
func benchmarkWrites(b *testing.B, write func(pc *engine.PageCache[[]byte], tx *engine.Tx[[]byte], pid engine.PageID,
	old engine.PagePtr[[]byte], v []byte) (engine.PagePtr[[]byte], bool, error)) {
	for _, size := range writeSizes {
		b.Run(fmt.Sprintf("value=%d", size), func(b *testing.B) {
			pc := enginetest.Open(b, "", &engine.Options{Temporary: true})
			pages := writeLive / (size + 100)
			pids, ptrs := make([]engine.PageID, pages), make([]engine.PagePtr[[]byte], pages)
			v := make([]byte, size)
			tx := enginetest.Begin(b, pc)
			var err error
			for i := range pids {
				if pids[i], ptrs[i], err = pc.Allocate(tx, v); err != nil {
					b.Fatal(err)
				}
			}
			tx.End()
			runtime.GC()
			before := processorTime()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for n := range b.N {
				tx := enginetest.Begin(b, pc)
				i, won := n%pages, false
				if ptrs[i], won, err = write(pc, tx, pids[i], ptrs[i], v); err != nil || !won {
					b.Fatal(won, err)
				}
				tx.End()
			}
			b.ReportMetric(float64(processorTime()-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkLink measures Link, with a Replace in the place of every fourth, so that no page is consolidated.
func BenchmarkLink(b *testing.B) {
	depth := map[engine.PageID]int{}
	benchmarkWrites(b, func(pc *engine.PageCache[[]byte], tx *engine.Tx[[]byte], pid engine.PageID,
		old engine.PagePtr[[]byte], v []byte) (engine.PagePtr[[]byte], bool, error) {
		if depth[pid]++; depth[pid]%4 == 0 {
			return pc.Replace(tx, pid, old, v)
		}
		return pc.Link(tx, pid, old, v)
	})
}

// BenchmarkReplace measures Replace.
func BenchmarkReplace(b *testing.B) {
	benchmarkWrites(b, func(pc *engine.PageCache[[]byte], tx *engine.Tx[[]byte], pid engine.PageID,
		old engine.PagePtr[[]byte], v []byte) (engine.PagePtr[[]byte], bool, error) {
		return pc.Replace(tx, pid, old, v)
	})
}

// BenchmarkBlindLink measures State and Link to evicted pages. No page is read, since none is consolidated.
func BenchmarkBlindLink(b *testing.B) {
	pc := enginetest.Open(b, b.TempDir(), &engine.Options{ConsolidateAfter: 1 << 15})
	pids := enginetest.AllocateMany(b, pc, 1000, 4<<10)
	enginetest.Flush(b, pc)
	if err := engine.EvictAll(pc, pids); err != nil {
		b.Fatal(err)
	}
	delta := make([]byte, 100)
	b.ReportAllocs()
	b.ResetTimer()
	for n := range b.N {
		tx := enginetest.Begin(b, pc)
		pid := pids[n%len(pids)]
		old, _, err := pc.State(tx, pid)
		if err == nil {
			_, _, err = pc.Link(tx, pid, old, delta)
		}
		if err != nil {
			b.Fatal(err)
		}
		tx.End()
	}
	b.StopTimer()
	if n := pc.Stats().Pages.Fetches; n != 0 {
		b.Errorf("%d fragments were read", n)
	}
}
