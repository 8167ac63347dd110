package lint

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	root   = "../.." // of the repository, from this package
	module = "pagecache"
)

// source is one Go file.
type source struct {
	name      string // path from the root
	pkg       string // folder of the file from the root, "" for the root
	test      bool
	generated bool
	text      string
	fset      *token.FileSet
	ast       *ast.File
}

// at returns the position of p for messages.
func (s *source) at(p token.Pos) string { return s.fset.Position(p).String() }

// line returns the line of p.
func (s *source) line(p token.Pos) int { return s.fset.Position(p).Line }

// lines returns the number of lines that a node spans.
func (s *source) lines(n ast.Node) int { return s.line(n.End()) - s.line(n.Pos()) + 1 }

// parseSource parses the text of one Go file.
func parseSource(fset *token.FileSet, name string, text []byte) (*source, error) {
	f, err := parser.ParseFile(fset, name, text, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	return &source{
		name: name, pkg: folder(name), test: strings.HasSuffix(name, "_test.go"), generated: ast.IsGenerated(f),
		text: string(text), fset: fset, ast: f,
	}, nil
}

// sample parses a Go file given as text, for the tests of detectors.
func sample(t *testing.T, name, text string) *source {
	t.Helper()
	s, err := parseSource(token.NewFileSet(), name, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// folder returns the folder of a file, "" for the root.
func folder(name string) string {
	if dir := path.Dir(name); dir != "." {
		return dir
	}
	return ""
}

// allFiles returns the path from the root of every file outside testdata and hidden folders, and those in .ci.
var allFiles = sync.OnceValues(func() (names []string, err error) {
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() {
			if p != root && (strings.HasPrefix(base, ".") && base != ".ci" || base == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(root, p)
		names = append(names, filepath.ToSlash(rel))
		return err
	})
	return names, err
})

// files returns the path from the root of every file that has one of the endings.
func files(t *testing.T, endings ...string) []string {
	t.Helper()
	all, err := allFiles()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, name := range all {
		if slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(name, e) }) {
			names = append(names, name)
		}
	}
	return names
}

// exists reports whether the repository has a file of this name.
func exists(t *testing.T, name string) bool { return slices.Contains(files(t, name), name) }

// allSources parses every Go file once. The tests share the result and do not change it.
var allSources = sync.OnceValues(func() (all []*source, err error) {
	names, err := allFiles()
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	for _, name := range names {
		if !strings.HasSuffix(name, ".go") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return nil, err
		}
		s, err := parseSource(fset, name, b)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, errors.New("no Go files found")
	}
	return all, nil
})

// sources returns all Go files, parsed.
func sources(t *testing.T) []*source {
	t.Helper()
	all, err := allSources()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// finding is one fault of style.
type finding struct {
	name string // of the file
	line int    // 0: the whole file
	text string
}

// finding makes a finding at p.
func (s *source) finding(p token.Pos, format string, args ...any) finding {
	return finding{s.name, s.line(p), fmt.Sprintf(format, args...)}
}

func (f finding) String() string {
	if f.line == 0 {
		return f.name + ": " + f.text
	}
	return fmt.Sprintf("%s:%d: %s", f.name, f.line, f.text)
}

// report fails the test for each finding.
func report(t *testing.T, found []finding) {
	t.Helper()
	for _, f := range found {
		t.Error(f)
	}
}

// same fails the test if the findings are not on exactly these lines.
func same(t *testing.T, found []finding, lines ...int) {
	t.Helper()
	var got []int
	for _, f := range found {
		got = append(got, f.line)
	}
	slices.Sort(got)
	if !slices.Equal(got, lines) {
		var b bytes.Buffer
		for _, f := range found {
			fmt.Fprintln(&b, f)
		}
		t.Errorf("findings on lines %v, want %v:\n%s", got, lines, &b)
	}
}
