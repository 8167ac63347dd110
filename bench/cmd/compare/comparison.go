package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// side measures one side of a comparison in a fresh directory.
type side func(ctx context.Context, c *config, dir string) (float64, error)

// comparison is one line of the table. Two kinds: ours against theirs, as a ratio that must be at least, or at most, so much; and
// ours alone, which must be at least, or at most, so much.
type comparison struct {
	name   string
	what   string
	unit   string
	ours   side
	other  string // what theirs is
	theirs side   // nil: ours alone
	// What is wanted of the ratio, or of ours alone. Zero: no such bound.
	ratioMin, ratioMax, oursMin, oursMax float64

	our, their, ratios []float64
	skipped            string
}

// errSkip is returned by a side that cannot be measured here.
type errSkip string

func (e errSkip) Error() string { return string(e) }

// measure makes one round.
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
		if rerr := os.RemoveAll(dir); err == nil {
			err = rerr
		}
		if skip, ok := err.(errSkip); ok {
			m.skipped = string(skip)
			return nil
		}
		if err != nil {
			return err
		}
		got[i] = v
	}
	m.our = append(m.our, got[0])
	line := fmt.Sprintf("round %d  %-16s %12s %s", round+1, m.name, number(got[0]), m.unit)
	if m.theirs != nil {
		m.their = append(m.their, got[1])
		m.ratios = append(m.ratios, got[0]/got[1])
		line += fmt.Sprintf("  %s %s, ratio %.2f", m.other, number(got[1]), got[0]/got[1])
	}
	fmt.Fprintln(os.Stderr, line)
	return nil
}

// unmeasured reports whether there is nothing to say.
func (m *comparison) unmeasured() bool { return len(m.our) == 0 && m.skipped == "" }

// verdict says whether what is wanted is there.
func (m *comparison) verdict() (wanted string, ok bool) {
	ok = true
	var parts []string
	bound := func(limit float64, enough bool, form string) {
		if limit != 0 {
			parts = append(parts, fmt.Sprintf(form, number(limit)))
			ok = ok && enough
		}
	}
	our := median(m.our)
	bound(m.oursMin, our >= m.oursMin, "≥ %s")
	bound(m.oursMax, our <= m.oursMax, "≤ %s")
	if m.theirs != nil {
		ratio := median(m.ratios)
		bound(m.ratioMin, ratio >= m.ratioMin, "ratio ≥ %s")
		bound(m.ratioMax, ratio <= m.ratioMax, "ratio ≤ %s")
	}
	return strings.Join(parts, ", "), ok
}

// printTable prints all lines and returns how many fall short.
func printTable(w io.Writer, all []*comparison) (failed int) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nwhat\tunit\tours\tagainst\ttheirs\tratio\twanted\t")
	for _, m := range all {
		if m.skipped != "" {
			fmt.Fprintf(t, "%s\t%s\t\t\t\t\t\tskipped: %s\n", m.what, m.unit, m.skipped)
			continue
		}
		wanted, ok := m.verdict()
		word := "pass"
		if !ok {
			word = "SHORT"
			failed++
		}
		if wanted == "" {
			word = ""
		}
		other, their, ratio := "", "", ""
		if m.theirs != nil {
			other, their, ratio = m.other, number(median(m.their)), fmt.Sprintf("%.2f", median(m.ratios))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.what, m.unit, number(median(m.our)), other, their, ratio, wanted, word)
	}
	t.Flush()
	return failed
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// number writes a number with three digits or so.
func number(v float64) string {
	switch {
	case v >= 10_000:
		s := fmt.Sprintf("%.0f", v)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + " " + s[i:]
		}
		return s
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	case v > 0 && v < 0.01:
		return fmt.Sprint(v)
	}
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
}
