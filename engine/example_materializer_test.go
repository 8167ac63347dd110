package engine_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"maps"
	"reflect"
	"slices"
	"testing"

	"pagecache/engine"
)

// node is a page of a search tree: its items, sorted by key. As a delta, a node holds only the items that change.
type node []item

// item is a key with its value. In a delta, Gone removes the key.
type item struct {
	Key, Value string
	Gone       bool
}

// nodes is the Materializer of node.
type nodes struct{}

// Merge lays each fragment over those before it. The first one is a whole page, so the result needs no Gone items.
func (nodes) Merge(frags []node) node {
	page := map[string]string{}
	for _, f := range frags {
		for _, it := range f {
			if it.Gone {
				delete(page, it.Key)
			} else {
				page[it.Key] = it.Value
			}
		}
	}
	merged := make(node, 0, len(page))
	for _, key := range slices.Sorted(maps.Keys(page)) {
		merged = append(merged, item{Key: key, Value: page[key]})
	}
	return merged
}

// Size adds up the slice, an item for each element, and the bytes of the strings.
func (nodes) Size(f node) int {
	n := 24 + 40*len(f)
	for _, it := range f {
		n += len(it.Key) + len(it.Value)
	}
	return n
}

// Append writes for each item a byte that is 1 if it is Gone, then key and value, each after its length.
func (nodes) Append(dst []byte, f node) []byte {
	for _, it := range f {
		if it.Gone {
			dst = append(dst, 1)
		} else {
			dst = append(dst, 0)
		}
		for _, s := range []string{it.Key, it.Value} {
			dst = binary.AppendUvarint(dst, uint64(len(s)))
			dst = append(dst, s...)
		}
	}
	return dst
}

var errNode = errors.New("not a node")

// Decode copies the strings, so its result does not alias src. It checks every length before it uses it.
func (nodes) Decode(src []byte) (node, error) {
	f := node{}
	for len(src) > 0 {
		it := item{Gone: src[0] == 1}
		src = src[1:]
		for _, s := range []*string{&it.Key, &it.Value} {
			n, used := binary.Uvarint(src)
			if used <= 0 || n > uint64(len(src)-used) {
				return nil, errNode
			}
			*s, src = string(src[used:][:n]), src[used:][n:]
		}
		f = append(f, it)
	}
	return f, nil
}

// A page is a sorted node of a search tree. Putting or removing a key writes a delta of one item.
func ExampleMaterializer_node() {
	pc, err := engine.Open("", nodes{}, &engine.Options{Temporary: true})
	if err != nil {
		log.Fatal(err)
	}
	defer pc.Close()
	tx, err := pc.Begin()
	if err != nil {
		log.Fatal(err)
	}
	defer tx.End()

	pid, ptr, err := pc.Allocate(tx, node{{Key: "b", Value: "1"}, {Key: "d", Value: "2"}})
	if err != nil {
		log.Fatal(err)
	}
	for _, delta := range []node{
		{{Key: "c", Value: "3"}},
		{{Key: "b", Gone: true}},
		{{Key: "d", Value: "4"}},
	} {
		won := false
		if ptr, won, err = pc.Link(tx, pid, ptr, delta); err != nil || !won {
			log.Fatal("another writer changed the page: ", err)
		}
	}
	page, err := pc.Get(tx, pid)
	if err != nil {
		log.Fatal(err)
	}
	for _, it := range page.Value {
		fmt.Println(it.Key, it.Value)
	}
	// Output:
	// c 3
	// d 4
}

// Merging a merged page with later deltas gives the same as merging all fragments at once, also after encoding.
func TestNodesKeepTheLawsOfMerging(t *testing.T) {
	m := nodes{}
	base := node{{Key: "a", Value: "1"}, {Key: "b", Value: "2"}}
	deltas := []node{
		{{Key: "c", Value: "3"}}, {{Key: "a", Gone: true}}, {{Key: "a", Value: "4"}}, {{Key: "x", Gone: true}},
	}
	for _, d := range deltas {
		for _, e := range deltas {
			whole := m.Merge([]node{base, d, e})
			stored, err := m.Decode(m.Append(nil, m.Merge([]node{base, d})))
			if err != nil {
				t.Fatal(err)
			}
			if got := m.Merge([]node{stored, e}); !reflect.DeepEqual(got, whole) {
				t.Errorf("in two steps %v, in one %v", got, whole)
			}
		}
	}
}
