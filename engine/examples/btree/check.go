package btree

import (
	"bytes"
	"fmt"

	"pagecache/engine"
)

// Check verifies the tree as the Tx sees it: all keys are in order and between the bounds of their nodes, all leaves
// are at the same depth, no node but the root is empty, and no page is in the tree twice. It calls page for each page
// of the tree, so that the caller can find pages that are in no tree. A violation is ErrBroken.
func (t *Tree) Check(tx *Tx, page func(engine.PageID)) error {
	root, err := node(tx, t.root)
	if err != nil {
		return err
	}
	if !root.isLeaf() && root.len() < 2 {
		return fmt.Errorf("page %d, the root, has %d child: %w", t.root, root.len(), ErrBroken)
	}
	c := checker{tx: tx, page: page, seen: map[engine.PageID]bool{t.root: true}}
	page(t.root)
	return c.node(t.root, root, nil, nil)
}

type checker struct {
	tx   *Tx
	page func(engine.PageID)
	seen map[engine.PageID]bool
}

// node verifies a node, whose keys are from low to below high, and all nodes below it. A nil high means no limit.
func (c *checker) node(id engine.PageID, n Node, low, high []byte) error {
	for i := range n.len() {
		key := n.key(i)
		first := i == 0 && !n.isLeaf() // it is empty, and stands for low
		if !first && (bytes.Compare(key, low) < 0 || high != nil && bytes.Compare(key, high) >= 0) {
			return fmt.Errorf("page %d: key %q is not from %q to %q: %w", id, key, low, high, ErrBroken)
		}
		if n.isLeaf() {
			continue
		}
		from, to := key, high
		if first {
			from = low
		}
		if i+1 < n.len() {
			to = n.key(i + 1)
		}
		if err := c.child(n, i, from, to); err != nil {
			return err
		}
	}
	return nil
}

// child verifies a child of a node, and all below it.
func (c *checker) child(parent Node, i int, low, high []byte) error {
	id := parent.child(i)
	n, err := node(c.tx, id)
	if err != nil {
		return err
	}
	switch {
	case c.seen[id]:
		return fmt.Errorf("page %d is in the tree twice: %w", id, ErrBroken)
	case n.level() != parent.level()-1:
		return fmt.Errorf("page %d has level %d below level %d: %w", id, n.level(), parent.level(), ErrBroken)
	case n.len() == 0:
		return fmt.Errorf("page %d is empty: %w", id, ErrBroken)
	}
	c.seen[id] = true
	c.page(id)
	return c.node(id, n, low, high)
}
