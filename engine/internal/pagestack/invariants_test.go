//go:build invariants

package pagestack

import (
	"testing"
	"time"

	"pagecache/internal/invariants"
)

// Every rare path of the package that is named by invariants.Sometimes is taken by this workload.
func TestRarePathsAreTaken(t *testing.T) {
	run := func() {
		TestConcurrentDeltasLoseNothing(t)
		TestConcurrentGrowthLosesNothing(t)
	}
	if never := invariants.Reach("pagestack: ", time.Minute, run); len(never) > 0 {
		t.Errorf("never taken: %q", never)
	}
}
