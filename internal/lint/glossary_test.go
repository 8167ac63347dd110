package lint

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

const glossaryDoc = "docs/GLOSSARY.md"

var tableCell = regexp.MustCompile(`(?:\\\||[^|])*`)

// cells returns the cells of a row of a table, without quotes and emphasis, nil for another line.
func cells(line string) (all []string) {
	line = strings.TrimSpace(line)
	if !strings.HasPrefix(line, "|") {
		return nil
	}
	for _, c := range tableCell.FindAllString(strings.Trim(line, "|"), -1) {
		all = append(all, strings.TrimSpace(strings.NewReplacer("`", "", "**", "", `\|`, "|").Replace(c)))
	}
	return all
}

// table returns the rows of the tables in a text that begin with these columns, without head and rule.
func table(text string, head ...string) (rows [][]string) {
	in := false
	for line := range strings.SplitSeq(text, "\n") {
		c := cells(line)
		switch {
		case c == nil:
			in = false
		case len(c) >= len(head) && slices.EqualFunc(c[:len(head)], head, strings.EqualFold):
			in = true
		case in && strings.Trim(strings.Join(c, ""), "-: ") != "" && len(c) >= len(head):
			rows = append(rows, c)
		}
	}
	return rows
}

// glossary returns the words of the column "not" of the glossary's table | term | meaning | not |, as idioms. Words
// are separated by commas or semicolons; one with a remark in parentheses applies in some places only and is left to
// readers. A word that the table of idioms covers is left out.
func glossary(text string) (all []idiom) {
	for _, row := range table(text, "term", "meaning", "not") {
		for _, w := range strings.FieldsFunc(row[2], func(r rune) bool { return r == ',' || r == ';' }) {
			w = strings.Trim(strings.TrimSpace(w), `"“”*_`)
			if w == "" || strings.ContainsAny(w, "()") || strings.Trim(w, "–—- ") == "" || known(w) {
				continue
			}
			all = append(all, idiom{pattern: `\b` + regexp.QuoteMeta(w) + `\b`, instead: row[0]})
		}
	}
	return all
}

// known reports whether the table of idioms, or a clause, covers the word, with its exceptions.
func known(word string) bool {
	for _, c := range clauses {
		if len(c.find(prose("", word))) > 0 {
			return true
		}
	}
	return slices.ContainsFunc(compiledIdioms(), func(c compiled) bool { return c.pattern.MatchString(word) })
}

func TestGlossaryWords(t *testing.T) {
	words := glossary("| term | meaning | not |\n|---|---|---|\n| evict | take from memory | purge, page out |\n" +
		"| capacity | limit | bound (of memory); `ceiling`, who |\n| LSN | place | – |\n\n" +
		"| a | b | c |\n|--|--|--|\n| x | y | z |\n")
	var got []string
	for _, w := range words {
		got = append(got, w.pattern+" → "+w.instead)
	}
	if want := `\bpurge\b → evict, \bceiling\b → capacity`; strings.Join(got, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
}

// Prose does not use the words that the glossary rules out.
func TestGlossary(t *testing.T) {
	words := glossary(read(t, glossaryDoc))
	var found []finding
	for i := range words {
		c := compile(&words[i])
		for _, p := range passages(t) {
			if p.name == glossaryDoc {
				continue
			}
			for _, h := range c.find(p.name, p.text) {
				text := p.text[h[0]:h[1]] + ": write " + c.instead + ": " + around(p.text, h[0])
				found = append(found, finding{p.name, p.lines[h[0]], text})
			}
		}
	}
	report(t, found)
}
