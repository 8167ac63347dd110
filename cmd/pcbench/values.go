package main

import (
	"encoding/binary"
	"math/rand/v2"

	"pagecache/engine"
)

// values are what a worker writes: a few buffers, prepared once and written over and over, as fio reuses its I/O buffers. The
// engine keeps what it is given, so nobody changes them.
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
	const memory, most = 256 << 10, 64
	n := min(max(memory/size, 2), most)
	all := make([]byte, n*size)
	fill(all, rng)
	for i := range n {
		v.bufs = append(v.bufs, all[i*size:(i+1)*size:(i+1)*size])
	}
	return v
}

// take returns the next value, which is not to be changed.
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

// patched is the Materializer for pages that are updated by deltas: a delta replaces as many bytes of the page as it has,
// where its first bytes say, so that a page keeps its size however many deltas it takes.
type patched struct{ engine.Bytes }

// Merge copies the page and patches it, oldest delta first.
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
