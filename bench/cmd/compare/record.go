//go:build !abtest

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"pagecache/bench"
	"pagecache/internal/machine"
)

// recordFormat is the version of the JSON document.
const recordFormat = 1

// record is the outcome of a run: every figure of every round, and the conditions. It is the JSON document, and all
// tables and pictures are made from it.
type record struct {
	Format      int               `json:"format"`
	Started     time.Time         `json:"started"`
	Commit      string            `json:"commit,omitempty"` // of the engine; "": unknown
	Command     string            `json:"command"`
	Machine     machine.Machine   `json:"machine"`
	Versions    map[string]string `json:"versions"` // of fio and of the peers
	Ours        string            `json:"ours"`     // the configuration of our side, in words
	Busy        float64           `json:"busy"`     // share of the machine that other programs used at the beginning
	Rounds      int               `json:"rounds"`
	Seconds     float64           `json:"seconds"`
	LogMiB      int64             `json:"log_mib"`
	Divide      int               `json:"divide,omitempty"` // above 1: the figures mean nothing
	Interrupted bool              `json:"interrupted,omitempty"`
	Lines       []recordLine      `json:"comparisons"`
}

// recordLine is one comparison.
type recordLine struct {
	Name    string       `json:"name"`
	What    string       `json:"what"`
	Unit    string       `json:"unit"`
	Higher  bool         `json:"higher"` // a higher figure is better
	Sides   []recordSide `json:"sides,omitempty"`
	Target  string       `json:"target,omitempty"`
	Reached bool         `json:"reached,omitempty"`
	Skipped string       `json:"skipped,omitempty"` // the reason, if it was not measured
}

// recordSide is the figures of one side, one of each round.
type recordSide struct {
	Name    string    `json:"name"`
	Figures []float64 `json:"figures"`
	Ratios  []float64 `json:"ratios,omitempty"` // of our figure to this one
	// Shares are the parts of the processor time of the side's process, in percent, of each round in which they were
	// measured.
	Shares []bench.Shares `json:"processor_percent,omitempty"`
}

// share returns the median share of the processor time with that name, or "" if none was measured.
func (s *recordSide) share(name string) string {
	if len(s.Shares) == 0 {
		return ""
	}
	var all []float64
	for _, used := range s.Shares {
		all = append(all, used[name])
	}
	return fmt.Sprintf("%.1f %%", bench.Median(all))
}

// newRecord returns the record of a run that begins.
func newRecord(ctx context.Context, c *config, args []string) *record {
	r := &record{Format: recordFormat, Started: time.Now().UTC().Truncate(time.Second), Commit: commit(ctx),
		Command: strings.Join(append([]string{"compare"}, args...), " "), Machine: machine.Describe(c.dir),
		Versions: versions(ctx), Ours: ourConfig, Rounds: c.rounds, Seconds: c.seconds, LogMiB: c.logMiB}
	if c.small() {
		r.Divide = c.divide
	}
	return r
}

// commit returns the commit of the checkout that this program was built from or runs in, or "" if neither is known.
func commit(ctx context.Context) string {
	if text := machine.Commit(); text != "" {
		return text
	}
	git := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
	out, err := git.Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// versions returns the versions of the other stores and of fio, if it is installed.
func versions(ctx context.Context) map[string]string {
	v, built := map[string]string{}, machine.Versions()
	for _, p := range bench.Peers() {
		v[p.Name] = built[p.Module]
	}
	v["raft-wal"] = built["github.com/hashicorp/raft-wal"]
	if out, err := exec.CommandContext(ctx, "fio", "--version").Output(); err == nil {
		v["fio"] = strings.TrimPrefix(strings.TrimSpace(string(out)), "fio-")
	}
	return v
}

// fill sets the lines to what was measured so far.
func (r *record) fill(chosen []*comparison) {
	r.Lines = nil
	for _, m := range chosen {
		if m.unmeasured() {
			continue
		}
		l := recordLine{Name: m.name, What: m.what, Unit: m.unit, Higher: m.higher(), Skipped: m.skipped}
		if m.skipped == "" {
			for i, s := range m.sides() {
				side := recordSide{Name: s.name, Figures: m.figures[i]}
				if len(m.shares) > i {
					unknown := func(s bench.Shares) bool { return s == nil }
					side.Shares = slices.DeleteFunc(slices.Clone(m.shares[i]), unknown)
				}
				if i > 0 {
					side.Ratios = m.ratios(i)
				}
				l.Sides = append(l.Sides, side)
			}
		}
		if l.Target, l.Reached = m.verdict(); l.Target == "" || r.Divide > 1 || m.skipped != "" {
			l.Reached = false
		}
		r.Lines = append(r.Lines, l)
	}
}

// verdict returns pass, SHORT, or "" if there is none.
func (r *record) verdict(l *recordLine) string {
	switch {
	case l.Target == "" || l.Skipped != "" || r.Divide > 1:
		return ""
	case l.Reached:
		return "pass"
	}
	return "SHORT"
}

// missed returns the number of lines that miss a target.
func (r *record) missed() (n int) {
	for i := range r.Lines {
		if r.verdict(&r.Lines[i]) == "SHORT" {
			n++
		}
	}
	return n
}

// conditions returns what was measured on what, as names and values.
func (r *record) conditions() (pairs [][2]string) {
	pairs = append(pairs, [2]string{"started", r.Started.Format(time.RFC3339)})
	if r.Commit != "" {
		pairs = append(pairs, [2]string{"commit", r.Commit})
	}
	pairs = append(pairs, r.Machine.Pairs()...)
	var list []string
	for _, name := range versionOrder {
		if v := r.Versions[name]; v != "" {
			list = append(list, name+" "+v)
		}
	}
	if len(list) > 0 {
		pairs = append(pairs, [2]string{"versions", strings.Join(list, ", ")})
	}
	text := fmt.Sprintf("%d, of %g s for each timed measurement", r.Rounds, r.Seconds)
	return append(pairs, [2]string{"rounds", text}, [2]string{"command", r.Command})
}

var versionOrder = []string{"fio", "Pebble", "Badger", "bbolt", "SQLite", "raft-wal"}

// notes returns warnings about the figures.
func (r *record) notes() (list []string) {
	const noisy = 0.05
	if r.Divide > 1 {
		list = append(list, fmt.Sprintf("The amounts of data were divided by %d: the figures mean nothing.", r.Divide))
	}
	if r.Interrupted {
		list = append(list, "The run was interrupted: these are the rounds measured until then.")
	}
	if r.Busy > noisy {
		list = append(list, fmt.Sprintf("Other programs used %.0f %% of the machine at the beginning.", 100*r.Busy))
	}
	return list
}

// readRecord reads a JSON document.
func readRecord(file string) (*record, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if r.Format != recordFormat {
		return nil, fmt.Errorf("read %s: format %d, want %d", file, r.Format, recordFormat)
	}
	return r, nil
}
