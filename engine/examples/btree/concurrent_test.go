package btree_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine"
	"pagecache/engine/examples/btree"
)

// steps returns how many transactions each goroutine of a test does.
func steps() int {
	if testing.Short() {
		return 200
	}
	return 1500
}

// run runs f on n goroutines and reports the errors.
func run(t *testing.T, n int, f func(g int) error) {
	t.Helper()
	var all sync.WaitGroup
	for g := range n {
		all.Go(func() {
			if err := f(g); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// Goroutines with keys of their own do not disturb each other, although their leaves and splits do collide.
func TestWritersOfOwnKeys(t *testing.T) {
	o := small()
	o.Temporary = true
	store, tree := open(t, o, 200)
	run(t, 4, func(g int) error {
		w := &worker{rand.New(rand.NewPCG(uint64(g), 2)), tree, fmt.Sprint(g), 100}
		model := map[string]string{}
		for range steps() {
			var after map[string]string
			_, err := store.Update(t.Context(), func(tx *btree.Tx) (err error) {
				after, err = w.transaction(tx, model)
				return err
			})
			if err != nil {
				return err
			}
			model = after
		}
		return store.View(t.Context(), func(tx *btree.Tx) error {
			return w.compare(tx, model, []byte(w.prefix), fmt.Append(nil, g+1))
		})
	})
	view(t, store, func(tx *btree.Tx) error { return check(store, tx, tree) })
}

// number and putNumber read and write a value that is a number. A value of 0 has no item, so that leaves come and go.
func number(tree *btree.Tree, tx *btree.Tx, key []byte) (uint64, error) {
	v, found, err := tree.Get(tx, key)
	if !found {
		return 0, err
	}
	return binary.LittleEndian.Uint64(v), err
}

func putNumber(tree *btree.Tree, tx *btree.Tx, key []byte, n uint64) error {
	if n == 0 {
		return tree.Delete(tx, key)
	}
	return tree.Put(tx, key, binary.LittleEndian.AppendUint64(nil, n))
}

// No increment of the same few keys is lost.
func TestWritersOfTheSameKeys(t *testing.T) {
	const goroutines = 4
	store, tree := open(t, &engine.Options{Temporary: true}, 100)
	run(t, goroutines, func(g int) error {
		r := rand.New(rand.NewPCG(uint64(g), 3))
		for range steps() {
			key := fmt.Append(nil, r.IntN(10))
			_, err := store.Update(t.Context(), func(tx *btree.Tx) error {
				n, err := number(tree, tx, key)
				return errors.Join(err, putNumber(tree, tx, key, n+1))
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	sum := uint64(0)
	view(t, store, func(tx *btree.Tx) error {
		sum = 0
		for it, err := range tree.Ascend(tx, nil, nil) {
			if err != nil {
				return err
			}
			sum += binary.LittleEndian.Uint64(it.Value)
		}
		return nil
	})
	if want := uint64(goroutines * steps()); sum != want {
		t.Errorf("the increments come to %d, want %d", sum, want)
	}
}

// Money moves between accounts and between two trees, so that leaves are split and removed all the time. Every scan, in
// either direction, sees all of it.
func TestScansSeeOneState(t *testing.T) {
	const accounts, each = 100, 100
	o := small()
	o.Temporary = true
	store, first := open(t, o, 150)
	second := openTree(t, store, "second", 150)
	account := func(i int) []byte { return fmt.Appendf(nil, "account %03d", i) }
	update(t, store, func(tx *btree.Tx) (err error) {
		for i := range accounts {
			err = errors.Join(err, putNumber(first, tx, account(i), each))
		}
		return err
	})
	total := func(tx *btree.Tx) (sum uint64, err error) {
		for it, err := range first.Ascend(tx, nil, nil) {
			if err != nil {
				return 0, err
			}
			sum += binary.LittleEndian.Uint64(it.Value)
		}
		for it, err := range second.Descend(tx, nil, nil) {
			if err != nil {
				return 0, err
			}
			sum += binary.LittleEndian.Uint64(it.Value)
		}
		return sum, nil
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var sums atomic.Int64
	var scans sync.WaitGroup
	scans.Go(func() {
		for ctx.Err() == nil {
			err := store.View(ctx, func(tx *btree.Tx) error {
				sum, err := total(tx)
				if err == nil && sum != accounts*each {
					err = fmt.Errorf("a scan found %d, want %d", sum, accounts*each)
				}
				return err
			})
			if err == nil {
				sums.Add(1)
			} else if ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	run(t, 2, func(g int) error {
		r := rand.New(rand.NewPCG(uint64(g), 4))
		for range steps() {
			from, to := first, second
			if r.IntN(2) == 0 {
				from, to = to, from
			}
			a, b, most := account(r.IntN(accounts)), account(r.IntN(accounts)), r.Uint64N(2*each)
			_, err := store.Update(ctx, func(tx *btree.Tx) error {
				had, err := number(from, tx, a)
				if err != nil {
					return err
				}
				moved := min(most, had)
				if err := putNumber(from, tx, a, had-moved); err != nil {
					return err
				}
				has, err := number(to, tx, b)
				return errors.Join(err, putNumber(to, tx, b, has+moved))
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	stop()
	scans.Wait()
	view(t, store, func(tx *btree.Tx) error {
		if sum, err := total(tx); sum != accounts*each || err != nil {
			t.Errorf("in the end there is %d, want %d: %v", sum, accounts*each, err)
		}
		return check(store, tx, first, second)
	})
	t.Logf("%d scans beside the writers", sums.Load())
}

// Goroutines that open a tree of a new name at the same time get the same one, and leave no page behind.
func TestOpenersShareATree(t *testing.T) {
	store, _ := open(t, &engine.Options{Temporary: true}, 0)
	for round := range 20 {
		name := fmt.Sprint("tree ", round)
		run(t, 4, func(g int) error {
			tree, err := btree.Open(t.Context(), store, name)
			if err != nil {
				return err
			}
			key := fmt.Append(nil, g)
			_, err = store.Update(t.Context(), func(tx *btree.Tx) error { return tree.Put(tx, key, nil) })
			return err
		})
		view(t, store, func(tx *btree.Tx) error {
			if items, err := contents(openTree(t, store, name, 0), tx, nil, nil); len(items) != 4 || err != nil {
				t.Errorf("%s has the items %q, %v", name, items, err)
			}
			return nil
		})
	}
	if n := store.Stats().Pages.InUse; n != 21 {
		t.Errorf("21 empty trees have %d pages", n)
	}
}
