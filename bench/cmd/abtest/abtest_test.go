package main

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

var all = regexp.MustCompile("")

// The interval is Student's on the logarithms: the numbers are worked out by hand.
func TestEstimate(t *testing.T) {
	near := func(got, want float64) bool { return math.Abs(got-want) < 1e-3 }
	// Logarithms −0.1, 0, 0.1: mean 0, standard error 0.1/√3, t of 2 degrees 4.303.
	e := estimateOf([]float64{math.Exp(-0.1), 1, math.Exp(0.1)})
	half := 4.303 * 0.1 / math.Sqrt(3)
	if !near(e.ratio, 1) || !near(e.low, math.Exp(-half)) || !near(e.high, math.Exp(half)) {
		t.Errorf("%+v, want 1 ± e^%v", e, half)
	}
	e = estimateOf([]float64{2})
	if e.ratio != 2 || !math.IsInf(e.high, 1) || e.interval() != "" || e.verdict() != "" {
		t.Errorf("one round: %+v", e)
	}
	for freedom, want := range map[int]float64{1: 12.706, 19: 2.093, 30: 2.042, 60: 2.000, 1000: 1.962} {
		if got := student(freedom); !near(got, want) {
			t.Errorf("t of %d degrees of freedom is %v, want %v", freedom, got, want)
		}
	}
}

func TestVerdict(t *testing.T) {
	for want, e := range map[string]estimate{
		"yes, all of it": {1, 0.98, 1.02}, "yes": {0.97, 0.93, 0.99}, "NO": {0.9, 0.88, 0.96},
	} {
		if got := e.verdict(); got != want {
			t.Errorf("%+v: %q, want %q", e, got, want)
		}
	}
}

// A ratio above 1 means that the new version is better: figures of which less is better are inverted, and those that
// are too small to matter count as equal.
func TestRatio(t *testing.T) {
	for _, c := range []struct {
		p    pair
		want float64
	}{
		{pair{Unit: "op/s", Higher: true, Old: 100, New: 120}, 1.2},
		{pair{Unit: "ns", Old: 10, New: 20}, 0.5},
		{pair{Unit: "1/op", Old: 0, New: 0.0004}, 1},
		{pair{Unit: "1/op", Old: 0.5, New: 1}, 0.5},
	} {
		if got := c.p.ratio(); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%+v: %v, want %v", c.p, got, c.want)
		}
	}
}

// The pairs of a run that was interrupted are continued; those of other binaries, or of another length, are refused.
func TestResume(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pairs")
	want := pair{Seconds: 1, OldBinary: "a", NewBinary: "b"}
	for round := 1; round <= 2; round++ {
		f, err := open(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.check(want); err != nil || f.rounds("link") != round-1 {
			t.Errorf("%d rounds, %v", f.rounds("link"), err)
		}
		p := want
		p.Name, p.Unit, p.Higher, p.Round, p.Old, p.New = "link", "op/s", true, round, 100, 110
		if err := f.add(p); err != nil {
			t.Fatal(err)
		}
		if err := f.close(); err != nil {
			t.Fatal(err)
		}
	}
	f, err := open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	for _, other := range []pair{
		{Seconds: 2, OldBinary: "a", NewBinary: "b"}, {Seconds: 1, OldBinary: "a", NewBinary: "c"},
	} {
		if f.check(other) == nil {
			t.Errorf("%+v continues the file", other)
		}
	}
	var text strings.Builder
	writeTable(&text, f.all, all)
	last := "| link | op/s | 2 | 100 | 110 | 1.100 | 1.100 … 1.100 | yes, all of it |\n"
	if !strings.HasSuffix(text.String(), last) {
		t.Errorf("%s\nwant %s", &text, last)
	}
	if err := os.WriteFile(name, []byte("{\"name\": \"a\"}\n{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := read(name); err == nil || !strings.Contains(err.Error(), "after 1 pairs") {
		t.Errorf("a file that ends in the middle of a pair: %v", err)
	}
}

// Lines of one run are measured in one process.
func TestGroup(t *testing.T) {
	a, b, c, d := line{Name: "a"}, line{Name: "b", Run: "x"}, line{Name: "c"}, line{Name: "d", Run: "x"}
	if got, want := group([]line{a, b, c, d}), [][]line{{a}, {b, d}, {c}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A checkout compared with itself, with its own engine: the builds, the list, and one pair of measurements that needs
// no store.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED with -short: it builds compare twice")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []benchMode{benchModeNew, benchModeOwn} {
		dir := t.TempDir()
		o := options{oldDir: root, newDir: root, dir: dir, out: filepath.Join(dir, "pairs"), bench: mode, rounds: 1,
			seconds: 0.01, only: regexp.MustCompile("^control-2$")}
		if err := run(ctx, o); err != nil {
			t.Fatal(err)
		}
		pairs, err := read(o.out)
		if err != nil || len(pairs) != 1 || pairs[0].Old <= 0 || pairs[0].New <= 0 {
			t.Fatalf("%s: %+v, %v", mode, pairs, err)
		}
		if p := pairs[0]; mode == benchModeOwn && p.OldBinary != p.NewBinary {
			t.Errorf("equal checkouts make the binaries %s and %s", p.OldBinary, p.NewBinary)
		}
	}
}

func TestParse(t *testing.T) {
	o, err := parse(strings.Fields("--old=/a --new=/b --rounds=3 --only=^get --seconds=0.5 --bench=own --out=f"))
	if err != nil || o.oldDir != "/a" || o.newDir != "/b" || o.rounds != 3 || o.seconds != 0.5 ||
		o.bench != benchModeOwn || o.out != "f" {
		t.Errorf("%+v, %v", o, err)
	}
	for _, line := range []string{
		"", "--old=a b", "--old=a --rounds=0", "--old=a --seconds=0", "--old=a --only=(", "--old=a --bench=x",
	} {
		if _, err := parse(strings.Fields(line)); err == nil {
			t.Errorf("%q is accepted", line)
		}
	}
	if got := benchMode(9).String(); got != "benchMode(9)" {
		t.Error(got)
	}
}
