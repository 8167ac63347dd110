//go:build !abtest

package bench

import (
	"bytes"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/dgraph-io/badger/v4"
)

// peerNodes is a NodeStore on a Store whose values are nodes.
type peerNodes struct {
	Store
	// read calls f with a node, which f must not keep.
	read func(node int, f func([]byte) error) error
	// update writes an item into its place in a node, after it has found it.
	update func(node int, item []byte) error
}

// Load implements NodeStore.
func (s *peerNodes) Load(count int) error {
	const perTransaction = 100
	values := NewValues(0, NodeSize)
	many, ok := s.Store.(bulk)
	for i := 0; i < count; i += perTransaction {
		group := make([][]byte, min(perTransaction, count-i))
		for k := range group {
			group[k] = NewNode(i+k, values)
			if !ok {
				if err := s.Replace(i+k, group[k]); err != nil {
					return err
				}
			}
		}
		if ok {
			if err := many.loadMany(i, group); err != nil {
				return err
			}
		}
	}
	return s.Flush()
}

// Read implements NodeStore.
func (s *peerNodes) Read(key uint64) error {
	return s.read(nodeOf(key), func(node []byte) error { return lookAtItem(node, key) })
}

// Update implements NodeStore.
func (s *peerNodes) Update(item []byte) error { return s.update(nodeOf(itemKey(item)), item) }

// OpenPebbleNodes opens a NodeStore on Pebble. An update reads the node and then merges the item; Pebble puts it into
// its place when it reads or compacts the node. Nothing keeps another goroutine from changing the node in between.
func OpenPebbleNodes(dir string, o PeerOptions) (NodeStore, error) {
	p, err := openPebble(dir, o, &pebble.Merger{Name: "nodes", Merge: newNodeMerger})
	if err != nil {
		return nil, err
	}
	s := &peerNodes{Store: p}
	s.read = func(node int, f func([]byte) error) error {
		var k [8]byte
		v, closer, err := p.DB.Get(key(&k, node))
		if err != nil {
			return err
		}
		if err := f(v); err != nil {
			return err
		}
		return closer.Close()
	}
	s.update = func(_ int, item []byte) error {
		if err := s.Read(itemKey(item)); err != nil {
			return err
		}
		return p.Link(nodeOf(itemKey(item)), item)
	}
	return s, nil
}

// nodeMerger merges the items of a node, for Pebble. items are in the order of their writes; the first ones may be a
// whole node.
type nodeMerger struct{ items []byte }

func newNodeMerger(_, value []byte) (pebble.ValueMerger, error) {
	return &nodeMerger{bytes.Clone(value)}, nil
}

// MergeNewer implements pebble.ValueMerger.
func (m *nodeMerger) MergeNewer(value []byte) error {
	m.items = append(m.items, value...)
	return nil
}

// MergeOlder implements pebble.ValueMerger.
func (m *nodeMerger) MergeOlder(value []byte) error {
	m.items = append(append(make([]byte, 0, len(value)+len(m.items)), value...), m.items...)
	return nil
}

// Finish implements pebble.ValueMerger.
func (m *nodeMerger) Finish(includesBase bool) ([]byte, io.Closer, error) {
	if includesBase && len(m.items) > NodeSize {
		putItems(m.items[:NodeSize], m.items[NodeSize:])
		return m.items[:NodeSize], nil, nil
	}
	return m.items, nil, nil
}

// OpenBadgerNodes opens a NodeStore on Badger. An update reads the node and writes it anew.
func OpenBadgerNodes(dir string, o PeerOptions) (NodeStore, error) {
	b, err := OpenBadger(dir, o)
	if err != nil {
		return nil, err
	}
	s := &peerNodes{Store: b}
	s.read = func(node int, f func([]byte) error) error {
		return b.DB.View(func(txn *badger.Txn) error {
			item, err := txn.Get(key(new([8]byte), node))
			if err != nil {
				return err
			}
			return item.Value(f)
		})
	}
	s.update = func(node int, item []byte) error {
		return b.update(node, func(v []byte) []byte {
			putItems(v, item)
			return v
		})
	}
	return s, nil
}

// OpenBoltNodes opens a NodeStore on bbolt. An update reads the node and writes it anew.
func OpenBoltNodes(dir string, o PeerOptions) (NodeStore, error) {
	b, err := OpenBolt(dir, o)
	if err != nil {
		return nil, err
	}
	s := &peerNodes{Store: b}
	s.read = func(node int, f func([]byte) error) error { return b.view(node, f) }
	s.update = func(node int, item []byte) error {
		return b.change(node, func(v []byte) []byte {
			v = bytes.Clone(v)
			putItems(v, item)
			return v
		})
	}
	return s, nil
}
