package htmlpage

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// The size of a plot, in the coordinates of its SVG.
const (
	plotWidth  = 1000
	plotHeight = 300
)

// chart is a picture of lines over time.
type chart struct {
	ID     string `json:"id"`
	Title  string `json:"title"`
	X      axis   `json:"x"`
	Y      axis   `json:"y"`
	Lines  []line `json:"lines"`
	Events []mark `json:"events,omitempty"`

	Unit  string    `json:"-"` // of the values, in words
	Note  string    `json:"-"`
	Alt   string    `json:"-"` // says in words what the picture shows
	Table dataTable `json:"-"`
}

// mark is a time or a value that a picture points out.
type mark struct {
	At   float64 `json:"at"` // in the unit of the axis
	Name string  `json:"name"`

	Place float64 `json:"-"` // 0 to plotWidth
	Left  float64 `json:"-"` // 0 to 100
}

// dataTable has the values of a picture.
type dataTable struct {
	Head []string
	Rows [][]string
}

// kinds are the kinds of operations.
var kinds = []struct {
	name string
	of   func(*Sample) *Speed
}{
	{"read", func(s *Sample) *Speed { return &s.Read }},
	{"write", func(s *Sample) *Speed { return &s.Write }},
	{"commit", func(s *Sample) *Speed { return &s.Commit }},
	{"trim", func(s *Sample) *Speed { return &s.Trim }},
}

// lineCharts returns the pictures of a run over time that have values. Their ids begin with prefix.
func lineCharts(prefix string, samples []Sample) (charts []*chart) {
	b := &builder{prefix: prefix, samples: samples}
	b.speeds()
	if slices.ContainsFunc(samples, func(s Sample) bool { return s.Store != nil }) {
		b.store()
	}
	return b.charts
}

// builder builds the pictures of a run.
type builder struct {
	prefix  string
	samples []Sample
	charts  []*chart
}

// speeds adds the pictures of operations, bandwidth and latencies.
func (b *builder) speeds() {
	var iops, bandwidth []line
	for _, k := range kinds {
		used := slices.ContainsFunc(b.samples, func(s Sample) bool { return k.of(&s).IOPS > 0 })
		if !used {
			continue
		}
		iops = append(iops, series(k.name, b.samples, func(s *Sample) float64 { return k.of(s).IOPS }))
		if slices.ContainsFunc(b.samples, func(s Sample) bool { return k.of(&s).Bandwidth > 0 }) {
			bandwidth = append(bandwidth, series(k.name, b.samples,
				func(s *Sample) float64 { return k.of(s).Bandwidth }))
		}
	}
	b.add("iops", "Operations per second", unitSpeed, iops)
	b.add("bandwidth", "Bandwidth", unitBytesPS, bandwidth)
	for _, k := range kinds {
		percentile := func(name string, of func(*Speed) float64) line {
			return series(name, b.samples, func(s *Sample) float64 {
				if v := of(k.of(s)); v > 0 {
					return v
				}
				return math.NaN()
			})
		}
		b.add("latency-"+k.name, "Latency: "+k.name, unitTime, []line{
			percentile("50 %", func(s *Speed) float64 { return s.P50 }),
			percentile("99 %", func(s *Speed) float64 { return s.P99 }),
			percentile("99.9 %", func(s *Speed) float64 { return s.P999 }),
		})
	}
}

// store adds the pictures of the store.
func (b *builder) store() {
	of := func(name string, figure func(*Store) float64) line {
		return series(name, b.samples, func(s *Sample) float64 {
			if s.Store == nil {
				return math.NaN()
			}
			return figure(s.Store)
		})
	}
	b.add("amplification", "Amplification", unitTimes, []line{
		of("write", func(s *Store) float64 { return s.WriteAmplification }),
		of("space", func(s *Store) float64 { return s.SpaceAmplification }),
	})
	resident := []line{
		of("heap", func(s *Store) float64 { return s.HeapResident }),
		of("slabs", func(s *Store) float64 { return s.SlabResident }),
		of("mapped", func(s *Store) float64 { return s.MappedResident }),
	}
	capacity := of("capacity", func(s *Store) float64 { return s.Capacity })
	if _, high, _ := extent([]line{capacity}); high > 0 {
		resident = append(resident, capacity)
	}
	b.add("resident", "Resident bytes", unitBytes, resident)
	b.add("hits", "Hit ratio", unitPercent, []line{
		of("hits", func(s *Store) float64 { return 100 * s.HitRatio }),
	})
	b.add("cleaning", "Device writes and cleaning", unitBytesPS, []line{
		of("written", func(s *Store) float64 { return s.Written }),
		of("moved by the cleaner", func(s *Store) float64 { return s.Moved }),
	})
	b.add("segments", "Segments cleaned and recycled per second", unitCount, []line{
		of("cleaned", func(s *Store) float64 { return s.Cleaned }),
		of("recycled", func(s *Store) float64 { return s.Recycled }),
	})
	c := b.add("snapshots", "Messages since the newest snapshot", unitCount, []line{
		of("messages", func(s *Store) float64 { return s.SinceSnapshot }),
	})
	if c != nil {
		c.snapshots(b.samples)
	}
}

