//go:build invariants

package invariants

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Enabled reports whether the costly checks are compiled in (build tag invariants).
const Enabled = true

// spun keeps the compiler from removing Jitter's loop.
var spun atomic.Uint32

// Jitter sometimes yields, and rarely delays its caller by up to about 50 µs. It stands before a hot load or
// compare-and-swap. It does not sleep: that would move the clock of a testing/synctest bubble, in which tests expect
// exact times.
func Jitter() {
	switch n := rand.Uint32N(1 << 12); {
	case n == 0:
		for range rand.Uint32N(50) {
			for range 200 { // about a microsecond
				spun.Add(1)
			}
			runtime.Gosched()
		}
	case n < 64:
		runtime.Gosched()
	}
}

// paths counts by name how often the condition of Sometimes was true: map[string]*atomic.Int64.
var paths sync.Map

// Sometimes declares that the condition named name should be true at least once in a test run, and counts how often it
// is. Place it where both outcomes pass, so that NeverTrue learns the name also if the rare path is never taken. The
// argument cond must have no side effects.
func Sometimes(name string, cond bool) {
	c, ok := paths.Load(name)
	if !ok {
		c, _ = paths.LoadOrStore(name, new(atomic.Int64))
	}
	if cond {
		c.(*atomic.Int64).Add(1)
	}
}

// Count returns how often the condition named name was true.
func Count(name string) int64 {
	if c, ok := paths.Load(name); ok {
		return c.(*atomic.Int64).Load()
	}
	return 0
}

// NeverTrue returns the names, sorted, that begin with prefix and were passed to Sometimes, and whose condition was
// never true.
func NeverTrue(prefix string) (names []string) {
	paths.Range(func(name, c any) bool {
		if n := name.(string); strings.HasPrefix(n, prefix) && c.(*atomic.Int64).Load() == 0 {
			names = append(names, n)
		}
		return true
	})
	slices.Sort(names)
	return names
}

// Reach calls work, at least once, until every condition whose name begins with prefix has been true, or the limit has
// passed after a call. It returns the names of the conditions that were never true. For tests.
func Reach(prefix string, limit time.Duration, work func()) (never []string) {
	for start := time.Now(); ; {
		work()
		if never = NeverTrue(prefix); len(never) == 0 || time.Since(start) > limit {
			return never
		}
	}
}
