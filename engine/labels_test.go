package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/apart"
	"pagecache/internal/simdisk"
)

// Goroutines that outlive the call that starts them carry a profiling label of the store, and none of the callers'.
func TestBackgroundGoroutinesHaveTheirOwnLabels(t *testing.T) {
	if apart.Run(t) {
		return
	}
	dir := t.TempDir()
	o := &engine.Options{SegmentSize: 64 << 10, FlushEvery: time.Millisecond, CacheCapacity: 1 << 20,
		SnapshotEvery: 100, IDPersistInterval: 10}
	pids := fillDir(t, dir, o)
	found := map[string]bool{}
	pprof.Do(context.Background(), pprof.Labels("caller", t.Name()), func(context.Context) {
		pc := enginetest.Open(t, dir, o)
		size, err := engine.StoreOf(pc).File().Size()
		if err == nil {
			err = engine.StoreOf(pc).File().DropCache(0, size) // the next reads go through rings
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, pid := range pids {
			tx := enginetest.Begin(t, pc)
			p, err := pc.Get(tx, pid)
			if err == nil {
				_, _, err = pc.Replace(tx, pid, p.Ptr, bytes.Repeat([]byte{'b'}, 2000+i))
			}
			if err == nil && i%100 == 0 {
				err = pc.Prefetch(tx, pids...)
			}
			tx.End()
			if err != nil {
				t.Fatal(err)
			}
			if i%20 == 0 {
				checkLabels(t, found)
			}
		}
		enginetest.Flush(t, pc)
		checkLabels(t, found)
		enginetest.Close(t, pc)
	})
	for _, name := range []string{"flusher", "cleaner", "policy", "snapshot writer"} {
		if !found[name] {
			t.Errorf("no goroutine is labelled as the %s", name)
		}
	}
	t.Logf("labels found: %v", found)
}

// Callbacks of events are called with the labels of the store, although the event may be reported first by a caller.
func TestCallbacksHaveTheStoresLabels(t *testing.T) {
	called := false
	pprof.Do(context.Background(), pprof.Labels("caller", t.Name()), func(context.Context) {
		o := enginetest.SimOptions(simdisk.New(1, simdisk.Options{NoRing: true}))
		o.Events.Degraded = func(engine.DegradedInfo) {
			var profile bytes.Buffer
			if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
				t.Error(err)
			}
			for stack := range strings.SplitSeq(profile.String(), "\n\n") {
				if strings.Contains(stack, "(*Reporter).deliver") {
					called = strings.Contains(stack, `# labels: {"pagecache":"announcer"}`)
				}
			}
		}
		enginetest.Close(t, enginetest.Open(t, "/store", o)) // Open waits for the callback
	})
	if !called {
		t.Error("no callback was called with the label of the announcer, and nothing else")
	}
}

// fillDir makes a store with some pages, closes it, and returns the ids of the pages.
func fillDir(t *testing.T, dir string, o *engine.Options) []engine.PageID {
	t.Helper()
	pc := enginetest.Open(t, dir, o)
	pids := enginetest.AllocateMany(t, pc, 1000, 2000)
	enginetest.Close(t, pc)
	return pids
}

// checkLabels fails the test if a goroutine that the test did not start has the label of the test, and keeps it: one
// that has just been started has its creator's labels until it sets its own. It adds the names of the labelled
// goroutines to found.
func checkLabels(t *testing.T, found map[string]bool) {
	t.Helper()
	var foreign string
	for range 50 {
		if foreign = foreignLabels(t, found); foreign == "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("a goroutine has the labels of the test: %s", foreign)
}

// foreignLabels returns the stack of a goroutine that the test did not start and that has the label of the test, or "".
// It adds the names of the labelled goroutines to found.
func foreignLabels(t *testing.T, found map[string]bool) (foreign string) {
	t.Helper()
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		t.Fatal(err)
	}
	for stack := range strings.SplitSeq(profile.String(), "\n\n") {
		_, labels, _ := strings.Cut(stack, "# labels: {")
		labels, _, _ = strings.Cut(labels, "}\n")
		if strings.Contains(labels, fmt.Sprintf("%q", t.Name())) && !strings.Contains(stack, "foreignLabels") {
			foreign = stack
		}
		if _, name, ok := strings.Cut(labels, `"pagecache":"`); ok {
			found[strings.TrimSuffix(name, `"`)] = true
		}
	}
	return foreign
}
