package htmlpage

import (
	"fmt"
	"math"
	"strings"
)

// unit is the unit of the values of an axis.
type unit string

const (
	unitSpeed   unit = "op/s"
	unitBytesPS unit = "B/s"
	unitTime    unit = "ns"
	unitBytes   unit = "B"
	unitPercent unit = "%"
	unitTimes   unit = "×"
	unitCount   unit = "1"
	unitSeconds unit = "s"
)

// words describes the unit for people.
func (u unit) words() string {
	switch u {
	case unitSpeed:
		return "operations per second"
	case unitBytesPS:
		return "bytes per second"
	case unitTime:
		return "time, logarithmic"
	case unitBytes:
		return "bytes of memory"
	case unitPercent:
		return "percent"
	case unitTimes:
		return "multiple"
	case unitSeconds:
		return "time since the beginning"
	}
	return "number"
}

// prefix is a scale of a unit.
type prefix struct {
	value float64
	text  string
}

var prefixes = map[unit][]prefix{
	unitSpeed:   {{1e9, " G"}, {1e6, " M"}, {1e3, " k"}, {1, ""}},
	unitCount:   {{1e9, " G"}, {1e6, " M"}, {1e3, " k"}, {1, ""}},
	unitBytesPS: {{1e9, " GB/s"}, {1e6, " MB/s"}, {1e3, " kB/s"}, {1, " B/s"}},
	unitBytes:   {{1 << 40, " TiB"}, {1 << 30, " GiB"}, {1 << 20, " MiB"}, {1 << 10, " KiB"}, {1, " B"}},
	unitTime:    {{1e9, " s"}, {1e6, " ms"}, {1e3, " µs"}, {1, " ns"}},
	unitPercent: {{1, " %"}},
	unitTimes:   {{1, " ×"}},
	unitSeconds: {{3600, " h"}, {60, " min"}, {1, " s"}},
}

// scale returns the largest prefix that v reaches.
func (u unit) scale(v float64) prefix {
	list := prefixes[u]
	for _, p := range list {
		if math.Abs(v) >= p.value {
			return p
		}
	}
	return list[len(list)-1]
}

// text formats v with about three digits, and its unit.
func (u unit) text(v float64) string {
	if math.IsNaN(v) {
		return "–"
	}
	p := u.scale(v)
	return digits(v/p.value) + p.text
}

// digits formats v with about three digits.
func digits(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return trim(fmt.Sprintf("%.1f", v))
	case a >= 0.01 || a == 0:
		return trim(fmt.Sprintf("%.2f", v))
	}
	return fmt.Sprintf("%.2g", v)
}

// trim removes the zeros at the end of a decimal fraction.
func trim(s string) string { return strings.TrimSuffix(strings.TrimRight(s, "0"), ".") }

// round rounds v to five significant digits, which is what the page knows of each value.
func round(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return v
	}
	e := math.Pow(10, 4-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*e) / e
}

// axis maps values to places from 0 to 1.
type axis struct {
	Unit unit    `json:"unit"`
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	Log  bool    `json:"log,omitempty"`

	Ticks []tick `json:"-"`
}

// tick is a label of an axis, at a place from 0 to 100. Minor ticks are hidden where there is little room.
type tick struct {
	At    float64
	Text  string
	Minor bool
}

// at returns the place of v, 0 to 1 within the axis.
func (a *axis) at(v float64) float64 {
	if a.Log {
		return math.Log(v/a.Low) / math.Log(a.High/a.Low)
	}
	return (v - a.Low) / (a.High - a.Low)
}

// steps are the distances between ticks, as multiples of a power of ten.
var steps = []float64{1, 2, 5, 10}

// seconds are the distances between ticks of a time axis.
var seconds = []float64{0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600,
	900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800}

// linear returns an axis from 0 to at least high.
func linear(u unit, high float64) axis {
	const intervals = 4
	if !(high > 0) || math.IsInf(high, 0) {
		high = 1
	}
	if u == unitPercent && high <= 100 {
		high = 100
	}
	p := u.scale(high)
	raw := high / p.value / intervals
	power := math.Pow(10, math.Floor(math.Log10(raw)))
	step := 10 * power
	for _, s := range steps {
		if s*power >= raw*0.999 {
			step = s * power
			break
		}
	}
	step *= p.value
	a := axis{Unit: u, High: step * math.Ceil(high/step*0.9999)}
	for i := 0; float64(i)*step <= a.High*1.0001; i++ {
		v := float64(i) * step
		a.Ticks = append(a.Ticks, tick{At: 100 * a.at(v), Text: u.text(v)})
	}
	a.Ticks[0].Text = "0"
	return a
}

// overTime returns the axis of the time from 0 to high, in seconds.
func overTime(high float64) axis {
	const intervals = 8
	if !(high > 0) {
		high = 1
	}
	a := axis{Unit: unitSeconds, High: high}
	step := seconds[len(seconds)-1]
	for _, s := range seconds {
		if s >= high/intervals {
			step = s
			break
		}
	}
	p := prefix{1, " s"}
	for _, larger := range prefixes[unitSeconds] {
		if step >= larger.value {
			p = larger
			break
		}
	}
	for i := 0; float64(i)*step <= high*1.0001 && i < 100; i++ {
		v := float64(i) * step
		a.Ticks = append(a.Ticks, tick{At: 100 * a.at(v), Text: digits(v/p.value) + p.text, Minor: i%2 == 1})
	}
	return a
}

// logarithmic returns an axis that contains low and high: with widen from one power of ten to another, else from low
// to high exactly.
func logarithmic(u unit, low, high float64, widen bool) axis {
	if !(low > 0) || math.IsInf(low, 0) {
		low, high = 1, 10
	}
	high = max(high, low*1.0001)
	a := axis{Unit: u, Low: low, High: high, Log: true}
	if widen {
		a.Low, a.High = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
		if a.Low == a.High {
			a.High *= 10
		}
	}
	decades := math.Log10(a.High / a.Low)
	for e := math.Ceil(math.Log10(a.Low) - 1e-9); e <= math.Log10(a.High)+1e-9; e++ {
		v := math.Pow(10, e)
		a.Ticks = append(a.Ticks, tick{At: 100 * a.at(v), Text: u.text(v), Minor: decades > 4 && int(e)%2 != 0})
	}
	return a
}
