package pagetest_test

import (
	"strings"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/pagetest"
)

// A store that is closed leaves nothing behind. Of one that is not closed, or closed with an open Tx, the goroutines,
// the files, the mappings and the Tx are found.
func TestLeaks(t *testing.T) {
	o := &engine.Options{SegmentSize: 16 << 10}
	use := func(t testing.TB, dir string) *engine.PageCache[[]byte] {
		pc, err := engine.Open(dir, engine.Bytes{}, o)
		if err != nil {
			t.Fatalf("%v", err)
		}
		for i := range 40 {
			pid, err := add(pc, value(i))
			if err != nil {
				t.Fatalf("%v", err)
			}
			if _, err := get(pc, pid); err != nil {
				t.Fatalf("%v", err)
			}
		}
		return pc
	}
	dir := t.TempDir()
	if got := record(t, func(t testing.TB) {
		pagetest.CheckLeaks(t)
		pagetest.Close(t, use(t, dir), o)
	}); got != "" {
		t.Errorf("a closed store: %s", got)
	}
	var left *engine.PageCache[[]byte]
	dir = t.TempDir()
	got := record(t, func(t testing.TB) {
		pagetest.CheckLeaks(t)
		left = use(t, dir)
	})
	for _, what := range []string{"goroutine ", "open file " + dir, "mapping of " + dir} {
		if !strings.Contains(got, "left behind: "+what) {
			t.Errorf("a store that is not closed: no %s in:\n%s", what, got)
		}
	}
	tx, err := left.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if got := record(t, func(t testing.TB) {
		time.AfterFunc(time.Second/2, tx.End) // a caller that ends its Tx too late
		pagetest.Close(t, left, o)
	}); !strings.Contains(got, "Txs are still open") {
		t.Errorf("a Tx that is open: %q", got)
	}
}
