package btree

import (
	"bytes"
	"encoding/binary"
	"errors"

	"pagecache/engine"
)

// Node is a node of a tree, or a delta of one: items, sorted by key, no two with the same key. It never changes. Its
// memory is its encoding, all numbers in little endian:
//
//	┌───────┬───────────────────┬────────────────────────────┬─────────┐
//	│ level │ number n of items │ n ends, each of one item,  │ n items │
//	│ 1 byte│ 4 bytes           │ from the first item on: 4n │         │
//	└───────┴───────────────────┴────────────────────────────┴─────────┘
//	an item:  length of the key, 2 bytes, highest bit: the item deletes │ key │ value
//
// A leaf has level 0, and its items are those of the tree. A node above has the level of its children and 1; an item's
// value is a child's page, in 8 bytes, and its key is where the child begins: a child has the keys from its own to that
// of the next child, which is not included. The first key is empty and stands for all smaller keys.
//
// A delta has the level of its node with the highest bit. Its items replace those with the same keys, are added, or
// delete.
type Node struct{ b []byte }

const (
	headerSize = 5 // level and number of items
	endSize    = 4
	keySize    = 2 // of the length of a key
	childSize  = 8

	deltaBit  = 0x80   // in the level
	deleteBit = 0x8000 // in the length of a key
)

func (n Node) level() byte   { return n.b[0] &^ deltaBit }
func (n Node) isDelta() bool { return n.b[0]&deltaBit != 0 }
func (n Node) isLeaf() bool  { return n.level() == 0 }
func (n Node) len() int      { return int(binary.LittleEndian.Uint32(n.b[1:])) }
func (n Node) items() []byte { return n.b[headerSize+endSize*n.len():] }

// begin returns where item i begins in items, and where item i−1 ends.
func (n Node) begin(i int) int {
	if i == 0 {
		return 0
	}
	return int(binary.LittleEndian.Uint32(n.b[headerSize+endSize*(i-1):]))
}

// item returns the parts of item i. They have no room behind them, so that appending to them copies.
func (n Node) item(i int) (key, value []byte, deletes bool) {
	it := n.items()[n.begin(i):n.begin(i+1)]
	k := int(binary.LittleEndian.Uint16(it))
	end := keySize + k&^deleteBit
	return it[keySize:end:end], it[end:len(it):len(it)], k&deleteBit != 0
}

func (n Node) key(i int) []byte {
	it := n.items()[n.begin(i):]
	end := keySize + int(binary.LittleEndian.Uint16(it))&^deleteBit
	return it[keySize:end:end]
}

func (n Node) child(i int) engine.PageID {
	_, value, _ := n.item(i)
	return engine.PageID(binary.LittleEndian.Uint64(value))
}

// search returns the item with that key, or the first one with a larger key.
func (n Node) search(key []byte) (i int, found bool) {
	low, high := 0, n.len()
	for low < high {
		middle := (low + high) / 2
		switch c := bytes.Compare(n.key(middle), key); {
		case c < 0:
			low = middle + 1
		case c > 0:
			high = middle
		default:
			return middle, true
		}
	}
	return low, false
}

var errNode = errors.New("not a node of a btree")

// decode verifies that b is a node, so that no other method has to check a length.
func decode(b []byte) (Node, error) {
	n := Node{b[:len(b):len(b)]}
	if len(b) < headerSize || uint64(n.len())*endSize > uint64(len(b)-headerSize) {
		return Node{}, errNode
	}
	items := n.items()
	for i, begin := 0, 0; i < n.len(); i++ {
		end := n.begin(i + 1)
		if end < begin+keySize || end > len(items) {
			return Node{}, errNode
		}
		if k := int(binary.LittleEndian.Uint16(items[begin:])) &^ deleteBit; k > end-begin-keySize {
			return Node{}, errNode
		}
		if !n.itemFits(i) {
			return Node{}, errNode
		}
		begin = end
	}
	if n.begin(n.len()) != len(items) || !n.isLeaf() && !n.isDelta() && (n.len() == 0 || len(n.key(0)) > 0) {
		return Node{}, errNode
	}
	return n, nil
}

// itemFits reports whether item i, whose lengths are right, fits the node and the item before it.
func (n Node) itemFits(i int) bool {
	key, value, deletes := n.item(i)
	switch {
	case deletes:
		if !n.isDelta() || len(value) > 0 {
			return false
		}
	case !n.isLeaf() && len(value) != childSize:
		return false
	}
	return i == 0 || bytes.Compare(n.key(i-1), key) < 0
}
