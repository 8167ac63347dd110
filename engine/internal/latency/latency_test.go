package latency

import (
	"math"
	"sync"
	"testing"
	"time"
)

// Each duration is in the bucket whose bounds it lies between.
func TestBuckets(t *testing.T) {
	for ns := int64(10); ns < int64(200*time.Second); ns += 1 + ns/97 {
		d := time.Duration(ns)
		i := bucketOf(d)
		low, high := math.Exp2(float64(i-1)/octave), math.Exp2(float64(i)/octave)
		if s := d.Seconds(); s <= low*(1-1e-12) || s > high*(1+1e-12) {
			t.Fatalf("%v is in bucket %d, of (%g, %g] s", d, i, low, high)
		}
	}
	for d, want := range map[time.Duration]int{
		-1: first, 0: first, 1: first, time.Second: 0, time.Second + 1: 1, time.Second / 2: -octave, time.Hour: last,
	} {
		if got := bucketOf(d); got != want {
			t.Errorf("%v is in bucket %d, want %d", d, got, want)
		}
	}
}

// All durations are counted, by many goroutines at once, and quantiles are right to within 9 %.
func TestCounts(t *testing.T) {
	var c Counts
	if h := c.Load(); h.Count != 0 || h.Sum != 0 || h.Quantile(0.5) != 0 {
		t.Errorf("without durations: %+v", h)
	}
	const goroutines, each = 8, 1000
	var all sync.WaitGroup
	for range goroutines {
		all.Go(func() {
			for i := range each {
				c.Add(time.Duration(i+1) * time.Microsecond)
			}
		})
	}
	all.Wait()
	h := c.Load()
	if want := goroutines * each * (each + 1) / 2 * time.Microsecond; h.Count != goroutines*each || h.Sum != want {
		t.Errorf("%d durations, sum %v, want %d and %v", h.Count, h.Sum, goroutines*each, want)
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 500, 0.99: 990, 1: 1000} {
		want *= time.Microsecond
		if got := h.Quantile(q); got < want || float64(got) > 1.1*float64(want) {
			t.Errorf("quantile %v: %v, want %v to %v", q, got, want, want*11/10)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	var c Counts
	for i := 0; b.Loop(); i++ {
		c.Add(time.Duration(i&0xfffff) + 1000)
	}
}
