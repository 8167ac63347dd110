package scope

import (
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine/internal/report"
	"pagecache/engine/internal/scratch"
	"pagecache/segments/format"
)

// newSet returns a Set of its own.
func newSet() *Set {
	t := &Set{}
	t.Init(new(atomic.Bool), scratch.New(1<<20), report.New(report.Config{}))
	return t
}

// alone begins and ends Scopes one after the other until the Set knows that no two of them overlap, and returns the one
// that it keeps.
func alone(t *testing.T, set *Set) *Scope {
	t.Helper()
	for range 1 << 14 {
		set.Begin().End()
		if tx := set.solo.Load(); tx != nil {
			return tx
		}
	}
	t.Fatal("Scopes that do not overlap never get one kept for them")
	return nil
}

// A goroutine that is alone enters the slot of the same Scope each time, and takes nothing from the pool.
func TestLoneGoroutineKeepsItsScope(t *testing.T) {
	set := newSet()
	kept := alone(t, set)
	for range 100 {
		tx := set.Begin()
		if !kept.S().Slot.Present() {
			t.Fatal("a Scope other than the kept one was begun")
		}
		tx.End()
		if kept.S().Slot.Present() {
			t.Fatal("the kept Scope was not ended")
		}
	}
	if set.made != 1 {
		t.Errorf("%d Scopes made, want 1", set.made)
	}
}

// Two Scopes that are open at the same time have two slots, whichever of them is kept, and none is kept after that.
func TestOverlapEndsTheKeptScope(t *testing.T) {
	set := newSet()
	for range 3 {
		kept := alone(t, set)
		a := set.Begin()
		b := set.Begin()
		if n := set.Domain.Readers(); n != 2 {
			t.Fatalf("%d readers inside, want 2", n)
		}
		if set.solo.Load() != nil {
			t.Fatal("a Scope is kept although two overlap")
		}
		a.End()
		if n := set.Domain.Readers(); n != 1 || kept.S().Slot.Present() {
			t.Fatalf("%d readers inside, want the second", n)
		}
		b.End()
		if n := set.Domain.Readers(); n != 0 {
			t.Fatalf("%d readers inside, want none", n)
		}
	}
	if set.made != 2 {
		t.Errorf("%d Scopes made, want 2", set.made)
	}
}

// A kept Scope that was given up is not begun again.
func TestTrimGivesUpTheKeptScope(t *testing.T) {
	set := newSet()
	var open []*Scope
	for range 4 * Many {
		open = append(open, set.Begin())
	}
	for _, tx := range open {
		tx.End()
	}
	set.trim()
	var gone *Scope
	for _, tx := range open {
		if tx.S().Slot.IsRemoved() {
			gone = tx
		}
	}
	if gone == nil {
		t.Fatal("no Scope was given up")
	}
	set.solo.Store(gone)
	tx := set.Begin()
	defer tx.End()
	if !tx.S().Slot.Present() || tx.S() == gone.S() {
		t.Error("a Scope that was given up was begun")
	}
	if set.solo.Load() != nil {
		t.Error("the Scope that was given up is still kept")
	}
}

// However goroutines overlap, no two have the same Scope at the same time.
func TestScopesOverlapWithoutSharing(t *testing.T) {
	set := newSet()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 20_000 {
				tx := set.Begin()
				tx.S().Changes++ // the race detector finds a second owner
				if i%64 == 0 {
					inner := set.Begin()
					inner.S().Changes++
					inner.End()
				}
				tx.End()
			}
		})
	}
	wg.Wait()
	var changes int64
	set.Each(func(tx *Scope) { changes += tx.S().Changes })
	if want := int64(4 * (20_000 + 313)); changes != want {
		t.Errorf("%d changes counted, want %d: two goroutines had one Scope", changes, want)
	}
}

// Written counts the messages of all Scopes, also of those that were given up.
func TestWrittenCountsAllScopes(t *testing.T) {
	set := newSet()
	want := int64(0)
	for range 2 {
		var open []*Scope
		for range 4 * Many {
			tx := set.Begin()
			tx.Wrote(10)
			want += format.HeaderSize + 10
			open = append(open, tx)
		}
		if n := set.Written(); n != want {
			t.Errorf("%d bytes written while all are open, want %d", n, want)
		}
		for _, tx := range open {
			tx.End()
		}
		set.trim()
		if n := set.Written(); n != want {
			t.Errorf("%d bytes written after most were given up, want %d", n, want)
		}
	}
}
