package btree_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pagecache/engine"
	"pagecache/engine/examples/btree"
)

// small makes segments, consolidation and the eviction of pages frequent.
func small() *engine.Options {
	return &engine.Options{SegmentSize: 64 << 10, IOBuffers: 2, ConsolidateAfter: 4, CacheCapacity: 256 << 10}
}

// open opens a tree, with small nodes if size is not 0, and closes its store at the end of the test.
func open(t testing.TB, o *engine.Options, size int) (*btree.Store, *btree.Tree) {
	t.Helper()
	store, err := engine.Open("", btree.Pages{}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store, openTree(t, store, "tree", size)
}

func openTree(t testing.TB, store *btree.Store, name string, size int) *btree.Tree {
	t.Helper()
	tree, err := btree.Open(t.Context(), store, name)
	if err != nil {
		t.Fatal(err)
	}
	if size > 0 {
		btree.SetNodeSize(tree, size)
	}
	return tree
}

// update and view fail the test if the transaction does.
func update(t testing.TB, store *btree.Store, f func(tx *btree.Tx) error) engine.LSN {
	t.Helper()
	lsn, err := store.Update(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

func view(t testing.TB, store *btree.Store, f func(tx *btree.Tx) error) {
	t.Helper()
	if err := store.View(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

// contents returns the items of a tree from low to below high, after it has verified that scans in both directions
// return the same.
func contents(tree *btree.Tree, tx *btree.Tx, low, high []byte) (items []string, err error) {
	for it, err := range tree.Ascend(tx, low, high) {
		if err != nil {
			return nil, err
		}
		items = append(items, string(it.Key)+"="+string(it.Value))
	}
	var falling []string
	for it, err := range tree.Descend(tx, low, high) {
		if err != nil {
			return nil, err
		}
		falling = append(falling, string(it.Key)+"="+string(it.Value))
	}
	slices.Reverse(falling)
	if !slices.Equal(items, falling) {
		return nil, fmt.Errorf("from %q to %q: rising %q, falling %q", low, high, items, falling)
	}
	return items, nil
}

// sorted returns the items of a model from low to below high; a nil high means no limit.
func sorted(model map[string]string, low, high []byte) (items []string) {
	for _, k := range slices.Sorted(maps.Keys(model)) {
		if k >= string(low) && (high == nil || k < string(high)) {
			items = append(items, k+"="+model[k])
		}
	}
	return items
}

// check verifies trees that are all that their store has: each page is in one of them.
func check(store *btree.Store, tx *btree.Tx, trees ...*btree.Tree) error {
	owned := map[engine.PageID]bool{}
	for _, tree := range trees {
		var twice error
		err := tree.Check(tx, func(id engine.PageID) {
			if owned[id] {
				twice = fmt.Errorf("page %d is in two trees", id)
			}
			owned[id] = true
		})
		if err != nil || twice != nil {
			return fmt.Errorf("%w%v", err, twice)
		}
	}
	for id, kind := range store.Pages(tx) {
		if kind == engine.KindMaterialized && !owned[id] {
			return fmt.Errorf("page %d is in no tree", id)
		}
	}
	return nil
}
