package stats

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// The percentiles of the histogram are within a hundredth of the exact ones, and merging loses nothing.
func TestLatencies(t *testing.T) {
	var a, b Latencies
	for i := int64(1); i <= 10_000; i++ {
		if i%2 == 0 {
			a.Add(i * 1000)
		} else {
			b.Add(i * 1000)
		}
	}
	a.Merge(&b)
	if a.N != 10_000 || a.Least != 1000 || a.Most != 10_000_000 || a.Mean() != 5_000_500 {
		t.Errorf("n %d, min %d, max %d, mean %v", a.N, a.Least, a.Most, a.Mean())
	}
	if d := a.Deviation(); d < 2.88e6 || d > 2.89e6 {
		t.Errorf("deviation %v", d)
	}
	for i, got := range a.At(Percentiles) {
		want := Percentiles[i] * 100 * 1000
		if f := float64(got); f < want*0.99-1000 || f > want*1.01+1000 {
			t.Errorf("percentile %v: %d, want %v", Percentiles[i], got, want)
		}
	}
	sum := 0.0
	for _, s := range Shares(&a) {
		sum += s
	}
	if sum < 99.99 || sum > 100.01 {
		t.Errorf("the bands hold %v%%", sum)
	}
	const hours = 5 * 3600e9
	a.Add(hours) // beyond the range of the histogram, but counted
	if got := a.At([]float64{100})[0]; a.Most != hours || got != hours {
		t.Errorf("max %d, percentile 100 %d", a.Most, got)
	}
}

// Percentiles of a raw trace are within a hundredth of those of the histogram, over nine powers of ten.
func TestPercentilesOfTrace(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var l Latencies
	trace := make([]int64, 100_000)
	for i := range trace {
		trace[i] = int64(math.Exp(rng.Float64() * 20))
		l.Add(trace[i])
	}
	slices.Sort(trace)
	for i, got := range l.At(Percentiles) {
		exact := trace[int(math.Ceil(Percentiles[i]/100*float64(len(trace))))-1]
		if math.Abs(float64(got-exact)) > 0.01*float64(exact)+0.5 {
			t.Errorf("percentile %v: %d, exactly %d", Percentiles[i], got, exact)
		}
		if p := Percentile(l.Bins(), Percentiles[i]); p != got {
			t.Errorf("percentile %v of the bins: %d, want %d", Percentiles[i], p, got)
		}
	}
}

// A bucket's value lies in the bucket, and the buckets are fio's: 64 of each power of two.
func TestBuckets(t *testing.T) {
	for i := range Buckets {
		if got := BucketOf(BucketValue(i)); got != i {
			t.Fatalf("bucket %d: its value %d is in bucket %d", i, BucketValue(i), got)
		}
		from, to := BucketBounds(i)
		if BucketOf(from) != i || BucketOf(to-1) != i || i+1 < Buckets && BucketOf(to) != i+1 {
			t.Fatalf("bucket %d: its bounds are %d and %d", i, from, to)
		}
	}
	for ns, want := range map[int64]int{0: 0, 127: 127, 128: 128, 130: 129, 255: 191, 256: 192, 1 << 60: Buckets - 1} {
		if got := BucketOf(ns); got != want {
			t.Errorf("%d ns: bucket %d, want %d", ns, got, want)
		}
	}
}

func TestSpread(t *testing.T) {
	s := NewSpread([]float64{1, 2, 3})
	s.Of = 8
	if s.N != 3 || s.Least != 1 || s.Most != 3 || math.Abs(s.Mean-2) > 1e-9 || math.Abs(s.Dev-1) > 1e-9 ||
		s.Share() != 25 {
		t.Errorf("%+v, share %v", s, s.Share())
	}
	if e := NewSpread(nil); e.N != 0 || e.Share() != 0 {
		t.Errorf("%+v", e)
	}
}
