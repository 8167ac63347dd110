package main

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pagecache/cmd/pcbench/internal/against"
	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
	"pagecache/internal/htmlpage/pagetest"
	"pagecache/internal/versus"
)

// comparisonReport is the comparison in the JSON report.
type comparisonReport struct {
	Jobs       []fioJob `json:"jobs"`
	Comparison struct {
		Sides []struct {
			Side          string `json:"side"`
			Configuration string `json:"configuration"`
		} `json:"sides"`
		Metrics []struct {
			Name  string `json:"name"`
			Unit  string `json:"unit"`
			Lower bool   `json:"lower_is_better"`
			Sides []struct {
				Side                string
				Values              []float64
				Median, Least, Most float64
				Ratios              []float64 `json:"ratio_values"`
				Ratio               float64   `json:"ratio_median"`
			} `json:"sides"`
		} `json:"metrics"`
		Differences []string `json:"differences"`
	} `json:"comparison"`
}

// compared runs pcbench run --against and returns its reports.
func compared(t *testing.T, ctx context.Context, line string) (
	r comparisonReport, page, text, errOut string, status int) {
	t.Helper()
	dir := t.TempDir()
	file, html := filepath.Join(dir, "report"), filepath.Join(dir, "page.html")
	_, errOut, status = pcbench(t, ctx, "run --segment=256k --output-format=normal,json --html="+html+" --output="+
		file+" "+line)
	b, err := os.ReadFile(file)
	if err != nil {
		return r, "", "", errOut, status
	}
	text, rest, _ := strings.Cut(string(b), "\n{\n")
	if err := json.Unmarshal([]byte("{"+rest), &r); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	p, err := os.ReadFile(html)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(p), text, errOut, status
}

// check compares a comparison with its page, and returns the figures of each side by the name of the metric.
func (r *comparisonReport) check(t *testing.T, page string, sides []string, rounds int) map[string][][]float64 {
	t.Helper()
	all := map[string][][]float64{}
	d := dataOf(t, page)
	if len(d.Comparisons) != 1 || len(d.Comparisons[0].Rows) != len(r.Comparison.Metrics) ||
		len(r.Comparison.Sides) != len(sides) {
		t.Fatalf("%d comparisons in the page, %d sides: %+v", len(d.Comparisons), len(r.Comparison.Sides), r)
	}
	for i, s := range sides {
		if got := r.Comparison.Sides[i]; got.Side != s || got.Configuration == "" {
			t.Errorf("side %d is %+v, want %s", i, got, s)
		}
	}
	for i, m := range r.Comparison.Metrics {
		row := d.Comparisons[0].Rows[i]
		at := 0
		for k, s := range m.Sides {
			all[m.Name] = append(all[m.Name], s.Values)
			if len(s.Values) == 0 {
				continue
			}
			cell := row.Cells[at]
			at++
			if row.Name != m.Name || cell.Side != s.Side || len(s.Values) != rounds ||
				math.Abs(cell.Median-s.Median) > 1e-4*s.Median || math.Abs(cell.Least-s.Least) > 1e-4*s.Least ||
				math.Abs(cell.Most-s.Most) > 1e-4*s.Most {
				t.Errorf("%s of %s: the page has %+v, the report %+v", m.Name, s.Side, cell, s)
			}
			if (k > 0) != (cell.Ratio != nil) || k > 0 && len(s.Ratios) != rounds {
				t.Errorf("%s of %s: ratios %v, %v", m.Name, s.Side, s.Ratios, cell.Ratio)
			}
			for n, ratio := range s.Ratios {
				if want := m.Sides[0].Values[n] / s.Values[n]; math.Abs(ratio-want) > 1e-9*want {
					t.Errorf("%s of %s: ratio %v, want %v", m.Name, s.Side, ratio, want)
				}
			}
		}
	}
	return all
}

