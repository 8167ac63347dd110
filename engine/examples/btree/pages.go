package btree

import "pagecache/engine"

// Pages is the Materializer of Node: it is passed to engine.Open. The zero Pages is ready for use.
type Pages struct{}

var (
	_ engine.Materializer[Node] = Pages{}
	_ engine.Named              = Pages{}
)

// Format names the encoding, so that no store of other pages is opened as one of trees.
func (Pages) Format() string { return "pagecache/engine/examples/btree 1" }

// Merge lays the deltas over the whole node, which comes first. It merges the deltas with each other before, so that
// the items of the node are copied once.
func (Pages) Merge(frags []Node) Node {
	delta := frags[1]
	for _, later := range frags[2:] {
		delta = overlay(delta, later)
	}
	return overlay(frags[0], delta)
}

// Size returns the bytes that a node takes in memory: its encoding and the slice.
func (Pages) Size(n Node) int {
	const slice = 24
	return slice + len(n.b)
}

// Append appends the encoding, which is the node's memory.
func (Pages) Append(dst []byte, n Node) []byte { return append(dst, n.b...) }

// Decode verifies the encoding. The result aliases src, which saves a copy: Merge copies what it takes from nodes.
func (Pages) Decode(src []byte) (Node, error) { return decode(src) }
