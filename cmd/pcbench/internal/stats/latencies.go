// Package stats summarizes latencies and speeds as fio does.
package stats

import (
	"math"
	"math/bits"
)

// The histogram is fio's: each power of two is divided into 64 buckets, so a percentile is within 0.8 % of the exact
// one. Latencies of more than 17 s share the last bucket.
const (
	bucketBits   = 6
	bucketVals   = 1 << bucketBits
	bucketGroups = 29
	// Buckets is the number of buckets of the histogram.
	Buckets = bucketGroups * bucketVals
)

// Latencies summarizes durations in ns: exact count, extremes, mean and deviation, and a histogram for the
// percentiles. One goroutine adds durations; its Latencies are merged into others after it has ended.
type Latencies struct {
	N, Least, Most int64
	sum, squares   float64
	counts         *[Buckets]int64 // nil while N is 0
}

// BucketOf returns the bucket of a duration.
func BucketOf(ns int64) int {
	v := uint64(max(ns, 0))
	msb := bits.Len64(v) - 1
	if msb <= bucketBits {
		return int(v)
	}
	shift := msb - bucketBits
	return min((shift+1)<<bucketBits+int(v>>shift)&(bucketVals-1), Buckets-1)
}

// BucketValue returns the duration in ns that stands for a bucket: its middle.
func BucketValue(i int) int64 {
	if i < bucketVals<<1 {
		return int64(i)
	}
	shift := i>>bucketBits - 1
	base := int64(1) << (shift + bucketBits)
	return base + int64(float64(i%bucketVals)*float64(int64(1)<<shift)+0.5*float64(int64(1)<<shift))
}

// BucketBounds returns the durations in ns from which on and below which a bucket counts. The last one counts longer
// durations, too.
func BucketBounds(i int) (from, to int64) {
	if i < bucketVals<<1 {
		return int64(i), int64(i) + 1
	}
	shift := i>>bucketBits - 1
	from = int64(1)<<(shift+bucketBits) + int64(i%bucketVals)<<shift
	return from, from + int64(1)<<shift
}

// Add adds a duration.
func (l *Latencies) Add(ns int64) {
	if l.counts == nil {
		l.counts = new([Buckets]int64)
	}
	if l.N == 0 || ns < l.Least {
		l.Least = ns
	}
	l.Most = max(l.Most, ns)
	l.N++
	l.sum += float64(ns)
	l.squares += float64(ns) * float64(ns)
	l.counts[BucketOf(ns)]++
}

// Merge adds all durations of from.
func (l *Latencies) Merge(from *Latencies) {
	if from.N == 0 {
		return
	}
	if l.counts == nil {
		l.counts = new([Buckets]int64)
	}
	if l.N == 0 || from.Least < l.Least {
		l.Least = from.Least
	}
	l.Most = max(l.Most, from.Most)
	l.N += from.N
	l.sum += from.sum
	l.squares += from.squares
	for i, n := range from.counts {
		l.counts[i] += n
	}
}

// Clone returns a copy that does not change with l.
func (l *Latencies) Clone() Latencies {
	c := Latencies{}
	c.Merge(l)
	return c
}

// Mean returns the mean in ns, or 0 if there are no durations.
func (l *Latencies) Mean() float64 {
	if l.N == 0 {
		return 0
	}
	return l.sum / float64(l.N)
}

// Deviation returns the standard deviation in ns.
func (l *Latencies) Deviation() float64 {
	if l.N < 2 {
		return 0
	}
	m := l.Mean()
	return math.Sqrt(max(0, (l.squares-m*l.sum)/float64(l.N-1)))
}

// Percentiles are the default percentiles of fio.
var Percentiles = []float64{1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.5, 99.9, 99.95, 99.99}

// At returns the durations at the percentiles, in ns, limited to the exact extremes. The percentiles ascend.
func (l *Latencies) At(percentiles []float64) []int64 {
	v := make([]int64, len(percentiles))
	if l.N == 0 {
		return v
	}
	sum, bucket := l.counts[0], 0
	for i, p := range percentiles {
		for bucket < Buckets-1 && float64(sum) < math.Ceil(p/100*float64(l.N)) {
			bucket++
			sum += l.counts[bucket]
		}
		v[i] = max(l.Least, min(l.Most, BucketValue(bucket)))
		if p >= 100 {
			v[i] = l.Most
		}
	}
	return v
}

// Bin is a bucket of the histogram that is not empty.
type Bin struct{ Value, Count int64 } // ns, durations

// Percentile returns the duration in ns that p percent of the durations of bins, which ascend, did not exceed, within
// 0.8 %, or 0 without any.
func Percentile(bins []Bin, p float64) int64 {
	n, sum := int64(0), int64(0)
	for _, b := range bins {
		n += b.Count
	}
	for _, b := range bins {
		if sum += b.Count; float64(sum) >= math.Ceil(p/100*float64(n)) {
			return b.Value
		}
	}
	return 0
}

// Bins returns the buckets that are not empty, in ascending order.
func (l *Latencies) Bins() (all []Bin) {
	if l.counts == nil {
		return nil
	}
	for i, n := range l.counts {
		if n > 0 {
			all = append(all, Bin{BucketValue(i), n})
		}
	}
	return all
}

// Counts returns the histogram, whose buckets are those of fio's histogram logs. The caller must not modify it.
func (l *Latencies) Counts() *[Buckets]int64 {
	if l.counts == nil {
		return new([Buckets]int64)
	}
	return l.counts
}
