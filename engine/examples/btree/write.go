package btree

import (
	"fmt"

	"pagecache/engine"
)

// Put sets the value of a key. The tree copies both. A key or value that is too long is engine.ErrTooLarge.
func (t *Tree) Put(tx *Tx, key, value []byte) error {
	if len(key) > MaxKey || len(value) > MaxValue {
		return fmt.Errorf("put: key of %d bytes, value of %d: %w", len(key), len(value), engine.ErrTooLarge)
	}
	path, err := t.pathTo(tx, make([]step, 0, usualDepth), key)
	if err != nil {
		return err
	}
	delta := build(deltaBit, 1, keySize+len(key)+len(value))
	delta.add(key, value)
	return t.insert(tx, path, delta.node())
}

// insert links a delta of one item to the last node of path. If that makes the node too large, it splits the node.
func (t *Tree) insert(tx *Tx, path []step, delta Node) error {
	last := path[len(path)-1]
	if len(last.node.b)+len(delta.b) > t.size {
		whole := overlay(last.node, delta)
		if len(whole.b) > t.size && whole.len() > 1 { // it may be shorter than expected, or a single long item
			at := whole.middle()
			if i, _ := whole.search(delta.key(0)); i == whole.len()-1 {
				at = i // keys that are put in rising order fill the nodes
			}
			return t.split(tx, path, whole, at)
		}
	}
	return tx.Link(last.id, delta)
}

// split replaces the last node of path by whole, cut into two before item at. The left half stays in the page, so that
// the parent's item for it remains right; the parent gets an item for the right half, and may be split in turn. The
// root keeps its page: both halves get new pages, and the tree gets higher.
func (t *Tree) split(tx *Tx, path []step, whole Node, at int) error {
	left, separator, right := whole.cut(at)
	rightID, err := tx.Allocate(right)
	if err != nil {
		return err
	}
	last := len(path) - 1
	if last > 0 {
		if err := tx.Replace(path[last].id, left); err != nil {
			return err
		}
		delta := build(deltaBit|whole.level()+1, 1, keySize+len(separator)+childSize)
		delta.addChild(separator, rightID)
		return t.insert(tx, path[:last], delta.node())
	}
	leftID, err := tx.Allocate(left)
	if err != nil {
		return err
	}
	root := build(whole.level()+1, 2, 2*(keySize+childSize)+len(separator))
	root.addChild(nil, leftID)
	root.addChild(separator, rightID)
	return tx.Replace(t.root, root.node())
}
