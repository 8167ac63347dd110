package bench

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sort"

	"pagecache/engine"
)

// The nodes of a B-tree: NodeItems items of NodeItem bytes each, sorted by their keys, the first NodeKey bytes. Item i
// of node n has the key n × NodeItems + i. A node nearly fills 16 KiB.
const (
	NodeItem  = 100
	NodeKey   = 8
	NodeItems = 160
	NodeSize  = NodeItem * NodeItems
)

// NewNode returns the encoding of a node whose items have random values.
func NewNode(number int, values *Values) []byte {
	b := bytes.Clone(values.Next()[:NodeSize])
	for i := range NodeItems {
		binary.BigEndian.PutUint64(b[i*NodeItem:], uint64(number)*NodeItems+uint64(i))
	}
	return b
}

// NodeStore keeps the nodes of a B-tree. Read and Update are safe for concurrent use.
type NodeStore interface {
	// Load writes the nodes 0 to count-1 to a new store and makes them durable.
	Load(count int) error
	// Read finds the item with that key in its node, and looks at the item.
	Read(key uint64) error
	// Update finds the item with the key of item in its node, and writes item in its place. The write becomes durable
	// later.
	Update(item []byte) error
	// Close closes the store.
	Close() error
}

// itemKey returns the key of an item.
func itemKey(item []byte) uint64 { return binary.BigEndian.Uint64(item) }

// nodeOf returns the node of the item with that key.
func nodeOf(key uint64) int { return int(key / NodeItems) }

// findItem returns the place of the item with that key in a node, or −1.
func findItem(node []byte, key uint64) int {
	n := len(node) / NodeItem
	i := sort.Search(n, func(i int) bool { return itemKey(node[i*NodeItem:]) >= key })
	if i == n || itemKey(node[i*NodeItem:]) != key {
		return -1
	}
	return i * NodeItem
}

// lookAtItem finds an item and reads it.
func lookAtItem(node []byte, key uint64) error {
	at := findItem(node, key)
	if at < 0 {
		return fmt.Errorf("key %d is not in its node", key)
	}
	look(node[at:][:NodeItem])
	return nil
}

// putItems writes items, one after another, into their places in a node.
func putItems(node, items []byte) {
	for ; len(items) >= NodeItem; items = items[NodeItem:] {
		if at := findItem(node, itemKey(items)); at >= 0 {
			copy(node[at:], items[:NodeItem])
		}
	}
}

// Node is a page of a B-tree, or, as a delta, items that replace those with the same keys.
type Node struct{ items []byte }

// Nodes is the Materializer of Node. The memory of a node is its encoding.
type Nodes struct{}

var _ engine.Materializer[Node] = Nodes{}

// Merge implements engine.Materializer.
func (Nodes) Merge(frags []Node) Node {
	node := bytes.Clone(frags[0].items)
	for _, f := range frags[1:] {
		putItems(node, f.items)
	}
	return Node{node}
}

// Size implements engine.Materializer.
func (Nodes) Size(f Node) int { return len(f.items) }

// Append implements engine.Materializer.
func (Nodes) Append(dst []byte, f Node) []byte { return append(dst, f.items...) }

var errNode = errors.New("not a node")

// Decode implements engine.Materializer. The result aliases src.
func (Nodes) Decode(src []byte) (Node, error) {
	if len(src)%NodeItem != 0 {
		return Node{}, errNode
	}
	return Node{src}, nil
}

// PagecacheNodes is a NodeStore on the page cache.
type PagecacheNodes struct{ PC *engine.PageCache[Node] }

var _ NodeStore = PagecacheNodes{}

// OpenPagecacheNodes opens the store in dir, or makes one.
func OpenPagecacheNodes(dir string, opts engine.Options) (PagecacheNodes, error) {
	pc, err := engine.Open(dir, Nodes{}, &opts)
	return PagecacheNodes{pc}, err
}

// Load implements NodeStore.
func (s PagecacheNodes) Load(count int) error {
	values := NewValues(0, NodeSize)
	for i := range count {
		tx, err := s.PC.Begin()
		if err != nil {
			return err
		}
		pid, _, err := s.PC.Allocate(tx, Node{NewNode(i, values)})
		tx.End()
		if err == nil && pid != pageOf(i) {
			err = fmt.Errorf("node %d is page %d", i, pid)
		}
		if err != nil {
			return err
		}
	}
	_, err := s.PC.Flush()
	return err
}

// pageOf returns the page of a node.
func pageOf(node int) engine.PageID { return engine.FirstUserPage + engine.PageID(node) }

// Read implements NodeStore.
func (s PagecacheNodes) Read(key uint64) error {
	tx, err := s.PC.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	p, err := s.PC.Get(tx, pageOf(nodeOf(key)))
	if err != nil {
		return err
	}
	return lookAtItem(p.Value.items, key)
}

// Update implements NodeStore. The loop ends because each loss means that another goroutine has changed the node.
func (s PagecacheNodes) Update(item []byte) error {
	tx, err := s.PC.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	pid := pageOf(nodeOf(itemKey(item)))
	for {
		p, err := s.PC.Get(tx, pid)
		if err != nil {
			return err
		}
		if err := lookAtItem(p.Value.items, itemKey(item)); err != nil {
			return err
		}
		if _, won, err := s.PC.Link(tx, pid, p.Ptr, Node{item}); won || err != nil {
			return err
		}
	}
}

// Close implements NodeStore.
func (s PagecacheNodes) Close() error { return s.PC.Close() }
