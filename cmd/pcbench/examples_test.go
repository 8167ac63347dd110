package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
)

const (
	examplesDoc = "../../docs/FIO-EXAMPLES.md"
	// ownExamples are a few of fio's examples, for machines without the package fio-examples.
	ownExamples = "testdata/examples"
)

// examples returns the names of fio's examples, and whether they are all of them: those of Debian's package
// fio-examples, or those in FIO_EXAMPLES.
func examples(t *testing.T) (names []string, all bool) {
	t.Helper()
	dirs := []string{"/usr/share/doc/fio/examples", ownExamples}
	if d := os.Getenv("FIO_EXAMPLES"); d != "" {
		dirs = append([]string{d}, dirs...)
	}
	for _, dir := range dirs {
		found, err := filepath.Glob(filepath.Join(dir, "*.fio"))
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			return found, dir != ownExamples
		}
	}
	t.Fatal("no examples")
	return nil, false
}

// small makes a job of an example so small that it takes milliseconds, and puts its files into dir.
func small(s *job.Spec, dir string) {
	s.Directory = filepath.Join(dir, filepath.Base(s.Directory))
	s.Engine.SegmentSize = 256 << 10
	s.Size = min(s.Size, 16*s.PageSize())
	s.IOSize, s.Offset, s.OffsetIncrement = min(s.IOSize, s.Size), 0, 0
	s.NumberIOs, s.Loops = min(s.NumberIOs, 20), 1
	s.NumJobs, s.IODepth = min(s.NumJobs, 3), min(s.IODepth, 4)
	short := func(times ...*time.Duration) {
		for _, d := range times {
			*d = min(*d, 100*time.Millisecond)
		}
	}
	short(&s.Runtime, &s.Ramp, &s.Think.Time, &s.Target.Window, &s.Steady.Duration, &s.Steady.Ramp)
	s.StartDelay /= 1000
	s.StartDelayMost /= 1000
	s.Steady.Every = 10 * time.Millisecond
	s.Pace.RateMin, s.Pace.IOPSMin = [3]int64{}, [3]int64{}
	for d := range s.Pace.Rate {
		if s.Pace.Rate[d] > 0 {
			s.Pace.Rate[d] = max(s.Pace.Rate[d], 10<<20)
		}
		if s.Pace.IOPS[d] > 0 {
			s.Pace.IOPS[d] = max(s.Pace.IOPS[d], 1000)
		}
	}
	for _, name := range []*string{&s.Logs.BW, &s.Logs.Lat, &s.Logs.IOPS, &s.Logs.Hist, &s.Logs.WriteIOLog} {
		if *name != "" {
			*name = filepath.Join(dir, filepath.Base(*name))
		}
	}
}

// reasons are parts of the errors that say why a load does not run, the best ones first.
var reasons = []*regexp.Regexp{
	regexp.MustCompile(`it .*, and has no meaning for pages`),
	regexp.MustCompile(`pcbench does not accept it: (.*)`),
	regexp.MustCompile(`the environment has no variable .*|needs a --runtime.*|sizes are read with .*|a store is .*`),
}

// refusal returns in a few words why an example does not run. An unknown option is no reason.
func refusal(t *testing.T, name string, err error) (text string) {
	t.Helper()
	if strings.Contains(err.Error(), "no such option") {
		t.Errorf("%s: %v", name, err)
	}
	best := len(reasons) + 1
	for line := range strings.Lines(err.Error()) {
		i, m := 0, []int(nil)
		for ; i < len(reasons) && m == nil; i++ {
			m = reasons[i].FindStringSubmatchIndex(line)
		}
		if m == nil {
			t.Errorf("%s: the error gives no reason: %s", name, line)
			continue
		}
		if i >= best {
			continue
		}
		best = i
		what := regexp.MustCompile(`([a-z_-]+)(=\S+)?: $`).FindString(line[:m[0]])
		why, _, _ := strings.Cut(strings.TrimSpace(line[m[len(m)-2]:m[len(m)-1]]), ";")
		text = fmt.Sprintf("`%s`: %s", strings.TrimSuffix(what, ": "), why)
	}
	return text
}

// Each of fio's examples runs, much smaller, or its error says why it does not. docs/FIO-EXAMPLES.md has the outcomes.
func TestFioExamples(t *testing.T) {
	for name, value := range map[string]string{"FIO_RW": "randread", "FIO_IODEPTH": "2", "FIO_BS": "4k"} {
		t.Setenv(name, value) // some examples want these
	}
	names, all := examples(t)
	var table strings.Builder
	runs := 0
	for _, name := range names {
		outcome := "runs"
		p, err := job.Parse([]string{name})
		if err != nil {
			outcome = refusal(t, name, err)
		} else {
			runs++
			dir := t.TempDir()
			for _, s := range p.Jobs {
				small(s, dir)
			}
			var out bytes.Buffer
			p.Run.ETA = "never"
			if err := runJobs(t.Context(), p, &out, &load.Progress{Out: &out}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if !strings.Contains(out.String(), "Run status group 0") || !strings.Contains(out.String(), "IOPS=") {
				t.Errorf("%s: the report has no operations:\n%s", name, &out)
			}
		}
		fmt.Fprintf(&table, "| %s | %s |\n", filepath.Base(name), outcome)
	}
	t.Logf("%d of %d examples run", runs, len(names))
	if !all {
		t.Log("SKIPPED: the table of all examples, since fio-examples is not installed")
		return
	}
	const begin, end = "<!-- begin: written by go test ./cmd/pcbench -update -->\n", "<!-- end -->\n"
	text, err := os.ReadFile(examplesDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	have, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table", examplesDoc)
	}
	want := "\n| example | outcome |\n|---|---|\n" + table.String() + "\n"
	if have == want {
		return
	}
	if !*update {
		t.Errorf("the table in %s differs: go test ./cmd/pcbench -update writes it", examplesDoc)
	} else if err := os.WriteFile(examplesDoc, []byte(before+begin+want+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Every option of every engine of the fio that is installed is accepted or refused with a reason.
func TestEngineOptions(t *testing.T) {
	names := 0
	for line := range strings.Lines(fio(t, "--enghelp")) {
		engine, ok := strings.CutPrefix(line, "\t")
		if !ok {
			continue
		}
		c := exec.CommandContext(t.Context(), "fio", "--enghelp="+strings.TrimSpace(engine))
		help, _ := c.Output() // the status is 1 if the engine has no options
		for option := range strings.Lines(string(help)) {
			name, _, ok := strings.Cut(option, ":")
			if name = strings.TrimSpace(name); !ok || strings.ContainsAny(name, " \t") {
				continue
			}
			if names++; job.Lookup(name) == nil {
				t.Errorf("%s: option %s is not known", strings.TrimSpace(engine), name)
			}
		}
	}
	if names < 50 {
		t.Errorf("%d options: the test does not find them any more", names)
	}
}
