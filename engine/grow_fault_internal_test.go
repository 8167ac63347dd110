package engine

import (
	"runtime/debug"
	"syscall"
	"testing"
)

// A delta in a map of the caller's own that cannot be read panics in Link, with SetPanicOnFault, before the log waits
// for its message: later commits become stable.
func TestUnreadableDeltaStopsNothing(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{})
	pid, _ := grown(t, pc, 100, 1)
	b, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_NONE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Munmap(b) }()
	tx := begin(t, pc)
	func() {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		var won bool
		var err error
		defer func() {
			// It is an error, if the map lies between those of the log.
			if recover() == nil && (won || err == nil) {
				t.Error("the delta was read", won, err)
			}
		}()
		_, won, err = pc.Link(tx, pid, get1(t, pc, pid).Ptr, b[:8])
	}()
	ptr, won, err := pc.Link(tx, pid, get1(t, pc, pid).Ptr, []byte("next"))
	if err != nil || !won {
		t.Fatal(won, err)
	}
	tx.End()
	soon(t, "MakeStable after a Link that panicked", func() {
		if _, err := pc.MakeStable(ptr.LastLSN()); err != nil {
			t.Error(err)
		}
	})
	closeTest(t, pc)
}