// fio does the same work in turns: the same bytes, mixed and synced as often. The report, its JSON and its page agree.
func TestAgainstFio(t *testing.T) {
	if _, err := exec.LookPath("fio"); err != nil {
		t.Skip("SKIPPED: fio is not installed")
	}
	r, page, text, errOut, status := compared(t, context.Background(), "--rw=randrw --bs=4k --size=1m --io_size=4m "+
		"--numjobs=2 --fdatasync=8 --rounds=2 --against=fio")
	if status != 0 {
		t.Fatalf("status %d, %s", status, errOut)
	}
	all := r.check(t, page, []string{"pagecache", "fio"}, 2)
	for _, name := range []string{"read IOPS", "read bandwidth", "read 50 %", "read 99 %", "read 99.9 %", "write IOPS",
		"write bandwidth", "write 99 %", "commit 50 %", "commit 99.9 %", "device bytes", "space", "CPU time"} {
		for side, v := range all[name] {
			if len(v) != 2 || v[0] <= 0 && name != "device bytes" {
				t.Errorf("%s: side %d has %v", name, side, v)
			}
		}
		if all[name] == nil && name != "device bytes" { // a tmpfs has no device
			t.Errorf("no metric %s", name)
		}
	}
	for side := range 2 { // 4 KiB an operation
		if ops, mb := all["read IOPS"][side][0], all["read bandwidth"][side][0]; math.Abs(mb*1e6/ops-4096) > 1 {
			t.Errorf("side %d: %v bytes for each read", side, mb*1e6/ops)
		}
	}
	for _, want := range []string{"2 of 2 rounds", "fio --name=pcbench --ioengine=psync --numjobs=2", "median",
		"pagecache: pcbench run --name=pcbench", "Differences that cannot be removed"} {
		if !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if len(r.Jobs) != 2 || len(r.Comparison.Differences) < 2 || strings.Contains(text, "interrupted") {
		t.Errorf("%d jobs, differences %q\n%s", len(r.Jobs), r.Comparison.Differences, text)
	}
	pagetest.RenderFile(t, page)
}

// program makes a program that answers as that of the bench module does, and keeps the load that it gets.
func program(t *testing.T, list, outcome string) (path, load string) {
	t.Helper()
	dir := t.TempDir()
	path, load = filepath.Join(dir, versus.Program), filepath.Join(dir, "load")
	script := "#!/bin/sh\nif [ \"$2\" = --list ]; then echo '" + list + "'; else cat >" + load + "; echo '" + outcome +
		"'; fi\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, load
}

const fakeList = `{"format": 1, "stores": [{"name": "Pebble", "version": "v9", "config": "as usual"},
	{"name": "bbolt", "version": "v8", "config": "too"}]}`

// Other stores are reached through the program of the bench module, which gets the same work.
func TestAgainstPeers(t *testing.T) {
	path, file := program(t, fakeList, `{"format": 1, "seconds": 2, "read": {"operations": 1000, "bytes": 4096000, `+
		`"p50_ns": 1000, "p99_ns": 2000, "p999_ns": 3000}, "cpu_seconds": 0.5, "space_bytes": 1048576}`)
	r, page, text, errOut, status := compared(t, context.Background(), "--rw=randread --bs=4k --size=1m --io_size=2m "+
		"--numjobs=2 --iodepth=3 --cache=3m --random_distribution=zipf:1.1 --rounds=3 --against=Pebble,bbolt --peers="+
		path)
	if status != 0 {
		t.Fatalf("status %d, %s", status, errOut)
	}
	all := r.check(t, page, []string{"pagecache", "Pebble", "bbolt"}, 3)
	if all["read IOPS"][1][0] != 500 || all["read 99 %"][2][1] != 2 || all["CPU time"][1][2] != 500 ||
		all["space"][1][0] != 1 {
		t.Errorf("%v", all)
	}
	if !strings.Contains(text, "Pebble: v9 as usual") {
		t.Error(text)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var l versus.Load
	if err := json.Unmarshal(b, &l); err != nil {
		t.Fatal(err)
	}
	if filepath.Base(l.Draws) != "draws" || filepath.Base(l.Dir) != "store" {
		t.Errorf("%+v", l)
	}
	l.Draws, l.Dir = "", ""
	if want := (versus.Load{Format: versus.Format, Store: l.Store, Cache: 3 << 20, Pages: 256, PageSize: 4096,
		Laid: true, Jobs: 2, Depth: 3, ReadPercent: 100, Operations: 512, Seed: 1}); l != want {
		t.Errorf("%+v, want %+v", l, want)
	}
}

// A side that is missing, unknown or fails is an error that says what to do. Nothing is laid out before.
func TestAgainstMissing(t *testing.T) {
	good, _ := program(t, fakeList, "no JSON")
	old, _ := program(t, `{"format": 0}`, "")
	t.Setenv("PATH", t.TempDir())
	for line, want := range map[string]string{
		"--size=1g --against=fio":                                       "fio is not installed",
		"--size=1g --against=pebble":                                    versus.Build,
		"--size=1g --against=pebble --peers=/no/such/program":           versus.Build,
		"--size=1g --against=pebble --peers=" + old:                     "format is 0",
		"--size=1g --against=redis --peers=" + good:                     "there are fio and pebble, bbolt",
		"--size=1m --against=pebble --peers=" + good + " --rounds=1":    "Pebble: ",
		"--size=1m --against=pebble --peers=" + good + " --html=/no/no": "--html",
	} {
		began := time.Now()
		_, errOut, status := pcbench(t, context.Background(), "run --rw=randread --segment=256k "+line)
		if status != exitFailed || !strings.Contains(errOut, want) || time.Since(began) > time.Minute {
			t.Errorf("%s: status %d, %s", line, status, errOut)
		}
	}
}

// The live page of a comparison shows the page cache's load, and the table once a round is complete.
func TestAgainstLive(t *testing.T) {
	path, _ := program(t, fakeList, `{"format": 1, "seconds": 2, "read": {"operations": 1000, "bytes": 4096000, `+
		`"p50_ns": 1000, "p99_ns": 2000, "p999_ns": 3000}, "cpu_seconds": 0.5, "space_bytes": 1048576}`)
	p, err := job.Parse(strings.Fields("--size=1m --runtime=200ms --time_based --rounds=2 --live=:0 --segment=256k " +
		"--against=pebble --peers=" + path + " --directory=" + t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	x, err := newPictures(p)
	if err != nil {
		t.Fatal(err)
	}
	defer x.endLive()
	c, err := against.New(t.Context(), p, func(ctx context.Context) (*load.Result, error) {
		r := &load.Runner{Jobs: p.Jobs, Settle: true}
		x.watch(r)
		return r.Run(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	x.compare(c.Table)
	var comparisons []int
	err = c.Run(t.Context(), func(int, int, string) { comparisons = append(comparisons, len(x.now().Comparisons)) })
	if err != nil || !slices.Equal(comparisons, []int{0, 0, 1, 1}) {
		t.Errorf("%v, comparisons before each turn: %v", err, comparisons)
	}
	if page := x.now(); len(page.Runs) != 1 || len(page.Comparisons) != 1 || len(page.Comparisons[0].Sides) != 2 {
		t.Errorf("%+v", page)
	}
}

// An interrupted comparison reports the rounds until then, says so, and leaves nothing behind.
func TestAgainstInterrupted(t *testing.T) {
	path, _ := program(t, fakeList, `{"format": 1, "seconds": 2, "read": {"operations": 1000, "bytes": 4096000, `+
		`"p50_ns": 1000, "p99_ns": 2000, "p999_ns": 3000}, "cpu_seconds": 0.5, "space_bytes": 1048576}`)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	r, page, text, errOut, status := compared(t, ctx, "--rw=randread --size=1m --runtime=200ms --time_based "+
		"--rounds=1000 --against=pebble --peers="+path)
	if status != exitInterrupted || !strings.Contains(text, "interrupted") || strings.Contains(text, "1000 of 1000") {
		t.Errorf("status %d, %s\n%s", status, errOut, text)
	}
	if len(r.Jobs) != 1 || r.Jobs[0].Store["interrupted"] != true {
		t.Errorf("%+v", r.Jobs)
	}
	if d := dataOf(t, page); len(d.Notes) < 2 || !strings.Contains(d.Notes[0], "interrupted") {
		t.Errorf("%q", d.Notes)
	}
}
