package load

import (
	"math"

	"pagecache/cmd/pcbench/internal/job"
)

// steady reports whether the values of a window, at equal distances of seconds each, are steady as fio defines it: the
// largest distance from the mean, or the slope of the regression line, is at most the limit, which may be a percentage
// of the mean.
func steady(values []float64, seconds float64, s *job.Steady) bool {
	n := float64(len(values))
	mean := 0.0
	for _, v := range values {
		mean += v / n
	}
	measure := 0.0
	switch s.What {
	case "iops_slope", "bw_slope", "lat_slope":
		var xy, xx float64
		for i, v := range values {
			x := (float64(i) - (n-1)/2) * seconds
			xy, xx = xy+x*(v-mean), xx+x*x
		}
		if xx > 0 {
			measure = math.Abs(xy / xx)
		}
	default:
		for _, v := range values {
			measure = max(measure, math.Abs(v-mean))
		}
	}
	if s.Percent {
		if mean == 0 {
			return false
		}
		measure *= 100 / mean
	}
	return measure <= s.Limit
}
