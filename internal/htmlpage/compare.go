package htmlpage

import (
	"fmt"
	"math"
	"slices"
)

// comparison is the view of a Comparison.
type comparison struct {
	Title string `json:"title"`
	Rows  []row  `json:"rows"`

	Sides []Fact   `json:"-"`
	Notes []string `json:"-"`
}

// row is one metric of a comparison, or rather one line of the table for each side.
type row struct {
	Name          string     `json:"name"`
	Metric        string     `json:"metric"`
	Unit          string     `json:"unit"`
	LowerIsBetter bool       `json:"lower_is_better"`
	Cells         []rowCells `json:"cells"`
	Target        string     `json:"target,omitempty"`
	Verdict       string     `json:"verdict,omitempty"`
	Skipped       string     `json:"skipped,omitempty"`
}

// rowCells is the figures of one side.
type rowCells struct {
	Side    string  `json:"side"`
	Median  float64 `json:"median"`
	Least   float64 `json:"least"`
	Most    float64 `json:"most"`
	Ratio   *spread `json:"ratio,omitempty"` // of the first side to this one; nil for the first
	Figures string  `json:"-"`
	Spread  string  `json:"-"`
	Better  string  `json:"-"` // CSS class: better, worse or equal
	Dot     float64 `json:"-"` // place of the ratio, 0 to ratioWidth
	From    float64 `json:"-"` // of its whisker
	Width   float64 `json:"-"`
}

// spread is the median of the ratios of all rounds, and their range.
type spread struct {
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
}

// newSpread returns the spread of the values, which are at least one.
func newSpread(values []float64) spread {
	return spread{round(Median(values)), round(slices.Min(values)), round(slices.Max(values))}
}

// Median returns the median of values, or 0 if there are none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

const (
	ratioWidth = 200 // of the picture of a ratio
	ratioEdge  = 16  // the picture shows ratios from 1/ratioEdge to ratioEdge
)

// ratioAt returns the place of a ratio in its picture, 0 to ratioWidth.
func ratioAt(r float64) float64 {
	at := 0.5 + math.Log(r)/math.Log(ratioEdge)/2
	return place(ratioWidth * min(max(at, 0), 1))
}

// newComparison returns the view of c.
func newComparison(c *Comparison) *comparison {
	v := &comparison{Title: c.Title, Sides: c.Sides, Notes: c.Notes, Rows: []row{}}
	for i := range c.Rows {
		r := &c.Rows[i]
		out := row{Name: r.Name, Metric: r.Metric, Unit: r.Unit, LowerIsBetter: r.LowerIsBetter, Target: r.Target,
			Verdict: r.Verdict, Skipped: r.Skipped}
		for k := range r.Cells {
			if cell := &r.Cells[k]; len(cell.Values) > 0 {
				out.Cells = append(out.Cells, newCell(r, cell, k > 0))
			}
		}
		v.Rows = append(v.Rows, out)
	}
	return v
}

// newCell returns the view of one side of r.
func newCell(r *Row, c *Cell, compared bool) rowCells {
	s := newSpread(c.Values)
	out := rowCells{Side: c.Side, Median: s.Median, Least: s.Least, Most: s.Most, Figures: number(s.Median)}
	if least, most := number(s.Least), number(s.Most); least != most {
		out.Spread = least + " … " + most
	}
	if !compared {
		return out
	}
	ratio := spread{}
	switch {
	case len(c.Ratios) > 0:
		ratio = newSpread(c.Ratios)
	case s.Median != 0 && len(r.Cells[0].Values) > 0:
		ratio = newSpread([]float64{Median(r.Cells[0].Values) / s.Median})
	}
	if !(ratio.Least > 0) || math.IsInf(ratio.Most, 0) {
		return out
	}
	out.Ratio = &ratio
	out.Dot, out.From = ratioAt(ratio.Median), ratioAt(ratio.Least)
	out.Width = place(ratioAt(ratio.Most) - out.From)
	out.Better = "equal"
	const differs = 1.03
	if gain := ratio.Median; r.LowerIsBetter && gain < 1/differs || !r.LowerIsBetter && gain > differs {
		out.Better = "better"
	} else if gain > differs || gain < 1/differs {
		out.Better = "worse"
	}
	return out
}

// RatioText returns the ratio and its range for a table.
func (c rowCells) RatioText() string {
	if c.Ratio == nil {
		return ""
	}
	return RatioText(c.Ratio.Median)
}

// RatioText formats a ratio with two decimals, or with two digits if it is small.
func RatioText(ratio float64) string {
	const small = 0.1
	if ratio < small {
		return fmt.Sprintf("%.2g", ratio)
	}
	return fmt.Sprintf("%.2f", ratio)
}

// RatioRange returns the range of the ratio, or "" if it has none.
func (c rowCells) RatioRange() string {
	if c.Ratio == nil || c.Ratio.Least == c.Ratio.Most {
		return ""
	}
	return RatioText(c.Ratio.Least) + " … " + RatioText(c.Ratio.Most)
}

// number formats v with about four digits, and with narrow spaces between thousands.
func number(v float64) string {
	if math.Abs(v) < 10_000 {
		return digits(v)
	}
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}
