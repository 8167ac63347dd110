package lint

import (
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const rulesDoc = "docs/RULES.md"

var (
	// mention finds "rule 5", "rules 1 and 5", "trap 10", "traps 9–13, 17", "rule 4b".
	mention = regexp.MustCompile(`(?i)\b(rule|trap)s?\s+` +
		`(\d+[a-d]?(?:(?:\s*,\s*|\s+and\s+|\s*,\s*and\s+|\s*[–-]\s*)\d+[a-d]?)*)`)
	number = regexp.MustCompile(`([–-]\s*)?(\d+)`)
	// ruleRow finds the rows of the tables.
	ruleRow = regexp.MustCompile(`(?m)^\| (\d+) \| (now|later) \|`)
)

// subject is a rule or a trap.
type subject struct {
	kind string // "rule" or "trap"
	n    int
}

// place names a test.
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

// proofs returns the tests that name each rule and trap, in the comment above them or in one inside.
func proofs(t *testing.T) map[subject][]place {
	proved := map[subject][]place{}
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
	return proved
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

// Every rule and trap that applies now is named by a test, and tests name only existing ones. With -v it prints the
// tests of each.
func TestIndex(t *testing.T) {
	all, now := subjects(t, read(t, rulesDoc))
	proved := proofs(t)
	for _, s := range all {
		if now[s] && len(proved[s]) == 0 {
			t.Errorf("%s %d applies now, and no test names it", s.kind, s.n)
		}
		for _, p := range proved[s] {
			t.Logf("%s %d: %s in %s", s.kind, s.n, p.name, p.file)
		}
	}
	for s := range proved {
		if !slices.Contains(all, s) {
			t.Errorf("%v names %s %d, which does not exist", proved[s], s.kind, s.n)
		}
	}
}
