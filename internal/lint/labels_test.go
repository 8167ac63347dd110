package lint

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// labelOwners is the register of labels: each prefix of numbered properties and assumptions belongs to the doc
// comments of one package, or to one document, and has one meaning.
var labelOwners = map[string]string{
	"P": "engine",
	"M": "engine", // memory.go
	"N": "engine/internal/snapshot",
	"S": "engine/internal/stream",
	"C": "engine/internal/clean",
	"B": "engine/internal/blob",
	"E": "engine/internal/epoch",
	"J": "engine/internal/scratch",
	"T": "engine/internal/pagetable",
	"K": "engine/internal/pagestack",
	"L": "engine/internal/iobuf",
	"W": "iouring", // the writer
	"R": "iouring", // the reader
	"I": "engine/internal/roots",
	"Q": "engine/internal/txn",
	"G": "segments",
	"F": "segments/format",
	"V": "recovery",
	"U": "lru",
	"X": "mmapread",
	"Z": "engine/internal/checkpoint",
	"Y": "internal/simdisk",
	"A": "docs/DURABILITY.md",
	"O": "docs/TESTING.md",
}

// maxLabel is above the highest number of a label: P99 is a percentile.
const maxLabel = 40

var (
	declaredLabel = regexp.MustCompile(`^(?:\t|\| *(?:\*\*)?)([A-Z])(\d{1,2})(?:\*\*)?(?: *\||[ \t]+\S)`)
	labelMention  = regexp.MustCompile(`(?:^|[^\pL\pN_+])([A-Z])(\d{1,2})\b( caches?\b)?`)
)

// label is a place that declares or names a label.
type label struct {
	name   string // of the file
	line   int
	prefix string
	number string
	text   string // the line
}

// finding makes a finding at the place of a label.
func (l label) finding(format string, args ...any) finding {
	return finding{l.name, l.line, fmt.Sprintf(format, args...)}
}

// labelsIn returns the labels that a line of prose declares or names. A list in a doc comment, or the first column of a
// table, declares.
func labelsIn(name string, n int, line string) (declared, mentioned []label) {
	if m := declaredLabel.FindStringSubmatch(line); m != nil {
		declared = append(declared, label{name, n, m[1], m[2], line})
	}
	line = quoted.ReplaceAllString(line, "")
	for _, m := range labelMention.FindAllStringSubmatch(line, -1) {
		if k, _ := strconv.Atoi(m[2]); k > 0 && k <= maxLabel && m[3] == "" {
			mentioned = append(mentioned, label{name, n, m[1], m[2], line})
		}
	}
	return declared, mentioned
}

// labelsOf returns the labels in the comments of a Go file. Tests declare none.
func labelsOf(s *source) (declared, mentioned []label) {
	for _, g := range s.ast.Comments {
		for _, c := range g.List {
			for i, line := range strings.Split(strings.TrimPrefix(c.Text, "//"), "\n") {
				d, m := labelsIn(s.name, s.line(c.Pos())+i, line)
				if mentioned = append(mentioned, m...); !s.test {
					declared = append(declared, d...)
				}
			}
		}
	}
	return declared, mentioned
}

// labelsOfProse returns the labels in a document, but for those in code.
func labelsOfProse(name, text string) (declared, mentioned []label) {
	fenced := false
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		}
		if !fenced {
			d, m := labelsIn(name, i+1, line)
			declared, mentioned = append(declared, d...), append(mentioned, m...)
		}
	}
	return declared, mentioned
}

// checkLabels finds labels that are declared outside of their owner or twice, and names of labels that no one
// declares.
func checkLabels(declared, mentioned []label, owners map[string]string) (found []finding) {
	at := map[string]label{}
	for _, l := range declared {
		key := l.prefix + l.number
		owner := owners[l.prefix]
		switch first, twice := at[key]; {
		case owner == "":
			found = append(found, l.finding("label %s: no such prefix in the register", key))
		case owner != l.name && owner != path.Dir(l.name):
			found = append(found, l.finding("label %s: the prefix belongs to %s", key, owner))
		case twice:
			found = append(found, l.finding("label %s: declared at %s:%d too", key, first.name, first.line))
		default:
			at[key] = l
		}
	}
	for _, l := range mentioned {
		key := l.prefix + l.number
		if _, ok := at[key]; ok || declares(declared, l) {
			continue
		}
		found = append(found, l.finding("label %s is declared nowhere", key))
	}
	return found
}

// declares reports whether a mention is the declaration itself, which has been checked.
func declares(declared []label, l label) bool {
	for _, d := range declared {
		if d.name == l.name && d.line == l.line && d.prefix == l.prefix && d.number == l.number {
			return true
		}
	}
	return false
}

func TestLabelSamples(t *testing.T) {
	owners := map[string]string{"B": "blob", "A": "docs/A.md"}
	var declared, mentioned []label
	add := func(d, m []label) { declared, mentioned = append(declared, d...), append(mentioned, m...) }
	add(labelsOf(sample(t, "blob/doc.go", `// Package blob has properties:
//
//	B1  One.
//	B2  Two, by B1 and B9.
//	S3  Of no register.
//	B1  Again.
//
// P99 latency, L1 cache, 0xB7, UTF8.
package blob // B2
`)))
	add(labelsOf(sample(t, "other/x.go", `package other

//	B5  Not here.

// See blob.B2 and (A2), A1–A2, B6.
var x = 0
`)))
	add(labelsOf(sample(t, "other/x_test.go", "package other\n\n//\tB1 is proved here.\n")))
	add(labelsOfProse("docs/A.md",
		"| A1 | first |\n| A2 | B3 |\n```\nB8\n```\nThe `B8` of B2.\n**A2.** More of A1.\n"))
	found := checkLabels(declared, mentioned, owners)
	var got []string
	for _, f := range found {
		got = append(got, f.String())
	}
	want := []string{
		"blob/doc.go:5: label S3: no such prefix in the register",
		"blob/doc.go:6: label B1: declared at blob/doc.go:3 too",
		"other/x.go:3: label B5: the prefix belongs to blob",
		"blob/doc.go:4: label B9 is declared nowhere",
		"other/x.go:5: label B6 is declared nowhere",
		"docs/A.md:2: label B3 is declared nowhere",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Each label is declared once, by the package or document that the register names, and every label that is named
// exists.
func TestLabels(t *testing.T) {
	var declared, mentioned []label
	add := func(d, m []label) { declared, mentioned = append(declared, d...), append(mentioned, m...) }
	for _, s := range sources(t) {
		if s.pkg != "internal/lint" {
			add(labelsOf(s))
		}
	}
	for _, name := range files(t, ".md") {
		add(labelsOfProse(name, read(t, name)))
	}
	report(t, checkLabels(declared, mentioned, labelOwners))
}
