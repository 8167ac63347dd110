package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const (
	root   = "../.." // of the repository, from this package
	module = "pagecache"
)

// source is one Go file.
type source struct {
	name string // path from the root
	pkg  string // folder of the file from the root, "" for the root
	test bool
	text string
	fset *token.FileSet
	ast  *ast.File
}

// at is a place for messages.
func (s *source) at(p token.Pos) string { return s.fset.Position(p).String() }

// files returns the path from the root of every file with one of the endings, but for those of hidden and testdata folders.
func files(t *testing.T, endings ...string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() {
			if p != root && (strings.HasPrefix(base, ".") || base == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		for _, e := range endings {
			if strings.HasSuffix(base, e) {
				rel, err := filepath.Rel(root, p)
				if err != nil {
					return err
				}
				names = append(names, filepath.ToSlash(rel))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// sources returns all Go files, parsed.
func sources(t *testing.T) []*source {
	t.Helper()
	var all []*source
	fset := token.NewFileSet()
	for _, name := range files(t, ".go") {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(fset, name, b, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		dir := path.Dir(name)
		if dir == "." {
			dir = ""
		}
		all = append(all, &source{name: name, pkg: dir, test: strings.HasSuffix(name, "_test.go"), text: string(b), fset: fset, ast: f})
	}
	if len(all) == 0 {
		t.Fatal("no Go files found")
	}
	return all
}

// lines is how many lines of the file a node takes, from its first to its last.
func (s *source) lines(n ast.Node) int {
	return s.fset.Position(n.End()).Line - s.fset.Position(n.Pos()).Line + 1
}
