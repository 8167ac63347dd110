package engine

import (
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine/internal/clean"
	"pagecache/engine/internal/seam"
	"pagecache/segments/format"
)

// The cleaner moves a page that many goroutines write to without a pause: after a few turns it wins. Proves rule 18.
func TestMoveOfHotPage(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{ConsolidateAfter: 1000, seam: seam.Options{Foreground: true}})
	pid, _ := allocate(t, pc, make([]byte, 100<<10))
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !stop.Load() {
				tx := begin(t, pc)
				p, err := pc.Get(tx, pid)
				for i := 0; i < 100 && err == nil; i++ {
					p.Ptr, _, err = pc.Link(tx, pid, p.Ptr, []byte("delta"))
				}
				tx.End()
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	v := &mover[[]byte]{pc: pc}
	everywhere := clean.Extent{From: 0, To: format.Offset(1 << 40)}
	for range 10 {
		if n, _, err := v.Move(pid, everywhere); err != nil || n < 100<<10 { // without an end if writers always win
			t.Errorf("moved %d bytes, %v", n, err)
		}
	}
	stop.Store(true)
	wg.Wait()
	closeTest(t, pc)
}
