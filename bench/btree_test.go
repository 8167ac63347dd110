//go:build !abtest

package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	bolt "go.etcd.io/bbolt"

	"pagecache/engine"
	"pagecache/engine/examples/btree"
)

// index is an ordered map from keys to values. All methods except close are safe for concurrent use.
type index interface {
	// put sets the value of a key. It is durable when the call returns if the index was opened for that.
	put(key, value []byte) error
	// putMany sets values in one transaction, without waiting for them to be durable.
	putMany(keys, values [][]byte) error
	// get looks at the value of a key, which must exist.
	get(key []byte) error
	// scan calls f for at most n items from a key on, in rising order. f must not keep them.
	scan(from []byte, n int, f func(key, value []byte)) error
	close() error
}

var errNoKey = errors.New("key does not exist")

// treeIndex is an index on engine/examples/btree.
type treeIndex struct {
	store   *btree.Store
	tree    *btree.Tree
	durable bool
}

func openTreeIndex(dir string, durable bool) (index, error) {
	store, err := engine.Open(dir, btree.Pages{}, &engine.Options{CacheCapacity: defaultCache})
	if err != nil {
		return nil, err
	}
	tree, err := btree.Open(context.Background(), store, "index")
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return &treeIndex{store, tree, durable}, nil
}

func (x *treeIndex) put(key, value []byte) error {
	lsn, err := x.store.Update(context.Background(), func(tx *btree.Tx) error { return x.tree.Put(tx, key, value) })
	if err == nil && x.durable {
		_, err = x.store.MakeStable(lsn)
	}
	return err
}

