package lint

import (
	"go/ast"
	"go/token"
	"regexp"
	"strings"
	"testing"
)

const (
	maxFileLines   = 500
	maxFuncLines   = 70
	maxEngineLines = 350 // of a file of package engine
	maxEngineFiles = 20
)

// longFuncs lists functions that are longer than maxFuncLines, each with the reason.
var longFuncs = map[string]string{}

// panics lists the functions that may panic, each for a fault of our own program that no caller can handle.
var panics = map[string]string{
	"engine/internal/pagemap: (Map).Install":      "invariant: an entry was put above a newer one",
	"engine/internal/iobuf: (leader).start":       "invariant: bytes written that are not committed",
	"engine/internal/iobuf: (buffer).clear":       "invariant: a buffer that is used again would not be zero",
	"engine/internal/iobuf: (Reservation).finish": "a reservation ended twice would corrupt the log",
	"engine/internal/iobuf: (Group).Complete":     "a group of another length than reserved would corrupt the log",
	"engine: checkUnmodified":                     "invariant: the embedder has changed memory of the store",
	"engine: (Tx).enter":                          "invariant: two goroutines use a Tx",
	"engine/internal/pagestack: EntryOf":          "invariant: memory behind a head would be taken for a value",
	"internal/invariants: (Tracker).Done":         "invariant: an object ended twice",
	"internal/invariants: (record).dropped":       "invariant: an object was dropped without being ended",
	"mmapread: asFault":                           "passes on a panic that is not a fault",
	"raft/cmd/pagesd: (api).backup":               "net/http breaks the connection of an answer that has no end",
	"raft/raftpages: (FSM).stop":                  "the node must not go on, and nobody else was named to stop it",
	"recovery: decide":                            "the decision table has a hole",
	"segments: (Space).SealSegment":               "a segment left its states",
}

// Atomics are typed: a plain field is never passed to a function of sync/atomic.
func TestTypedAtomics(t *testing.T) {
	untyped := regexp.MustCompile(`^(Add|Load|Store|Swap|CompareAndSwap|And|Or)` +
		`(Int32|Int64|Uint32|Uint64|Uintptr|Pointer)$`)
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

// Every package and every exported name has a comment. That of a function begins with its name.
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

// checkDecl reports each exported type, variable and constant without a comment on it or on its group.
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

// trivial reports whether f is a method of a well-known interface, which needs no comment.
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

// receiver returns the name of a method's type, "" for a function.
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

// nameOf returns the name of a function, with its type if it is a method: "(PageCache).Get".
func nameOf(f *ast.FuncDecl) string {
	if r := receiver(f); r != "" {
		return "(" + r + ")." + f.Name.Name
	}
	return f.Name.Name
}

// funcName returns the name of a function as the lists have it: "engine: (PageCache).Get".
func funcName(s *source, f *ast.FuncDecl) string { return s.pkg + ": " + nameOf(f) }

// Functions panic only for faults of our own program. Each is listed.
func TestPanics(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		if s.test || s.pkg == "internal/simdisk" || s.pkg == "engine/pagetest" { // harnesses for tests
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
			t.Errorf("%q is listed as a function that may panic and does not panic", name)
		}
	}
}

// No comment or message says that something is left to be done.
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
					lit, ok := n.(*ast.BasicLit)
					if ok && lit.Kind == token.STRING && strings.Contains(lit.Value, "not implemented") {
						t.Errorf("%s: %s", s.at(lit.Pos()), lit.Value)
					}
					return true
				})
			}
		}
	}
}
