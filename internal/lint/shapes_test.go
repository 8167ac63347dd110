package lint

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"path"
	"slices"
	"strings"
	"testing"
)

const maxParams = 5

// manyParams are functions with more parameters than maxParams, each for a reason.
var manyParams = map[string]string{
	"raft/raftpages: (SnapshotStore).Create": "implements raft.SnapshotStore",
}

// boolParams are exported functions with a bool parameter, each with the reason why the call site is readable.
var boolParams = map[string]string{
	"engine/internal/values: (IO).Guard":     "whether the values may be views; most calls pass a condition",
	"internal/invariants: Sometimes":         "the argument is the condition itself",
	"engine/internal/snapshot: (Store).Find": "the argument is the option of the parameter's name",
	"internal/simdisk: (Disk).Hang":          "Hang(true) hangs the device, Hang(false) lets it go on",
	"iouring/internal/ring: (Ring).Mute":     "the argument is the state to set",
}

// enumNames are constants of an enumeration without the type's prefix or suffix, each for a reason.
var enumNames = map[string]string{
	"engine: KindUnallocated":  pageKinds,
	"engine: KindMaterialized": pageKinds,
	"engine: KindFree":         pageKinds,
	"engine: KindCounter":      pageKinds,
	"engine: KindMeta":         pageKinds,
	"engine: KindUnreadable":   pageKinds,
	"engine: KindRoot":         pageKinds,
}

// pageKinds is why the constants of engine.PageKind have only a part of its name.
const pageKinds = "their prefix is the last word of PageKind, the one type of kinds that the package exports"

// count returns the number of parameters of a function.
func count(ft *ast.FuncType) int {
	n := 0
	for _, f := range ft.Params.List {
		n += max(len(f.Names), 1)
	}
	return n
}

// parameters finds functions, and methods of interfaces, with too many parameters, and exported functions with a bool
// one.
func parameters(s *source, many, bools map[string]string) (found []finding) {
	tooMany := func(name string, at token.Pos, ft *ast.FuncType) {
		if n := count(ft); n > maxParams && many[name] == "" {
			found = append(found, s.finding(at, "%q has %d parameters, at most %d", name, n, maxParams))
		}
	}
	for _, d := range s.ast.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := funcName(s, d)
			tooMany(name, d.Pos(), d.Type)
			if s.test || !exportedFunc(d) || bools[name] != "" {
				continue
			}
			for _, f := range d.Type.Params.List {
				if id, ok := f.Type.(*ast.Ident); ok && id.Name == "bool" {
					found = append(found, s.finding(f.Pos(), "%q has a bool parameter and is not on the list", name))
				}
			}
		case *ast.GenDecl:
			ast.Inspect(d, func(n ast.Node) bool {
				i, ok := n.(*ast.InterfaceType)
				if !ok {
					return true
				}
				for _, m := range i.Methods.List {
					if ft, ok := m.Type.(*ast.FuncType); ok && len(m.Names) == 1 {
						tooMany(s.pkg+": "+m.Names[0].Name, m.Pos(), ft)
					}
				}
				return true
			})
		}
	}
	return found
}

// enum is an enumeration: a type whose constants are numbered by iota.
type enum struct {
	pkg, name string
	s         *source
	at        token.Pos
	constants []*ast.Ident
}

// enums returns the enumerations that a file declares constants of: of each type, in the order of the file.
func enums(s *source) (all []*enum) {
	for _, d := range s.ast.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		var e *enum
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			if v.Type != nil || len(v.Values) > 0 {
				e = nil
			}
			if id, ok := v.Type.(*ast.Ident); ok && usesIota(v) && !builtin(id.Name) {
				e = &enum{pkg: s.pkg, name: id.Name, s: s, at: v.Pos()}
				all = append(all, e)
			}
			if e == nil {
				continue
			}
			for _, id := range v.Names {
				if id.Name != "_" {
					e.constants = append(e.constants, id)
				}
			}
		}
	}
	return all
}

// builtin reports whether Go itself declares the type.
func builtin(name string) bool { return types.Universe.Lookup(name) != nil }

// usesIota reports whether the constant is numbered by iota. Bits of a set of flags, 1<<iota, are not.
func usesIota(v *ast.ValueSpec) bool {
	uses, shifts := false, false
	for _, x := range v.Values {
		ast.Inspect(x, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Ident:
				uses = uses || n.Name == "iota"
			case *ast.BinaryExpr:
				shifts = shifts || n.Op == token.SHL
			}
			return true
		})
	}
	return uses && !shifts
}

// carries reports whether the name of a constant begins with the first word of its type's name, or ends with the
// last.
func carries(constant, typ string) bool {
	words := wordsOf(typ)
	first, last := words[0], words[len(words)-1]
	c := strings.ToLower(constant)
	return len(c) > len(first) && strings.HasPrefix(c, strings.ToLower(first)) ||
		len(c) > len(last) && strings.HasSuffix(c, strings.ToLower(last))
}