func (x *treeIndex) putMany(keys, values [][]byte) error {
	_, err := x.store.Update(context.Background(), func(tx *btree.Tx) error {
		for i := range keys {
			if err := x.tree.Put(tx, keys[i], values[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

func (x *treeIndex) get(key []byte) error {
	return x.store.View(context.Background(), func(tx *btree.Tx) error {
		v, found, err := x.tree.Get(tx, key)
		if err == nil && !found {
			err = errNoKey
		}
		look(v)
		return err
	})
}

func (x *treeIndex) scan(from []byte, n int, f func(key, value []byte)) error {
	return x.store.View(context.Background(), func(tx *btree.Tx) error {
		left := n
		for it, err := range x.tree.Ascend(tx, from, nil) {
			if err != nil {
				return err
			}
			f(it.Key, it.Value)
			if left--; left == 0 {
				break
			}
		}
		return nil
	})
}

func (x *treeIndex) close() error { return x.store.Close() }

// pebbleIndex is an index on Pebble.
type pebbleIndex struct {
	*Pebble
	sync *pebble.WriteOptions
}

func openPebbleIndex(dir string, durable bool) (index, error) {
	s, err := OpenPebble(dir, PeerOptions{})
	if err != nil {
		return nil, err
	}
	x := &pebbleIndex{s, pebble.NoSync}
	if durable {
		x.sync = pebble.Sync
	}
	return x, nil
}

func (x *pebbleIndex) put(key, value []byte) error { return x.DB.Set(key, value, x.sync) }

func (x *pebbleIndex) putMany(keys, values [][]byte) error {
	b := x.DB.NewBatch()
	for i := range keys {
		if err := b.Set(keys[i], values[i], nil); err != nil {
			return err
		}
	}
	return b.Commit(pebble.NoSync)
}

func (x *pebbleIndex) get(key []byte) error {
	v, closer, err := x.DB.Get(key)
	if err != nil {
		return err
	}
	look(v)
	return closer.Close()
}

func (x *pebbleIndex) scan(from []byte, n int, f func(key, value []byte)) error {
	it, err := x.DB.NewIter(&pebble.IterOptions{LowerBound: from})
	if err != nil {
		return err
	}
	for ok := it.First(); ok && n > 0; ok = it.Next() {
		f(it.Key(), it.Value())
		n--
	}
	return it.Close()
}

func (x *pebbleIndex) close() error { return x.Close() }

// boltIndex is an index on bbolt.
type boltIndex struct{ *Bolt }

func openBoltIndex(dir string, durable bool) (index, error) {
	const goroutines = 8 // at most
	s, err := OpenBolt(dir, PeerOptions{Sync: durable, Goroutines: goroutines})
	return &boltIndex{s}, err
}

func (x *boltIndex) put(key, value []byte) error {
	return x.update(func(b *bolt.Bucket) error { return b.Put(key, value) })
}

func (x *boltIndex) putMany(keys, values [][]byte) error {
	return x.DB.Update(func(tx *bolt.Tx) error {
		for i := range keys {
			if err := tx.Bucket(bucket).Put(keys[i], values[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (x *boltIndex) get(key []byte) error {
	return x.DB.View(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucket).Get(key)
		if v == nil {
			return errNoKey
		}
		look(v)
		return nil
	})
}

func (x *boltIndex) scan(from []byte, n int, f func(key, value []byte)) error {
	return x.DB.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucket).Cursor()
		for k, v := c.Seek(from); k != nil && n > 0; k, v = c.Next() {
			f(k, v)
			n--
		}
		return nil
	})
}

func (x *boltIndex) close() error { return x.Close() }

var indexes = []struct {
	name string
	open func(dir string, durable bool) (index, error)
}{{"btree", openTreeIndex}, {"pebble", openPebbleIndex}, {"bbolt", openBoltIndex}}

// indexKey returns key number i, of 16 bytes. Their order is another than that of the numbers.
func indexKey(i int) []byte {
	const scatter = 0x9e3779b97f4a7c15
	k := binary.BigEndian.AppendUint64(make([]byte, 0, 16), uint64(i)*scatter)
	return binary.BigEndian.AppendUint64(k, uint64(i))
}

// loadIndex puts the keys 0 to n−1, in an order that is none of the keys', with values of 100 bytes.
func loadIndex(x index, n int) error {
	const perTransaction = 500
	values := NewValues(1, indexValue)
	for i := 0; i < n; i += perTransaction {
		var k, v [][]byte
		for j := i; j < min(n, i+perTransaction); j++ {
			k, v = append(k, indexKey(j)), append(v, values.Next())
		}
		if err := x.putMany(k, v); err != nil {
			return err
		}
	}
	return nil
}

const (
	indexKeys  = 500_000
	indexValue = 100 // bytes
	indexScan  = 100 // items
)

// BenchmarkIndex compares the worked example with Pebble and bbolt, with 500 000 keys of 16 bytes and values of 100
// bytes, all in memory: put of a random key that exists, durable or not, get, scan of 100 items, and a mix of 70 gets,
// 25 puts and 5 scans.
func BenchmarkIndex(b *testing.B) {
	for _, durable := range []bool{false, true} {
		for _, other := range indexes {
			b.Run(fmt.Sprintf("durable=%v/store=%s", durable, other.name), func(b *testing.B) {
				x, err := other.open(b.TempDir(), durable)
				if err != nil {
					b.Fatal(err)
				}
				defer func() {
					if err := x.close(); err != nil {
						b.Error(err)
					}
				}()
				if err := loadIndex(x, indexKeys); err != nil {
					b.Fatal(err)
				}
				runtime.GC()
				benchIndex(b, x, durable)
			})
		}
	}
}

func benchIndex(b *testing.B, x index, durable bool) {
	put := func(w *Worker) error { return x.put(indexKey(w.Page()), w.Values.Next()) }
	get := func(w *Worker) error { return x.get(indexKey(w.Page())) }
	scan := func(w *Worker) error {
		return x.scan(indexKey(w.Page()), indexScan, func(key, value []byte) { first(key); first(value) })
	}
	mix := func(w *Worker) error {
		switch n := w.Uint64() % 100; {
		case n < 70:
			return get(w)
		case n < 95:
			return put(w)
		}
		return scan(w)
	}
	ops := []struct {
		name string
		do   func(w *Worker) error
	}{{"put", put}, {"get", get}, {"scan", scan}, {"mix", mix}}
	if durable {
		ops = ops[:1]
	}
	for _, op := range ops {
		for _, threads := range fewThreads {
			b.Run(fmt.Sprintf("op=%s/threads=%d", op.name, threads), func(b *testing.B) {
				b.ReportAllocs()
				l := Workload{Goroutines: threads, Pages: indexKeys, Value: indexValue, Seed: 1}
				if _, err := Run(l, int64(b.N), op.do, nil); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// The indexes have the same items after the same puts.
func TestIndexesAgree(t *testing.T) {
	const keys, puts = 2000, 500
	var want []byte
	for _, other := range indexes {
		for _, durable := range []bool{false, true} {
			x, err := other.open(t.TempDir(), durable)
			if err != nil {
				t.Fatal(err)
			}
			if err := loadIndex(x, keys); err != nil {
				t.Fatal(err)
			}
			l := Workload{Goroutines: 1, Pages: keys, Value: indexValue, Seed: 2}
			n := int64(puts)
			if durable {
				n = 0
			}
			put := func(w *Worker) error { return x.put(indexKey(w.Page()), w.Values.Next()) }
			if _, err := Run(l, n, put, nil); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(x.put(indexKey(keys), []byte("last")), x.get(indexKey(keys))); err != nil {
				t.Error(err)
			}
			var all []byte
			err = x.scan(nil, 2*keys, func(key, value []byte) { all = append(append(all, key...), value...) })
			if err != nil {
				t.Fatal(err)
			}
			if !durable && want == nil {
				want = all
			}
			if !durable && !bytes.Equal(all, want) {
				t.Errorf("%s has other items than %s", other.name, indexes[0].name)
			}
			if n := len(all); n != keys*(16+indexValue)+16+4 {
				t.Errorf("%s: %d bytes of items", other.name, n)
			}
			if err := x.close(); err != nil {
				t.Error(err)
			}
		}
	}
}
