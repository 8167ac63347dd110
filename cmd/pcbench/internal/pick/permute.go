package pick

import "math/bits"

// Permutation visits each of n pages once in a random order, as fio's random map does, without keeping a map. It is a
// Feistel network over the next power of four, which skips the numbers from n on. Safe for concurrent use.
type Permutation struct {
	n, seed uint64
	half    int // bits of each half
}

// NewPermutation returns a Permutation of the numbers below n.
func NewPermutation(n int64, seed uint64) *Permutation {
	return &Permutation{n: uint64(n), seed: seed, half: max(1, (bits.Len64(uint64(n-1))+1)/2)}
}

// At returns the i-th page. Each round of n numbers is permuted anew.
func (p *Permutation) At(i int64) int64 {
	round, v := uint64(i)/p.n, uint64(i)%p.n
	mask := uint64(1)<<p.half - 1
	for {
		left, right := v>>p.half, v&mask
		for k := range uint64(4) {
			left, right = right, left^mix(right^p.seed^(round*4+k)<<40)&mask
		}
		if v = left<<p.half | right; v < p.n { // ends: the network is a permutation, so a cycle returns below n
			return int64(v)
		}
	}
}

// mix scrambles a number (the last step of splitmix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