// enumerations finds exported constants that lack their type's prefix or suffix, and enumerations without a String
// method.
func enumerations(all []*source, listed map[string]string) (found []finding) {
	stringers := map[string]bool{}
	var list []*enum
	for _, s := range all {
		if s.test {
			continue
		}
		list = append(list, enums(s)...)
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == "String" {
				stringers[s.pkg+"."+receiver(f)] = true
			}
		}
	}
	for _, e := range list {
		if !stringers[e.pkg+"."+e.name] {
			found = append(found, e.s.finding(e.at, "enumeration %s has no String method", e.name))
		}
		for _, id := range e.constants {
			if id.IsExported() && !carries(id.Name, e.name) && listed[e.pkg+": "+id.Name] == "" {
				const text = "constant %s lacks the prefix or suffix of its type %s"
				found = append(found, e.s.finding(id.Pos(), text, id.Name, e.name))
			}
		}
	}
	return found
}

// embedding finds embedded fields in the exported structs of a file.
func embedding(s *source) (found []finding) {
	for _, d := range s.ast.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || s.test {
			continue
		}
		for _, spec := range g.Specs {
			ts, ok := spec.(*ast.TypeSpec)
			if !ok || !ts.Name.IsExported() {
				continue
			}
			st, ok := ts.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, f := range st.Fields.List {
				if len(f.Names) == 0 {
					found = append(found, s.finding(f.Pos(), "embedded field in %s", ts.Name.Name))
				}
			}
		}
	}
	return found
}

func TestShapeSamples(t *testing.T) {
	s := sample(t, "x/x.go", `package x
type Kind int
const (
	KindA Kind = iota
	SmallKind
	C // 6
)
type State uint8
const (
	stateA State = iota + 1 // 10: no String
	stateB
)
type Flag int
const ( one Flag = 1 << iota; two )
const size int = iota
func (k Kind) String() string { return "" }
func f(a, b, c, d, e int) {}
func g(a, b, c, d, e, f int) {} // 18
func F(a int, b bool) {} // 19
func Listed(bool) {}
type I interface {
	M(int, int, int, int, int, int) // 22
}
type S struct {
	Kind // 25
	k Kind
}
type small struct { Kind }
`)
	found := parameters(s, nil, map[string]string{"x: Listed": "reason"})
	found = append(found, enumerations([]*source{s}, nil)...)
	same(t, append(found, embedding(s)...), 6, 10, 18, 19, 22, 25)
}

// Functions take at most five parameters, and exported ones no bool, save those on the lists.
func TestParameters(t *testing.T) {
	var found []finding
	funcs := map[string]bool{}
	for _, s := range sources(t) {
		found = append(found, parameters(s, manyParams, boolParams)...)
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				funcs[funcName(s, f)] = true
			}
		}
	}
	report(t, found)
	for _, list := range []map[string]string{manyParams, boolParams, longFuncs} {
		for name := range list {
			if !funcs[name] {
				t.Errorf("%q is on a list of exceptions and does not exist", name)
			}
		}
	}
}

// The exported constants of an enumeration name their type, and every enumeration can be printed.
func TestEnumerations(t *testing.T) {
	report(t, enumerations(sources(t), enumNames))
}

// The documentation of engine's types shows no methods of other types.
func TestEmbedding(t *testing.T) {
	var found []finding
	for _, s := range sources(t) {
		if s.pkg == "engine" {
			found = append(found, embedding(s)...)
		}
	}
	report(t, found)
}

// sizes finds files and functions that are too long.
func sizes(s *source) (found []finding) {
	if s.test || s.generated {
		return nil
	}
	limit := maxFileLines
	if s.pkg == "engine" {
		limit = maxEngineLines
	}
	if n := strings.Count(s.text, "\n"); n > limit {
		found = append(found, finding{s.name, 0, fmt.Sprintf("%d lines, at most %d", n, limit)})
	}
	for _, d := range s.ast.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if n := s.lines(f); n > maxFuncLines && longFuncs[funcName(s, f)] == "" {
			found = append(found, s.finding(f.Pos(), "%q has %d lines, at most %d", funcName(s, f), n, maxFuncLines))
		}
	}
	return found
}

func TestSizeSamples(t *testing.T) {
	body := strings.Repeat("\n", maxFuncLines-1)
	same(t, sizes(sample(t, "x/x.go", "package x\nfunc f() {"+body+"}\nfunc g() {\n"+body+"}\n")), 2+maxFuncLines)
	long := "package x\n" + strings.Repeat("\n", maxEngineLines)
	same(t, sizes(sample(t, "x/x.go", long)))
	same(t, sizes(sample(t, "engine/x.go", long)), 0)
	same(t, sizes(sample(t, "engine/x_test.go", long)))
	same(t, sizes(sample(t, "x/x.go", long+strings.Repeat("\n", maxFileLines))), 0)
}

// Files have at most 500 lines, those of engine 350, and functions 70, save those on a list. Package engine has at
// most 20 files.
func TestSizes(t *testing.T) {
	var found []finding
	var engine []string
	for _, s := range sources(t) {
		found = append(found, sizes(s)...)
		if s.pkg == "engine" && !s.test {
			engine = append(engine, path.Base(s.name))
		}
	}
	if n := len(engine); n > maxEngineFiles {
		slices.Sort(engine)
		text := fmt.Sprintf("%d files, at most %d: %s", n, maxEngineFiles, strings.Join(engine, " "))
		found = append(found, finding{"engine/doc.go", 0, text})
	}
	report(t, found)
}
