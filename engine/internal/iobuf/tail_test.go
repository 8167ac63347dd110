package iobuf

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/segments/format"
)

// Tail is never above the end of the last reservation, also while its buffer is retired and opened for another segment.
// Otherwise a goroutine that waits for an LSN that was never reserved would wait for writes that no goroutine makes.
func TestTailIsReserved(t *testing.T) {
	// takeFree takes the buffer that was retired last, so that this happens at every other segment.
	for _, procs := range []int{1, 2, 8} {
		t.Run(fmt.Sprintf("procs=%d", procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			const size = 100
			r := newRig(t, setup{slots: 8000, seed: 1})
			var reserved atomic.Int64 // where the last message ends
			var stop atomic.Bool
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					for ; !stop.Load(); runtime.Gosched() {
						tail := r.Tail()
						// Read after the tail: at most a message more was reserved, at the beginning of the next
						// segment.
						if most := reserved.Load() + format.SegmentStart + 2*size + 512; int64(tail) > most {
							t.Errorf("tail %d, and at most %d was reserved", tail, most)
							stop.Store(true)
						}
					}
				})
			}
			for i := 0; i < 10_000 && !stop.Load(); i++ {
				res, err := r.Reserve(format.KindAppend, 1, size)
				if err != nil {
					t.Error(err)
					break // so that the readers end
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
