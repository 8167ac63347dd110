package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The tests of this file run other people's programs that read fio's output on that of pcbench. A program that is not
// installed skips its test; .ci/run installs them all.

// tool returns the path of a program, or skips the test.
func tool(t *testing.T, name string) string {
	t.Helper()
	at, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("SKIPPED: %s is not installed", name)
	}
	return at
}

// script returns the path of a Python script of fio's documents, which may be compressed, and the Python that runs it.
// It skips the test if either is missing, or one of the modules that the script imports.
func script(t *testing.T, name string, modules ...string) (python, at string) {
	t.Helper()
	python = "python3"
	if p := os.Getenv("FIO_TOOLS_PYTHON"); p != "" { // one with these modules
		python = p
	}
	python = tool(t, python)
	for _, m := range modules {
		if exec.CommandContext(t.Context(), python, "-c", "import "+m).Run() != nil {
			t.Skipf("SKIPPED: %s has no module %s", python, m)
		}
	}
	for _, dir := range []string{"/usr/share/doc/fio", "/usr/bin", "/usr/local/bin"} {
		if at = filepath.Join(dir, name); exists(at) {
			return python, at
		}
		f, err := os.Open(at + ".gz")
		if err != nil {
			continue
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		at = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(at, text, 0o755); err != nil {
			t.Fatal(err)
		}
		return python, at
	}
	t.Skipf("SKIPPED: %s is not installed: it is one of fio's documents", name)
	return "", ""
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// runTool runs a program in dir, and returns what it writes.
func runTool(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), program, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "MPLBACKEND=Agg")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// logged runs loads of random reads at several depths and numbers of jobs. It returns a directory with a JSON report
// and all logs of each, with the names that fio-plot expects; it would take histograms of such a name for latencies.
func logged(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, depth := range []int{1, 2} {
		for _, jobs := range []int{1, 2} {
			name := fmt.Sprintf("%s/randread-iodepth-%d-numjobs-%d", dir, depth, jobs)
			_, errOut, status := pcbench(t, context.Background(), fmt.Sprintf("run --rw=randread --bs=4k --size=256k "+
				"--segment=256k --iodepth=%d --numjobs=%d --runtime=400ms --time_based --group_reporting "+
				"--thinktime=50us --bwavgtime=20 --log_hist_msec=50 --log_avg_msec=10 --output-format=json "+
				"--output=%[3]s.json --write_lat_log=%[3]s --write_bw_log=%[3]s --write_iops_log=%[3]s "+
				"--write_hist_log=%s/hist-%[1]d-%[2]d", depth, jobs, name, dir))
			if status != 0 {
				t.Fatalf("%d, %s", status, errOut)
			}
		}
	}
	return dir
}

// fio-plot draws graphs of all its kinds.
func TestFioPlot(t *testing.T) {
	plot := tool(t, "fio-plot")
	dir := logged(t)
	other, steady := t.TempDir(), t.TempDir()
	if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	_, errOut, status := pcbench(t, context.Background(), "run --rw=randread --bs=4k --size=256k --segment=256k "+
		"--iodepth=1 --numjobs=1 --runtime=1m --time_based --steadystate=iops:100% --steadystate_duration=60ms "+
		"--steadystate_check_interval=20ms --output-format=json --output="+steady+"/s.json")
	if status != 0 {
		t.Fatalf("%d, %s", status, errOut)
	}
	for name, line := range map[string]string{
		"bargraph3d of iops":      dir + " -L -t iops -d 1 2 -n 1 2",
		"bargraph3d of latencies": dir + " -L -t lat -d 1 2 -n 1 2",
		"bargraph3d of bandwidth": dir + " -L -t bw -d 1 2 -n 1 2",
		"bargraph2d-qd":           dir + " -l -d 1 2 -n 1 --show-cpu",
		"bargraph2d_nj":           dir + " -N -d 2 -n 1 2",
		"steady state":            steady + " -l -d 1 -n 1 --show-ss",
		"histogram":               dir + " -H -d 1 -n 2",
		"loggraph":                dir + " -g -t lat iops bw -d 1 2 -n 2",
		"loggraph of slat, clat":  dir + " -g -t slat clat -d 1 -n 1",
		"compare-graph":           dir + " " + other + " -C -d 1 -n 1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := filepath.Join(t.TempDir(), "out.png")
			out := runTool(t, dir, plot, append([]string{"-T", "x", "-r", "randread", "-o", at, "-i"},
				strings.Fields(line)...)...)
			b, err := os.ReadFile(at)
			if err != nil || !bytes.HasPrefix(b, []byte("\x89PNG")) || len(b) < 10_000 {
				t.Errorf("no picture: %v, %d bytes\n%s", err, len(b), out)
			}
		})
	}
}

