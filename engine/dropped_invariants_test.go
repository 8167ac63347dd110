//go:build invariants

package engine_test

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/invariants"
	"pagecache/internal/simdisk"
)

// awaitDropped collects garbage until a dropped object is reported, for 20 s at most, and returns the report.
func awaitDropped(t *testing.T, reports <-chan string) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		runtime.GC()
		select {
		case r := <-reports:
			return r
		case <-time.After(time.Millisecond):
		}
	}
	t.Fatal("the dropped object was not reported within 20 s")
	return ""
}

// With the invariants tag, a Tx, a Batch or a Reservation that is dropped without its end is reported with its type and
// the place where it was begun. One that was ended is not reported.
func TestDroppedHandlesAreReported(t *testing.T) {
	for handle, c := range map[string]struct {
		begin func(t *testing.T, d *simdisk.Disk) (drop, end func(), s enginetest.Store)
		names []string // of the types in the reports
	}{
		"Tx":          {beginTx, []string{"engine.Tx"}},
		"Batch":       {beginBatch, []string{"iobuf.Batch"}},
		"Reservation": {beginReservation, []string{"engine.Reservation", "iobuf.Reservation"}},
	} {
		t.Run(handle, func(t *testing.T) {
			reports := make(chan string, 16)
			t.Cleanup(invariants.CatchDropped(func(report string) { reports <- report }))
			drop, end, s := c.begin(t, simdisk.New(1, simdisk.Options{}))
			end()
			drop()
			missing := c.names
			for len(missing) > 0 {
				r := awaitDropped(t, reports)
				i := slices.IndexFunc(missing, func(name string) bool { return strings.Contains(r, name+" dropped") })
				place := "engine_test.begin" + handle
				if i < 0 || !strings.Contains(r, place) || !strings.Contains(r, "dropped_invariants_test.go") {
					t.Fatalf("want a report of one of %v, begun in %s, got:\n%s", missing, place, r)
				}
				missing = slices.Delete(slices.Clone(missing), i, i+1)
			}
			for range 3 {
				runtime.GC()
				select {
				case r := <-reports:
					t.Errorf("one %s was dropped, and there is another report:\n%s", handle, r)
				case <-time.After(5 * time.Millisecond):
				}
			}
			// A dropped object makes Close fail or wait. The context ends the wait.
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_ = s.(interface{ CloseContext(context.Context) error }).CloseContext(ctx)
		})
	}
}

func beginTx(t *testing.T, d *simdisk.Disk) (drop, end func(), s enginetest.Store) {
	pc := openUnwatched(t, d)
	begin := func() *engine.Tx[[]byte] {
		tx, err := pc.Begin()
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}
	return func() { begin() }, func() { begin().End() }, pc
}

func beginBatch(t *testing.T, d *simdisk.Disk) (drop, end func(), s enginetest.Store) {
	pc := openUnwatched(t, d)
	begin := func() *engine.Batch {
		b, err := pc.PinLog()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	end = func() {
		if err := begin().Seal(); err != nil {
			t.Fatal(err)
		}
	}
	return func() { begin() }, end, pc
}

func beginReservation(t *testing.T, d *simdisk.Disk) (drop, end func(), s enginetest.Store) {
	l, err := engine.OpenLog("/store", enginetest.SimOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	begin := func() *engine.Reservation {
		r, err := l.Reserve(10)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	end = func() {
		if err := begin().Abort(); err != nil {
			t.Fatal(err)
		}
	}
	return func() { begin() }, end, l
}

// openUnwatched opens a store that is not checked when the test ends.
func openUnwatched(t *testing.T, d *simdisk.Disk) *engine.PageCache[[]byte] {
	pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	return pc
}
