package pick

import (
	"math"
	"sort"
	"testing"
)

// The frequencies of the ranks are those of the distribution, within the error of the approximation.
func TestZipf(t *testing.T) {
	const n, draws = 1000, 400_000
	for _, theta := range []float64{0.5, 0.99, 1.2, 2} {
		z, rng := newZipf(n, theta), New(1, 0)
		count := make([]float64, n)
		for range draws {
			count[z.rank(rng)]++
		}
		for _, top := range []int{1, 2, 100, 500} {
			want, got := zeta(uint64(top), theta)/zeta(n, theta), 0.0
			for _, c := range count[:top] {
				got += c / draws
			}
			if math.Abs(got-want) > 0.03 {
				t.Errorf("theta %v: the first %d ranks have %.3f of the draws, want %.3f", theta, top, got, want)
			}
		}
	}
}

// Every page can be drawn, the popular pages are scattered, and small numbers of pages work.
func TestPages(t *testing.T) {
	for _, n := range []int64{1, 2, 3, 7, 64, 1000} {
		for _, theta := range []float64{0, 0.5, 1.2} {
			p, rng, seen := NewPages(n, zipfOr(theta), 1), New(2, 0), map[int64]int{}
			for range 200 * n {
				i := p.Next(rng)
				if i < 0 || i >= n {
					t.Fatalf("%d of %d", i, n)
				}
				seen[i]++
			}
			if theta < 1 && int64(len(seen)) < n*9/10 {
				t.Errorf("%d pages, theta %v: only %d seen", n, theta, len(seen))
			}
			if theta == 0 || n < 1000 {
				continue
			}
			order := make([]int64, 0, len(seen))
			for i := range seen {
				order = append(order, i)
			}
			sort.Slice(order, func(a, b int) bool { return seen[order[a]] > seen[order[b]] })
			if order[0]+1 == order[1] && order[1]+1 == order[2] {
				t.Errorf("the most popular pages are neighbours: %v", order[:3])
			}
		}
	}
}

// Scattering maps each rank to a page of its own.
func TestCoprime(t *testing.T) {
	for n := uint64(1); n < 300; n++ {
		seen := map[uint64]bool{}
		for rank := range n {
			seen[rank*coprime(n)%n] = true
		}
		if uint64(len(seen)) != n {
			t.Errorf("%d pages: %d reached", n, len(seen))
		}
	}
}

// The integral that replaces the later terms of the sum is exact.
func TestZeta(t *testing.T) {
	const n = maxZeta * 2
	for _, theta := range []float64{0.5, 0.99, 1.2} {
		want := 0.0
		for i := n; i > 0; i-- {
			want += math.Pow(float64(i), -theta)
		}
		if got := zeta(n, theta); math.Abs(got-want) > 1e-6*want {
			t.Errorf("theta %v: %v, want %v", theta, got, want)
		}
	}
}

// The same seed draws the same pages and values.
func TestSeed(t *testing.T) {
	p := NewPages(1000, Dist{}, 1)
	a, b, c := New(5, 0), New(5, 0), New(6, 0)
	same := 0
	for range 100 {
		x, y := p.Next(a), p.Next(b)
		if x != y {
			t.Fatal("the same seed drew other pages")
		}
		if p.Next(c) == x {
			same++
		}
	}
	if same > 10 {
		t.Errorf("another seed drew %d of 100 pages equally", same)
	}
}

func zipfOr(theta float64) Dist {
	if theta == 0 {
		return Dist{}
	}
	return Dist{Kind: KindZipf, Param: theta}
}
