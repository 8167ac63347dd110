package lint

import (
	"flag"
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the index of docs/RULES.md anew")

const (
	rulesDoc   = "docs/RULES.md"
	indexBegin = "<!-- index: begin -->\n"
	indexEnd   = "<!-- index: end -->"
)

var (
	// mention finds "rule 5", "rules 1 and 5", "trap 10", "traps 9–13, 17", "rule 4b".
	mention = regexp.MustCompile(`(?i)\b(rule|trap)s?\s+(\d+[a-d]?(?:(?:\s*,\s*|\s+and\s+|\s*,\s*and\s+|\s*[–-]\s*)\d+[a-d]?)*)`)
	number  = regexp.MustCompile(`([–-]\s*)?(\d+)`)
	// ruleRow finds the rows of the tables.
	ruleRow = regexp.MustCompile(`(?m)^\| (\d+) \| (now|later) \|`)
	listed  = regexp.MustCompile("\\[`(\\w+)`\\]\\(\\.\\./([^)]+)\\)")
)

// subject is a rule or a trap.
type subject struct {
	kind string // "rule" or "trap"
	n    int
}

// place is a test.
type place struct{ file, name string }

// mentions returns the rules and traps that a comment names.
func mentions(text string) (found []subject) {
	text = strings.Join(strings.Fields(text), " ")
	for _, m := range mention.FindAllStringSubmatch(text, -1) {
		last := 0
		for _, d := range number.FindAllStringSubmatch(m[2], -1) {
			n, _ := strconv.Atoi(d[2])
			from := n
			if d[1] != "" && last > 0 && last < n {
				from = last + 1
			}
			for i := from; i <= n; i++ {
				found = append(found, subject{strings.ToLower(m[1]), i})
			}
			last = n
		}
	}
	return found
}

func TestMentions(t *testing.T) {
	got := fmt.Sprint(mentions("Proves rules 1 and 5; trap 10. traps 9–11, 17 and 18, rule 4b, rules\n2, 3, not 7"))
	want := "[{rule 1} {rule 5} {trap 10} {trap 9} {trap 10} {trap 11} {trap 17} {trap 18} {rule 4} {rule 2} {rule 3}]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// testFunc reports whether f is run by go test.
func testFunc(f *ast.FuncDecl) bool {
	for _, p := range []string{"Test", "Fuzz", "Benchmark", "Example"} {
		if f.Recv == nil && strings.HasPrefix(f.Name.Name, p) {
			return true
		}
	}
	return false
}

// proofs finds which tests name which rules and traps, in the comment above them or in one inside.
func proofs(t *testing.T) (map[subject][]place, map[place]bool) {
	proved, tests := map[subject][]place{}, map[place]bool{}
	for _, s := range sources(t) {
		if !s.test || s.pkg == "internal/lint" {
			continue
		}
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !testFunc(f) {
				continue
			}
			p := place{s.name, f.Name.Name}
			tests[p] = true
			begin := f.Pos()
			if f.Doc != nil {
				begin = f.Doc.Pos()
			}
			for _, c := range s.ast.Comments {
				if c.Pos() < begin || c.End() > f.End() {
					continue
				}
				for _, m := range mentions(c.Text()) {
					if !slices.Contains(proved[m], p) {
						proved[m] = append(proved[m], p)
					}
				}
			}
		}
	}
	return proved, tests
}

// subjects returns the rules and traps of the document, and which of them apply now.
func subjects(t *testing.T, doc string) (all []subject, now map[subject]bool) {
	rules, traps, ok := strings.Cut(doc, "\n## Traps\n")
	if !ok {
		t.Fatalf("%s has no traps", rulesDoc)
	}
	now = map[subject]bool{}
	for _, part := range []struct{ kind, text string }{{"rule", rules}, {"trap", traps}} {
		for i, m := range ruleRow.FindAllStringSubmatch(part.text, -1) {
			if m[1] != strconv.Itoa(i+1) {
				t.Fatalf("%s: %s %s is in the place of %d", rulesDoc, part.kind, m[1], i+1)
			}
			sub := subject{part.kind, i + 1}
			all = append(all, sub)
			now[sub] = m[2] == "now"
		}
	}
	return all, now
}

// The index of docs/RULES.md lists the tests that name a rule or a trap, they exist, and what applies now has at least one.
func TestIndex(t *testing.T) {
	doc := read(t, rulesDoc)
	all, now := subjects(t, doc)
	proved, tests := proofs(t)
	head, rest, ok1 := strings.Cut(doc, indexBegin)
	old, tail, ok2 := strings.Cut(rest, indexEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no index", rulesDoc)
	}
	for _, m := range listed.FindAllStringSubmatch(old, -1) {
		if !tests[place{m[2], m[1]}] && !*update {
			t.Errorf("%s lists %s in %s, which does not exist", rulesDoc, m[1], m[2])
		}
	}
	var b strings.Builder
	b.WriteString("| rule or trap | tests |\n|---|---|\n")
	for _, s := range all {
		if now[s] && len(proved[s]) == 0 {
			t.Errorf("%s %d applies now, and no test names it", s.kind, s.n)
		}
		var cells []string
		for _, p := range proved[s] {
			cells = append(cells, fmt.Sprintf("[`%s`](../%s)", p.name, p.file))
		}
		if len(cells) == 0 {
			cells = []string{"–"}
		}
		fmt.Fprintf(&b, "| %s %d | %s |\n", s.kind, s.n, strings.Join(cells, " · "))
	}
	for s := range proved {
		if !slices.Contains(all, s) {
			t.Errorf("%v names %s %d, which there is not", proved[s], s.kind, s.n)
		}
	}
	switch {
	case *update:
		if err := os.WriteFile(filepath.Join(root, rulesDoc), []byte(head+indexBegin+b.String()+indexEnd+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	case b.String() != old:
		t.Errorf("the index of %s is out of date; go test ./internal/lint -run Index -update writes it anew", rulesDoc)
	}
}
