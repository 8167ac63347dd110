package pick

import (
	"math"
	"strings"
	"testing"
)

func mustDist(t *testing.T, s string) Dist {
	t.Helper()
	d, err := ParseDist(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestParseDist(t *testing.T) {
	for s, want := range map[string]Dist{
		"random": {}, "zipf": {Kind: KindZipf, Param: 1.1}, "zipf:1.2": {Kind: KindZipf, Param: 1.2},
		"pareto:0.3": {Kind: KindPareto, Param: 0.3}, "normal": {Kind: KindNormal}, "gauss:7": {Kind: KindNormal,
			Param: 7},
	} {
		if d := mustDist(t, s); d.Kind != want.Kind || d.Param != want.Param {
			t.Errorf("%s: %+v", s, d)
		}
	}
	for s, want := range map[string]string{
		"zipf:1": "theta", "zipf:x": "theta", "zipf:1.2:0.5": "center", "pareto:1": "power", "normal:101": "deviation",
		"zoned:50/10": "add up", "zoned:50": "ACCESS/SIZE", "zoned:200/10": "0 to 100", "zoned_abs:50/x": "not a size",
		"gaussian": "must be", "random:1": "no parameter", "zoned:60/10:60/90": "add up",
	} {
		if d, err := ParseDist(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v; want %q", s, d, err, want)
		}
	}
	for k, want := range map[Kind]string{KindZoned: "zoned", -1: "Kind(-1)", 5: "Kind(5)"} {
		if k.String() != want {
			t.Errorf("%v, want %s", k, want)
		}
	}
}

// The zones of zoned get their shares of the draws, those without a share the rest.
func TestZoned(t *testing.T) {
	for _, c := range []struct {
		dist  string
		ends  []int64
		share []float64
	}{
		{"zoned:60/10:30/20:8/30:2/40", []int64{100, 300, 600, 1000}, []float64{0.6, 0.3, 0.08, 0.02}},
		{"zoned:50/10:/20:/", []int64{100, 300, 1000}, []float64{0.5, 0.25, 0.25}},
		{"zoned_abs:90/400k:10/3600k", []int64{100, 1000}, []float64{0.9, 0.1}},
	} {
		p, rng := NewPages(1000, mustDist(t, c.dist), 4096), New(1, 1)
		const draws = 200_000
		count := make([]float64, len(c.ends))
		for range draws {
			i, z := p.Next(rng), 0
			for i >= c.ends[z] {
				z++
			}
			count[z]++
		}
		for z, want := range c.share {
			if got := count[z] / draws; math.Abs(got-want) > 0.01 {
				t.Errorf("%s: zone %d has %.3f of the draws, want %.3f", c.dist, z, got, want)
			}
		}
	}
}

// Pareto with power h gives the fraction h of the pages 1−h of the draws. This is fio-genzipf's definition.
func TestPareto(t *testing.T) {
	const n, draws = 10_000, 200_000
	for _, h := range []float64{0.1, 0.2, 0.3} {
		p, rng := NewPages(n, Dist{Kind: KindPareto, Param: h}, 1), New(1, 1)
		back := make([]int, n) // from pages to ranks
		for rank := range uint64(n) {
			back[rank*p.scatter%n] = int(rank)
		}
		first := 0.0
		for range draws {
			if float64(back[p.Next(rng)]) < h*n {
				first++
			}
		}
		if got := first / draws; math.Abs(got-(1-h)) > 0.01 {
			t.Errorf("power %v: %.3f of the draws, want %.3f", h, got, 1-h)
		}
	}
}

// The ranks of normal have the mean and the deviation of a mean of twelve uniform numbers, and small n work.
func TestNormal(t *testing.T) {
	const n, draws = 10_000, 100_000
	p, rng := NewPages(n, Dist{Kind: KindNormal}, 1), New(1, 1)
	sum, squares := 0.0, 0.0
	for range draws {
		v := float64(p.normal(rng))
		sum, squares = sum+v, squares+v*v
	}
	mean := sum / draws
	dev := math.Sqrt(squares/draws - mean*mean)
	if want := n / math.Sqrt(12) / math.Sqrt(12); math.Abs(mean-n/2) > n/100 || math.Abs(dev-want) > n/100 {
		t.Errorf("mean %v, deviation %v, want %v", mean, dev, want)
	}
	for _, small := range []int64{1, 2, 3} {
		p := NewPages(small, Dist{Kind: KindNormal, Param: 100}, 1)
		for range 100 {
			if i := p.Next(rng); i < 0 || i >= small {
				t.Fatalf("%d of %d", i, small)
			}
		}
	}
}

// A permutation visits each page once in each round, in another order.
func TestPermutation(t *testing.T) {
	for _, n := range []int64{1, 2, 3, 5, 100, 1023, 1025} {
		p := NewPermutation(n, 7)
		var order [2][]int64
		for round := range int64(2) {
			seen := make([]bool, n)
			for i := range n {
				at := p.At(round*n + i)
				if at < 0 || at >= n || seen[at] {
					t.Fatalf("n %d, round %d: page %d is out of range or comes twice", n, round, at)
				}
				seen[at] = true
				order[round] = append(order[round], at)
			}
		}
		same := 0
		for i := range order[0] {
			if order[0][i] == order[1][i] {
				same++
			}
		}
		if n >= 100 && same > int(n)/10 {
			t.Errorf("n %d: %d pages at the same place in both rounds", n, same)
		}
	}
}

func TestSizes(t *testing.T) {
	rng := New(1, 1)
	z, err := ParseSplit("4k/50:64k/25:1m/")
	if err != nil {
		t.Fatal(err)
	}
	count := map[int64]float64{}
	const draws = 100_000
	for range draws {
		count[z.Next(rng)]++
	}
	for size, want := range map[int64]float64{4096: 0.5, 65536: 0.25, 1 << 20: 0.25} {
		if got := count[size] / draws; math.Abs(got-want) > 0.01 {
			t.Errorf("%d: %.3f of the draws, want %.3f", size, got, want)
		}
	}
	if want := 4096*0.5 + 65536*0.25 + (1<<20)*0.25; z.Mean() != want || z.Least != 4096 || z.Most != 1<<20 {
		t.Errorf("%+v, mean %v, want %v", z, z.Mean(), want)
	}
	r, err := ParseRange("1k-4k")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int64]bool{}
	for range 1000 {
		seen[r.Next(rng)] = true
	}
	if len(seen) != 4 || !seen[1024] || !seen[4096] || r.Mean() != 2560 {
		t.Errorf("%v, mean %v", seen, r.Mean())
	}
	one := OneSize(512)
	if one.Next(rng) != 512 || !one.Fixed() || one.Mean() != 512 {
		t.Errorf("%+v", one)
	}
	for _, bad := range []string{"4k-1k", "x-y", "0-1", "1k-"} {
		if z, err := ParseRange(bad); err == nil {
			t.Errorf("%s: %+v", bad, z)
		}
	}
	for _, bad := range []string{"", "4k/x", "4k/60:8k/50", "4k/60:8k/30", "x/50"} {
		if z, err := ParseSplit(bad); err == nil {
			t.Errorf("%s: %+v", bad, z)
		}
	}
}
