package load

import (
	"math"

	"pagecache/cmd/pcbench/internal/job"
)

// Steadiness is the state of steadystate at the end of a job: of the samples of the last steadystate_duration.
type Steadiness struct {
	Attained  bool
	Measure   float64   // what is compared with the limit: Deviation or Slope, or their percentage of the mean
	Deviation float64   // the largest distance from the mean
	Slope     float64   // of the regression line, a second
	IOPS, BW  []float64 // operations and bytes a second
}

// BWMean returns the mean of the bandwidths, in bytes a second.
func (s *Steadiness) BWMean() float64 { return mean(s.BW) }

// IOPSMean returns the mean of the operations a second.
func (s *Steadiness) IOPSMean() float64 { return mean(s.IOPS) }

func mean(values []float64) (m float64) {
	for _, v := range values {
		m += v / float64(len(values))
	}
	return m
}

// look computes how steady the values of a window are, at equal distances of seconds each, as fio defines it: by the
// largest distance from the mean, or the slope of the regression line. Either may be a percentage of the mean.
func (s *Steadiness) look(values []float64, seconds float64, o *job.Steady) {
	n, m := float64(len(values)), mean(values)
	s.Deviation, s.Slope = 0, 0
	var xy, xx float64
	for i, v := range values {
		x := (float64(i) - (n-1)/2) * seconds
		xy, xx = xy+x*(v-m), xx+x*x
		s.Deviation = max(s.Deviation, math.Abs(v-m))
	}
	if xx > 0 {
		s.Slope = xy / xx
	}
	s.Measure = s.Deviation
	switch o.What {
	case "iops_slope", "bw_slope", "lat_slope":
		s.Measure = math.Abs(s.Slope)
	}
	if o.Percent {
		if m == 0 {
			s.Measure = math.Inf(1)
		} else {
			s.Measure *= 100 / m
		}
	}
	s.Attained = s.Measure <= o.Limit
}