// snapshots marks the intervals in which snapshots were written, at most 100.
func (c *chart) snapshots(samples []Sample) {
	const most = 100
	written, total := []mark{}, 0.0
	for i := range samples {
		if s := samples[i].Store; s != nil && s.Snapshots > 0 {
			total += s.Snapshots
			written = append(written, mark{At: round(samples[i].Seconds), Name: "snapshot",
				Place: place(plotWidth * c.X.at(samples[i].Seconds))})
		}
	}
	c.Alt += fmt.Sprintf(" %.0f snapshots were written.", total)
	if len(written) <= most {
		c.Events = written
	}
	c.Note = fmt.Sprintf("%.0f snapshots were written", total)
	if len(c.Events) > 0 {
		c.Note += ": the dashed lines"
	}
}

// add adds a picture of the lines that have values, and returns it. It returns nil if none has.
func (b *builder) add(id, title string, u unit, lines []line) *chart {
	var have []line
	for i, l := range lines {
		if l.has() {
			l.Color = i + 1
			have = append(have, l)
		}
	}
	if len(have) == 0 {
		return nil
	}
	c := &chart{ID: b.prefix + id, Title: title, Unit: u.words(), Lines: have}
	low, high, end := extent(have)
	c.X = overTime(end)
	if c.Y = linear(u, high); u == unitTime {
		c.Y = logarithmic(u, low, high, true)
	}
	for i := range c.Lines {
		c.draw(&c.Lines[i])
	}
	c.describe()
	b.charts = append(b.charts, c)
	return c
}

// place rounds a coordinate to a tenth.
func place(v float64) float64 { return math.Round(v*10) / 10 }

// xy returns the coordinates of a value, as text.
func (c *chart) xy(seconds, v float64) string {
	y := plotHeight * (1 - c.Y.at(v))
	if v <= 0 && c.Y.Log {
		y = plotHeight
	}
	return fmt.Sprintf("%v %v", place(plotWidth*c.X.at(seconds)), place(y))
}

// draw sets the path of a line, and its band if points stand for several intervals.
func (c *chart) draw(l *line) {
	var path, band strings.Builder
	several := 0
	for i := 0; i < len(l.Points); {
		end := i
		for end < len(l.Points) && l.Points[end].n > 0 {
			several = max(several, l.Points[end].n)
			end++
		}
		if end == i { // a gap
			i++
			continue
		}
		run := l.Points[i:end]
		for k, p := range run {
			path.WriteString([]string{"M", "L"}[min(k, 1)] + c.xy(p.seconds, p.mean))
			band.WriteString([]string{"M", "L"}[min(k, 1)] + c.xy(p.seconds, p.max))
		}
		if len(run) == 1 {
			path.WriteString("h0") // a dot
		}
		for _, p := range slices.Backward(run) {
			band.WriteString("L" + c.xy(p.seconds, p.min))
		}
		band.WriteString("Z")
		i = end
	}
	if l.Path = path.String(); several > 1 {
		l.Band = band.String()
	}
}

// describe sets the text alternative and the table.
func (c *chart) describe() {
	u := c.Y.Unit
	parts := make([]string, len(c.Lines))
	c.Table.Head = []string{"time"}
	for i := range c.Lines {
		l := &c.Lines[i]
		low, high, sum, n := math.Inf(1), math.Inf(-1), 0.0, 0
		for _, p := range l.Points {
			if p.n > 0 {
				low, high = min(low, p.min), max(high, p.max)
				sum, n = sum+p.mean*float64(p.n), n+p.n
			}
		}
		parts[i] = fmt.Sprintf("%s from %s to %s, mean %s", l.Name, u.text(low), u.text(high), u.text(sum/float64(n)))
		c.Table.Head = append(c.Table.Head, l.Name)
	}
	c.Alt = fmt.Sprintf("%s over %s: %s.", c.Title, unitSeconds.text(c.X.High), strings.Join(parts, "; "))
	for k, p := range c.Lines[0].Points {
		row := []string{fmt.Sprintf("%v s", p.seconds)}
		for i := range c.Lines {
			row = append(row, u.cell(c.Lines[i].Points[k]))
		}
		c.Table.Rows = append(c.Table.Rows, row)
	}
}

// cell returns the text of a point in a table.
func (u unit) cell(p point) string {
	if p.n < 2 {
		return u.text(p.mean)
	}
	return fmt.Sprintf("%s (%s to %s)", u.text(p.mean), u.text(p.min), u.text(p.max))
}
