package lint

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"
)

// clauses are the habits that a regular expression alone does not find.
var clauses = []struct {
	find      func(*passage) []int
	instead   string
	bad, good []string
}{
	{
		find: headlessWho, instead: "the actor: the caller, the goroutine that",
		bad: []string{
			"Who writes a storage engine gets pages.", "Whoever loses has read a true state.", "wakes whoever waits",
			"set by who made it", "room for who comes late", "because of who waits", "harder to who waits",
			"later than who began", "the first; who reads it late finds out", "(who writes asks for room)",
			"those who wait", "a goroutine who waits", "Nobody who embeds it", "CONCURRENCY.md for who may touch it",
			"It says who may write", "| set by x | who sweeps |",
		},
		good: []string{
			"an engineer who has never seen the project", "The author, who knew it", "a reader who is new", "whole",
			"Who writes? The leader.", "the person who runs it",
		},
	}, {
		find: frontedCondition, instead: "if",
		bad: []string{"Is the merged value there, it is the answer.", "It reads. Has it failed, the log stops."},
		good: []string{
			"Is the value there, or not?", "It is there, and stays.", "Has reports whether a key is there, or was.",
			"Do this last, after the sync.",
		},
	}, {
		find: nominalWhat, instead: "the noun: pages that do not fit",
		bad: []string{
			"What does not fit is evicted.", "It moves them. What is left, stays.",
			"The rest goes: what does not fit is evicted.",
		},
		good: []string{
			"# What it guarantees", "What is a page? A name.", "| what | at least |", "It does what it says.",
			"The rest (i.e. what is left) is moved now.",
		},
	},
}

type compiled struct {
	*idiom
	pattern, unless, in *regexp.Regexp
	onlyNames           bool
}

// compile compiles an idiom's expressions.
func compile(i *idiom) compiled {
	c := compiled{idiom: i, pattern: regexp.MustCompile("(?i)" + i.pattern)}
	if i.unless != "" {
		c.unless = regexp.MustCompile("(?i)" + i.unless)
	}
	if i.in != "" {
		c.in = regexp.MustCompile(i.in)
	}
	return c
}

var compiledIdioms = sync.OnceValue(func() (all []compiled) {
	for i := range idioms {
		all = append(all, compile(&idioms[i]))
	}
	for i := range nameIdioms {
		c := compile(&nameIdioms[i])
		c.onlyNames = true
		all = append(all, c)
	}
	return all
})

// find returns where the text has the idiom.
func (c *compiled) find(name, text string) (hits [][]int) {
	if c.in != nil && !c.in.MatchString(name) {
		return nil
	}
	var excused [][]int
	for _, h := range c.pattern.FindAllStringIndex(text, -1) {
		if excused == nil && c.unless != nil {
			excused = append(c.unless.FindAllStringIndex(text, -1), []int{-1, -1})
		}
		good := false
		for _, e := range excused {
			good = good || e[0] < h[1] && h[0] < e[1]
		}
		if !good {
			hits = append(hits, h)
		}
	}
	return hits
}

// language finds the idioms and clauses of a passage.
func language(p *passage) (found []finding) {
	for _, c := range compiledIdioms() {
		if c.onlyNames {
			continue
		}
		for _, h := range c.find(p.name, p.text) {
			text := fmt.Sprintf("%q: write %s: %s", p.text[h[0]:h[1]], c.instead, around(p.text, h[0]))
			found = append(found, finding{p.name, p.lines[h[0]], text})
		}
	}
	for _, c := range clauses {
		for _, at := range c.find(p) {
			text := fmt.Sprintf("write %s: %s", c.instead, around(p.text, at))
			found = append(found, finding{p.name, p.lines[at], text})
		}
	}
	return found
}

// around returns the words near an offset, for messages.
func around(text string, at int) string {
	begin := max(strings.LastIndexAny(text[:max(at-20, 0)], " \n")+1, 0)
	end := min(at+50, len(text))
	if i := strings.IndexAny(text[end:], " \n"); i >= 0 {
		end += i
	}
	return "… " + strings.TrimSpace(strings.ReplaceAll(text[begin:end], "\n", " ")) + " …"
}

// wordsOf splits a name into its words: IOMode into IO and Mode.
func wordsOf(name string) (words []string) {
	r := []rune(name)
	begin := 0
	for i := 1; i <= len(r); i++ {
		begins := i == len(r) || unicode.IsUpper(r[i]) &&
			(!unicode.IsUpper(r[i-1]) || i+1 < len(r) && unicode.IsLower(r[i+1]))
		if begins {
			words = append(words, string(r[begin:i]))
			begin = i
		}
	}
	return words
}

