package main

import (
	"math"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// latencies summarizes durations in ns: exact count, extremes, mean and deviation, and a histogram for the
// percentiles. One goroutine adds durations; its latencies are merged into others after it has ended.
type latencies struct {
	n, least, most int64
	sum, squares   float64
	hist           *hdrhistogram.Histogram
}

const (
	longest = 3600e9 // ns: the histogram counts longer durations as this one
	digits  = 2      // significant digits in the histogram, which is finer than fio's
)

func (l *latencies) init() { l.hist = hdrhistogram.New(1, longest, digits) }

func (l *latencies) add(ns int64) {
	if l.n == 0 || ns < l.least {
		l.least = ns
	}
	l.most = max(l.most, ns)
	l.n++
	l.sum += float64(ns)
	l.squares += float64(ns) * float64(ns)
	_ = l.hist.RecordValue(min(ns, longest)) // in range by construction
}

func (l *latencies) merge(from *latencies) {
	if from.n == 0 {
		return
	}
	if l.n == 0 || from.least < l.least {
		l.least = from.least
	}
	l.most = max(l.most, from.most)
	l.n += from.n
	l.sum += from.sum
	l.squares += from.squares
	l.hist.Merge(from.hist)
}

func (l *latencies) mean() float64 {
	if l.n == 0 {
		return 0
	}
	return l.sum / float64(l.n)
}

// deviation returns the standard deviation.
func (l *latencies) deviation() float64 {
	if l.n < 2 {
		return 0
	}
	m := l.mean()
	return math.Sqrt(max(0, (l.squares-m*l.sum)/float64(l.n-1)))
}

// percentiles are the default percentiles of fio.
var percentiles = []float64{1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.5, 99.9, 99.95, 99.99}

// at returns the durations at the percentiles, in ns, limited to the exact extremes.
func (l *latencies) at() []int64 {
	v := make([]int64, len(percentiles))
	for i, p := range percentiles {
		v[i] = max(l.least, min(l.most, l.hist.ValueAtQuantile(p)))
	}
	return v
}

// band is a range of latencies, as fio lists them: above the limit of the previous band, at most its own limit.
type band struct {
	name  string
	limit int64 // ns
	unit  int64 // of name, in ns: 1, microsecond or millisecond
}

const (
	microsecond = 1e3
	millisecond = 1e6
)

// bands are the bands of fio, in ns, us and ms. The last one has no limit.
var bands = func() (all []band) {
	for _, unit := range []int64{1, microsecond, millisecond} {
		for _, n := range []string{"2", "4", "10", "20", "50", "100", "250", "500", "750", "1000"} {
			limit, _ := parseSize(n)
			all = append(all, band{n, limit * unit, unit})
		}
	}
	return append(all, band{"2000", 2000 * millisecond, millisecond}, band{">=2000", math.MaxInt64, millisecond})
}()

// shares returns for each band the percentage of all durations of ls that lie in it.
func shares(ls ...*latencies) []float64 {
	counts, total := make([]float64, len(bands)), 0.0
	for _, l := range ls {
		total += float64(l.n)
		i := 0
		for _, bar := range l.hist.Distribution() { // in ascending order
			for bar.To > bands[i].limit {
				i++
			}
			counts[i] += float64(bar.Count)
		}
	}
	for i := range counts {
		counts[i] *= 100 / max(total, 1)
	}
	return counts
}
