package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"pagecache/cmd/pcbench/internal/load"
	"pagecache/cmd/pcbench/internal/report"
)

// pcbench runs a command line in a directory of its own. It checks that afterwards the directory is empty and no
// goroutine is left.
func pcbench(t *testing.T, ctx context.Context, line string) (out, errOut string, status int) {
	t.Helper()
	dir := t.TempDir()
	var o, e bytes.Buffer
	args := strings.Fields(line)
	if len(args) > 0 && args[0] == "run" {
		args = append(args, "--directory="+filepath.Join(dir, "new", "below"))
	}
	before := runtime.NumGoroutine()
	status = command(ctx, args, &o, &e, &load.Progress{Out: io.Discard, Every: time.Millisecond})
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("files left behind: %v, %v", left, err)
	}
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines are left of %d", runtime.NumGoroutine()-before, runtime.NumGoroutine())
		}
	}
	return o.String(), e.String(), status
}

func TestRuns(t *testing.T) {
	for _, c := range []struct {
		line                       string
		jobs, reads, writes, syncs int64 // of all jobs; −1: at least one
	}{
		{"--rw=write --bs=4k --size=1m", 1, 0, 256, 0},
		{"--rw=read --bs=4k --size=1m --io_size=2m", 1, 512, 0, 0},
		{"--rw=randread --bs=1k --size=1m --numjobs=3 --iodepth=2", 3, 1024, 0, 0},
		{"--rw=randwrite --bs=4k --size=1m --io_size=4m --numjobs=4 --end_fsync=1", 4, 0, 1024, 0},
		{"--rw=randwrite --bs=4k --size=64k --io_size=4m --numjobs=4 --iodepth=4 --group_reporting " +
			"--random_distribution=zipf:1.2", 1, 0, 1024, 0},
		{"--rw=randrw --rwmixread=70 --bs=4k --size=1m --io_size=4m --group_reporting", 1, -1, -1, 0},
		{"--rw=randwrite --bs=1k --size=256k --io_size=100k --delta=100 --numjobs=2 --group_reporting", 1, 0, 1024, 0},
		{"--rw=randwrite --bs=1k --size=256k --io_size=256k --fdatasync=8", 1, 0, 256, 32},
		{"--rw=randwrite --bs=1k --size=64k --io_size=64k --fdatasync=1 --iodepth=8 --delta=1k", 1, 0, 64, 64},
		{"--rw=randread --bs=4k --size=256k --runtime=50ms --time_based --ramp_time=20ms", 1, -1, 0, 0},
		{"--rw=write --bs=100 --size=10000 --refill_buffers --io=syscall --direct=off", 1, 0, 100, 0},
	} {
		r := runJSON(t, c.line)
		if int64(len(r.Jobs)) != c.jobs {
			t.Fatalf("%s: %d jobs", c.line, len(r.Jobs))
		}
		var reads, writes, syncs int64
		for _, j := range r.Jobs {
			reads, writes, syncs = reads+j.Read.Total, writes+j.Write.Total, syncs+j.Sync.Total
			if j.Error != 0 || j.Name != "pcbench" || j.Read.Clat.N != j.Read.Total || j.Write.Clat.N != j.Write.Total {
				t.Errorf("%s: %+v", c.line, j)
			}
			w := j.Write
			if w.Total > 0 && (len(w.Clat.Percentile) != 17 || w.IOPS <= 0 || w.BW != w.Bps/1024) {
				t.Errorf("%s: %+v", c.line, w)
			}
		}
		for _, n := range [][2]int64{{c.reads, reads}, {c.writes, writes}, {c.syncs, syncs}} {
			if n[0] < 0 && n[1] == 0 || n[0] >= 0 && n[0] != n[1] {
				t.Errorf("%s: %d reads, %d writes, %d syncs", c.line, reads, writes, syncs)
			}
		}
	}
}

// A load runs for --runtime after --ramp_time, and mixes reads and writes as --rwmixread says.
func TestTimeAndMix(t *testing.T) {
	started := time.Now()
	r := runJSON(t, "--rw=randrw --rwmixread=90 --bs=512 --size=64k --runtime=300ms --time_based --ramp_time=100ms")
	j := r.Jobs[0]
	took := time.Since(started)
	if took < 400*time.Millisecond || j.Read.MS < 200 || j.Read.MS > 310+int64(took.Milliseconds()-400) {
		t.Errorf("took %v, runtime %d ms", took, j.Read.MS)
	}
	if share := float64(j.Read.Total) / float64(j.Read.Total+j.Write.Total); share < 0.85 || share > 0.95 {
		t.Errorf("%v are reads, want 0.9", share)
	}
}

