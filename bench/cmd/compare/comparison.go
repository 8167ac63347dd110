package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"pagecache/bench"
)

// side measures one side of a comparison in the fresh directory dir and returns the figure.
type side func(ctx context.Context, c *config, dir string) (float64, error)

// comparison is one line of the table. Some compare our side with another side and have a target for the ratio; others
// measure our side only and have a target for its figure.
type comparison struct {
	name   string
	what   string
	unit   string
	ours   side
	other  string // name of the other side
	theirs side   // nil: our side only
	// Targets for ours/theirs, or for the figure of our side. Zero: no target.
	ratioMin, ratioMax, oursMin, oursMax float64

	repeats string // an earlier comparison that has the same side of ours; "": none
	run     string // comparisons with the same run take their figures of our side from one run; "": a run of its own

	our, their, ratios []float64
	skipped            string // why this machine cannot measure it
}

// errSkip is the error of a side that this machine cannot measure. It states the reason.
type errSkip string

func (e errSkip) Error() string { return string(e) }

// measure measures both sides once. The side that goes first alternates from round to round.
func (m *comparison) measure(ctx context.Context, c *config, round int) error {
	if m.skipped != "" {
		return nil
	}
	sides := []side{m.ours}
	if m.theirs != nil {
		sides = append(sides, m.theirs)
	}
	got := make([]float64, len(sides))
	for k := range sides {
		i := (k + round) % len(sides)
		if err := ctx.Err(); err != nil {
			return err
		}
		dir := filepath.Join(c.dir, fmt.Sprintf("%s.%d", m.name, i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		settle()
		v, err := sides[i](ctx, c, dir)
		err = errors.Join(err, os.RemoveAll(dir))
		var skip errSkip
		if errors.As(err, &skip) {
			m.skipped = string(skip)
			return nil
		}
		if err != nil {
			return err
		}
		got[i] = v
	}
	m.our = append(m.our, got[0])
	line := fmt.Sprintf("round %d  %-16s %12s %s", round+1, m.name, bench.Number(got[0]), m.unit)
	if m.theirs != nil {
		m.their = append(m.their, got[1])
		m.ratios = append(m.ratios, got[0]/got[1])
		line += fmt.Sprintf("  %s %s, ratio %.2f", m.other, bench.Number(got[1]), got[0]/got[1])
	}
	fmt.Fprintln(os.Stderr, line)
	return nil
}

// unmeasured reports whether the table has nothing to say about m.
func (m *comparison) unmeasured() bool { return len(m.our) == 0 && m.skipped == "" }

// verdict returns the targets as text, and whether the medians reach them.
func (m *comparison) verdict() (target string, ok bool) {
	ok = true
	var parts []string
	check := func(target float64, reached bool, form string) {
		if target != 0 {
			parts = append(parts, fmt.Sprintf(form, bench.Number(target)))
			ok = ok && reached
		}
	}
	our := bench.Median(m.our)
	check(m.oursMin, our >= m.oursMin, "≥ %s")
	check(m.oursMax, our <= m.oursMax, "≤ %s")
	if m.theirs != nil {
		ratio := bench.Median(m.ratios)
		check(m.ratioMin, ratio >= m.ratioMin, "ratio ≥ %s")
		check(m.ratioMax, ratio <= m.ratioMax, "ratio ≤ %s")
	}
	return strings.Join(parts, ", "), ok
}

// printTable prints all comparisons and returns the number of those that miss a target.
func printTable(w io.Writer, all []*comparison) (failed int) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nwhat\tunit\tours\tagainst\ttheirs\tratio\ttarget\t")
	for _, m := range all {
		if m.skipped != "" {
			fmt.Fprintf(t, "%s\t%s\t\t\t\t\t\tskipped: %s\n", m.what, m.unit, m.skipped)
			continue
		}
		target, ok := m.verdict()
		word := "pass"
		if !ok {
			word = "SHORT"
			failed++
		}
		if target == "" {
			word = ""
		}
		other, their, ratio := "", "", ""
		if m.theirs != nil {
			other, their = m.other, bench.Number(bench.Median(m.their))
			ratio = fmt.Sprintf("%.2f", bench.Median(m.ratios))
		}
		our := bench.Number(bench.Median(m.our))
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.what, m.unit, our, other, their, ratio, target, word)
	}
	t.Flush()
	return failed
}
