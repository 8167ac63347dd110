package job

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseTrace(t *testing.T) {
	tr, err := parseTrace(strings.NewReader("fio version 2 iolog\nf add\nf open\nf read 0 4096\nf wait 50 0\n" +
		"\nf write 8192 4096\nf sync\nf close\n"))
	if err != nil || tr.Timed || len(tr.Ops) != 3 || tr.Ops[1].At != 50_000_000 || tr.Ops[1].Dir != DirWrite ||
		tr.Ops[1].Offset != 8192 || !tr.Ops[2].Sync {
		t.Errorf("%+v, %v", tr, err)
	}
	for _, bad := range []string{"", "fio version 1 iolog\n", "fio version 3 iolog\nx f read 0 1\n",
		"fio version 2 iolog\nf\n", "fio version 2 iolog\nf raed 0 1\n", "fio version 2 iolog\nf wait\n",
		"fio version 2 iolog\nf wait soon\n", "fio version 2 iolog\nf wait 9223372036854775807\n",
		"fio version 3 iolog\n9223372036854775807 f read 0 1\n", "fio version 3 iolog\n5\n",
		"fio version 3 iolog\n-1 f read 0 1\n", "fio version 2 iolog\nf read x 1\n",
		"fio version 2 iolog\nf read -4096 1\n"} {
		if _, err := parseTrace(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// A job does what its trace does. A trace that cannot be read is an error of the command line.
func TestReadTrace(t *testing.T) {
	name := filepath.Join(t.TempDir(), "trace")
	for text, want := range map[string]string{"0 f write 0 1": "write", "0 f read 0 1\n0 f write 0 1": "rw",
		"0 f trim 0 1\n0 f write 0 1": "trimwrite", "0 f read 0 1\n0 f trim 0 1\n0 f write 0 1": "rw",
		"0 f sync": "write"} {
		if err := os.WriteFile(name, []byte("fio version 3 iolog\n"+text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := Parse([]string{"--read_iolog=" + name, "--rw=randread", "--random_distribution=zipf:1.2"})
		if err != nil || p.Jobs[0].RW != want || !p.Jobs[0].Open() {
			t.Errorf("%q: %v, %v; want %s", text, p.Jobs, err, want)
		}
	}
	if err := os.WriteFile(name, []byte("fio version 3 iolog\n0 f read 5000 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := Parse([]string{"--read_iolog=" + name, "--size=4k"})
	if err != nil || len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "1 of 1 operations lie beyond --size") {
		t.Errorf("%v, %v", p.Notes, err)
	}
	for bad, want := range map[string]string{name + "x": "no such file", t.TempDir(): "is a directory"} {
		if _, err := Parse([]string{"--read_iolog=" + bad}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