// With --invalidate, no page is resident when the jobs begin; without it, all pages are.
func TestInvalidate(t *testing.T) {
	for _, c := range []struct{ line, misses string }{
		{"--rw=read --bs=4k --size=400k --invalidate", "100"}, {"--rw=read --bs=4k --size=400k", "0"},
	} {
		store := runJSON(t, c.line).Jobs[0].Store
		if got := fmt.Sprint(store["misses"]); got != c.misses {
			t.Errorf("%s: %s misses, want %s", c.line, got, c.misses)
		}
	}
}

// Ctrl-C ends a layout and a run. pcbench reports the load and leaves nothing behind.
func TestInterrupt(t *testing.T) {
	for _, line := range []string{
		"run --rw=randwrite --bs=4k --size=1m --runtime=1h --time_based --numjobs=2",
		"run --rw=randwrite --bs=4k --size=1m --runtime=1h --time_based --iodepth=4 --fdatasync=1",
		"run --rw=randread --bs=4k --size=1m --runtime=1h --time_based",
		"run --rw=randread --bs=4k --size=1m --ramp_time=1h",
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		// The loads last an hour, so a command that returns was interrupted.
		late := time.AfterFunc(time.Minute, func() { panic(line + ": still running a minute after the interrupt") })
		out, errOut, status := pcbench(t, ctx, line)
		late.Stop()
		cancel()
		if status != exitInterrupted || !strings.Contains(errOut, "interrupted") {
			t.Errorf("%s: status %d, %s", line, status, errOut)
		}
		if !strings.Contains(out, "err= 0") {
			t.Errorf("%s: no report:\n%s", line, out)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, errOut, status := pcbench(t, ctx, "run --rw=randread --bs=4k --size=64m"); status != exitInterrupted {
		t.Errorf("status %d, %s", status, errOut)
	}
}

func TestCommands(t *testing.T) {
	for line, want := range map[string]struct {
		status int
		text   string
	}{
		"version":             {0, "pcbench " + report.Version},
		"help":                {0, "pcbench run OPTIONS"},
		"--help":              {0, "pcbench run OPTIONS"},
		"run --help":          {0, "--random_distribution"},
		"walk":                {exitUsage, "no such command"},
		"--rw=read":           {exitUsage, "pcbench run --rw=read"},
		"run --rwmixread=5":   {exitUsage, "--rw=randrw"},
		"run --output=/no/no": {exitFailed, "--output"},
	} {
		out, errOut, status := pcbench(t, context.Background(), line)
		if status != want.status || !strings.Contains(out+errOut, want.text) {
			t.Errorf("%q: status %d, %s%s", line, status, out, errOut)
		}
	}
}

// The report goes to the file of --output, in the shape of fio's report.
func TestOutput(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report")
	line := "run --rw=write --bs=4k --size=1m --fdatasync=16 --output=" + file
	out, errOut, status := pcbench(t, context.Background(), line)
	if status != 0 || out != "" {
		t.Fatalf("status %d, %s%s", status, out, errOut)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`(?m)^  write: IOPS=\S+, BW=\S+iB/s \(\S+B/s\)\(1024KiB/\d+msec\)`, `(?m)^    clat \((n|u|m)sec\): min=`,
		`(?m)^     \| +1\.00th=\[`, `(?m)^  fsync/fdatasync/sync_file_range:$`,
		`(?m)^Run status group 0 \(all jobs\):$`, `(?m)^  WRITE: bw=`,
	} {
		if !regexp.MustCompile(line).Match(b) {
			t.Errorf("no %s in\n%s", line, b)
		}
	}
}

// The tour leaves nothing behind. When it is interrupted, it reports the loads so far.
func TestTour(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	var out bytes.Buffer
	if err := tour(ctx, dir, nil, &out, nil); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"load: (groupid=0", "read: (groupid=1", "Run status group 0", "Store stats:"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("files left behind: %v", left)
	}
}

// The jobs of a file share one store, and each is reported.
func TestJobFileRuns(t *testing.T) {
	for name, jobs := range map[string]int{"ssd-test.fio": 4, "random-readers.fio": 2} {
		file, err := filepath.Abs(filepath.Join("testdata", "examples", name))
		if err != nil {
			t.Fatal(err)
		}
		out, errOut, status := pcbench(t, context.Background(), "run --segment=256k --output-format=json,terse "+
			"--direct=auto "+file)
		first, terse, _ := strings.Cut(out, "\n}\n")
		r := readReport(t, first+"\n}")
		if status != 0 || len(r.Jobs) != jobs || strings.Count(terse, "\n") != jobs {
			t.Errorf("%s: status %d, %d jobs, %s\n%s", name, status, len(r.Jobs), errOut, terse)
		}
	}
}

// --parse-only runs nothing, and --showcmd prints what can be run.
func TestParseOnly(t *testing.T) {
	out, errOut, status := pcbench(t, context.Background(), "run --parse-only --rw=randread --name=a --name=b")
	if out != "" || status != 0 {
		t.Errorf("%d, %s%s", status, out, errOut)
	}
	out, _, status = pcbench(t, context.Background(), "run --showcmd --rw=randread --name=a --name=b --stonewall")
	if want := "pcbench run --rw=randread --name=a --name=b --stonewall=1"; status != 0 ||
		!strings.HasPrefix(out, want) || strings.Count(out, "\n") != 1 {
		t.Errorf("%d, %s", status, out)
	}
	// Trap: each job was a command of its own, with a store of its own, and words with spaces were not quoted.
	c := exec.CommandContext(t.Context(), os.Args[0], "run", "--showcmd", "--description=it's two words", "--size=1m")
	c.Env = append(os.Environ(), asMain+"=1")
	b, err := c.Output()
	want := "pcbench run '--description=it'\\''s two words' --size=1m --name=pcbench\n"
	if err != nil || string(b) != want {
		t.Errorf("%s%v; want %s", b, err, want)
	}
}

// The report appears under its name only when it is complete, and an interrupted run is marked.
func TestOutputAtEnd(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "report")
	o, err := newOutput("--output", file, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(o, "half")
	if _, err := os.Stat(file); err == nil {
		t.Error("the file is there before the report is complete")
	}
	if err := o.close(false); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v are left, %v", left, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, _, status := pcbench(t, ctx, "run --rw=randread --size=1m --runtime=1h --time_based --output-format=json "+
		"--output="+file)
	b, err := os.ReadFile(file)
	if err != nil || status != exitInterrupted {
		t.Fatalf("%d, %v", status, err)
	}
	if r := readReport(t, string(b)); r.Jobs[0].Store["interrupted"] != true {
		t.Errorf("%v", r.Jobs[0].Store)
	}
}

