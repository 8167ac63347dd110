package stats

import "math"

// Spread is the distribution of a speed over its samples.
type Spread struct {
	N                      int
	Least, Most, Mean, Dev float64
	Of                     float64 // the speed of all jobs together, for shares
}

// NewSpread returns the spread of values.
func NewSpread(values []float64) Spread {
	s := Spread{N: len(values)}
	if s.N == 0 {
		return s
	}
	s.Least = math.Inf(1)
	for _, v := range values {
		s.Least, s.Most = min(s.Least, v), max(s.Most, v)
		s.Mean += v / float64(s.N)
	}
	for _, v := range values {
		s.Dev += (v - s.Mean) * (v - s.Mean)
	}
	s.Dev = math.Sqrt(s.Dev / float64(max(s.N-1, 1)))
	return s
}

// Share returns the mean as a percentage of the speed of all jobs, at most 100, as fio does.
func (s *Spread) Share() float64 {
	if s.Of <= 0 {
		return 0
	}
	return min(100, 100*s.Mean/s.Of)
}
