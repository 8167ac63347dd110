package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// fio runs the fio that is installed, or skips the test.
func fio(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("fio"); err != nil {
		t.Skip("SKIPPED: fio is not installed")
	}
	c := exec.CommandContext(t.Context(), "fio", args...)
	c.Dir = t.TempDir()
	out, err := c.Output()
	if err != nil {
		t.Fatalf("fio %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// field is the path of a field of a report, with the kind of its value.
type field struct{ path, kind string }

// fieldsOf returns all fields of a report in their order, each once. Paths begin below jobs, and bins have one.
func fieldsOf(t *testing.T, text string) (all []field) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var walk func(path string)
	walk = func(path string) {
		token, err := d.Token()
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		f := field{strings.TrimPrefix(strings.TrimPrefix(path, "/jobs"), "/"), "text"}
		switch v := token.(type) {
		case json.Delim:
			for d.More() {
				if v == '[' {
					walk(path)
					continue
				}
				name, err := d.Token()
				if err != nil {
					t.Fatal(err)
				}
				if at := path + "/" + name.(string); strings.HasSuffix(path, "/bins") {
					walk(path + "/N")
				} else {
					walk(at)
				}
			}
			if _, err := d.Token(); err != nil { // the closing bracket
				t.Fatal(err)
			}
			return // the fields below say enough
		case json.Number:
			if f.kind = "int"; strings.Contains(v.String(), ".") {
				f.kind = "float"
			}
		case bool:
			f.kind = "bool"
		}
		if !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	walk("")
	return all
}

// difference is a row of the table of differences in docs/PCBENCH.md.
type difference struct {
	fields []string // a path, or the beginning of one before *
	how    string   // only here, only in fio, or value
	found  bool
}

// differences reads the table of differences.
func differences(t *testing.T) (rows []*difference) {
	t.Helper()
	text, err := os.ReadFile(pcbenchDoc)
	if err != nil {
		t.Fatal(err)
	}
	_, text2, ok := strings.Cut(string(text), "<!-- differences: TestJSONLikeFio compares them -->")
	if !ok {
		t.Fatal("the table of differences is not found")
	}
	table, _, _ := strings.Cut(text2, "<!-- end -->")
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.Contains(cells[1], "`") {
			continue
		}
		row := &difference{how: strings.TrimSpace(cells[2])}
		for _, f := range strings.Split(cells[1], ",") {
			row.fields = append(row.fields, strings.Trim(strings.TrimSpace(f), "`"))
		}
		if strings.TrimSpace(cells[3]) == "" {
			t.Errorf("%v has no reason", row.fields)
		}
		rows = append(rows, row)
	}
	return rows
}

func (d *difference) matches(path string) bool {
	return slices.ContainsFunc(d.fields, func(f string) bool {
		start, wild := strings.CutSuffix(f, "*")
		return path == f || wild && strings.HasPrefix(path, start)
	})
}

// For these kinds of load, the report has the same fields as that of the fio that is installed, if that is 3.33, of the
// same kinds and in the same order. The table in docs/PCBENCH.md has all differences, and no others.
func TestJSONLikeFio(t *testing.T) {
	if v := fio(t, "--version"); !strings.HasPrefix(v, "fio-3.33") {
		t.Skipf("SKIPPED: this is %s, not 3.33", strings.TrimSpace(v))
	}
	table := differences(t)
	note := func(line, how, path string) {
		for _, d := range table {
			if d.how == how && d.matches(path) {
				d.found = true
				return
			}
		}
		t.Errorf("%s: %s: %s: no row of the table says so", line, path, how)
	}
	for i, line := range []string{
		"--rw=read --name=a",
		"--rw=write --end_fsync=1 --name=a",
		"--rw=randrw --fdatasync=4 --bs=8k --name=a --iodepth=1 --numjobs=1",
		"--rw=randread --name=a --numjobs=2 --group_reporting",
		"--rw=randwrite --name=a --rate_iops=1000 --lat_percentiles=1",
		"--rw=randrw --name=a --unified_rw_reporting=mixed",
		"--name=a --rw=randrw --unified_rw_reporting=both --continue_on_error=all --description=x",
		"--rw=randread --percentile_list=50:99 --clat_percentiles=1 --name=a --name=b --stonewall",
		"--rw=randread --runtime=5 --time_based --steadystate=iops:90% --steadystate_duration=1 --name=a",
		"--rw=randwrite --verify=crc32c --name=a",
	} {
		for _, format := range []string{"json", "json+"} {
			if format == "json+" && i%4 != 0 {
				continue // it only adds bins
			}
			options := append([]string{"--size=256k", "--ioengine=psync", "--thread", "--output-format=" + format},
				strings.Fields(line)...)
			theirs := fieldsOf(t, fio(t, append(options, "--directory=.")...))
			out, errOut, status := pcbench(t, context.Background(), "run "+strings.Join(options, " "))
			if status != 0 {
				t.Fatalf("%s: %d, %s", line, status, errOut)
			}
			ours := fieldsOf(t, out)
			var both [2][]field
			for _, f := range theirs {
				if slices.Contains(ours, f) {
					both[0] = append(both[0], f)
				} else {
					note(line, "only in fio", f.path)
				}
			}
			for _, f := range ours {
				if slices.Contains(theirs, f) {
					both[1] = append(both[1], f)
				} else {
					note(line, "only here", f.path)
				}
			}
			inOrder := func(fields []field) (rest []field) { // options are in the order in which they were given
				for _, f := range fields {
					if !strings.Contains(f.path, "options/") {
						rest = append(rest, f)
					}
				}
				return rest
			}
			if a, b := inOrder(both[0]), inOrder(both[1]); !slices.Equal(a, b) {
				t.Errorf("%s: the order differs:\n%v\nfio: %v", line, b, a)
			}
		}
	}
	for _, d := range table {
		if d.how != "value" && !d.found {
			t.Errorf("%v: %s: the table says so, and it is not true", d.fields, d.how)
		}
	}
}
