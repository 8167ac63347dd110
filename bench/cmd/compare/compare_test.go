//go:build !abtest

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pagecache/bench"
	"pagecache/internal/machine"
)

// A measurement that needs a process of its own, and pcbench, start this program again.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args[1:], "--child") || len(os.Args) > 1 && os.Args[1] == "peer" {
		main()
		return
	}
	os.Exit(m.Run())
}

// Every comparison can be made, in small, and has figures of all sides or a reason why not. All outputs are written.
func TestSmall(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	var out bytes.Buffer
	args := []string{"--dir", dir, "--divide=5000", "--rounds=1", "--seconds=0.01", "--log-mib=32",
		"--json=" + file("run.json"), "--markdown=" + file("run.md"), "--html=" + file("run.html"),
		"--picture=" + file("run.svg")}
	if err := run(t.Context(), args, &out); err != nil {
		t.Fatal(err)
	}
	r, err := readRecord(file("run.json"))
	if err != nil {
		t.Fatal(err)
	}
	all := comparisons()
	if len(r.Lines) != len(all) {
		t.Fatalf("%d comparisons, want %d", len(r.Lines), len(all))
	}
	for i, l := range r.Lines {
		if l.Skipped != "" {
			t.Logf("%s was skipped: %s", l.Name, l.Skipped)
			continue
		}
		if l.Name != all[i].name || len(l.Sides) != len(all[i].sides()) || l.Reached {
			t.Errorf("%+v", l)
		}
		for _, s := range l.Sides {
			if len(s.Figures) != 1 || !(s.Figures[0] >= 0) {
				t.Errorf("%s, %s: figures %v", l.Name, s.Name, s.Figures)
			}
		}
		for _, name := range []string{"run.md", "run.html", "run.svg"} {
			text, err := os.ReadFile(file(name))
			if err != nil {
				t.Fatal(err)
			}
			if has := bytes.Contains(text, []byte(l.Name)); !has && (name != "run.svg" || len(l.Sides) > 1) {
				t.Errorf("%s lacks %s", name, l.Name)
			}
		}
		if !strings.Contains(out.String(), "\n"+l.Name+" ") {
			t.Errorf("the table lacks %s", l.Name)
		}
	}
	for _, want := range []string{"kernel", "file system", "versions", "estimate", "divided by 5000", "memtables"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if left, err := filepath.Glob(file("compare.tmp.*")); err != nil || len(left) > 0 {
		t.Errorf("%v are left: %v", left, err)
	}
}

// failing is a standard output that is full.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("full") }

// Output that cannot be written is an error: before the measurement if that is known then.
func TestOutputErrors(t *testing.T) {
	dir := t.TempDir()
	base := []string{"--dir", dir, "--divide=5000", "--rounds=1", "--seconds=0.01", "--only=^control-2$"}
	for name, option := range map[string]string{
		"a full device": "--json=/dev/full", "no such directory": "--html=" + filepath.Join(dir, "none", "x"),
		"a directory": "--markdown=" + dir,
	} {
		if err := run(t.Context(), append(base, option), io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := run(t.Context(), base, failing{}); err == nil {
		t.Error("a full standard output: no error")
	}
	if err := run(t.Context(), append(base, "--json"), failing{}); err == nil {
		t.Error("a full standard output for JSON: no error")
	}
	var out bytes.Buffer
	if err := run(t.Context(), append(base, "--json"), &out); err != nil || !json.Valid(out.Bytes()) {
		t.Errorf("%v: %s", err, &out)
	}
}

// A run that is interrupted writes what it has measured, and says so.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	file := filepath.Join(t.TempDir(), "run.json")
	err := run(ctx, []string{"--dir", t.TempDir(), "--divide=5000", "--only=^link$", "--json=" + file}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("error %v", err)
	}
	if r, err := readRecord(file); err != nil || !r.Interrupted || len(r.Lines) > 0 {
		t.Errorf("%+v: %v", r, err)
	}
}

// sampleRecord returns the outcome of two rounds.
func sampleRecord() *record {
	c := &config{rounds: 2, seconds: 3}
	chosen := []*comparison{
		{name: "a", what: "first", unit: "op/s", theirs: link2, other: "Pebble", ratioMin: 3,
			figures: [][]float64{{2e6, 3e6}, {500e3, 1e6}},
			shares:  [][]bench.Shares{{{"cleaner": 1, "collector": 4}, {"cleaner": 2}}, {nil, {"collector": 50}}}},
		{name: "b", what: "second", unit: "µs", oursMax: 10, figures: [][]float64{{20, 22}}},
		{name: "c", what: "third", unit: "µs", oursMax: 10, skipped: "fio is not installed"},
		{name: "d", what: "not measured", unit: "µs"},
	}
	r := &record{Format: recordFormat, Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Commit: "0123456789ab",
		Command: "compare --rounds 2", Machine: machine.Machine{Kernel: "Linux 6.18"}, Rounds: c.rounds,
		Seconds: c.seconds, Versions: map[string]string{"fio": "3.33", "Pebble": "v2.1.7"}, Ours: ourConfig}
	r.fill(chosen)
	return r
}

func link2(context.Context, *config, string) (float64, error) { return 0, nil }

// The tables have names, medians, and the range beside each median.
func TestTables(t *testing.T) {
	r := sampleRecord()
	if n := r.missed(); n != 1 {
		t.Errorf("%d comparisons miss their targets, want 1", n)
	}
	want := "| name | unit | side | median | range | ratio | range | cleaner | collector | target |  |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|\n" +
		"| a | op/s | pagecache | 2 500 000 | 2 000 000 … 3 000 000 |  |  | 1.5 % | 2.0 % | ratio ≥ 3 | pass |\n" +
		"|  |  | Pebble | 750 000 | 500 000 … 1 000 000 | 3.50 | 3.00 … 4.00 | 0.0 % | 50.0 % |  |  |\n" +
		"| b | µs | pagecache | 21 | 20 … 22 |  |  |  |  | ≤ 10 | SHORT |\n" +
		"| c | µs | skipped: fio is not installed |  |  |  |  |  |  | ≤ 10 |  |\n"
	if got := string(r.markdownTable()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	row := regexp.MustCompile(`a +first +op/s +pagecache +2 500 000 +2 000 000 … 3`)
	if text := string(r.text()); !row.MatchString(text) {
		t.Errorf("the table lacks the figures:\n%s", text)
	}
	for _, want := range []string{"Linux 6.18", "fio 3.33, Pebble v2.1.7", "2, of 3 s", "0123456789ab"} {
		if !strings.Contains(r.head(), want) {
			t.Errorf("the head lacks %q:\n%s", want, r.head())
		}
	}
}

// A target for the ratio to one of the sides is about that side.
func TestTargetsOfSides(t *testing.T) {
	m := &comparison{unit: "pages/s", rivals: []rival{{name: "Badger"}, {name: "bbolt"}},
		figures: [][]float64{{60, 50}, {10, 10}, {2, 2}}}
	for _, c := range []struct {
		badger, bbolt float64
		want          bool
	}{{5, 20, true}, {6, 20, false}, {5, 30, false}} {
		m.atLeast = []atLeast{{"Badger", c.badger}, {"bbolt", c.bbolt}}
		target, ok := m.verdict()
		want := "≥ " + bench.Number(c.badger) + " × Badger, ≥ " + bench.Number(c.bbolt) + " × bbolt"
		if target != want || ok != c.want {
			t.Errorf("%q, reached: %v, want %q and %v", target, ok, want, c.want)
		}
	}
	m.atLeast = []atLeast{{"Pebble", 1}}
	if _, ok := m.verdict(); ok {
		t.Error("a side that was not measured reaches a target")
	}
}

// The pages of a transaction differ, and the popular ones are popular for all goroutines.
func TestPagesOfTransactions(t *testing.T) {
	const count, draws = 100, 2000
	popular, hits := popularPages(count), make([]int, count)
	for g := range 2 {
		j := &txJob{draw: popular(uint64(g))}
		j.Pages = make([]int, txReads)
		w := &bench.Worker{Values: bench.NewValues(1, txDelta)}
		for range draws {
			j.next(w)
			for n, page := range j.Pages {
				if slices.Contains(j.Pages[:n], page) {
					t.Fatalf("pages %v", j.Pages)
				}
				hits[page]++
			}
		}
	}
	slices.Sort(hits)
	if most, median := hits[count-1], hits[count/2]; most < 5*median {
		t.Errorf("the most popular page was drawn %d times, the median one %d times", most, median)
	}
}

// The report command makes the same tables of the JSON document, and puts documents of one commit together.
func TestReport(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, r *record) string {
		text, err := r.json()
		if err != nil {
			t.Fatal(err)
		}
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	first := sampleRecord()
	one := write("one.json", first)
	second := sampleRecord()
	second.Lines = []recordLine{{Name: "z", What: "last", Unit: "op/s",
		Sides: []recordSide{{Name: "x", Figures: []float64{1, 2}}}}}
	two := write("two.json", second)
	second.Commit = "another"
	three := write("three.json", second)
	var out bytes.Buffer
	if err := runReport([]string{one, two, "--markdown=-"}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| a |", "| z |", "| kernel | Linux 6.18 |"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	for name, args := range map[string][]string{"another commit": {one, three}, "the same lines": {one, one},
		"no file": {filepath.Join(dir, "none.json")}, "nothing": {}} {
		if err := runReport(args, io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	doc := filepath.Join(dir, "doc.md")
	if err := os.WriteFile(doc, []byte("before\n"+docsBegin+"old\n"+docsEnd+"after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := runReport([]string{one, "--docs=" + doc}, io.Discard); err != nil {
		t.Fatal(err)
	}
	text, part, err := readDocs(doc)
	around := strings.HasPrefix(text, "before\n") && strings.HasSuffix(text, "after\n")
	if err != nil || part != docsPart(first) || !around {
		t.Errorf("%v: %s", err, text)
	}
}

// The time and the space that a run needs are known before it starts.
func TestEstimate(t *testing.T) {
	c := &config{rounds: 5, seconds: 3}
	all := comparisons()
	took, bytes := estimate(c, all)
	if took < 30*time.Minute || took > 12*time.Hour || bytes < 5<<30 || bytes > 50<<30 {
		t.Errorf("all: %v, %d bytes", took, bytes)
	}
	c.divide = 1000
	if small, least := estimate(c, all); small > took || least > bytes/10 {
		t.Errorf("in small: %v, %d bytes", small, least)
	}
	if err := enoughSpace(t.TempDir(), 1<<60); err == nil {
		t.Error("a disk that is too small: no error")
	}
	if err := enoughSpace(t.TempDir(), 1); err != nil {
		t.Error(err)
	}
	names := map[string]bool{}
	for _, m := range all {
		if names[m.name] || m.cost == (cost{}) {
			t.Errorf("%s: twice, or without a cost", m.name)
		}
		names[m.name] = true
	}
}

// docs/BENCHMARKS.md names every comparison, and its results are those of the run in docs/benchmarks, if that is there.
func TestDocs(t *testing.T) {
	const docs = "../../../docs/"
	text, part, err := readDocs(docs + "BENCHMARKS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range comparisons() {
		name, _, _ := strings.Cut(m.name, "-")
		if !strings.Contains(text, m.name) && !strings.Contains(text, name+"…") {
			t.Errorf("BENCHMARKS.md lacks %s", m.name)
		}
	}
	r, err := readRecord(docs + "benchmarks/run.json")
	switch {
	case errors.Is(err, os.ErrNotExist):
		t.Log("no run was recorded in docs/benchmarks")
	case err != nil:
		t.Fatal(err)
	case part != docsPart(r):
		t.Error("the results are not those of benchmarks/run.json: run compare report with --docs")
	case r.Divide > 1 || r.Interrupted || r.Commit == "" || strings.HasSuffix(r.Commit, "-dirty"):
		t.Error("benchmarks/run.json is no full run at one commit")
	}
}

// The list for abtest has our side of each comparison.
func TestList(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--list", "--json"}, &out); err != nil {
		t.Fatal(err)
	}
	n := strings.Count(out.String(), "\n")
	if n != len(comparisons()) || !strings.Contains(out.String(), `"higher":true`) {
		t.Errorf("%d lines:\n%s", n, &out)
	}
}
