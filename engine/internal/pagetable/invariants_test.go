//go:build invariants

package pagetable

import (
	"sync"
	"testing"
	"time"

	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// Every rare path of the package that is named by invariants.Sometimes is taken by this workload.
func TestRarePathsAreTaken(t *testing.T) {
	never := invariants.Reach("pagetable: ", time.Minute, func() {
		var table Table[slot]
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i := range format.PageID(2000) {
					pid := i / 100 * fan
					table.Make(pid)
					table.Mark(pid)
					table.Touch(pid)
					table.Clock(pid)
					table.Unmark(pid)
				}
			})
		}
		wg.Wait()
	})
	if len(never) > 0 {
		t.Errorf("never taken: %q", never)
	}
}
