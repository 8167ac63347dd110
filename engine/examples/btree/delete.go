package btree

// Delete deletes a key. It does nothing if there is none.
func (t *Tree) Delete(tx *Tx, key []byte) error {
	path, err := t.pathTo(tx, make([]step, 0, usualDepth), key)
	if err != nil {
		return err
	}
	leaf := path[len(path)-1]
	if _, found := leaf.node.search(key); !found {
		return nil
	}
	if leaf.node.len() == 1 && len(path) > 1 {
		return t.removeEmpty(tx, path)
	}
	delta := build(deltaBit, 1, keySize+len(key))
	delta.remove(key)
	return tx.Link(leaf.id, delta.node())
}

// removeEmpty frees the leaf at the end of path, whose last item is deleted, and the nodes above it of which it is all
// that is left. The lowest node that keeps something loses the child; the child's neighbour takes over its keys.
func (t *Tree) removeEmpty(tx *Tx, path []step) error {
	last := len(path) - 1
	for ; last > 0 && path[last].node.len() == 1; last-- {
		if err := tx.Free(path[last].id); err != nil {
			return err
		}
	}
	n, at := path[last].node, path[last].at
	if n.len() == 1 { // the root loses its only child
		return tx.Replace(t.root, emptyLeaf())
	}
	delta := build(deltaBit|n.level(), 2, len(n.items()))
	if at == 0 { // the first key stays, and the second child moves there
		at = 1
		delta.addChild(nil, n.child(1))
	}
	delta.remove(n.key(at))
	if err := tx.Link(path[last].id, delta.node()); err != nil || last > 0 {
		return err
	}
	return t.lower(tx)
}

// lower moves the items of the root's only child into the root, as long as there is an only child.
func (t *Tree) lower(tx *Tx) error {
	for {
		root, err := node(tx, t.root)
		if err != nil || root.isLeaf() || root.len() > 1 {
			return err
		}
		child, err := node(tx, root.child(0))
		if err != nil {
			return err
		}
		if err := tx.Replace(t.root, child); err != nil {
			return err
		}
		if err := tx.Free(root.child(0)); err != nil {
			return err
		}
	}
}
