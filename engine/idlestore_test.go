package engine_test

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

// scheduled returns about how many times goroutines of the process have begun to run so far.
func scheduled() (n uint64) {
	const sampling = 8 // the runtime counts one run in 8
	s := []metrics.Sample{{Name: "/sched/latencies:seconds"}}
	metrics.Read(s)
	for _, c := range s[0].Value.Float64Histogram().Counts {
		n += sampling * c
	}
	return n
}

// An idle store wakes no goroutine, so none of it polls: in a hundred hours of a fake clock nothing runs, be it new,
// written to, or written to and cleaned. After that it does its work as ever. Proves rule 18.
func TestIdleStoreSleeps(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		pc := enginetest.Open(t, dir, &engine.Options{SegmentSize: 16 << 10, SnapshotEvery: 50})
		idle := func(when string) {
			t.Helper()
			time.Sleep(time.Minute) // for what was begun
			runtime.GC()            // rather than later
			before := scheduled()
			time.Sleep(100 * time.Hour)
			if n := scheduled() - before; n > 2000 {
				t.Errorf("%s: goroutines ran %d times in 100 hours", when, n)
			}
		}
		idle("new")
		pids := enginetest.AllocateMany(t, pc, 100, 500)
		idle("written to")
		before := pc.Stats()
		for range 3 {
			tx := enginetest.Begin(t, pc)
			for _, pid := range pids {
				p, err := pc.Get(tx, pid)
				if err != nil {
					t.Fatal(err)
				}
				enginetest.Must(t)(pc.Replace(tx, pid, p.Ptr, make([]byte, 100)))
			}
			tx.End()
			idle("written to again")
		}
		st := pc.Stats()
		if n, err := pc.Flush(); n > 0 || err != nil {
			t.Errorf("%d bytes were not flushed, %v", n, err)
		}
		if st.Snapshots == before.Snapshots {
			t.Error("no snapshot was written")
		}
		if st.Space.Recycled == before.Space.Recycled {
			t.Error("no segment was recycled")
		}
		enginetest.Close(t, pc)
	})
}
