package lint

import (
	"go/ast"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// passage is prose from one place of a file: white space is single blanks, and a line break ends a paragraph.
type passage struct {
	name  string
	text  string
	lines []int // the line in the file of each byte of text
}

var (
	bullet     = regexp.MustCompile(`^(?:[-*+] |\d+\. |#+ |\||[A-Z]\d{1,2}\s)`)
	quoted     = regexp.MustCompile("`[^`\n]+`|\"[^\"\n]{1,60}\"|“[^”\n]{1,60}”")
	errorName  = regexp.MustCompile(`^[\x60"“]Err[A-Z]\w*[\x60"”]$`)
	linkTarget = regexp.MustCompile(`\]\([^)\s]*\)`)
	sentence   = regexp.MustCompile(`[^.?!;:|\n]+(?:\.[^\s.?!;:|][^.?!;:|\n]*)*[.?!;:|\n]?`)
)

// add appends a line of prose. An empty line, an item of a list, a heading and a row of a table begin a paragraph.
func (p *passage) add(line string, n int) {
	line = mask(line)
	trimmed := strings.TrimSpace(line)
	if trimmed == "" || bullet.MatchString(trimmed) {
		p.end()
	}
	for word := range strings.FieldsSeq(trimmed) {
		for range len(word) + 1 {
			p.lines = append(p.lines, n)
		}
		p.text += word + " "
	}
	if strings.HasPrefix(trimmed, "#") {
		p.end()
	}
}

// end ends a paragraph.
func (p *passage) end() {
	if n := len(p.text); n > 0 {
		p.text = p.text[:n-1] + "\n"
	}
}

// mask replaces quoted words, targets of links and emphasis: a quoted word is a name or an example, no prose. The
// name of an error stays.
func mask(line string) string {
	line = quoted.ReplaceAllStringFunc(line, func(q string) string {
		if errorName.MatchString(q) {
			return strings.Trim(q, "`\"“”")
		}
		return strings.Repeat("x", len(q))
	})
	line = linkTarget.ReplaceAllStringFunc(line, func(string) string { return "]" })
	return strings.NewReplacer("**", "", "[", "", "]", "").Replace(line)
}

// sentences calls f for each sentence, clause behind a semicolon or colon, and cell of a table. It passes the offset
// of its first word in the text, and the sentence up to its end mark.
func (p *passage) sentences(f func(at int, s string)) {
	for _, m := range sentence.FindAllStringIndex(p.text, -1) {
		s := p.text[m[0]:m[1]]
		trimmed := strings.TrimLeft(s, " -*+#()0123456789")
		f(m[0]+len(s)-len(trimmed), strings.TrimRight(trimmed, " "))
	}
}

// comments returns the comments of a Go file as passages, without directives.
func comments(s *source) (all []*passage) {
	for _, g := range s.ast.Comments {
		p := &passage{name: s.name}
		for _, c := range g.List {
			if strings.HasPrefix(c.Text, "//go:") || strings.HasPrefix(c.Text, "//lint:") {
				continue
			}
			text := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(c.Text, "//"), "/*"), "*/")
			for i, line := range strings.Split(text, "\n") {
				p.add(line, s.line(c.Pos())+i)
			}
		}
		p.end()
		all = append(all, p)
	}
	return all
}

// messages returns the texts in a Go file that a person reads: error texts, reasons, log messages and help. Outside
// tests these are all string literals of at least two words.
func messages(s *source) (all []*passage) {
	if s.test {
		return nil
	}
	ast.Inspect(s.ast, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		text, err := strconv.Unquote(lit.Value)
		if err != nil || len(strings.Fields(text)) < 2 {
			return true
		}
		p := &passage{name: s.name}
		raw := strings.HasPrefix(lit.Value, "`")
		for i, line := range strings.Split(text, "\n") {
			if !raw {
				i = 0
			}
			p.add(line, s.line(lit.Pos())+i)
		}
		p.end()
		all = append(all, p)
		return true
	})
	return all
}

// prose returns a document as one passage.
func prose(name, text string) *passage {
	p := &passage{name: name}
	fenced := false
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			p.end()
			continue
		}
		if c := cells(line); name == glossaryDoc && len(c) == 3 {
			line = "| " + c[0] + " | " + c[1] + " |" // the third column has the words that are ruled out
		}
		p.add(line, i+1)
		if fenced {
			p.end()
		}
	}
	p.end()
	return p
}

// shellComments returns the comments and messages of a script as one passage.
func shellComments(name, text string) *passage {
	p := &passage{name: name}
	for i, line := range strings.Split(text, "\n") {
		c, isComment := strings.CutPrefix(strings.TrimSpace(line), "#")
		switch {
		case isComment && i > 0:
			p.add(c, i+1)
		default:
			p.end()
			for _, m := range regexp.MustCompile(`'[^']*'|"[^"]*"`).FindAllString(line, -1) {
				p.add(m[1:len(m)-1], i+1)
				p.end()
			}
			if _, c, ok := strings.Cut(line, " # "); ok {
				p.add(c, i+1)
				p.end()
			}
		}
	}
	p.end()
	return p
}

// passages returns all prose of the module: comments, messages, documents and scripts.
func passages(t *testing.T) (all []*passage) {
	for _, s := range sources(t) {
		if !s.generated {
			all = append(append(all, comments(s)...), messages(s)...)
		}
	}
	for _, name := range files(t, ".md") {
		all = append(all, prose(name, read(t, name)))
	}
	for _, name := range files(t, ".sh", ".ci/run") {
		all = append(all, shellComments(name, read(t, name)))
	}
	return all
}