// Trap: a report that could not be written was lost, and an empty file took the place of an older one. Errors named a
// temporary file, and a symbolic link was replaced.
func TestOutputFails(t *testing.T) {
	out, errOut, status := pcbench(t, context.Background(), "run --rw=read --size=64k --output=/dev/full")
	if status != exitFailed || !strings.Contains(out, "READ: bw=") || !strings.Contains(errOut, "--output: "+
		"write /dev/full: no space left on device; the report is on standard output") {
		t.Errorf("%d, %s%s", status, out, errOut)
	}
	dir := t.TempDir()
	file, link := filepath.Join(dir, "report"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, []byte("old"), 0o644), os.Symlink("report", link)); err != nil {
		t.Fatal(err)
	}
	o, err := newOutput("--output", file, nil)
	if err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	o.Writer = full
	var standard bytes.Buffer
	err = o.complete(&standard, func(w io.Writer) error { _, err := fmt.Fprint(w, "new"); return err })
	if b, _ := os.ReadFile(file); string(b) != "old" || standard.String() != "new" || err == nil ||
		!strings.Contains(err.Error(), "write "+file+": no space") {
		t.Errorf("%q in the file, %q on standard output, %v", b, &standard, err)
	}
	_, _, status = pcbench(t, context.Background(), "run --rw=read --size=64k --output="+link)
	b, _ := os.ReadFile(file)
	if info, err := os.Lstat(link); err != nil || info.Mode().IsRegular() || status != 0 || string(b) == "old" {
		t.Errorf("%d, %v, %v, %q", status, info, err, b)
	}
	_, errOut, status = pcbench(t, context.Background(), "run --size=900g --output="+filepath.Join(dir, "no", "report"))
	if want := "--output: make " + filepath.Join(dir, "no", "report") + ": no such file"; status != exitFailed ||
		!strings.Contains(errOut, want) {
		t.Errorf("%d, %s; want %s", status, errOut, want)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("%v are left, %v", left, err)
	}
}

// Words that are nearly right get suggestions.
func TestSuggestions(t *testing.T) {
	for line, want := range map[string]string{"rnu": "did you mean run", "chek x": "did you mean check",
		"a.fio": "pcbench run a.fio", "run --runtim=5": "did you mean --runtime", "help salvage": "copies everything",
		"completion": "name one shell", "completion fish": "random_distribution", "man": ".TH PCBENCH"} {
		if out, errOut, _ := pcbench(t, context.Background(), line); !strings.Contains(out+errOut, want) {
			t.Errorf("%s: %s%s; want %q", line, out, errOut, want)
		}
	}
}
