package main

import (
	"bytes"
	"math"
	"sort"
	"testing"
)

// The frequencies of the ranks are those of the distribution, within the error of the approximation.
func TestZipf(t *testing.T) {
	const n, draws = 1000, 400_000
	for _, theta := range []float64{0.5, 0.99, 1.2, 2} {
		z, rng := newZipf(n, theta), newRand(1, 0)
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
func TestPicker(t *testing.T) {
	for _, n := range []int64{1, 2, 3, 7, 64, 1000} {
		for _, theta := range []float64{0, 0.5, 1.2} {
			p, rng, seen := newPicker(n, theta), newRand(2, 0), map[int64]int{}
			for range 200 * n {
				i := p.pick(rng)
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
	p := newPicker(1000, 0)
	a, b, c := newRand(5, 0), newRand(5, 0), newRand(6, 0)
	same := 0
	for range 100 {
		x, y := p.pick(a), p.pick(b)
		if x != y {
			t.Fatal("the same seed drew other pages")
		}
		if p.pick(c) == x {
			same++
		}
	}
	if same > 10 {
		t.Errorf("another seed drew %d of 100 pages equally", same)
	}
	v, w := newValues(100, reused, newRand(1, 1)), newValues(100, reused, newRand(1, 1))
	if !bytes.Equal(v.take(), w.take()) {
		t.Error("the same seed made other values")
	}
}

// How newValues makes values.
const (
	reused   = false
	refilled = true
)

func TestValues(t *testing.T) {
	v := newValues(100, reused, newRand(1, 1))
	first := v.take()
	different := false
	for range 200 {
		b := v.take()
		if len(b) != 100 || cap(b) != 100 {
			t.Fatalf("%d bytes, capacity %d", len(b), cap(b))
		}
		different = different || !bytes.Equal(b, first)
	}
	if !different {
		t.Error("all values are equal")
	}
	r := newValues(64, refilled, newRand(1, 1))
	if a, b := r.take(), r.take(); bytes.Equal(a, b) || &a[0] == &b[0] {
		t.Error("refilled values are equal")
	}
}

// A page keeps its size with any number of deltas, and holds the last delta.
func TestPatched(t *testing.T) {
	base, rng := make([]byte, 1024), newRand(1, 1)
	for _, n := range []int{1, 7, 100, 1024} {
		v := newValues(n, refilled, rng)
		last := v.take()
		page := patched{}.Merge([][]byte{base, v.take(), v.take(), last})
		if len(page) != len(base) || !bytes.Contains(page, last) {
			t.Errorf("delta of %d: page of %d, with the last delta: %t", n, len(page), bytes.Contains(page, last))
		}
	}
	if !bytes.Equal(base, make([]byte, 1024)) {
		t.Error("the base was changed")
	}
}
