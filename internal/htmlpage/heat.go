package htmlpage

import (
	"fmt"
	"math"
	"strings"
)

const (
	// barsPerDecade and rowsPerDecade are the largest numbers of bars of a histogram and rows of a heatmap for each
	// power of ten of the time.
	barsPerDecade = 20
	rowsPerDecade = 10
	// maxColumns is the largest number of columns of a heatmap. Where there are more intervals, their counts are added.
	maxColumns = 60
	// heatLevels is the number of colors of a heatmap.
	heatLevels = 8
)

// histogram is the distribution of the latencies of a run.
type histogram struct {
	ID    string  `json:"id"`
	Title string  `json:"title"`
	X     axis    `json:"x"`
	Y     axis    `json:"y"`
	Bars  []bar   `json:"bars"`
	Marks []mark  `json:"percentiles,omitempty"`
	Total float64 `json:"operations"`

	Alt   string    `json:"-"`
	Table dataTable `json:"-"`
}

// bar is the number of operations of a range of times, in nanoseconds.
type bar struct {
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
	Count int64   `json:"count"`

	Left, Top, Width, Height float64 `json:"-"`
}

// grid is a number of ranges for each power of ten of the time. Range 0 begins at 1 ns.
type grid float64

// newGrid returns a grid of at most this number of ranges for each power of ten that are not narrower than most bins.
func newGrid(atMost float64, bins []Bin) grid {
	var widths []float64
	for _, b := range bins {
		if b.Count > 0 && b.Low > 0 {
			widths = append(widths, b.High/b.Low)
		}
	}
	g := grid(atMost)
	for width := Median(widths); g > 2 && g.from(1) < 0.999*width; {
		g /= 2
	}
	return g
}

// from returns where a range begins, in nanoseconds.
func (g grid) from(i int) float64 { return math.Pow(10, float64(i)/float64(g)) }

// counts adds the counts of bins, and returns them by the number of the range. A bin counts for the range of its
// geometric middle.
func (g grid) counts(bins []Bin) map[int]int64 {
	counts := map[int]int64{}
	for _, b := range bins {
		if b.Count > 0 {
			counts[int(math.Floor(math.Log10(b.middle())*float64(g)+1e-9))] += b.Count
		}
	}
	return counts
}

// span returns the least and the greatest number of a range that has a count.
func span(counts map[int]int64) (low, high int) {
	low, high = math.MaxInt, math.MinInt
	for i := range counts {
		low, high = min(low, i), max(high, i)
	}
	return low, high
}

// newHistogram returns the distribution of l, or nil if it is empty.
func newHistogram(prefix string, l *Latencies) *histogram {
	bins := l.Bins
	if bins == nil {
		for _, c := range l.Columns {
			bins = append(bins, c.Bins...)
		}
	}
	g := newGrid(barsPerDecade, bins)
	counts, from := g.counts(bins), g.from
	if len(counts) == 0 {
		return nil
	}
	low, high := span(counts)
	h := &histogram{ID: prefix + "distribution-" + slug(l.Name), Title: "Distribution of latencies: " + l.Name,
		X: logarithmic(unitTime, from(low), from(high+1), false)}
	most, modal := int64(0), low
	for i := low; i <= high; i++ {
		h.Total += float64(counts[i])
		if counts[i] > most {
			most, modal = counts[i], i
		}
	}
	h.Y = logarithmic(unitCount, 0.5, float64(most), true)
	h.Y.Low = 0.5
	h.Y = relabel(h.Y)
	h.Table.Head = []string{"from", "to", "operations", "share"}
	for i := low; i <= high; i++ {
		n := counts[i]
		if n == 0 {
			continue
		}
		b := bar{Low: round(from(i)), High: round(from(i + 1)), Count: n}
		b.Left = place(plotWidth * h.X.at(from(i)))
		b.Width = place(plotWidth*h.X.at(from(i+1)) - b.Left)
		b.Height = place(plotHeight * h.Y.at(float64(n)))
		b.Top = place(plotHeight - b.Height)
		h.Bars = append(h.Bars, b)
		h.Table.Rows = append(h.Table.Rows, []string{unitTime.text(b.Low), unitTime.text(b.High), fmt.Sprint(n),
			digits(100*float64(n)/h.Total) + " %"})
	}
	h.Alt = fmt.Sprintf("%s: %.0f operations took from %s to %s, most often %s to %s.", h.Title, h.Total,
		unitTime.text(from(low)), unitTime.text(from(high+1)), unitTime.text(from(modal)), unitTime.text(from(modal+1)))
	h.percentiles(l.Percentiles)
	return h
}

// slug returns a name as a part of an id.
func slug(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name)
}

// relabel computes the ticks of a logarithmic axis again after its ends have changed.
func relabel(a axis) axis { return logarithmic(a.Unit, a.Low, a.High, false) }

