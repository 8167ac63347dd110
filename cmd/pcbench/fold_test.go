package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Folding breaks lines at spaces, loses no word, and ends for every width.
func TestFold(t *testing.T) {
	text := "  short\n  clat (nsec): min=80, max=6368.2k, avg=1557.27, stdev=25463.59\n\n" +
		"     | 99.00th=[  2064], 99.50th=[   512]\n" + strings.Repeat("x", 100) + " y\n" +
		"  pcbench run OPTIONS [FILE.fio ...]      äöü " + strings.Repeat("word ", 20) + "end\n"
	for columns := range 90 {
		var out []byte
		for line := range strings.Lines(text) {
			out = appendFolded(out, []byte(line), columns)
		}
		got := string(out)
		if strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(text), " ") {
			t.Fatalf("%d columns: %s", columns, got)
		}
		if columns < foldFrom || columns >= foldBelow {
			if got != text {
				t.Errorf("%d columns: the text changes", columns)
			}
			continue
		}
		for line := range strings.Lines(got) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); columns >= 40 && n > columns &&
				!strings.Contains(line, "xxx") {
				t.Errorf("%d columns: %d in %q", columns, n, line)
			}
		}
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if fold(f) != f {
		t.Error("output that is no terminal is folded")
	}
	w := &folder{File: f, columns: func() int { return 20 }}
	for _, part := range []string{"one two three fou", "r", " five\nsi", "x\n"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	b, err := os.ReadFile(f.Name())
	if err != nil || string(b) != "one two three four\n  five\nsix\n" {
		t.Errorf("%q, %v", b, err)
	}
	if unfolded(w) != f || unfolded(f) != f {
		t.Error("unfolded")
	}
}
