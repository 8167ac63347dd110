package bench

import (
	"math"
	"math/rand/v2"
)

// Zipfian draws numbers below n, of which 0 is the most popular, with an exponent between 0 and 1, which rand.Zipf
// does not support. The method is that of Gray and others, Quickly Generating Billion-Record Synthetic Databases,
// 1994. A Zipfian belongs to one goroutine.
type Zipfian struct {
	rng             *rand.Rand
	n               float64
	theta, alpha    float64
	zeta, eta, half float64
}

// NewZipfian returns a Zipfian with the exponent theta for numbers below n. It takes time proportional to n.
func NewZipfian(rng *rand.Rand, theta float64, n int) *Zipfian {
	z := &Zipfian{rng: rng, n: float64(n), theta: theta, alpha: 1 / (1 - theta), half: math.Pow(0.5, theta)}
	zeta := func(n int) (sum float64) {
		for i := 1; i <= n; i++ {
			sum += math.Pow(float64(i), -theta)
		}
		return sum
	}
	z.zeta = zeta(n)
	z.eta = (1 - math.Pow(2/z.n, 1-theta)) / (1 - zeta(2)/z.zeta)
	return z
}

// Next draws a number.
func (z *Zipfian) Next() int {
	u := z.rng.Float64()
	switch uz := u * z.zeta; {
	case uz < 1:
		return 0
	case uz < 1+z.half:
		return 1
	}
	return min(int(z.n)-1, int(z.n*math.Pow(z.eta*u-z.eta+1, z.alpha)))
}

// For returns a Zipfian for the same numbers that draws from rng. It takes constant time.
func (z *Zipfian) For(rng *rand.Rand) *Zipfian {
	other := *z
	other.rng = rng
	return &other
}
