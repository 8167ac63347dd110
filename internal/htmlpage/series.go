package htmlpage

import (
	"encoding/json"
	"math"
	"slices"
)

// maxPoints is the largest number of points of a line.
const maxPoints = 100

// point stands for one or more intervals of a series. Its mean is NaN if none of them has a value.
type point struct {
	seconds        float64 // end of the last interval
	mean, min, max float64
	n              int // intervals with a value
}

// MarshalJSON returns [seconds, mean] for one interval, [seconds, mean, least, greatest] for several, and
// [seconds, null] for none.
func (p point) MarshalJSON() ([]byte, error) {
	switch {
	case p.n == 0:
		return json.Marshal([]any{p.seconds, nil})
	case p.n == 1:
		return json.Marshal([]float64{p.seconds, p.mean})
	}
	return json.Marshal([]float64{p.seconds, p.mean, p.min, p.max})
}

// line is one series of a chart.
type line struct {
	Name   string  `json:"name"`
	Points []point `json:"points"`

	Color int    `json:"-"` // 1 to 4
	Path  string `json:"-"` // of the means
	Band  string `json:"-"` // from the least to the greatest values; "": each point is one interval
}

// has reports whether any point of the line has a value.
func (l *line) has() bool {
	return slices.ContainsFunc(l.Points, func(p point) bool { return p.n > 0 })
}

// perPoint returns the number of intervals that a point stands for.
func perPoint(intervals int) int { return max(1, (intervals+maxPoints-1)/maxPoints) }

// series returns the line of a figure of each sample. A figure of NaN is a gap.
func series(name string, samples []Sample, figure func(*Sample) float64) line {
	l := line{Name: name}
	per := perPoint(len(samples))
	for i := 0; i < len(samples); i += per {
		group := samples[i:min(i+per, len(samples))]
		p := point{seconds: round(group[len(group)-1].Seconds), min: math.Inf(1), max: math.Inf(-1)}
		total := 0.0 // seconds: a mean is over time, since intervals may differ
		for k := range group {
			v, length := figure(&group[k]), group[k].Seconds
			if i+k > 0 {
				length -= samples[i+k-1].Seconds
			}
			if math.IsNaN(v) || math.IsInf(v, 0) {
				continue
			}
			p.n++
			total += max(length, 1e-9)
			p.mean += (v - p.mean) * max(length, 1e-9) / total
			p.min, p.max = min(p.min, v), max(p.max, v)
		}
		if p.n == 0 {
			p.mean, p.min, p.max = math.NaN(), math.NaN(), math.NaN()
		}
		p.mean, p.min, p.max = round(p.mean), round(p.min), round(p.max)
		l.Points = append(l.Points, p)
	}
	return l
}

// extent returns the least and the greatest value of several lines, and the end of their time. The least is that above
// zero, for logarithmic axes.
func extent(lines []line) (low, high, end float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for i := range lines {
		for _, p := range lines[i].Points {
			end = max(end, p.seconds)
			if p.n == 0 {
				continue
			}
			high = max(high, p.max)
			if p.min > 0 {
				low = min(low, p.min)
			}
		}
	}
	return low, high, end
}
