//go:build !abtest

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"pagecache/bench"
	"pagecache/internal/htmlpage"
)

// spread formats the least and the greatest of the figures of several rounds, or "" if there is one.
func spread(v []float64) string {
	if len(v) < 2 {
		return ""
	}
	return bench.Number(slices.Min(v)) + " … " + bench.Number(slices.Max(v))
}

// spreadRatio is spread for ratios.
func spreadRatio(v []float64) string {
	if len(v) < 2 {
		return ""
	}
	return fmt.Sprintf("%.2f … %.2f", slices.Min(v), slices.Max(v))
}

// tableHead are the columns of the tables. Each side of a comparison has a row.
var tableHead = []string{"name", "what", "unit", "side", "median", "range", "ratio", "range", "cleaner", "collector",
	"target", ""}

// cells returns the rows of the tables. The name is in the first row of a comparison only.
func (r *record) cells() (rows [][]string) {
	for i := range r.Lines {
		l := &r.Lines[i]
		if l.Skipped != "" {
			skipped := "skipped: " + l.Skipped
			rows = append(rows, []string{l.Name, l.What, l.Unit, skipped, "", "", "", "", "", "", l.Target, ""})
			continue
		}
		for k, s := range l.Sides {
			median := bench.Number(bench.Median(s.Figures))
			row := []string{"", "", "", s.Name, median, spread(s.Figures), "", "", s.share(bench.Cleaner),
				s.share(bench.Collector), "", ""}
			if k == 0 {
				row[0], row[1], row[2], row[10], row[11] = l.Name, l.What, l.Unit, l.Target, r.verdict(l)
			} else {
				row[6], row[7] = fmt.Sprintf("%.2f", bench.Median(s.Ratios)), spreadRatio(s.Ratios)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// head returns the conditions and notes as lines.
func (r *record) head() string {
	var b strings.Builder
	for _, p := range r.conditions() {
		fmt.Fprintf(&b, "%-12s %s\n", p[0], p[1])
	}
	for _, n := range r.notes() {
		fmt.Fprintf(&b, "%s\n", n)
	}
	return b.String()
}

// text returns the table for a terminal.
func (r *record) text() []byte {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(tableHead, "\t"))
	for _, row := range r.cells() {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	_ = t.Flush() // a buffer takes everything
	for _, c := range r.configurations() {
		fmt.Fprintf(&b, "%s: %s.\n", c.Name, c.Value)
	}
	return b.Bytes()
}

// json returns the JSON document.
func (r *record) json() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	return append(b, '\n'), err
}

// markdown returns the conditions, the table and the configurations.
func (r *record) markdown() []byte {
	var b bytes.Buffer
	for _, n := range r.notes() {
		fmt.Fprintf(&b, "**%s**\n\n", n)
	}
	fmt.Fprint(&b, "| | |\n|---|---|\n")
	for _, p := range r.conditions() {
		fmt.Fprintf(&b, "| %s | %s |\n", p[0], escape(p[1]))
	}
	b.WriteString("\n")
	b.Write(r.markdownTable())
	b.WriteString("\n")
	for _, c := range r.configurations() {
		b.WriteString(wrap(fmt.Sprintf("- *%s:* %s.", c.Name, c.Value), "  "))
	}
	return b.Bytes()
}

// markdownTable returns the table. Its rows stay within 120 columns, so the name stands for the description.
func (r *record) markdownTable() []byte {
	var b bytes.Buffer
	head := slices.Concat(tableHead[:1], tableHead[2:])
	fmt.Fprintf(&b, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, row := range r.cells() {
		for i := range row {
			row[i] = escape(row[i])
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(slices.Concat(row[:1], row[2:]), " | "))
	}
	return b.Bytes()
}

// escape escapes a text for a cell of a Markdown table.
func escape(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// wrap breaks a text into lines of at most 120 columns, and indents all but the first.
func wrap(text, indent string) string {
	const columns = 120
	var b strings.Builder
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > columns {
			b.WriteString(line + "\n")
			line = indent + word
			continue
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return b.String() + line + "\n"
}

// page returns the web page.
func (r *record) page() *htmlpage.Report {
	p := &htmlpage.Report{Title: "pagecache: comparisons", Started: r.Started, Notes: r.notes()}
	for _, c := range r.conditions() {
		p.Facts = append(p.Facts, htmlpage.Fact{Name: c[0], Value: c[1]})
	}
	for i := range r.Lines {
		l := &r.Lines[i]
		row := htmlpage.Row{Name: l.Name, Metric: l.What, Unit: l.Unit, LowerIsBetter: !l.Higher, Target: l.Target,
			Verdict: r.verdict(l), Skipped: l.Skipped}
		for _, s := range l.Sides {
			row.Cells = append(row.Cells, htmlpage.Cell{Side: s.Name, Values: s.Figures, Ratios: s.Ratios})
		}
		if title := section(l.Name); len(p.Comparisons) == 0 || p.Comparisons[len(p.Comparisons)-1].Title != title {
			p.Comparisons = append(p.Comparisons, htmlpage.Comparison{Title: title})
		}
		c := &p.Comparisons[len(p.Comparisons)-1]
		c.Rows = append(c.Rows, row)
	}
	if n := len(p.Comparisons); n > 0 {
		p.Comparisons[n-1].Sides = r.configurations()
	}
	return p
}

// configurations returns the settings of the stores that were measured, in words.
func (r *record) configurations() []htmlpage.Fact {
	list := []htmlpage.Fact{{Name: ourName, Value: r.Ours}}
	for _, p := range bench.Peers() {
		list = append(list, htmlpage.Fact{Name: p.Name, Value: p.Config})
	}
	list = append(list, htmlpage.Fact{Name: "raft-wal", Value: bench.RaftWALConfig},
		htmlpage.Fact{Name: "fio", Value: "direct writes with dsync, and direct reads; the lines name the rest"})
	return slices.DeleteFunc(list, func(f htmlpage.Fact) bool { return !r.measured(f.Name) })
}

// measured reports whether a side has this name, or begins with it and a space.
func (r *record) measured(name string) bool {
	return slices.ContainsFunc(r.Lines, func(l recordLine) bool {
		return slices.ContainsFunc(l.Sides, func(s recordSide) bool {
			return s.Name == name || strings.HasPrefix(s.Name, name+" ")
		})
	})
}

// ourConfig is the configuration of our side, in words.
const ourConfig = "default options (segments of 8 MiB, cache of 1 GiB, flushing each 500 ms), but segments of 1 MiB " +
	"for space and commit-recycled, smaller caches for bounded, evicted and warm-churn, and copies of values " +
	"read from disk for nodes; callers keep the version that their last write returned"
