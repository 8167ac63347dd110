package iobuf

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/segments/format"
)

// Tail is never above what was reserved, also while the buffer that it looks at is emptied and opened for another
// segment. One who waits for an LSN that was never reserved would wait for writes that nobody makes.
func TestTailIsReserved(t *testing.T) {
	// The emptied buffer is the next that is taken, so that this happens at every other segment.
	for _, procs := range []int{1, 2, 8} {
		t.Run("", func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			const size = 100
			r := newRig(t, 16<<10, 2, 512, 8000, 1)
			var reserved atomic.Int64 // where the last message ends
			var stop atomic.Bool
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					for ; !stop.Load(); runtime.Gosched() {
						tail := r.Tail()
						// Read after the tail: at most a message more was reserved, at the beginning of the next
						// segment.
						if most := reserved.Load() + 2*format.SegmentHeaderSize + 2*size + 512; int64(tail) > most {
							t.Errorf("tail %d, and at most %d was reserved", tail, most)
							stop.Store(true)
						}
					}
				})
			}
			for i := 0; i < 10_000 && !stop.Load(); i++ {
				res, err := r.Reserve(format.KindAppend, 1, size)
				if err != nil {
					t.Fatal(err)
				}
				reserved.Store(int64(res.End()))
				res.Complete()
			}
			stop.Store(true)
			wg.Wait()
			if err := r.MakeStable(1 << 40); err != nil { // never reserved: all that is
				t.Error(err)
			}
			if _, err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