// percentiles marks the percentiles that lie within the picture.
func (h *histogram) percentiles(list []Percentile) {
	var parts []string
	for _, p := range list {
		at := h.X.at(p.Nanoseconds)
		if !(at >= 0 && at <= 1) {
			continue
		}
		h.Marks = append(h.Marks, mark{At: round(p.Nanoseconds), Name: fmt.Sprintf("%v %%", p.Percent),
			Place: place(plotWidth * at), Left: place(100 * at)})
		parts = append(parts, fmt.Sprintf("%v %% within %s", p.Percent, unitTime.text(p.Nanoseconds)))
	}
	if len(parts) > 0 {
		h.Alt += " " + strings.Join(parts, ", ") + "."
	}
}

// heatmap is the distribution of the latencies over time.
type heatmap struct {
	ID    string    `json:"id"`
	Title string    `json:"title"`
	X     axis      `json:"x"`
	Y     axis      `json:"y"`
	Times []float64 `json:"times"` // ends of the columns
	Cells []cell    `json:"cells"`
	Most  int64     `json:"most"` // operations of a cell

	Levels []heatLevel `json:"-"`
	Alt    string      `json:"-"`
	Table  dataTable   `json:"-"`
	Note   string      `json:"-"`
}

// cell is a column and a row of a heatmap that has operations. Rows are numbered from the bottom.
type cell struct{ column, row, count int }

// MarshalJSON returns [column, row, operations].
func (c cell) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "[%d,%d,%d]", c.column, c.row, c.count), nil
}

// heatLevel is the cells of one color.
type heatLevel struct {
	Number int // 1 to heatLevels
	Path   string
}

// newHeatmap returns the distribution of l over time, or nil if there is none.
func newHeatmap(prefix string, l *Latencies) *heatmap {
	var columns []map[int]int64
	m := &heatmap{ID: prefix + "heat-" + slug(l.Name), Title: "Latencies over time: " + l.Name}
	per := max(1, (len(l.Columns)+maxColumns-1)/maxColumns)
	low, high := math.MaxInt, math.MinInt
	var all []Bin
	for _, c := range l.Columns {
		all = append(all, c.Bins...)
	}
	g := newGrid(rowsPerDecade, all)
	for i := 0; i < len(l.Columns); i += per {
		var bins []Bin
		for _, c := range l.Columns[i:min(i+per, len(l.Columns))] {
			bins = append(bins, c.Bins...)
			if len(m.Times) == len(columns) {
				m.Times = append(m.Times, 0)
			}
			m.Times[len(columns)] = round(c.Seconds)
		}
		counts := g.counts(bins)
		l, h := span(counts)
		low, high = min(low, l), max(high, h)
		columns = append(columns, counts)
	}
	if low > high {
		return nil
	}
	m.X = overTime(m.Times[len(m.Times)-1])
	m.Y = logarithmic(unitTime, g.from(low), g.from(high+1), false)
	for at, counts := range columns {
		for row := low; row <= high; row++ {
			if n := counts[row]; n > 0 {
				m.Cells = append(m.Cells, cell{at, row - low, int(n)})
				m.Most = max(m.Most, n)
			}
		}
	}
	m.draw(high - low + 1)
	m.describe(g, low, high)
	if per > 1 {
		m.Note = fmt.Sprintf("A column is the sum of up to %d intervals.", per)
	}
	return m
}

// level returns the color of a count, 1 to heatLevels.
func (m *heatmap) level(count int) int {
	if m.Most <= 1 {
		return heatLevels
	}
	return 1 + int((heatLevels-1)*math.Log(float64(count))/math.Log(float64(m.Most))+0.5)
}

// draw sets the paths of all levels. The picture has rows rows.
func (m *heatmap) draw(rows int) {
	paths := make([]strings.Builder, heatLevels)
	height := plotHeight / float64(rows)
	for _, c := range m.Cells {
		left := 0.0
		if c.column > 0 {
			left = place(plotWidth * m.X.at(m.Times[c.column-1]))
		}
		right := place(plotWidth * m.X.at(m.Times[c.column]))
		top, bottom := place(plotHeight-height*float64(c.row+1)), place(plotHeight-height*float64(c.row))
		fmt.Fprintf(&paths[m.level(c.count)-1], "M%v %vH%vV%vH%vZ", left, top, right, bottom, left)
	}
	for i := range paths {
		if paths[i].Len() > 0 {
			m.Levels = append(m.Levels, heatLevel{i + 1, paths[i].String()})
		}
	}
}

// describe sets the text alternative and the table of the rows low to high.
func (m *heatmap) describe(g grid, low, high int) {
	total := 0
	m.Table.Head = []string{"until"}
	for row := low; row <= high; row++ {
		m.Table.Head = append(m.Table.Head, "≥ "+unitTime.text(g.from(row)))
	}
	at := 0
	for i, t := range m.Times {
		row := make([]string, high-low+2)
		row[0] = fmt.Sprintf("%v s", t)
		for ; at < len(m.Cells) && m.Cells[at].column == i; at++ {
			row[1+m.Cells[at].row] = fmt.Sprint(m.Cells[at].count)
			total += m.Cells[at].count
		}
		m.Table.Rows = append(m.Table.Rows, row)
	}
	m.Alt = fmt.Sprintf("%s: %d operations between %s and %s, in %d columns over %s.", m.Title, total,
		unitTime.text(g.from(low)), unitTime.text(g.from(high+1)), len(m.Times), unitSeconds.text(m.X.High))
}
