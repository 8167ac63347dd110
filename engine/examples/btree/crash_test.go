package btree_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"pagecache/engine"
	"pagecache/engine/examples/btree"
	"pagecache/engine/pagetest"
)

var (
	crashSeeds = flag.Int("crash.seeds", 40, "number of seeds of TestCrash")
	crashSeed  = flag.Int("crash.seed", -1, "the only seed of TestCrash")
)

// history is what one goroutine did: the states of its own keys after each of its transactions, in order. A crash may
// lose the end of it, but nothing up to acked.
type history struct {
	worker
	states []map[string]string // the last one may not have been committed
	acked  int                 // the newest of states that is durable
	lsn    engine.LSN          // of the last transaction that changed something
}

// work makes transactions until the disk crashes or n are done, and waits for some of them to be durable.
func (h *history) work(t *testing.T, store *btree.Store, n int) error {
	for i := range n {
		var after map[string]string
		// the state is noted before the commit, which may be durable although it returns an error
		lsn, err := store.Update(t.Context(), func(tx *btree.Tx) (err error) {
			after, err = h.transaction(tx, h.states[len(h.states)-1])
			return err
		})
		if after != nil {
			h.states, h.lsn = append(h.states, after), max(h.lsn, lsn)
		}
		switch h.IntN(4) {
		case 0:
			if err == nil {
				_, err = store.MakeStable(h.lsn)
			}
			if err == nil {
				h.acked = len(h.states) - 1
			}
		case 1:
			if err == nil && i%10 == 0 {
				_, err = store.AttemptGC()
			}
		case 2:
			if err == nil && i%20 == 0 {
				err = store.Snapshot()
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// recover verifies that the goroutine's keys are as they were after some transaction, none that was acknowledged being
// lost. That state is where it goes on.
func (h *history) recover(tx *btree.Tx) error {
	items, err := contents(h.tree, tx, []byte(h.prefix), []byte(h.prefix+"\xff"))
	if err != nil {
		return err
	}
	for i := len(h.states) - 1; i >= h.acked; i-- {
		if slices.Equal(items, sorted(h.states[i], nil, nil)) {
			h.states, h.acked = []map[string]string{maps.Clone(h.states[i])}, 0
			return nil
		}
	}
	for i := range h.acked {
		if slices.Equal(items, sorted(h.states[i], nil, nil)) {
			return fmt.Errorf("keys %s…: state %d, although %d was acknowledged", h.prefix, i, h.acked)
		}
	}
	return fmt.Errorf("keys %s…: no state that there ever was: %q", h.prefix, items)
}

// The power fails three times, at any operation of the disk, while one to three goroutines change a tree. After each
// crash nothing is lost that was acknowledged, no transaction is there in part, the tree is whole, and its pages are
// all that the store has.
func TestCrash(t *testing.T) {
	pagetest.CheckLeaks(t)
	seeds := []int{*crashSeed}
	if *crashSeed < 0 {
		seeds = make([]int, *crashSeeds)
		for i := range seeds {
			seeds[i] = i
		}
	}
	for _, seed := range seeds {
		crash(t, uint64(seed))
		if t.Failed() {
			t.Fatalf("to repeat: go test ./engine/examples/btree -run 'TestCrash$' -args -crash.seed=%d", seed)
		}
	}
}

func crash(t *testing.T, seed uint64) {
	const crashes, transactions = 3, 60
	r := rand.New(rand.NewPCG(seed, 5))
	o := small()
	o.FlushEvery = -1
	if seed%2 == 0 {
		o.SegmentSize = 16 << 10
	}
	size := []int{100, 200, 1 << 10}[r.IntN(3)]
	goroutines := make([]*history, 1+seed%3)
	for g := range goroutines {
		goroutines[g] = &history{states: []map[string]string{{}}}
		goroutines[g].worker = worker{rand.New(rand.NewPCG(seed, uint64(g+6))), nil, string(rune('a' + g)), 40}
	}
	disk := pagetest.NewDisk(seed)
	for n := range crashes + 1 {
		if n < crashes {
			disk.CrashAfter(1 + r.IntN(120)) // of about a hundred
		}
		store, err := engine.Open("/trees", btree.Pages{}, disk.Options(o))
		if err == nil {
			err = useTree(t, store, size, goroutines, transactions)
			if n == crashes {
				pagetest.Close(t, store, disk.Options(o))
			} else if closed := store.Close(); closed != nil {
				err = errors.Join(err, closed)
			}
		}
		if err != nil && (!errors.Is(err, pagetest.ErrCrashed) || n == crashes) {
			t.Errorf("seed %d, after %d crashes: %v", seed, n, err)
			return
		}
		disk = disk.Crash()
	}
}

// useTree opens the tree, verifies it and lets the goroutines work on it. It returns the errors of all.
func useTree(t *testing.T, store *btree.Store, size int, goroutines []*history, transactions int) error {
	tree, err := btree.Open(t.Context(), store, "tree")
	if err != nil {
		return err
	}
	btree.SetNodeSize(tree, size)
	recovered := store.View(t.Context(), func(tx *btree.Tx) error {
		if err := check(store, tx, tree); err != nil {
			return err
		}
		for _, h := range goroutines {
			h.tree = tree
			if err := h.recover(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if recovered != nil {
		return recovered
	}
	errs := make([]error, len(goroutines)+1)
	var all sync.WaitGroup
	for g, h := range goroutines {
		all.Go(func() { errs[g] = h.work(t, store, transactions) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// The power fails at each operation of the disk in turn, while trees are made. Each is there with its root or not at
// all: no page is left over. Long names make it likely that a crash tears a write between the page and its name.
func TestCrashWhileTreesAreMade(t *testing.T) {
	pagetest.CheckLeaks(t)
	o := &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1}
	for n := 1; ; n++ {
		disk := pagetest.NewDisk(uint64(n))
		disk.CrashAfter(n)
		store, err := engine.Open("/trees", btree.Pages{}, disk.Options(o))
		for i := 0; err == nil && i < 5; i++ {
			_, err = btree.Open(t.Context(), store, fmt.Sprint(i, strings.Repeat(" long", 300)))
			if err == nil {
				_, err = store.Flush()
			}
		}
		if store != nil {
			err = errors.Join(err, store.Close())
		}
		if err != nil && !errors.Is(err, pagetest.ErrCrashed) {
			t.Fatal(err)
		}
		done := !disk.Crashed()
		for range 20 { // outcomes of the crash
			again := disk.Crash()
			if store, err = engine.Open("/trees", btree.Pages{}, again.Options(o)); err != nil {
				t.Fatalf("crash at operation %d: %v", n, err)
			}
			if err := checkAll(t, store); err != nil {
				t.Errorf("crash at operation %d: %v", n, err)
			}
			pagetest.Close(t, store, again.Options(o))
		}
		if done {
			return
		}
	}
}

// checkAll verifies all trees of a store together.
func checkAll(t *testing.T, store *btree.Store) error {
	return store.View(t.Context(), func(tx *btree.Tx) error {
		roots, err := store.Meta(tx)
		var trees []*btree.Tree
		for name := range roots {
			trees = append(trees, openTree(t, store, name, 0))
		}
		return errors.Join(err, check(store, tx, trees...))
	})
}
