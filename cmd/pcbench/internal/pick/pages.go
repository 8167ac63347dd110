// Package pick draws the pages of operations, and the sizes of their values, as fio does.
package pick

import (
	"encoding/binary"
	"math"
	"math/bits"
	"math/rand/v2"
	"sync"
)

// New returns a source of random numbers. Each use of a seed has a stream of its own.
func New(seed uint64, stream int) *rand.PCG { return rand.NewPCG(seed, uint64(stream)) }

// Uniform returns a number below n.
func Uniform(rng *rand.PCG, n uint64) uint64 {
	hi, _ := bits.Mul64(rng.Uint64(), n)
	return hi
}

// float returns a number from 0 to 1, without 1.
func float(rng *rand.PCG) float64 { return float64(rng.Uint64()>>11) / (1 << 53) }

// Pages draws pages. All workers share it, and it never changes; each worker passes its own source of random numbers.
type Pages struct {
	n    uint64
	dist Dist
	zipf *zipf
	// scatter is coprime to n, so that multiplying by it maps each rank to a page of its own and spreads the popular
	// pages.
	scatter uint64
	zones   []zone
}

// zone is a range of pages.
type zone struct {
	access      float64 // share of the draws of this zone and all before it, 0 to 1
	first, size uint64
}

// Most is the largest number of pages for which scattering does not overflow.
const Most = 1 << 31

// NewPages returns a Pages of the pages below n. Absolute zones are divided by the size of a page.
func NewPages(n int64, d Dist, pageSize int64) *Pages {
	p := &Pages{n: uint64(n), dist: d, scatter: coprime(uint64(n))}
	switch d.Kind {
	case KindZipf:
		p.zipf = newZipf(uint64(n), d.Param)
	case KindPareto:
		p.dist.Param = math.Log(d.Param) / math.Log(1-d.Param)
	case KindNormal:
		p.dist.Param = min(math.Ceil(float64(n)*d.Param/100), float64(n/2))
	case KindZoned:
		p.layZones(pageSize)
	}
	return p
}

// layZones computes the ranges of the zones. The last zone ends at the last page.
func (p *Pages) layZones(pageSize int64) {
	at, access := 0.0, 0.0
	for i, z := range p.dist.Zones {
		size := z.Pages / 100 * float64(p.n)
		if z.Bytes {
			size = z.Pages / float64(pageSize)
		}
		first := min(uint64(at), p.n-1)
		at += size
		end := min(max(uint64(at), first+1), p.n)
		access += z.Access / 100
		if i == len(p.dist.Zones)-1 {
			access = 1
			if !z.Bytes {
				end = p.n
			}
		}
		p.zones = append(p.zones, zone{access, first, end - first})
	}
}

// Next returns a page.
func (p *Pages) Next(rng *rand.PCG) int64 {
	switch p.dist.Kind {
	case KindZipf:
		return int64(p.zipf.rank(rng) * p.scatter % p.n)
	case KindPareto:
		rank := uint64(float64(p.n-1) * math.Pow(float(rng), p.dist.Param))
		return int64(rank * p.scatter % p.n)
	case KindNormal:
		return int64(p.normal(rng) * p.scatter % p.n)
	case KindZoned:
		u := float(rng)
		for _, z := range p.zones {
			if u < z.access {
				return int64(z.first + Uniform(rng, z.size))
			}
		}
	}
	return int64(Uniform(rng, p.n))
}

// normal returns a rank, by fio's method: the mean of twelve uniform numbers, moved by a uniform deviation.
func (p *Pages) normal(rng *rand.PCG) uint64 {
	const terms = 12
	sum := uint64(0)
	for range terms {
		sum += Uniform(rng, p.n+1)
	}
	mean := float64(sum) / terms
	dev := p.dist.Param*float(rng) - p.dist.Param/2
	for mean+dev >= float64(p.n) || mean+dev < 0 {
		dev /= 2
		if math.Abs(dev) < 1 {
			dev = 0
			mean = min(mean, float64(p.n-1))
		}
	}
	return uint64(mean + dev)
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

// rank returns a number from 0 to n−1. Lower numbers come more often.
func (z *zipf) rank(rng *rand.PCG) uint64 {
	u := float(rng)
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

// Fill writes random bytes into b.
func Fill(b []byte, rng *rand.PCG) {
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
