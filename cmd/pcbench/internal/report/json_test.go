package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func fixedJSON(t *testing.T) []byte {
	t.Helper()
	b := &bytes.Buffer{}
	if err := JSON(b, fixedResult(), time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC), DetailPercentiles); err != nil {
		t.Fatal(err)
	}
	return pidless(b.Bytes())
}

func TestJSONGolden(t *testing.T) {
	golden(t, "report.json", fixedJSON(t))
}

// member is a field of a report: its path and its kind.
type member struct{ at, kind string }

// members returns the fields of a report in order. Of an array it returns the fields of the first element.
func members(t *testing.T, text []byte) (all []member) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var value func(at string, note bool)
	value = func(at string, note bool) {
		tok, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		add := func(kind string) {
			if note {
				all = append(all, member{at, kind})
			}
		}
		switch v := tok.(type) {
		case json.Delim:
			add(v.String())
			for i := 0; d.More(); i++ {
				if v == '[' {
					value(at+"/0", note && i == 0)
					continue
				}
				name, err := d.Token()
				if err != nil {
					t.Fatal(err)
				}
				value(fmt.Sprint(at, "/", name), note)
			}
			if _, err := d.Token(); err != nil { // the closing delimiter
				t.Fatal(err)
			}
		case json.Number:
			add(map[bool]string{true: "float", false: "int"}[strings.Contains(v.String(), ".")])
		default:
			add(fmt.Sprintf("%T", v))
		}
	}
	value("", true)
	if _, err := d.Token(); err != io.EOF {
		t.Fatal(err)
	}
	return all
}

// The report of pcbench has the same fields as the report of fio 3.33 in testdata, of the same kinds and in the same
// order, followed by the store, and has job_start, as newer versions of fio. The options are those of the command line.
func TestJSONHasFieldsOfFio(t *testing.T) {
	theirs, err := os.ReadFile(filepath.Join("testdata", "fio-3.33.json"))
	if err != nil {
		t.Fatal(err)
	}
	without := func(all []member) []member {
		return slices.DeleteFunc(all, func(m member) bool {
			for _, p := range []string{"/disk_util/", "/global options/", "/jobs/0/job options/", "/jobs/0/store",
				"/jobs/0/job_start"} {
				if strings.HasPrefix(m.at, p) {
					return true
				}
			}
			return false
		})
	}
	fio, ours := without(members(t, theirs)), without(members(t, fixedJSON(t)))
	for i := range max(len(fio), len(ours)) {
		if i >= len(fio) || i >= len(ours) || fio[i] != ours[i] {
			t.Fatalf("field %d: fio has %q, we have %q", i, fio[min(i, len(fio)-1)], ours[min(i, len(ours)-1)])
		}
	}
	if len(fio) < 200 {
		t.Errorf("only %d fields compared", len(fio))
	}
	if !bytes.Contains(fixedJSON(t), []byte(`">=64": `)) {
		t.Error("no >=64")
	}
}
