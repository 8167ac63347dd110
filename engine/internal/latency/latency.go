// Package latency counts how long things take, in buckets, without a lock.
//
// The buckets are those of Prometheus' native histograms with schema 3: bucket i has the durations of more than
// 2^((i−1)/8) and at most 2^(i/8) seconds. So a duration is known to within 9 %.
package latency

import (
	"math"
	"sort"
	"sync/atomic"
	"time"
)

const (
	// Schema is the number of the schema in Prometheus: an octave has 2^Schema buckets.
	Schema = 3
	octave = 1 << Schema
	// The buckets of 8 ns and of 256 s. The first and the last one have everything beyond them, too.
	first = -27 * octave
	last  = 8 * octave
)

// bounds are the lower ends of the buckets from a half to one, as fractions.
var bounds = func() (b []float64) {
	for i := range octave {
		b = append(b, math.Exp2(float64(i)/octave-1))
	}
	return b
}()

// Counts count durations. The zero value is ready for use. Safe for concurrent use.
type Counts struct {
	// buckets[i] counts the durations in bucket first+i. Written by Add, read by Load. Publishes nothing. Rises only. A
	// stale count is the number of a moment before.
	buckets [last - first + 1]atomic.Int64
	// sum is the sum of all durations in nanoseconds, under the same rules.
	sum atomic.Int64
}

// Add counts a duration, with two atomic additions. A negative one counts as zero.
func (c *Counts) Add(d time.Duration) {
	c.buckets[bucketOf(d)-first].Add(1)
	c.sum.Add(int64(max(0, d)))
}

// bucketOf returns the number of the bucket of a duration.
func bucketOf(d time.Duration) int {
	if d <= 0 {
		return first
	}
	fraction, exponent := math.Frexp(d.Seconds())
	return min(last, max(first, (exponent-1)*octave+sort.SearchFloat64s(bounds, fraction)))
}

// Load returns the counts. They are read one after another.
func (c *Counts) Load() Histogram {
	h := Histogram{Buckets: map[int]int64{}, Sum: time.Duration(c.sum.Load())}
	for i := range c.buckets {
		if n := c.buckets[i].Load(); n > 0 {
			h.Buckets[first+i] = n
			h.Count += n
		}
	}
	return h
}

// Histogram has counts of durations by their length, in the form of a native histogram of Prometheus with schema 3.
type Histogram struct {
	Count int64         // of all durations
	Sum   time.Duration // of all durations
	// Buckets has the counts that are not zero: that of i is of durations longer than 2^((i−1)/8) seconds and not
	// longer than 2^(i/8) seconds. The lowest one, −216, has everything below 7.5 ns, and the highest one, 64,
	// everything above 256 s.
	Buckets map[int]int64
}

// Quantile returns a duration that a share of q of all durations do not exceed, 0 ≤ q ≤ 1: the upper end of its bucket.
// It returns 0 if there are none.
func (h Histogram) Quantile(q float64) time.Duration {
	rank, seen := int64(math.Ceil(q*float64(h.Count))), int64(0)
	for i := first; i <= last && h.Count > 0; i++ {
		if seen += h.Buckets[i]; seen >= max(1, rank) {
			return time.Duration(math.Exp2(float64(i)/octave) * float64(time.Second))
		}
	}
	return 0
}
