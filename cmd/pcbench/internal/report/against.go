package report

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
	"pagecache/internal/htmlpage"
)

// Against writes a comparison as text: the command line or configuration of each side, the table, and the differences
// that cannot be removed. r is the page cache's last round.
func Against(out io.Writer, r *load.Result, c *htmlpage.Comparison) error {
	const width = 100
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, "%s\n", c.Title)
	if r.Interrupted {
		fmt.Fprintln(w, "interrupted: these are the rounds until then")
	}
	fmt.Fprintln(w)
	for _, s := range c.Sides {
		fmt.Fprint(w, job.Wrap(s.Name+": "+s.Value, "  ", width))
	}
	fmt.Fprintln(w)
	var table bytes.Buffer
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "metric\tunit\tside\tmedian\trange\tratio\trange")
	for i := range c.Rows {
		row := &c.Rows[i]
		name, unit, text := row.Name, row.Unit, func(v float64) string {
			return strings.TrimSpace(prefixed(v, []string{"", "k", "M", "G", "T"}))
		}
		if unit == "µs" { // each time has its own unit
			unit, text = "", func(v float64) string { return Nanos(v * 1e3) }
		}
		for k := range row.Cells {
			cell := &row.Cells[k]
			median, spread := "–", ""
			if len(cell.Values) > 0 {
				median, spread = spreadOf(cell.Values, text)
			}
			ratio, ratios := "", ""
			if len(cell.Ratios) > 0 {
				ratio, ratios = spreadOf(cell.Ratios, htmlpage.RatioText)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, unit, cell.Side, median, spread, ratio, ratios)
			name, unit = "", ""
		}
	}
	_ = t.Flush() // a buffer takes everything
	for line := range strings.Lines(table.String()) {
		fmt.Fprintln(w, strings.TrimRight(line, " \n"))
	}
	if len(c.Rows) > 0 {
		fmt.Fprint(w, "\n", job.Wrap("Ratios are those of the first side's figure to the other's, of each round: more "+
			"than 1 is better for the first side in IOPS and bandwidth, less than 1 in all other rows.", "", width))
	}
	fmt.Fprintln(w, "Differences that cannot be removed:")
	for _, n := range c.Notes {
		fmt.Fprint(w, "- "+strings.TrimPrefix(job.Wrap(n, "  ", width), "  "))
	}
	return w.Flush()
}

// spreadOf returns the median of values, and their range if there are more than one.
func spreadOf(values []float64, text func(float64) string) (median, spread string) {
	median = text(htmlpage.Median(values))
	if len(values) > 1 {
		spread = text(slices.Min(values)) + " … " + text(slices.Max(values))
	}
	return median, spread
}

// comparisonPairs returns a comparison for JSON: every figure of every round, and the medians and ranges.
func comparisonPairs(c *htmlpage.Comparison) pairs {
	sides, metrics := []pairs{}, []pairs{}
	for _, s := range c.Sides {
		sides = append(sides, pairs{{"side", s.Name}, {"configuration", s.Value}})
	}
	for i := range c.Rows {
		r := &c.Rows[i]
		cells := []pairs{}
		for k := range r.Cells {
			cell := &r.Cells[k]
			p := append(pairs{{"side", cell.Side}}, figures("", cell.Values)...)
			if len(cell.Ratios) > 0 {
				p = append(p, figures("ratio_", cell.Ratios)...)
			}
			cells = append(cells, p)
		}
		metrics = append(metrics, pairs{{"name", r.Name}, {"what", r.Metric}, {"unit", r.Unit},
			{"lower_is_better", r.LowerIsBetter}, {"sides", cells}})
	}
	return pairs{{"sides", sides}, {"metrics", metrics}, {"differences", c.Notes}}
}

// figures returns values with their median and range.
func figures(prefix string, values []float64) pairs {
	if len(values) == 0 {
		return pairs{{prefix + "values", []float64{}}}
	}
	return pairs{{prefix + "values", values}, {prefix + "median", htmlpage.Median(values)},
		{prefix + "least", slices.Min(values)}, {prefix + "most", slices.Max(values)}}
}
