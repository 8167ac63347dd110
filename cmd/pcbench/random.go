package main

import (
	"encoding/binary"
	"math"
	"math/bits"
	"math/rand/v2"
	"sync"
)

// picker draws pages. All workers share it, and it never changes; each worker passes its own source of random numbers.
type picker struct {
	pages uint64
	zipf  *zipf // nil: uniform
	// scatter is coprime to pages, so that multiplying by it maps each rank to a page of its own and spreads the
	// popular pages.
	scatter uint64
}

// maxPages is the largest number of pages for which scattering does not overflow.
const maxPages = 1 << 31

// newPicker returns a picker of pages below n, by zipf with exponent theta, or uniformly if theta is 0.
func newPicker(n int64, theta float64) *picker {
	p := &picker{pages: uint64(n)}
	if theta != 0 {
		p.zipf = newZipf(uint64(n), theta)
		p.scatter = coprime(uint64(n))
	}
	return p
}

// pick returns a page index.
func (p *picker) pick(rng *rand.PCG) int64 {
	if p.zipf == nil {
		hi, _ := bits.Mul64(rng.Uint64(), p.pages)
		return int64(hi)
	}
	return int64(p.zipf.rank(rng) * p.scatter % p.pages)
}

// zipf draws ranks below n with probabilities that fall as rank^-theta. The method is that of Gray et al., "Quickly
// generating billion-record synthetic databases" (SIGMOD 1994), which fio uses too.
type zipf struct {
	n                        uint64
	alpha, eta, zetan, zeta2 float64
}

// maxZeta is the number of terms of the harmonic sum that are added one by one. An integral, exact to many digits
// there, replaces the rest.
const maxZeta = 1 << 20

var zetas sync.Map // zetaKey → float64, a cache: computing a sum takes tens of milliseconds

type zetaKey struct {
	n     uint64
	theta float64
}

func newZipf(n uint64, theta float64) *zipf {
	z := &zipf{n: n, alpha: 1 / (1 - theta), zetan: zeta(n, theta), zeta2: zeta(2, theta)}
	z.eta = (1 - math.Pow(2/float64(n), 1-theta)) / (1 - z.zeta2/z.zetan)
	return z
}

// zeta returns the sum of i^-theta for i from 1 to n.
func zeta(n uint64, theta float64) float64 {
	if sum, ok := zetas.Load(zetaKey{n, theta}); ok {
		return sum.(float64)
	}
	sum := 0.0
	for i := min(n, maxZeta); i > 0; i-- { // the small terms first
		sum += math.Pow(float64(i), -theta)
	}
	if n > maxZeta {
		e := 1 - theta // the midpoint rule
		sum += (math.Pow(float64(n)+0.5, e) - math.Pow(maxZeta+0.5, e)) / e
	}
	zetas.Store(zetaKey{n, theta}, sum)
	return sum
}

// rank returns a rank below n, of which 0 is the most frequent.
func (z *zipf) rank(rng *rand.PCG) uint64 {
	u := float64(rng.Uint64()>>11) / (1 << 53)
	switch uz := u * z.zetan; {
	case uz < 1 || z.n == 1:
		return 0
	case uz < z.zeta2 || z.n == 2:
		return 1
	}
	return min(z.n-1, uint64(float64(z.n)*math.Pow(z.eta*u-z.eta+1, z.alpha)))
}

// coprime returns a number near the golden section of n that has no divisor in common with n.
func coprime(n uint64) uint64 {
	c := uint64(float64(n)*0.6180339887) | 1
	for gcd(c, n) != 1 {
		c += 2
	}
	return c
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// fill writes random bytes into b.
func fill(b []byte, rng *rand.PCG) {
	for len(b) >= 8 {
		x := rng.Uint64()
		binary.LittleEndian.PutUint64(b, x)
		b = b[8:]
	}
	x := rng.Uint64()
	for i := range b {
		b[i] = byte(x >> (8 * i))
	}
}
