package btree_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pagecache/engine"
	"pagecache/engine/examples/btree"
	"pagecache/engine/pagetest"
)

// worker makes random changes of a tree and of a map alike.
type worker struct {
	*rand.Rand
	tree   *btree.Tree
	prefix string // of all keys
	keys   int    // that there are
}

func (w *worker) key() []byte {
	i := w.IntN(w.keys)
	// the length of a key depends on the key
	return append(fmt.Appendf(nil, "%s%03d", w.prefix, i), bytes.Repeat([]byte("k"), i%7*i%11)...)
}

// change makes a random change of the tree and the model.
func (w *worker) change(tx *btree.Tx, model map[string]string) error {
	key := w.key()
	if w.IntN(100) < 60 {
		value := bytes.Repeat([]byte{byte('a' + w.IntN(26))}, w.IntN(40))
		if w.IntN(50) == 0 {
			value = bytes.Repeat(value, 30)
		}
		model[string(key)] = string(value)
		return w.tree.Put(tx, key, value)
	}
	delete(model, string(key))
	return w.tree.Delete(tx, key)
}

// compare compares a part of the tree with the model.
func (w *worker) compare(tx *btree.Tx, model map[string]string, low, high []byte) error {
	items, err := contents(w.tree, tx, low, high)
	if want := sorted(model, low, high); err == nil && !slices.Equal(items, want) {
		err = fmt.Errorf("from %q to %q: items %q, want %q", low, high, items, want)
	}
	return err
}

var errRollback = errors.New("rolled back")

// transaction makes some changes in one transaction, which it rolls back at times, and verifies that the transaction
// sees them. It returns the model afterwards.
func (w *worker) transaction(tx *btree.Tx, model map[string]string) (map[string]string, error) {
	after := maps.Clone(model)
	for range 1 + w.IntN(10) {
		if err := w.change(tx, after); err != nil {
			return nil, err
		}
	}
	key := w.key()
	value, found, err := w.tree.Get(tx, key)
	if want, exists := after[string(key)]; err == nil && (found != exists || string(value) != want) {
		err = fmt.Errorf("%s is %q, %v; want %q, %v", key, value, found, want, exists)
	}
	if low, high := w.key(), w.key(); err == nil {
		err = w.compare(tx, after, low, high)
	}
	return after, err
}

// A tree does what a sorted map does, in transactions that are committed and rolled back, at every size of nodes, while
// it grows and shrinks. Its pages are all that the store has.
func TestTreeIsASortedMap(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 60
	}
	for _, size := range []int{100, 200, 500, 4 << 10} {
		t.Run(fmt.Sprint("size=", size), func(t *testing.T) {
			o := small()
			o.Temporary = true
			store, tree := open(t, o, size)
			w := &worker{rand.New(rand.NewPCG(uint64(size), 1)), tree, "", 300}
			model := map[string]string{}
			for i := range rounds {
				w.keys = 20 + i%100*3 // deletions win at times
				rollback := w.IntN(5) == 0
				var after map[string]string
				_, err := store.Update(t.Context(), func(tx *btree.Tx) (err error) {
					if after, err = w.transaction(tx, model); err == nil && rollback {
						err = errRollback
					}
					return err
				})
				if rollback && errors.Is(err, errRollback) {
					err = nil
				} else {
					model = after
				}
				if err != nil {
					t.Fatal(err)
				}
				view(t, store, func(tx *btree.Tx) error {
					if err := check(store, tx, tree); err != nil {
						return err
					}
					return w.compare(tx, model, nil, nil)
				})
			}
			for _, k := range slices.Sorted(maps.Keys(model)) {
				update(t, store, func(tx *btree.Tx) error { return tree.Delete(tx, []byte(k)) })
				view(t, store, func(tx *btree.Tx) error { return check(store, tx, tree) })
			}
			if n := store.Stats().Pages.InUse; n != 1 {
				t.Errorf("an empty tree has %d pages", n)
			}
		})
	}
}

// Keys in rising and in falling order, and the longest keys and values, make trees that hold all of them.
func TestOrdersAndLimits(t *testing.T) {
	const n = 300
	key := func(i int) []byte { return fmt.Appendf(nil, "%05d", i) }
	long := func(i int) []byte { return append(bytes.Repeat([]byte("k"), btree.MaxKey-5), key(i)...) }
	for name, item := range map[string]func(i int) (key, value []byte){
		"rising":      func(i int) ([]byte, []byte) { return key(i), nil },
		"falling":     func(i int) ([]byte, []byte) { return key(n - i), nil },
		"long keys":   func(i int) ([]byte, []byte) { return long(i * 7 % n), nil },
		"long values": func(i int) ([]byte, []byte) { return key(i * 7 % n), make([]byte, btree.MaxValue) },
	} {
		t.Run(name, func(t *testing.T) {
			store, tree := open(t, &engine.Options{Temporary: true, SegmentSize: 1 << 20}, 0)
			model := map[string]string{}
			for i := range n {
				k, v := item(i)
				model[string(k)] = string(v)
				update(t, store, func(tx *btree.Tx) error { return tree.Put(tx, k, v) })
			}
			view(t, store, func(tx *btree.Tx) error {
				if err := check(store, tx, tree); err != nil {
					return err
				}
				return (&worker{tree: tree}).compare(tx, model, nil, nil)
			})
		})
	}
}

