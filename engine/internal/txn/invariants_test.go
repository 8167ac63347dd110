//go:build invariants

package txn

import (
	"testing"
	"time"

	"pagecache/internal/invariants"
)

// Every rare path of the package that is named by invariants.Sometimes is taken by this workload.
func TestRarePathsAreTaken(t *testing.T) {
	seed := uint64(0)
	run := func() {
		seed++
		hostile(newStore(3), seed, 8, 200)
	}
	if never := invariants.Reach("txn: ", time.Minute, run); len(never) > 0 {
		t.Errorf("never taken: %q", never)
	}
}
