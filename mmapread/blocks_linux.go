package mmapread

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
)

const (
	blockSize  = 4096
	blockShift = 12
)

// blocks says for each block of a window whether it was in the page cache at some time since it was last dropped: 32
// KiB for a GiB.
//
// Warm sets bits once the kernel has said so; Drop and Doubt clear them. A stale bit costs time and nothing else: a
// page fault if it is set and the kernel has evicted the block, a question to the kernel if it is clear.
type blocks []atomic.Uint64

func newBlocks(window int64) blocks { return make(blocks, (window+64*blockSize-1)/(64*blockSize)) }

// span returns the first and last block of bytes [off, off+n).
func span(off, n int64) (first, last int64) { return off >> blockShift, (off + n - 1) >> blockShift }

// mask returns the bits of word w that belong to blocks [first, last].
func mask(w, first, last int64) uint64 {
	m := ^uint64(0)
	if lo := first - w<<6; lo > 0 {
		m <<= lo
	}
	if hi := last - w<<6; hi < 63 {
		m &= 1<<(hi+1) - 1
	}
	return m
}

// all reports whether every block of bytes [at, at+n) is set; n > 0.
func (b blocks) all(at, n int64) bool {
	first, last := span(at, n)
	for w := first >> 6; w <= last>>6; w++ {
		if m := mask(w, first, last); b[w].Load()&m != m {
			return false
		}
	}
	return true
}

func (b blocks) set(at, n int64) {
	first, last := span(at, n)
	for w := first >> 6; w <= last>>6; w++ {
		b[w].Or(mask(w, first, last))
	}
}

func (b blocks) clear(at, n int64) {
	first, last := span(at, n)
	for w := first >> 6; w <= last>>6; w++ {
		b[w].And(^mask(w, first, last))
	}
}

// any returns a block that is set, searching from a random one; −1 if none is set.
func (b blocks) any() int64 {
	start := rand.IntN(len(b))
	for i := range len(b) {
		w := (start + i) % len(b)
		if v := b[w].Load(); v != 0 {
			r := rand.IntN(64)
			return int64(w)<<6 + int64((bits.TrailingZeros64(bits.RotateLeft64(v, -r))+r)&63)
		}
	}
	return -1
}
