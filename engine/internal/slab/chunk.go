package slab

import "math/bits"

// A chunk is 2 MiB of memory, divided into pages. A span takes consecutive pages of it. The lock of the pool that has
// the chunk guards its fields, except for mem, which never changes, and spans: an element is written before any slot of
// the span is handed out, so a goroutine that has a value there may read it.
type chunk struct {
	mem   []byte
	huge  bool // its memory is touched as a whole, and given back as a whole
	known bool // the system knows of huge
	index int  // in Pool.chunks
	used  [chunkLen / 64]uint64
	pages int // in use
	most  int // no run of more free pages is left
	spans [chunkLen]*span
}

// setHuge says whether the chunk, which is untouched, is to be one huge page. Where the system would make it one
// anyway, it must not: the chunk is counted page by page then.
func (c *chunk) setHuge(yes bool) {
	if !c.known || c.huge != yes {
		useHugePages(c.mem, yes)
		c.huge, c.known = yes, true
	}
}

// reset makes the chunk as it was when it was new.
func (c *chunk) reset() {
	c.used, c.pages, c.most = [chunkLen / 64]uint64{}, 0, chunkLen
	clear(c.spans[:])
}

// take takes n consecutive pages, and returns the first one; -1 if there are none.
func (c *chunk) take(n int) int {
	if n > c.most {
		return -1
	}
	free, longest := 0, 0
	for p := 0; p < chunkLen; p++ {
		w := c.used[p/64] >> (p % 64)
		if w&1 != 0 {
			skip := bits.TrailingZeros64(^w) // pages in use, in this word
			p += skip - 1
			longest, free = max(longest, free), 0
			continue
		}
		if free++; free == n {
			at := p + 1 - n
			c.mark(at, n)
			return at
		}
	}
	c.most = max(longest, free)
	return -1
}

// mark changes n pages from free to in use, or back.
func (c *chunk) mark(at, n int) {
	for p := at; p < at+n; p++ {
		c.used[p/64] ^= 1 << (p % 64)
	}
	if c.used[at/64]>>(at%64)&1 != 0 {
		c.pages += n
		return
	}
	c.pages -= n
	c.most = chunkLen
}

// memory returns the memory of n pages.
func (c *chunk) memory(at, n int) []byte {
	return c.mem[at*pageSize : (at+n)*pageSize : (at+n)*pageSize]
}
