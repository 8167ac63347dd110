package iobuf

import (
	"testing"

	"pagecache/segments/format"
)

// Each offset has a bit of its own; setBelow sets those of all offsets below a place, and no others.
func TestCommitsHaveOneBitForEachPlace(t *testing.T) {
	const size = 4096
	for off := 0; off < size; off += format.Align {
		c, below := makeCommits(size), makeCommits(size)
		c.set(off)
		below.setBelow(off)
		for at := 0; at < size; at += format.Align {
			if c.has(at) != (at == off) || below.has(at) != (at < off) {
				t.Fatalf("set(%d): has(%d) is %v, after setBelow %v", off, at, c.has(at), below.has(at))
			}
		}
	}
}
