package main

import (
	"encoding/binary"
	"math/rand/v2"

	"pagecache/engine"
)

// values are the contents that a worker writes: a few buffers that are prepared once and written again and again, as
// fio reuses its I/O buffers. The engine keeps the slices that it is given, so the buffers never change.
type values struct {
	size   int
	bufs   [][]byte
	next   int
	refill bool
	rng    *rand.PCG
}

func newValues(size int, refill bool, rng *rand.PCG) *values {
	v := &values{size: size, refill: refill, rng: rng}
	if refill {
		return v
	}
	const memory, maxBuffers = 256 << 10, 64
	n := min(max(memory/size, 2), maxBuffers)
	all := make([]byte, n*size)
	fill(all, rng)
	for i := range n {
		v.bufs = append(v.bufs, all[i*size:(i+1)*size:(i+1)*size])
	}
	return v
}

// take returns the next value. The caller must not modify it.
func (v *values) take() []byte {
	if v.refill {
		b := make([]byte, v.size)
		fill(b, v.rng)
		return b
	}
	v.next++
	if v.next >= len(v.bufs) {
		v.next = 0
	}
	return v.bufs[v.next]
}

// patched is the Materializer for pages that are updated by deltas. A delta overwrites len(delta) bytes of the page,
// at an offset that its first bytes determine, so a page never changes its size.
type patched struct{ engine.Bytes }

// Merge copies the page and applies the deltas to the copy, the oldest first.
func (patched) Merge(frags [][]byte) []byte {
	page := append([]byte(nil), frags[0]...)
	for _, d := range frags[1:] {
		var at [8]byte
		copy(at[:], d)
		room := uint64(max(len(page)-len(d), 0) + 1)
		copy(page[binary.LittleEndian.Uint64(at[:])%room:], d)
	}
	return page
}
