package btree

import (
	"context"
	"errors"
	"fmt"

	"pagecache/engine"
)

const (
	// MaxKey is the length of the longest key, in bytes. The shortest has none.
	MaxKey = 1 << 10
	// MaxValue is the length of the longest value, in bytes. A longer one belongs in a page of its own; the tree then
	// has the page's id.
	MaxValue = 16 << 10

	// nodeSize is the number of bytes above which a node is split. Larger nodes make the tree lower and scans faster,
	// smaller ones make merging, which each Put after a Put in the same leaf takes, cheaper.
	nodeSize = 4 << 10
)

// ErrBroken reports pages that do not form a tree, as if something else than a Tree had changed them.
var ErrBroken = errors.New("broken btree")

// Store is the page store that trees are in. It is opened with engine.Open and Pages.
type Store = engine.PageCache[Node]

// Tx is a transaction, as Store's Update and View pass it to their functions.
type Tx = engine.Tx[Node]

// Tree is an ordered index. It has no state in memory but the id of its root, so any number of Trees can be open for
// the same name. All methods are safe for concurrent use, each goroutine with a Tx of its own. Their errors are those
// of the Tx: the functions given to Update and View return them. That of Update is called again after a conflict.
type Tree struct {
	root engine.PageID // the same for ever: a root that is split moves its items into new pages
	size int           // nodeSize, or less in tests
}

// Open returns the tree of that name, and makes one if there is none: an empty leaf and its name, in one transaction,
// so that a crash leaves both or neither, and goroutines that open it at the same time get the same tree. Errors are
// those of Store.
func Open(ctx context.Context, store *Store, name string) (*Tree, error) {
	t := &Tree{size: nodeSize}
	_, err := store.Update(ctx, func(tx *Tx) (err error) {
		t.root, err = tx.Root(name)
		if !errors.Is(err, engine.ErrRootNotFound) {
			return err
		}
		if t.root, err = tx.Allocate(emptyLeaf()); err != nil {
			return err
		}
		return tx.SetRoot(name, t.root)
	})
	if err != nil {
		return nil, fmt.Errorf("open btree %q: %w", name, err)
	}
	return t, nil
}

func emptyLeaf() Node { return Node{make([]byte, headerSize)} } // of level 0, with 0 items

// Get returns the value of a key, and whether there is one. The value is valid until the Tx ends and must not be
// modified.
func (t *Tree) Get(tx *Tx, key []byte) (value []byte, found bool, err error) {
	path, err := t.pathTo(tx, make([]step, 0, usualDepth), key)
	if err != nil {
		return nil, false, err
	}
	leaf := path[len(path)-1].node
	i, found := leaf.search(key)
	if found {
		_, value, _ = leaf.item(i)
	}
	return value, found, nil
}

// step is a node on the way from the root to a leaf.
type step struct {
	id   engine.PageID
	node Node
	at   int // the child that is the next step; not in a leaf
}

// usualDepth is the depth up to which a path needs no memory of its own.
const usualDepth = 6

// pathTo appends the steps from the root to the leaf that a key belongs to.
func (t *Tree) pathTo(tx *Tx, path []step, key []byte) ([]step, error) {
	return t.descend(tx, path, func(n Node) int { return n.childOf(key) })
}

// childOf returns the child that has a key: the last one that does not begin behind it.
func (n Node) childOf(key []byte) int {
	i, found := n.search(key)
	if !found {
		i--
	}
	return i
}

// descend appends the steps from the root to a leaf to path. In each node above the leaves choose decides about the
// next one.
func (t *Tree) descend(tx *Tx, path []step, choose func(Node) int) ([]step, error) {
	n, err := node(tx, t.root)
	if err != nil {
		return nil, err
	}
	for id := t.root; ; {
		if n.isLeaf() {
			return append(path, step{id: id, node: n}), nil
		}
		at := choose(n)
		path = append(path, step{id, n, at})
		id = n.child(at)
		below, err := node(tx, id)
		if err == nil && below.level() != n.level()-1 {
			err = fmt.Errorf("page %d has level %d below level %d: %w", id, below.level(), n.level(), ErrBroken)
		}
		if err != nil {
			return nil, err
		}
		n = below
	}
}

// node returns the node in a page.
func node(tx *Tx, id engine.PageID) (Node, error) {
	p, err := tx.Get(id)
	if err == nil && p.Kind != engine.KindMaterialized {
		err = fmt.Errorf("page %d is %v: %w", id, p.Kind, ErrBroken)
	}
	return p.Value, err
}
