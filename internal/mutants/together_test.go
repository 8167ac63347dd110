package main

import (
	"go/ast"
	"go/importer"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"testing"
)

const wovenText = `package p

import "strings"

type set[T any] struct{ all []T }

func (s *set[T]) add(more ...T) int { s.all = append(s.all, more...); return len(s.all) }

func (set[T]) none() bool { return true }

func pick[K comparable, V any](m map[K]V, k K, _ int) (v V, ok bool) {
	v, ok = m[k]
	return v, ok
}

const limit = 10

func end(done *bool, _ string) {
	if !*done {
		*done = strings.HasPrefix("a", "b")
	}
}
`

// Bugs in the body of one function are woven into its file, which compiles and calls the copy with the bug. Others are
// left out: those outside of functions, in signatures, and of methods whose receiver has no name.
func TestWeave(t *testing.T) {
	bugs := []numbered{
		{bug{old: "return len(s.all)", new: "return 0"}, 1},
		{bug{old: "return true", new: "return false"}, 2},
		{bug{old: "v, ok = m[k]", new: "v, ok = m[k], true"}, 3},
		{bug{old: "limit = 10", new: "limit = 11"}, 4},
		{bug{old: "if !*done {", new: "if *done {"}, 5},
		{bug{old: "done *bool, _ string", new: "done *bool, _ int"}, 6},
		{bug{old: "(\"a\", \"b\")", new: "(\"b\", \"a\")"}, 7},
		{bug{old: "nothing has this", new: ""}, 8},
	}
	woven, fit := weave(wovenText, bugs)
	if !slices.Equal(fit, []int{1, 3, 5, 7}) {
		t.Fatalf("bugs %v fit", fit)
	}
	for _, want := range []string{
		"if planted__.Bug == 1 { return s.planted1(more...) };",
		"if planted__.Bug == 3 { return planted3[K, V](m, k, func() (zero int) { return }()) };",
		"if planted__.Bug == 5 { planted5(done, func() (zero string) { return }()); return };",
		"if planted__.Bug == 7 {",
	} {
		if !strings.Contains(woven, want) {
			t.Errorf("there is no %q", want)
		}
	}
	text := strings.Replace(woven, `import planted__ "pagecache/internal/mutants/planted"`, "", 1) +
		"\nvar planted__ struct{ Bug int }\n"
	file, err := parse(text)
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	fset := token.NewFileSet()
	fset.AddFile("", 1, len(text)).SetLinesForContent([]byte(text))
	c := types.Config{Importer: importer.ForCompiler(fset, "source", nil)}
	if _, err := c.Check("p", fset, []*ast.File{file}, nil); err != nil {
		t.Errorf("%v:\n%s", err, text)
	}
}
