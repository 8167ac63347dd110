package engine_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// wantRoot fails the test unless the transaction sees this root, 0 for none.
func wantRoot(t testing.TB, tx *engine.Tx[[]byte], name string, want engine.PageID) {
	t.Helper()
	pid, err := tx.Root(name)
	if pid != want || errors.Is(err, engine.ErrRootNotFound) != (want == 0) || want != 0 && err != nil {
		t.Errorf("root %.40q is %d, %v; want %d", name, pid, err, want)
	}
}

// A transaction adds, changes and removes roots together with pages, sees its own changes, and nobody else does before
// Commit. Without Commit nothing changes. After a crash all of it is there.
func TestTransactionChangesRoots(t *testing.T) {
	d := simdisk.New(9, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	setRoot(t, pc, "changed", 0, 5)
	setRoot(t, pc, "removed", 0, 6)
	setRoot(t, pc, "kept", 0, 7)
	before := engine.Meta{"changed": 5, "removed": 6, "kept": 7}
	var pid engine.PageID
	change := func(tx *engine.Tx[[]byte]) (err error) {
		if pid, err = tx.Allocate([]byte("a page")); err != nil {
			return err
		}
		err = errors.Join(tx.SetRoot("added", pid), tx.SetRoot("changed", pid), tx.SetRoot("removed", 0),
			tx.SetRoot("none", 0), tx.SetRoot("for a moment", 9), tx.SetRoot("for a moment", 0), tx.SetRoot("", 8),
			tx.SetRoot("kept", 9), tx.SetRoot("kept", 7))
		for name, to := range map[string]engine.PageID{"added": pid, "changed": pid, "removed": 0, "none": 0,
			"for a moment": 0, "": 8, "kept": 7} {
			wantRoot(t, tx, name, to)
		}
		return err
	}
	tx := enginetest.Begin(t, pc)
	if err := change(tx); err != nil {
		t.Fatal(err)
	}
	if m, err := pc.Meta(tx); err != nil || !maps.Equal(m, before) {
		t.Errorf("before Commit the roots are %v, %v; want %v", m, err, before)
	}
	tx.End()
	wantRoots(t, pc, before)
	tail := engine.StoreOf(pc).Log.Tail()
	lsn := update(t, pc, change)
	after := engine.Meta{"added": pid, "changed": pid, "kept": 7, "": 8}
	wantRoots(t, pc, after)
	want(t, pc, map[engine.PageID]string{pid: "a page"})
	if lsn < tail {
		t.Errorf("the LSN of the commit is %d, the log ended at %d before", lsn, tail)
	}
	if _, err := pc.MakeStable(lsn); err != nil {
		t.Fatal(err)
	}
	d = d.Crash(1)
	_ = pc.Close()
	pc = enginetest.OpenSim(t, d)
	wantRoots(t, pc, after)
	want(t, pc, map[engine.PageID]string{pid: "a page"})
	// The id of the root that was removed is used again, and one that was never committed is.
	next := enginetest.NextPage(pc)
	update(t, pc, func(tx *engine.Tx[[]byte]) error { return tx.SetRoot("again", 1) })
	if enginetest.NextPage(pc) != next {
		t.Error("a root took a new id, although one was free")
	}
	enginetest.Close(t, pc)
}

// A transaction depends on the roots that it has read, also on those that there are not, and on no others. A root that
// goes away and comes back does not matter to a transaction that changes nothing.
func TestTransactionDependsOnRoots(t *testing.T) {
	pc := enginetest.OpenSim(t, simdisk.New(10, simdisk.Options{}))
	defer enginetest.Close(t, pc)
	page, _ := enginetest.Allocate(t, pc, []byte("a"))
	set := func(name string, to engine.PageID) func() {
		return func() {
			update(t, pc, func(tx *engine.Tx[[]byte]) error { return tx.SetRoot(name, to) })
		}
	}
	cas := func(name string, old, to engine.PageID) func() { return func() { setRoot(t, pc, name, old, to) } }
	set("r", 5)()
	for _, c := range []struct {
		what     string
		read     string
		change   func()
		undo     func()
		conflict bool
	}{
		{"changed", "r", set("r", 6), set("r", 5), true},
		{"changed by a call", "r", cas("r", 5, 6), cas("r", 6, 5), true},
		{"removed", "r", set("r", 0), set("r", 5), true},
		{"removed by a call", "r", cas("r", 5, 0), cas("r", 0, 5), true},
		{"added", "s", set("s", 6), set("s", 0), true},
		{"added by a call", "s", cas("s", 0, 6), cas("s", 6, 0), true},
		{"set to what it is", "r", set("r", 5), func() {}, false},
		{"another changed", "r", cas("s", 0, 6), cas("s", 6, 0), false},
		{"the page of a root changed", "r", func() { enginetest.Allocate(t, pc, nil) }, func() {}, false},
	} {
		tx := enginetest.Begin(t, pc)
		if _, err := tx.Root(c.read); err != nil && !errors.Is(err, engine.ErrRootNotFound) {
			t.Fatal(err)
		}
		if err := tx.Link(page, []byte("+")); err != nil {
			t.Fatal(err)
		}
		c.change()
		_, err := tx.Commit()
		if errors.Is(err, engine.ErrConflict) != c.conflict || !c.conflict && err != nil {
			t.Errorf("%s: %v, want a conflict: %v", c.what, err, c.conflict)
		}
		if ce := (*engine.ConflictError)(nil); errors.As(err, &ce) && ce.Page > format.MaxPageID {
			t.Errorf("%s: the conflict is on page %d, which no page can have", c.what, ce.Page)
		}
		tx.End()
		c.undo()
	}
}

// The roots and pages that a transaction reads were current at one moment, also if it fails later. Proves Q3.
func TestRootsAndPagesOfOneMoment(t *testing.T) {
	t.Parallel()
	pc := enginetest.OpenSim(t, simdisk.New(11, simdisk.Options{}))
	defer enginetest.Close(t, pc)
	page, _ := enginetest.Allocate(t, pc, nil)
	// The page says whether there is the root.
	flip := func(there bool) {
		update(t, pc, func(tx *engine.Tx[[]byte]) error {
			if there {
				return errors.Join(tx.Replace(page, []byte("y")), tx.SetRoot("r", page))
			}
			return errors.Join(tx.Replace(page, []byte("n")), tx.SetRoot("r", 0))
		})
	}
	rounds := 3000
	if testing.Short() {
		rounds = 300
	}
	flip(false)
	var wg sync.WaitGroup
	done := make(chan struct{})
	for g := range 3 {
		wg.Go(func() {
			for seen := [2]int{}; ; {
				select {
				case <-done:
					return
				default:
				}
				tx, err := pc.Begin()
				if err != nil {
					t.Error(err)
					return
				}
				var p engine.Page[[]byte]
				var root error
				if g == 0 { // in both orders
					if p, err = tx.Get(page); err == nil {
						_, root = tx.Root("r")
					}
				} else if _, root = tx.Root("r"); root == nil || errors.Is(root, engine.ErrRootNotFound) {
					p, err = tx.Get(page)
				}
				if there := root == nil; err == nil && !errors.Is(root, engine.ErrConflict) {
					if string(p.Value) == "y" != there {
						t.Errorf("the page says %q, and the root is there: %v", p.Value, there)
					}
					seen[len(p.Value)-1]++
				}
				tx.End()
			}
		})
	}
	for i := range rounds {
		flip(i%2 == 0)
	}
	close(done)
	wg.Wait()
}

// Goroutines that add, change and remove the same roots in transactions and by CASRoot get on, and each change is made
// from the root that was there.
func TestTransactionsOfRootsConcurrently(t *testing.T) {
	t.Parallel()
	d := simdisk.New(12, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	const names, goroutines = 5, 6
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	counter, _ := enginetest.Allocate(t, pc, nil) // has a byte for each root, in the transactions
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range rounds {
				name := rootName((i*7 + g) % names)
				var err error
				if g%3 == 2 { // there and back
					tx := enginetest.Begin(t, pc)
					other := name + " of a call"
					if _, won, casErr := pc.CASRoot(tx, other, 0, 9); won && casErr == nil {
						_, won, err = pc.CASRoot(tx, other, 9, 0)
						if !won && err == nil {
							err = errors.New("a root is not removed by the goroutine that added it")
						}
					} else {
						err = casErr
					}
					tx.End()
				} else {
					_, err = pc.Update(t.Context(), func(tx *engine.Tx[[]byte]) error {
						p, err := tx.Get(counter)
						if err != nil {
							return err
						}
						pid, err := tx.Root(name)
						switch {
						case errors.Is(err, engine.ErrRootNotFound):
							return errors.Join(tx.SetRoot(name, 1), tx.Link(counter, []byte("x")))
						case err != nil:
							return err
						case i%3 == 0:
							return tx.SetRoot(name, pid+1)
						}
						return errors.Join(tx.SetRoot(name, 0), tx.Replace(counter, p.Value[1:]))
					})
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	enginetest.Soon(t, "changing roots", wg.Wait)
	check := func(pc *engine.PageCache[[]byte]) {
		t.Helper()
		tx := enginetest.Begin(t, pc)
		m, err := pc.Meta(tx)
		p, getErr := tx.Get(counter)
		tx.End()
		if err = errors.Join(err, getErr); err != nil || len(m) != len(p.Value) {
			t.Errorf("%d roots, and %d are counted, %v", len(m), len(p.Value), err)
		}
		wantRoots(t, pc, m)
	}
	check(pc)
	enginetest.Flush(t, pc)
	d = d.Crash(1)
	_ = pc.Close()
	pc = enginetest.OpenSim(t, d)
	check(pc)
	enginetest.Close(t, pc)
}

// Wrong uses of the roots of a transaction are errors, after which it goes on.
func TestMisuseOfRootsInTransaction(t *testing.T) {
	pc := enginetest.OpenSim(t, simdisk.New(13, simdisk.Options{}))
	defer enginetest.Close(t, pc)
	update(t, pc, func(tx *engine.Tx[[]byte]) error {
		for what, c := range map[string]struct {
			err    error
			wanted error
		}{
			"a page that cannot be": {tx.SetRoot("r", format.MaxPageID+1), engine.ErrPageRange},
			"a long name":           {tx.SetRoot(strings.Repeat("n", engine.MaxRootName+1), 5), engine.ErrTooLarge},
			"another Commit":        {func() error { _, err := tx.Commit(); return err }(), engine.ErrTxEnded},
		} {
			if !errors.Is(c.err, c.wanted) {
				t.Errorf("%s: %v, want %v", what, c.err, c.wanted)
			}
		}
		return tx.SetRoot(strings.Repeat("n", 300), format.MaxPageID)
	})
	wantRoots(t, pc, engine.Meta{strings.Repeat("n", 300): format.MaxPageID})
	if err := pc.View(context.Background(), func(tx *engine.Tx[[]byte]) error {
		if err := tx.SetRoot("r", 5); !errors.Is(err, engine.ErrReadOnly) {
			t.Errorf("in a View: %v", err)
		}
		wantRoot(t, tx, "r", 0)
		return nil
	}); err != nil {
		t.Error(err)
	}
	tx := enginetest.Begin(t, pc)
	tx.End()
	_, err := tx.Root("r")
	for what, err := range map[string]error{"Root": err, "SetRoot": tx.SetRoot("r", 5)} {
		if !errors.Is(err, engine.ErrTxEnded) {
			t.Errorf("%s after End: %v", what, err)
		}
	}
}
