package lint

import (
	"go/ast"
	"go/token"
	"regexp"
	"strings"
	"testing"
)

const (
	maxFileLines = 500
	maxFuncLines = 70
)

// longFuncs are longer than maxFuncLines for a reason.
var longFuncs = map[string]string{}

// panics are the functions that may panic, each on a fault of our own program that nobody can handle.
var panics = map[string]string{
	"engine: (PageCache).install":                 "invariant: an entry was put above a newer one",
	"engine/internal/iobuf: (leader).start":       "invariant: bytes written that are not committed",
	"engine/internal/iobuf: (Reservation).finish": "a reservation ended twice would corrupt the log",
	"engine/internal/pagestack: EntryOf":          "invariant: memory behind a head would be taken for a value",
	"mmapread: asFault":                           "passes on a panic that is not a fault",
	"recovery: decide":                            "the decision table has a hole",
	"segments: (Space).SealSegment":               "a segment left its states",
}

// Files are near 150 to 350 lines, 500 at most; functions within 70 save those on a list.
func TestSizes(t *testing.T) {
	for _, s := range sources(t) {
		if n := strings.Count(s.text, "\n"); n > maxFileLines && !s.test {
			t.Errorf("%s: %d lines, at most %d", s.name, n, maxFileLines)
		}
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || s.test {
				continue
			}
			if n := s.lines(f); n > maxFuncLines && longFuncs[funcName(s, f)] == "" {
				t.Errorf("%s: %s has %d lines, at most %d", s.at(f.Pos()), f.Name.Name, n, maxFuncLines)
			}
		}
	}
}

// Atomics are typed: a plain field is never passed to a function of sync/atomic.
func TestTypedAtomics(t *testing.T) {
	untyped := regexp.MustCompile(`^(Add|Load|Store|Swap|CompareAndSwap|And|Or)(Int32|Int64|Uint32|Uint64|Uintptr|Pointer)$`)
	for _, s := range sources(t) {
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "atomic" && untyped.MatchString(sel.Sel.Name) {
					t.Errorf("%s: atomic.%s instead of a typed atomic", s.at(n.Pos()), sel.Sel.Name)
				}
			}
			return true
		})
	}
}

// Every package says what it is, and every exported name has a comment that begins like it where it is a function's or a type's.
func TestDocumented(t *testing.T) {
	hasDoc := map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		hasDoc[s.pkg] = hasDoc[s.pkg] || s.ast.Doc != nil
		for _, d := range s.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if exportedFunc(d) && (d.Doc == nil || !strings.HasPrefix(d.Doc.Text(), d.Name.Name)) && !trivial(d) {
					t.Errorf("%s: %s has no comment that begins with its name", s.at(d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				checkDecl(t, s, d)
			}
		}
	}
	for pkg, ok := range hasDoc {
		if !ok {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}

// checkDecl wants a comment on each exported type, variable and constant, or on the group it is in.
func checkDecl(t *testing.T, s *source, d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
				t.Errorf("%s: type %s has no comment", s.at(spec.Pos()), spec.Name.Name)
			}
		case *ast.ValueSpec:
			for _, n := range spec.Names {
				if n.IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
					t.Errorf("%s: %s has no comment", s.at(n.Pos()), n.Name)
				}
			}
		}
	}
}

// trivial reports whether f implements a well-known interface, so that its name says all.
func trivial(f *ast.FuncDecl) bool {
	switch f.Name.Name {
	case "Error", "String", "Unwrap", "Len", "Less", "Swap":
		return f.Recv != nil
	}
	return false
}

// exportedFunc reports whether f is an exported function, or an exported method of an exported type.
func exportedFunc(f *ast.FuncDecl) bool {
	if !f.Name.IsExported() {
		return false
	}
	return f.Recv == nil || ast.IsExported(receiver(f))
}

// receiver is the name of a method's type, "" for a function.
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil || len(f.Recv.List) == 0 {
		return ""
	}
	x := f.Recv.List[0].Type
	for {
		switch y := x.(type) {
		case *ast.StarExpr:
			x = y.X
		case *ast.IndexExpr:
			x = y.X
		case *ast.IndexListExpr:
			x = y.X
		case *ast.Ident:
			return y.Name
		default:
			return ""
		}
	}
}

// funcName is the name of a function as the lists above have it.
func funcName(s *source, f *ast.FuncDecl) string {
	if r := receiver(f); r != "" {
		return s.pkg + ": (" + r + ")." + f.Name.Name
	}
	return s.pkg + ": " + f.Name.Name
}

// A panic is for our own faults, and on a list.
func TestPanics(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		if s.test || s.pkg == "internal/simdisk" { // a harness for tests
			continue
		}
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			name := funcName(s, f)
			ast.Inspect(f.Body, func(n ast.Node) bool {
				if c, ok := n.(*ast.CallExpr); ok {
					if id, ok := c.Fun.(*ast.Ident); ok && id.Name == "panic" {
						if used[name] = true; panics[name] == "" {
							t.Errorf("%s: panic in %q, which is not on the list", s.at(c.Pos()), name)
						}
					}
				}
				return true
			})
		}
	}
	for name := range panics {
		if !used[name] {
			t.Errorf("%q is on the list of functions that may panic and does not", name)
		}
	}
}

// Nothing is left to be done.
func TestNothingLeftOver(t *testing.T) {
	left := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)
	for _, s := range sources(t) {
		for _, g := range s.ast.Comments {
			for _, c := range g.List {
				if m := left.FindString(c.Text); m != "" {
					t.Errorf("%s: %s", s.at(c.Pos()), m)
				}
			}
		}
		if s.test {
			continue
		}
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				ast.Inspect(f, func(n ast.Node) bool {
					if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && strings.Contains(lit.Value, "not implemented") {
						t.Errorf("%s: %s", s.at(lit.Pos()), lit.Value)
					}
					return true
				})
			}
		}
	}
}
