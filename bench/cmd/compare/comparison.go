package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"pagecache/bench"
)

// side measures one side of a comparison in the fresh directory dir and returns the figure.
type side func(ctx context.Context, c *config, dir string) (float64, error)

// comparison is one line of the table. Some compare our side with other sides and have a target for the ratio; others
// measure our side only and have a target for its figure.
type comparison struct {
	name   string
	what   string
	unit   string
	ours   side
	other  string // name of the other side
	theirs side   // nil: our side only, or rivals
	rivals []rival
	// Targets for ours/theirs, or for the figure of our side. Zero: no target.
	ratioMin, ratioMax, oursMin, oursMax float64

	atLeast []atLeast // targets for the ratios to other sides by name

	repeats string // an earlier comparison that has the same side of ours; "": none
	run     string // comparisons with the same run take their figures of our side from one run; "": a run of its own
	cost    cost

	figures [][]float64      // of each side, of each round
	shares  [][]bench.Shares // of the processor time of each side's process, of each round; nil: too short to tell
	skipped string           // why this machine cannot measure it
}

// rival is a side of a comparison.
type rival struct {
	name    string
	measure side
}

// atLeast is the least ratio of our figure to that of another side.
type atLeast struct {
	name  string
	ratio float64
}

// errSkip is the error of a side that this machine cannot measure. It states the reason.
type errSkip string

func (e errSkip) Error() string { return string(e) }

// sides returns all sides, ours first.
func (m *comparison) sides() []rival {
	all := []rival{{name: ourName, measure: m.ours}}
	if m.theirs != nil {
		all = append(all, rival{name: m.other, measure: m.theirs})
	}
	return append(all, m.rivals...)
}

// ourName is the name of our side.
const ourName = "pagecache"

// higher reports whether a higher figure is better.
func (m *comparison) higher() bool { return strings.HasSuffix(m.unit, "/s") }

// measure measures all sides once. The side that goes first changes from round to round.
func (m *comparison) measure(ctx context.Context, c *config, round int) error {
	if m.skipped != "" {
		return nil
	}
	sides := m.sides()
	got, shares := make([]float64, len(sides)), make([]bench.Shares, len(sides))
	for k := range sides {
		i := (k + round) % len(sides)
		v, used, err := m.once(ctx, c, i, sides[i].measure)
		var skip errSkip
		if errors.As(err, &skip) {
			m.skipped = string(skip)
			return nil
		}
		if err == nil && (math.IsNaN(v) || math.IsInf(v, 0)) {
			if v = 0; !c.small() {
				err = errors.New("nothing was measured: --seconds is too short")
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", sides[i].name, err)
		}
		got[i], shares[i] = v, used
	}
	if m.figures == nil {
		m.figures, m.shares = make([][]float64, len(sides)), make([][]bench.Shares, len(sides))
	}
	line := fmt.Sprintf("round %d  %-16s %12s %s", round+1, m.name, bench.Number(got[0]), m.unit)
	for i, v := range got {
		m.figures[i], m.shares[i] = append(m.figures[i], v), append(m.shares[i], shares[i])
		if i > 0 {
			line += fmt.Sprintf("  %s %s, ratio %.2f", sides[i].name, bench.Number(v), got[0]/v)
		}
	}
	fmt.Fprintln(os.Stderr, line)
	for i, used := range shares {
		if used != nil {
			fmt.Fprintf(os.Stderr, "  %s: %v of the processor time\n", sides[i].name, used)
		}
	}
	return nil
}

// once measures a side in a fresh directory. It returns the figure, and the shares of the processor time.
func (m *comparison) once(ctx context.Context, c *config, i int, f side) (float64, bench.Shares, error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	dir := filepath.Join(c.dir, fmt.Sprintf("%s.%d", m.name, i))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, nil, err
	}
	c.sampler, c.shares = &bench.Sampler{}, nil
	c.settle()
	v, err := f(ctx, c, dir)
	shares := c.sampler.Stop()
	if c.shares != nil {
		shares = c.shares
	}
	return v, shares, errors.Join(err, os.RemoveAll(dir))
}

// ratios returns the ratios of our figure to that of side i, of each round. It returns nil if a figure of side i is 0.
func (m *comparison) ratios(i int) (ratios []float64) {
	for k, v := range m.figures[i] {
		if v == 0 {
			return nil
		}
		ratios = append(ratios, m.figures[0][k]/v)
	}
	return ratios
}

// medianRatio returns the median of the ratios to the side of that name, or 0 if there is none.
func (m *comparison) medianRatio(name string) float64 {
	for i, s := range m.sides() {
		if s.name == name && i < len(m.figures) {
			return bench.Median(m.ratios(i))
		}
	}
	return 0
}

// unmeasured reports whether the table has nothing to say about m.
func (m *comparison) unmeasured() bool { return len(m.figures) == 0 && m.skipped == "" }

// verdict returns the targets as text, and whether the medians reach them. Those of a ratio are about the first other
// side, unless they name one.
func (m *comparison) verdict() (target string, ok bool) {
	ok = true
	var parts []string
	check := func(target float64, reached bool, form string) {
		if target != 0 {
			parts = append(parts, fmt.Sprintf(form, bench.Number(target)))
			ok = ok && reached
		}
	}
	our, ratio := 0.0, 0.0
	if len(m.figures) > 0 {
		our = bench.Median(m.figures[0])
	}
	if len(m.figures) > 1 {
		ratio = bench.Median(m.ratios(1))
	}
	check(m.oursMin, our >= m.oursMin, "≥ %s")
	check(m.oursMax, our <= m.oursMax, "≤ %s")
	check(m.ratioMin, ratio >= m.ratioMin, "ratio ≥ %s")
	check(m.ratioMax, ratio <= m.ratioMax, "ratio ≤ %s")
	for _, t := range m.atLeast {
		check(t.ratio, m.medianRatio(t.name) >= t.ratio, "≥ %s × "+t.name)
	}
	return strings.Join(parts, ", "), ok
}
