//go:build !invariants

package invariants

import (
	"testing"
	"unsafe"
)

// In a normal build a Tracker takes no memory as the first field of a struct, and no call allocates.
func TestNormalBuildCostsNothing(t *testing.T) {
	type object struct {
		tracker Tracker
		n       int
	}
	if a, b := unsafe.Sizeof(object{}), unsafe.Sizeof(int(0)); a != b {
		t.Errorf("a tracked int takes %d bytes, an int %d", a, b)
	}
	if n := testing.AllocsPerRun(100, func() {
		o := object{tracker: Track("test object", nil)}
		Jitter()
		Sometimes("never", o.n == 1)
		o.tracker.Done()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
