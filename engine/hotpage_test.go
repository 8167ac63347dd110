package engine_test

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

// hammer links small deltas to a page from several goroutines, each for n times that it wins. It returns how many
// bytes were linked.
func hammer(t *testing.T, pc *engine.PageCache[[]byte], pid engine.PageID, n int) int {
	const writers = 8
	delta := []byte("0123456789abcdef")
	var linked atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for won := 0; won < n; {
				tx := enginetest.Begin(t, pc)
				p, err := pc.Get(tx, pid)
				ptr := p.Ptr
				for ok := false; !ok && err == nil && won < n; {
					if ptr, ok, err = pc.Link(tx, pid, ptr, delta); ok {
						won++
						linked.Add(1)
					}
				}
				tx.End()
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return int(linked.Load()) * len(delta)
}

// If many goroutines write to one page, one of them consolidates it at a time while the others go on, and it wins: the
// chain stays short, and the page is not written anew more often than its chain fills up. Proves rule 18, trap 43.
func TestConsolidationOfHotPage(t *testing.T) {
	t.Parallel()
	const limit, each = 10, 400
	pc := enginetest.Open(t, t.TempDir(), &engine.Options{ConsolidateAfter: limit})
	tx := enginetest.Begin(t, pc)
	pid, _, err := pc.Allocate(tx, make([]byte, 50<<10))
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	var done atomic.Bool
	longest := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for !done.Load() {
			tx := enginetest.Begin(t, pc)
			_, frags, err := pc.Fragments(tx, pid)
			tx.End()
			if err != nil {
				t.Error(err)
				return
			}
			longest = max(longest, len(frags))
			time.Sleep(50 * time.Microsecond)
		}
	})
	linked := hammer(t, pc, pid, each)
	done.Store(true)
	wg.Wait()
	links, n := linked/16, int(pc.Stats().Pages.Consolidations)
	// Fragments and Get consolidate a long page too, so a few more than one for each full chain are possible.
	if n > links/limit*2 {
		t.Errorf("%d consolidations for %d links, limit %d", n, links, limit)
	}
	if longest > 20*limit {
		t.Errorf("the chain had %d fragments, limit %d", longest, limit)
	}
	tx = enginetest.Begin(t, pc)
	p, err := pc.Get(tx, pid)
	if err != nil || len(p.Value) != 50<<10+linked || !bytes.HasSuffix(p.Value, []byte("def")) {
		t.Errorf("the page has %d bytes, want %d: %v", len(p.Value), 50<<10+linked, err)
	}
	tx.End()
	enginetest.Close(t, pc)
}
