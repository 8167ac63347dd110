package stats

import (
	"math"
	"strconv"
)

// Band is a range of latencies, as fio lists them: above the limit of the previous band, at most its own limit.
type Band struct {
	Name  string
	Limit int64 // ns
	Unit  int64 // of Name, in ns: 1, Microsecond or Millisecond
}

// Units of latencies, in ns.
const (
	Microsecond = 1e3
	Millisecond = 1e6
)

// Bands are the bands of fio, in ns, us and ms. The last one has no limit.
var Bands = func() (all []Band) {
	for _, unit := range []int64{1, Microsecond, Millisecond} {
		for _, n := range []int64{2, 4, 10, 20, 50, 100, 250, 500, 750, 1000} {
			all = append(all, Band{strconv.FormatInt(n, 10), n * unit, unit})
		}
	}
	return append(all, Band{"2000", 2000 * Millisecond, Millisecond}, Band{">=2000", math.MaxInt64, Millisecond})
}()

// Shares returns for each band the percentage of all durations of ls that lie in it.
func Shares(ls ...*Latencies) []float64 {
	counts, total := make([]float64, len(Bands)), 0.0
	for _, l := range ls {
		total += float64(l.N)
		i := 0
		for _, b := range l.Bins() { // in ascending order
			for b.Value > Bands[i].Limit {
				i++
			}
			counts[i] += float64(b.Count)
		}
	}
	for i := range counts {
		counts[i] *= 100 / max(total, 1)
	}
	return counts
}
