package lint

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	maxColumns = 120
	tabColumns = 4
)

var anyURL = regexp.MustCompile(`https?://[^\s)>\]"]+`)

// columns returns the width of a line: a tab counts 4.
func columns(line string) int {
	return utf8.RuneCountInString(line) + strings.Count(line, "\t")*(tabColumns-1)
}

// wideLines finds the lines beyond 120 columns, except lines with a URL that does not fit by itself.
func wideLines(name, text string) (found []finding) {
	for i, line := range strings.Split(text, "\n") {
		w := columns(line)
		if w <= maxColumns {
			continue
		}
		long := 0
		for _, u := range anyURL.FindAllString(line, -1) {
			long = max(long, columns(u))
		}
		if long <= maxColumns {
			found = append(found, finding{name, i + 1, fmt.Sprintf("%d columns, at most %d", w, maxColumns)})
		}
	}
	return found
}

func TestWideLines(t *testing.T) {
	url := "https://example.org/" + strings.Repeat("x", maxColumns)
	same(t, wideLines("sample", strings.Join([]string{
		strings.Repeat("x", maxColumns),
		strings.Repeat("x", maxColumns+1), // 2
		"\t" + strings.Repeat("x", maxColumns-4),
		"\t" + strings.Repeat("x", maxColumns-3), // 4
		strings.Repeat("…", maxColumns),
		"[a link](" + url + ") and more",
		"https://example.org/" + strings.Repeat(" words", 20), // 7
		"| " + strings.Repeat("cell | ", 20),                  // 8
	}, "\n")), 2, 4, 7, 8)
}

// Lines of code, comments, documents and scripts have at most 120 columns.
func TestColumns(t *testing.T) {
	var found []finding
	for _, s := range sources(t) {
		if !s.generated {
			found = append(found, wideLines(s.name, s.text)...)
		}
	}
	for _, name := range files(t, ".md", ".sh", ".ci/run") {
		found = append(found, wideLines(name, read(t, name))...)
	}
	report(t, found)
}
