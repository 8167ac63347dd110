package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pagecache/cmd/pcbench/internal/job"
)

// fio runs the fio that is installed, or skips the test.
func fio(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("fio"); err != nil {
		t.Skip("SKIPPED: fio is not installed")
	}
	c := exec.CommandContext(t.Context(), "fio", append(args, "--ioengine=psync", "--thread")...)
	c.Dir = t.TempDir()
	out, err := c.Output()
	if err != nil {
		t.Fatalf("fio %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// fields returns the paths of all fields of a report with their kinds, sorted. Fields that are documented as different
// in docs/PCBENCH.md are left out.
func fields(t *testing.T, text string) (all []string) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var report any
	if err := d.Decode(&report); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		for _, other := range []string{"/disk_util", "/global options", "/job options", "/store", "/job_start"} {
			if strings.HasSuffix(at, other) {
				return
			}
		}
		switch v := v.(type) {
		case map[string]any:
			all = append(all, at+" object")
			for k, x := range v {
				if !strings.HasSuffix(at, "/bins") {
					walk(at+"/"+k, x)
				}
			}
		case []any:
			for _, x := range v {
				walk(at, x)
			}
		case json.Number:
			kind := " int"
			if strings.Contains(v.String(), ".") {
				kind = " float"
			}
			all = append(all, at+kind)
		default:
			all = append(all, at+" text")
		}
	}
	walk("", report)
	slices.Sort(all)
	return slices.Compact(all)
}

// For these kinds of load, the report has the same fields as that of the fio that is installed, if that is 3.33.
func TestJSONLikeFio(t *testing.T) {
	if v := fio(t, "--version"); !strings.HasPrefix(v, "fio-3.33") {
		t.Skipf("SKIPPED: this is %s, not 3.33", strings.TrimSpace(v))
	}
	for _, line := range []string{
		"--rw=read --size=256k",
		"--rw=write --size=256k --end_fsync=1",
		"--rw=randrw --size=256k --fdatasync=4",
		"--rw=randread --size=256k --numjobs=2 --group_reporting",
		"--rw=randwrite --size=256k --rate_iops=1000 --lat_percentiles=1",
		"--rw=randrw --size=256k --unified_rw_reporting=mixed",
		"--rw=randrw --size=256k --unified_rw_reporting=both --continue_on_error=all --description=x",
		"--rw=randread --size=256k --percentile_list=50:99 --clat_percentiles=1",
	} {
		for _, format := range []string{"json", "json+"} {
			options := append(strings.Fields(line), "--name=a", "--output-format="+format)
			theirs := fields(t, fio(t, append(options, "--directory=.")...))
			out, errOut, status := pcbench(t, context.Background(), "run --segment=256k "+strings.Join(options, " "))
			if status != 0 {
				t.Fatalf("%s: %d, %s", line, status, errOut)
			}
			ours := fields(t, out)
			for _, f := range theirs {
				if !slices.Contains(ours, f) {
					t.Errorf("%s, %s: only fio has %s", line, format, f)
				}
			}
			for _, f := range ours {
				if !slices.Contains(theirs, f) {
					t.Errorf("%s, %s: fio does not have %s", line, format, f)
				}
			}
		}
	}
}

// The examples of fio that make sense for pages are accepted, and all others are refused with a reason: an unknown
// option is none. The directory is that of fio's source, in FIO_EXAMPLES; a few are in testdata.
func TestFioExamples(t *testing.T) {
	dirs := []string{filepath.Join("testdata", "examples")}
	if d := os.Getenv("FIO_EXAMPLES"); d != "" {
		dirs = append(dirs, d)
	}
	accepted := 0
	for _, dir := range dirs {
		names, err := filepath.Glob(filepath.Join(dir, "*.fio"))
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: no examples, %v", dir, err)
		}
		for _, name := range names {
			_, err := job.Parse([]string{name})
			if err == nil {
				accepted++
			} else if dir == dirs[0] {
				t.Error(err)
			}
			if err != nil && strings.Contains(err.Error(), "no such option") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	t.Logf("%d examples are accepted", accepted)
}