func TestWordsOf(t *testing.T) {
	for name, want := range map[string]string{
		"IOMode": "IO Mode", "pageOut": "page Out", "x": "x", "PageID": "Page ID", "readTS2": "read TS2",
		"HTTPServerURL": "HTTP Server URL",
	} {
		if got := strings.Join(wordsOf(name), " "); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// ofName returns the replacements of the idioms in a name.
func ofName(file, name string) (instead []string) {
	words := strings.ToLower(strings.Join(wordsOf(name), " "))
	for _, c := range compiledIdioms() {
		if (c.names || c.onlyNames) && len(c.find(file, words)) > 0 {
			instead = append(instead, c.instead)
		}
	}
	return instead
}

// names finds the idioms in the names that a file declares. Benchmarks keep theirs, so that results can be compared.
func names(s *source) (found []finding) {
	seen := map[string]bool{}
	check := func(id *ast.Ident) {
		if id == nil || seen[id.Name] || strings.HasPrefix(id.Name, "Benchmark") {
			return
		}
		seen[id.Name] = true
		for _, instead := range ofName(s.name, id.Name) {
			found = append(found, s.finding(id.Pos(), "name %s: write %s", id.Name, instead))
		}
	}
	ast.Inspect(s.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			check(n.Name)
		case *ast.TypeSpec:
			check(n.Name)
		case *ast.ValueSpec:
			for _, id := range n.Names {
				check(id)
			}
		case *ast.Field:
			for _, id := range n.Names {
				check(id)
			}
		case *ast.AssignStmt:
			for _, x := range n.Lhs {
				if id, ok := x.(*ast.Ident); ok && n.Tok == token.DEFINE {
					check(id)
				}
			}
		}
		return true
	})
	return found
}

// Each idiom's samples have the findings that they should have.
func TestIdioms(t *testing.T) {
	for _, i := range idioms {
		c := compile(&i)
		c.in = nil
		for _, s := range i.bad {
			if p := prose("sample", s); len(c.find("", p.text)) != 1 {
				t.Errorf("%q: %d findings of %s, want 1", s, len(c.find("", p.text)), i.pattern)
			}
		}
		for _, s := range i.good {
			if p := prose("sample", s); len(c.find("", p.text)) != 0 {
				t.Errorf("%q: a finding of %s", s, i.pattern)
			}
		}
		if len(i.bad) == 0 || len(i.good) == 0 || i.instead == "" {
			t.Errorf("%s: lacks samples or a replacement", i.pattern)
		}
	}
	for _, i := range nameIdioms {
		for _, name := range i.bad {
			if got := ofName("", name); !slices.Contains(got, i.instead) {
				t.Errorf("name %s: %q, want %q", name, got, i.instead)
			}
		}
		for _, name := range i.good {
			if got := ofName("", name); len(got) > 0 {
				t.Errorf("name %s: %q", name, got)
			}
		}
	}
	for _, c := range clauses {
		for _, s := range c.bad {
			if at := c.find(prose("sample", s)); len(at) != 1 {
				t.Errorf("%q: %d findings, want 1", s, len(at))
			}
		}
		for _, s := range c.good {
			if at := c.find(prose("sample", s)); len(at) != 0 {
				t.Errorf("%q: a finding", s)
			}
		}
	}
}

// Prose is found in comments, messages, documents and scripts, at its line. Quoted words are none.
func TestPassages(t *testing.T) {
	s := sample(t, "x/x.go", `package x

// A page that is
// paged out, or "paged out". `+"It has `doomed` files."+`
func f() {
	g("likewise") // likewise
	g("page 5 is\ndamaged")
}

/*
A thin page.
He reads.
*/
type pageOut int
`)
	var found []finding
	for _, p := range append(comments(s), messages(s)...) {
		found = append(found, language(p)...)
	}
	same(t, append(found, names(s)...), 4, 6, 7, 12, 14)
	doc := "# He\n\n- it is\n  doomed\n\n```\nErrX is that\n```\n| `doom` | as many |\n"
	same(t, language(prose("x.md", doc)), 1, 4, 7, 9)
	same(t, language(prose(glossaryDoc, "| evict | likewise | page out |\n")), 1)
	script := "#!/bin/sh\n# Who runs it\n# pays.\necho 'a tight disk' # likewise\n"
	same(t, language(shellComments("x.sh", script)), 2, 4, 4)
}

// Comments, documents, error texts, log messages, help and names use plain English and the field's terms.
func TestLanguage(t *testing.T) {
	var found []finding
	for _, p := range passages(t) {
		found = append(found, language(p)...)
	}
	for _, s := range sources(t) {
		found = append(found, names(s)...)
	}
	report(t, found)
}
