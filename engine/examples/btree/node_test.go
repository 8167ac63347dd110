package btree

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pagecache/engine/pagetest"
)

// randomNode returns a node, or a delta, with some of the keys 0 to 19.
func randomNode(r *rand.Rand, level byte, isDelta bool) Node {
	numbers := r.Perm(20)[:r.IntN(8)]
	slices.Sort(numbers)
	if level > 0 && !isDelta {
		numbers = append([]int{-1}, numbers...)
	}
	if isDelta {
		level |= deltaBit
	}
	b := build(level, len(numbers), 100*len(numbers))
	for _, i := range numbers {
		key := fmt.Appendf(nil, "key %02d", i)
		if i < 0 {
			key = nil
		}
		switch value := make([]byte, r.IntN(20)); {
		case isDelta && r.IntN(3) == 0:
			b.remove(key)
		case level&^deltaBit > 0:
			b.add(key, binary.LittleEndian.AppendUint64(nil, r.Uint64()))
		default:
			b.add(key, value)
		}
	}
	return b.node()
}

// Nodes keep the contract of a Materializer, those of leaves and those above.
func TestPages(t *testing.T) {
	for level := range byte(2) {
		pagetest.Materializer(t, Pages{}, func(r *rand.Rand, delta bool) Node { return randomNode(r, level, delta) })
	}
}

// Merging does what a map does.
func TestMergeIsThatOfMaps(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		frags := []Node{randomNode(r, 0, false)}
		for range 1 + r.IntN(5) {
			frags = append(frags, randomNode(r, 0, true))
		}
		want := map[string]string{}
		for _, f := range frags {
			for i := range f.len() {
				if key, value, deletes := f.item(i); deletes {
					delete(want, string(key))
				} else {
					want[string(key)] = string(value)
				}
			}
		}
		got := Pages{}.Merge(frags)
		if _, err := decode(got.b); err != nil || got.len() != len(want) {
			t.Fatalf("%d items, want %d: %v", got.len(), len(want), err)
		}
		for i := range got.len() {
			if key, value, _ := got.item(i); want[string(key)] != string(value) {
				t.Fatalf("%s is %q, want %q", key, value, want[string(key)])
			}
		}
	}
}

// Cutting a node gives two with its items, and the separator is between them.
func TestCut(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		level := byte(r.IntN(2))
		n := randomNode(r, level, false)
		if n.len() < 2 {
			continue
		}
		at := 1 + r.IntN(n.len()-1)
		left, separator, right := n.cut(at)
		for _, half := range []Node{left, right} {
			if _, err := decode(half.b); err != nil {
				t.Fatal(err)
			}
		}
		if left.len() != at || right.len() != n.len()-at {
			t.Fatalf("%d and %d items of %d, cut at %d", left.len(), right.len(), n.len(), at)
		}
		if bytes.Compare(n.key(at-1), separator) >= 0 || bytes.Compare(separator, n.key(at)) > 0 {
			t.Fatalf("%q does not separate %q from %q", separator, n.key(at-1), n.key(at))
		}
		for i := range n.len() {
			half, j := left, i
			if i >= at {
				half, j = right, i-at
			}
			wantKey, wantValue, _ := n.item(i)
			key, value, _ := half.item(j)
			if level > 0 && i == at {
				wantKey = nil
			}
			if !bytes.Equal(key, wantKey) || !bytes.Equal(value, wantValue) {
				t.Fatalf("item %d is %q %q, want %q %q", i, key, value, wantKey, wantValue)
			}
		}
	}
}

// Whatever bytes decode accepts are a node that nothing panics on, and whose items, laid out anew, give the same bytes.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for i := range 20 {
		f.Add(randomNode(r, byte(i%3), i%2 == 0).b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := decode(bytes.Clone(b))
		if err != nil {
			return
		}
		again := build(n.b[0], n.len(), len(n.items()))
		for i := range n.len() {
			key, value, deletes := n.item(i)
			if at, found := n.search(key); !found || at != i {
				t.Errorf("item %d is found at %d, %v", i, at, found)
			}
			switch {
			case deletes:
				again.remove(key)
			case n.isLeaf():
				again.add(key, value)
			default:
				again.addChild(key, n.child(i))
			}
		}
		if !bytes.Equal(again.node().b, b) {
			t.Errorf("%x, laid out anew %x", b, again.node().b)
		}
		if n.isDelta() {
			overlay(randomNode(r, n.level(), false), n)
		} else if n.len() > 1 {
			n.cut(n.middle())
		}
	})
}
