package btree

import (
	"bytes"
	"encoding/binary"

	"pagecache/engine"
)

// builder lays out a node, item after item.
type builder struct {
	b       []byte // with room for the ends of the most items that there can be
	n, most int
}

// build begins a node of at most that many items, which take at most size bytes together.
func build(level byte, most, size int) builder {
	table := headerSize + endSize*most
	b := make([]byte, table, table+size)
	b[0] = level
	return builder{b: b, most: most}
}

// ended notes the end of the next item, as the items have that length by then.
func (b *builder) ended(length int) {
	binary.LittleEndian.PutUint32(b.b[headerSize+endSize*b.n:], uint32(length))
	b.n++
}

func (b *builder) length() int { return len(b.b) - headerSize - endSize*b.most }

// add appends an item.
func (b *builder) add(key, value []byte) { b.append(len(key), key, value) }

// addChild appends an item of a node above the leaves.
func (b *builder) addChild(key []byte, child engine.PageID) {
	b.add(key, binary.LittleEndian.AppendUint64(nil, uint64(child)))
}

// remove appends an item that deletes a key.
func (b *builder) remove(key []byte) { b.append(len(key)|deleteBit, key, nil) }

func (b *builder) append(k int, key, value []byte) {
	b.b = binary.LittleEndian.AppendUint16(b.b, uint16(k))
	b.b = append(append(b.b, key...), value...)
	b.ended(b.length())
}

// copy appends the items i to j−1 of another node.
func (b *builder) copy(from Node, i, j int) {
	shift := b.length() - from.begin(i)
	b.b = append(b.b, from.items()[from.begin(i):from.begin(j)]...)
	for ; i < j; i++ {
		b.ended(from.begin(i+1) + shift)
	}
}

// node returns the node.
func (b *builder) node() Node {
	binary.LittleEndian.PutUint32(b.b[1:], uint32(b.n))
	if b.n < b.most {
		to := headerSize + endSize*b.n
		b.b = b.b[:to+copy(b.b[to:], b.b[headerSize+endSize*b.most:])]
	}
	return Node{b.b}
}

// overlay returns the items of lower and those of upper, which is a delta; where both have a key, upper wins. Items
// that delete have done their work if lower is a whole node. If lower is a delta, they stay, for the node below it.
func overlay(lower, upper Node) Node {
	b := build(lower.b[0], lower.len()+upper.len(), len(lower.items())+len(upper.items()))
	at := 0
	for i := range upper.len() {
		key, _, deletes := upper.item(i)
		to, found := lower.search(key)
		b.copy(lower, at, to)
		if !deletes || lower.isDelta() {
			b.copy(upper, i, i+1)
		}
		if at = to; found {
			at++
		}
	}
	b.copy(lower, at, lower.len())
	return b.node()
}

// cut returns the items before i and those from i on, and the key that separates them, 0 < i < n.len().
func (n Node) cut(i int) (left Node, separator []byte, right Node) {
	size := n.begin(i)
	l := build(n.level(), i, size)
	l.copy(n, 0, i)
	r := build(n.level(), n.len()-i, len(n.items())-size)
	if n.isLeaf() {
		separator = between(n.key(i-1), n.key(i))
	} else { // the right half's first key moves up
		separator = bytes.Clone(n.key(i))
		r.addChild(nil, n.child(i))
		i++
	}
	r.copy(n, i, n.len())
	return l.node(), separator, r.node()
}

// between returns the shortest key that is larger than a and not larger than b, a < b. Short separators make the nodes
// above the leaves small.
func between(a, b []byte) []byte {
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	return bytes.Clone(b[:i+1])
}

// middle returns the item from which on a node is cut into halves of about the same size.
func (n Node) middle() int {
	i := 1
	for i < n.len()-1 && n.begin(i) < len(n.items())/2 {
		i++
	}
	return i
}
