//go:build invariants

package engine_test

import (
	"fmt"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

// modified calls f, which must panic because a value of the store was modified.
func modified(t *testing.T, doing string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if text := fmt.Sprint(recover()); !strings.Contains(text, "was modified") {
			t.Errorf("%s after a value was modified: %s, want a panic that says so", doing, text)
		}
	}()
	f()
}

// A reader that modifies a value of Get is found out by the next Get, by a Link that consolidates, and by reading the
// page when it has deltas. A caller that modifies what it has passed in harms nothing. Proves rule 20.
func TestModifiedValuesAreFound(t *testing.T) {
	t.Parallel()
	o := &engine.Options{SegmentSize: 16 << 10, ConsolidateAfter: 2, FlushEvery: -1}
	for _, size := range []int{20, 1000} { // with their entries in one piece of memory, and not
		pc := enginetest.Open(t, t.TempDir(), o)
		enginetest.NoCheck(t, pc)
		tx := enginetest.Begin(t, pc)
		own := make([]byte, size)
		pid, ptr, err := pc.Allocate(tx, own)
		if err != nil {
			t.Fatal(err)
		}
		own[1]++
		p, err := pc.Get(tx, pid)
		if err != nil || p.Value[1] != 0 {
			t.Fatal(err)
		}
		p.Value[1]++
		modified(t, "Get", func() { _, _ = pc.Get(tx, pid) })
		for _, doing := range []string{"Link", "Link that consolidates"} {
			if doing == "Link" {
				var won bool
				if ptr, won, err = pc.Link(tx, pid, ptr, own[:10]); !won || err != nil {
					t.Fatal(won, err)
				}
				modified(t, "Get of a page with deltas", func() { _, _ = pc.Get(tx, pid) })
				continue
			}
			modified(t, doing, func() { _, _, _ = pc.Link(tx, pid, ptr, own[:10]) })
		}
		p.Value[1]-- // as it was
		if _, err := pc.Get(tx, pid); err != nil {
			t.Error(err)
		}
		tx.End()
		enginetest.Close(t, pc)
	}
}