// Keys and values that are too long are refused, and the empty key is one like others.
func TestKeysAndValues(t *testing.T) {
	store, tree := open(t, &engine.Options{Temporary: true}, 0)
	update(t, store, func(tx *btree.Tx) error {
		for _, err := range []error{tree.Put(tx, make([]byte, btree.MaxKey+1), nil),
			tree.Put(tx, nil, make([]byte, btree.MaxValue+1))} {
			if !errors.Is(err, engine.ErrTooLarge) {
				t.Error(err)
			}
		}
		return errors.Join(tree.Put(tx, nil, []byte("of no key")), tree.Put(tx, []byte("a"), nil))
	})
	view(t, store, func(tx *btree.Tx) error {
		for k, want := range map[string]string{"": "of no key", "a": "", "b": ""} {
			if v, found, err := tree.Get(tx, []byte(k)); string(v) != want || found != (k != "b") || err != nil {
				t.Errorf("%q is %q, %v, %v", k, v, found, err)
			}
		}
		if items, err := contents(tree, tx, nil, []byte{}); len(items) > 0 || err != nil {
			t.Errorf("below the empty key: %q, %v", items, err)
		}
		return nil
	})
}

// The body of a scan may change the tree: here each leaf that was scanned is emptied.
func TestScanWhileItsBodyDeletes(t *testing.T) {
	for _, falling := range []bool{false, true} {
		store, tree := open(t, &engine.Options{Temporary: true}, 100)
		const n = 200
		update(t, store, func(tx *btree.Tx) (err error) {
			for i := range n {
				err = errors.Join(err, tree.Put(tx, fmt.Appendf(nil, "%03d", i), nil))
			}
			return err
		})
		count := 0
		update(t, store, func(tx *btree.Tx) error {
			count = 0
			scan := tree.Ascend
			if falling {
				scan = tree.Descend
			}
			for it, err := range scan(tx, nil, nil) {
				if err == nil {
					err = tree.Delete(tx, it.Key)
				}
				if err != nil {
					return err
				}
				count++
			}
			return nil
		})
		view(t, store, func(tx *btree.Tx) error { return check(store, tx, tree) })
		if in := store.Stats().Pages.InUse; count != n || in != 1 {
			t.Errorf("falling %v: %d items scanned and deleted, want %d; %d pages are left", falling, count, n, in)
		}
	}
}

// A tree that was closed is there again, ReadOnly too. A store of trees is not opened as one of other pages.
func TestReopenedTree(t *testing.T) {
	dir := t.TempDir()
	model := map[string]string{}
	for range 3 {
		store, err := engine.Open(dir, btree.Pages{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		tree := openTree(t, store, "tree", 200)
		w := &worker{rand.New(rand.NewPCG(uint64(len(model)), 8)), tree, "", 200}
		view(t, store, func(tx *btree.Tx) error { return w.compare(tx, model, nil, nil) })
		for range 100 {
			var after map[string]string
			update(t, store, func(tx *btree.Tx) (err error) {
				after, err = w.transaction(tx, model)
				return err
			})
			model = after
		}
		pagetest.Close(t, store, nil)
	}
	if _, err := engine.Open(dir, engine.Bytes{}, nil); !errors.Is(err, engine.ErrFormat) {
		t.Errorf("opened as a store of byte strings: %v", err)
	}
	store, err := engine.Open(dir, btree.Pages{}, &engine.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{tree: openTree(t, store, "tree", 0)}
	view(t, store, func(tx *btree.Tx) error { return w.compare(tx, model, nil, nil) })
	_, err = store.Update(t.Context(), func(tx *btree.Tx) error { return w.tree.Put(tx, nil, nil) })
	if !errors.Is(err, engine.ErrReadOnly) {
		t.Errorf("put in a ReadOnly store: %v", err)
	}
	if _, err := btree.Open(t.Context(), store, "another"); !errors.Is(err, engine.ErrReadOnly) {
		t.Errorf("a new tree in a ReadOnly store: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}
