package btree

import (
	"bytes"
	"iter"

	"pagecache/engine"
)

// Item is a key with its value. Both are valid until the Tx ends and must not be modified.
type Item struct{ Key, Value []byte }

// Ascend returns the items with low ≤ key < high, in rising order. A nil low or high means no limit on that side. An
// error, which comes with a zero Item, ends the iteration.
//
// The iteration goes from leaf to leaf by their bounds, each time from the root. That costs little beside the items of
// a leaf, needs no links between leaves, and goes on in the right place after the loop's body has changed the tree.
// Such changes are seen from the next leaf on.
func (t *Tree) Ascend(tx *Tx, low, high []byte) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		room := make([]step, 0, usualDepth)
		from, more := low, true
		for leaves := 0; more; leaves++ {
			path, err := t.pathTo(tx, room, from)
			if err != nil {
				yield(Item{}, err)
				return
			}
			t.readAhead(tx, path, leaves, 1)
			leaf := path[len(path)-1].node
			for i, _ := leaf.search(from); i < leaf.len(); i++ {
				key, value, _ := leaf.item(i)
				if high != nil && bytes.Compare(key, high) >= 0 || !yield(Item{key, value}, nil) {
					return
				}
			}
			from, more = endOf(path)
			more = more && (high == nil || bytes.Compare(from, high) < 0)
		}
	}
}

// endOf returns the key at which the next leaf begins, and whether there is one. The lowest node with a child further
// right knows it.
func endOf(path []step) (key []byte, more bool) {
	for i := len(path) - 2; i >= 0; i-- {
		if s := path[i]; s.at+1 < s.node.len() {
			return s.node.key(s.at + 1), true
		}
	}
	return nil, false
}

// Descend returns the items with low ≤ key < high, in falling order. Otherwise it is like Ascend.
func (t *Tree) Descend(tx *Tx, low, high []byte) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		room := make([]step, 0, usualDepth)
		to, more := high, high == nil || len(high) > 0
		for leaves := 0; more; leaves++ {
			path, err := t.descend(tx, room, func(n Node) int { return n.before(to) - 1 })
			if err != nil {
				yield(Item{}, err)
				return
			}
			t.readAhead(tx, path, leaves, -1)
			leaf := path[len(path)-1].node
			for i := leaf.before(to) - 1; i >= 0; i-- {
				key, value, _ := leaf.item(i)
				if bytes.Compare(key, low) < 0 || !yield(Item{key, value}, nil) {
					return
				}
			}
			to, more = beginningOf(path)
			more = more && bytes.Compare(to, low) > 0
		}
	}
}

// before returns the number of items below a key; nil means all. Above the leaves it is at least 1 unless the key is
// empty, since the first key is empty.
func (n Node) before(key []byte) int {
	if key == nil {
		return n.len()
	}
	i, _ := n.search(key)
	return i
}

// beginningOf returns the key at which the leaf begins, and whether there is a leaf before it.
func beginningOf(path []step) (key []byte, more bool) {
	for i := len(path) - 2; i >= 0; i-- {
		if s := path[i]; s.at > 0 {
			return s.node.key(s.at), true
		}
	}
	return nil, false
}

// readAhead begins to read the leaves that a scan in that direction, 1 or −1, comes to next, so that leaves on disk are
// waited for once for several. It does so at the second leaf of a scan and then after every few: most scans are short.
func (t *Tree) readAhead(tx *Tx, path []step, leaves, direction int) {
	const ahead = 8
	if leaves%ahead != 1 || len(path) < 2 {
		return
	}
	ids := make([]engine.PageID, 0, ahead)
	parent := path[len(path)-2]
	for i := parent.at + direction; i >= 0 && i < parent.node.len() && len(ids) < ahead; i += direction {
		ids = append(ids, parent.node.child(i))
	}
	_ = t.store.Prefetch(tx, ids...) // a hint; the Get of the leaf returns an error that matters
}