// rows parses lines of numbers with commas between; other lines are left out.
func rows(text string) (all [][]float64) {
	for line := range strings.Lines(text) {
		var row []float64
		for _, word := range strings.Split(strings.Trim(strings.TrimSpace(line), ","), ",") {
			v, err := strconv.ParseFloat(strings.TrimSpace(word), 64)
			if err != nil {
				row = nil
				break
			}
			row = append(row, v)
		}
		if row != nil {
			all = append(all, row)
		}
	}
	return all
}

// readRows returns the rows of a log.
func readRows(t *testing.T, name string) [][]float64 {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return rows(string(b))
}

// fiologparser reads the logs of latencies. That of fio 3.33 expects lines of four columns, and fails for the five
// that fio 3.33 itself writes; it gets the first four then. Its mode -A fails for every log with Python 3.
func TestFioLogParser(t *testing.T) {
	python, parser := script(t, "fiologparser.py")
	dir := logged(t)
	name := filepath.Join(dir, "randread-iodepth-1-numjobs-1_clat.1.log")
	if exec.CommandContext(t.Context(), python, parser, "-a", name).Run() != nil {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var four strings.Builder
		for line := range strings.Lines(string(b)) {
			four.WriteString(line[:strings.LastIndexByte(line, ',')] + "\n")
		}
		if err := os.WriteFile(name, []byte(four.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	least, most := 1e18, 0.0
	for _, r := range readRows(t, name) {
		least, most = min(least, r[1]), max(most, r[1])
	}
	for _, mode := range []string{"-a", "-s", "-f"} {
		all := rows(runTool(t, dir, python, parser, mode, "-i", "50", name))
		if len(all) < 2 {
			t.Errorf("%s: %d intervals", mode, len(all))
		}
		for _, r := range all {
			if v := r[1]; mode == "-a" && (v < least-1 || v > most+1) {
				t.Errorf("%s: %v, and the latencies are %v to %v", mode, r, least, most)
			}
		}
	}
}

// fiologparser_hist and fio-histo-log-pctiles read the logs of histograms: they find all operations in them.
func TestHistogramTools(t *testing.T) {
	dir := logged(t)
	report, err := os.ReadFile(filepath.Join(dir, "randread-iodepth-2-numjobs-2.json"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range []string{"1", "2"} {
		names = append(names, filepath.Join(dir, "hist-2-2_clat_hist."+n+".log"))
	}
	total := float64(readReport(t, string(report)).Jobs[0].Read.Total)
	inFiles := 0.0
	for _, name := range names {
		for _, r := range readRows(t, name) {
			for _, n := range r[3:] {
				inFiles += n
			}
		}
	}
	if inFiles != total {
		t.Errorf("the logs have %v operations, the report %v", inFiles, total)
	}
	t.Run("fiologparser_hist", func(t *testing.T) {
		python, parser := script(t, "fiologparser_hist.py", "numpy", "pandas")
		found := 0.0
		for _, r := range rows(runTool(t, dir, python, append([]string{parser, "-i", "50"}, names...)...)) {
			found += r[1] // end-time, samples, min, avg, median …
			if len(r) != 9 || r[2] > r[4] || r[4] > r[7] || r[7] > r[8] {
				t.Errorf("row %v", r)
			}
		}
		if found < 0.9*total || found > 1.1*total { // it interpolates
			t.Errorf("%v samples of %v", found, total)
		}
	})
	t.Run("fio-histo-log-pctiles", func(t *testing.T) {
		python, parser := script(t, "fio-histo-log-pctiles.py")
		out := runTool(t, dir, python, append([]string{parser, "--fio-version", "3"}, names...)...)
		found := 0.0
		for _, r := range rows(out) {
			found += r[1] // msec-since-start, samples, percentiles
			if !slices.IsSorted(r[2:]) {
				t.Errorf("row %v", r)
			}
		}
		if found < 0.9*total || found > 1.1*total {
			t.Errorf("%v samples of %v\n%s", found, total, out)
		}
	})
}

// fio2gnuplot reads logs of bandwidths and of operations per second, and draws them if gnuplot is installed.
func TestFio2Gnuplot(t *testing.T) {
	plot := tool(t, "fio2gnuplot")
	dir := logged(t)
	draw := exists("/usr/bin/gnuplot")
	for _, kind := range []string{"bw", "iops"} {
		args, want := []string{"-p", "*-numjobs-1_" + kind + ".*.log", "-d", dir}, "*.average"
		if draw {
			args, want = append(args, "-g"), "*.average.png"
		}
		out := runTool(t, dir, plot, args...)
		found, err := filepath.Glob(filepath.Join(dir, want))
		if err != nil || len(found) == 0 {
			t.Errorf("no %s: %v\n%s", want, err, out)
		}
		for _, name := range found {
			if err := os.Remove(name); err != nil {
				t.Error(err)
			}
		}
	}
	if !draw {
		t.Log("gnuplot is not installed: no pictures")
	}
}

// fio_jsonplus_clat2csv reads json+: its counts add up to the operations of the report.
func TestJSONPlusTool(t *testing.T) {
	convert := tool(t, "fio_jsonplus_clat2csv")
	dir := t.TempDir()
	report := filepath.Join(dir, "report.json")
	_, errOut, status := pcbench(t, context.Background(), "run --segment=256k --rw=randread --size=1m "+
		"--output-format=json+ --output="+report)
	if status != 0 {
		t.Fatalf("%d, %s", status, errOut)
	}
	runTool(t, dir, convert, report, filepath.Join(dir, "out.csv"))
	b, err := os.ReadFile(filepath.Join(dir, "out_job0.csv"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	columns, last := strings.Split(lines[0], ", "), strings.Split(lines[len(lines)-1], ", ")
	i := slices.Index(columns, "read_clat_ns_cumulative")
	if i < 0 || last[i] != "256" {
		t.Errorf("the last line is %q, want 256 reads in column %d", last, i)
	}
}

// Prometheus exporters take terse lines apart by the numbers of their columns. No package registry offers one, so this
// compares the columns with those of the fio that is installed: their number, and the kind of each. A disk adds nine.
func TestTerseColumnsLikeFio(t *testing.T) {
	kinds := func(line string) (out []string) {
		for _, field := range strings.Split(strings.TrimSpace(line), ";") {
			kind := "text"
			name, value, pair := strings.Cut(field, "=")
			if pair {
				field = value
			}
			number, percent := strings.CutSuffix(field, "%")
			if _, err := strconv.ParseFloat(number, 64); err == nil {
				kind = "number"
			}
			if percent {
				kind = "percent"
			}
			if pair && strings.HasSuffix(name, "%") {
				kind += " of a percentile"
			}
			out = append(out, kind)
		}
		return out
	}
	for version, want := range map[int]int{2: 0, 3: 121, 4: 0, 5: 0} {
		options := fmt.Sprintf("--name=a --rw=randrw --size=256k --disk_util=0 --output-format=terse "+
			"--terse-version=%d --percentile_list=50:90:99", version)
		out, errOut, status := pcbench(t, context.Background(), "run --segment=256k "+options)
		if status != 0 {
			t.Fatalf("%d, %s", status, errOut)
		}
		ours := kinds(out)
		if want > 0 && len(ours) != want {
			t.Errorf("version %d: %d columns, and exporters want %d", version, len(ours), want)
		}
		theirs := kinds(fio(t, append(strings.Fields(options), "--ioengine=psync", "--thread", "--directory=.")...))
		if !slices.Equal(ours, theirs) {
			t.Errorf("version %d: %d columns, in fio %d:\n%v\n%v", version, len(ours), len(theirs), ours, theirs)
		}
	}
	out, errOut, status := pcbench(t, context.Background(), "run --segment=256k --rw=randread --size=256k "+
		"--output-format=terse --terse-version=3 --status-interval=50ms --runtime=130ms --time_based --group_reporting")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); status != 0 || len(lines) < 2 {
		t.Errorf("%d, %s: %d lines with status-interval", status, errOut, len(lines))
	} else {
		for _, line := range lines {
			if n := len(strings.Split(line, ";")); n != 121 && n != 130 {
				t.Errorf("%d columns in %q", n, line)
			}
		}
	}
}
