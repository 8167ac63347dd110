//go:build invariants

package invariants

import (
	"math/rand/v2"
	"runtime"
	"time"
)

// Enabled says whether the costly checks are compiled in (build tag invariants).
const Enabled = true

// Jitter shakes the schedule before a hot load or compare-and-swap.
func Jitter() {
	switch n := rand.Uint32N(1 << 12); {
	case n == 0:
		time.Sleep(time.Duration(rand.Uint32N(50)) * time.Microsecond)
	case n < 64:
		runtime.Gosched()
	}
}
