package lint

import (
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"testing"
)

// engineOrder has the files of package engine without tests, from the public API down: a file refers to nothing that
// a file above it declares. It is checked once it is not empty.
var engineOrder = []string{
	"salvage.go", "check.go", "stream.go", "log.go", "open.go", "stats.go", "batch.go", "ids.go", "commit.go",
	"transaction.go", "evict.go", "get.go", "move.go", "change.go", "fetch.go", "pagecache.go", "memory.go", "page.go",
	"options.go", "errors.go",
}

// missPath has the functions from get, which is Get as far as the compiler does not inline that, to the verified bytes
// of a page that is not resident, written like the names in style_test.go. Each calls the next; between two packages it
// may do so through an interface's method of that name.
var missPath = []string{
	"engine: (PageCache).get",
	"engine: (PageCache).getSlow",
	"engine: (PageCache).materialize",
	"engine: (PageCache).merged",
	"engine: (PageCache).fetch",
	"engine/internal/values: (IO).Encoded",
	"engine/internal/logstore: (Store).Read",
}

const maxMissPath = 7

// upward finds references to package-level names and methods that a file further up the order declares. The receiver
// of a method is no reference, and a field is none. Each pair of file and name counts once.
func upward(y *typed, order []string) (found []finding) {
	place := func(p token.Pos) int { return slices.Index(order, y.file(p)) }
	for _, f := range y.files {
		here := place(f.Pos())
		if here < 0 {
			found = append(found, y.finding(f.Pos(), "%s is not in the order of files", y.file(f.Pos())))
			continue
		}
		receivers := map[*ast.Ident]bool{}
		for _, d := range f.Decls {
			if fd, ok := d.(*ast.FuncDecl); ok && fd.Recv != nil {
				ast.Inspect(fd.Recv, func(n ast.Node) bool {
					if id, ok := n.(*ast.Ident); ok {
						receivers[id] = true
					}
					return true
				})
			}
		}
		seen := map[types.Object]bool{}
		ast.Inspect(f, func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			if !ok || receivers[id] {
				return true
			}
			o := origin(y.info.Uses[id])
			if o == nil || o.Pkg() != y.pkg || seen[o] || !ofPackage(y, o) {
				return true
			}
			if there := place(o.Pos()); there >= 0 && there < here {
				seen[o] = true
				found = append(found, y.finding(id.Pos(), "%s is declared above, in %s", o.Name(), order[there]))
			}
			return true
		})
	}
	return found
}

// ofPackage reports whether o is declared at the top of its package, or is a method.
func ofPackage(y *typed, o types.Object) bool {
	if f, ok := o.(*types.Func); ok && f.Signature().Recv() != nil {
		return true
	}
	return o.Parent() == y.pkg.Scope()
}

func TestUpwardSamples(t *testing.T) {
	y := sampleTyped(t, "engine", `-- api.go --
package engine
type Cache[P any] struct{ n int; low low[P] }
type Reader interface{ Read() }
func (c *Cache[P]) Get() { c.low.get(); c.fetch() }
func New[P any]() *Cache[P] { return &Cache[P]{} }
-- middle.go --
package engine
func (c *Cache[P]) fetch() { c.n++; c.low.get() }
func (c *Cache[P]) again() { c.Get() }
func make() { New[int]() }
-- low.go --
package engine
type low[P any] struct{}
func (low[P]) get() {
	var get int
	_ = get
}
func (low[P]) use(r Reader) { r.Read() }
-- other.go --
package engine
`)
	var got []string
	for _, f := range upward(y, []string{"api.go", "middle.go", "low.go"}) {
		got = append(got, f.String())
	}
	want := []string{
		"engine/middle.go:3: Get is declared above, in api.go",
		"engine/middle.go:4: New is declared above, in api.go",
		"engine/low.go:7: Reader is declared above, in api.go",
		"engine/low.go:7: Read is declared above, in api.go",
		"engine/other.go:1: other.go is not in the order of files",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// No file of package engine refers back up their order.
func TestOrder(t *testing.T) {
	if len(engineOrder) == 0 {
		t.Fatal("the order of engine's files is not declared")
	}
	y := load(t, "engine")
	for _, name := range engineOrder {
		if !exists(t, "engine/"+name) {
			t.Errorf("%s is in the order of files and does not exist", name)
		}
	}
	report(t, upward(y, engineOrder))
}

// pageless finds the unexported methods of the named generic type whose signature and body mention no type parameter,
// by name or in the type of an expression. Such a method belongs to a type that knows no pages.
func pageless(y *typed, typ string) (found []finding) {
	for _, f := range y.files {
		for _, d := range f.Decls {
			fd, ok := d.(*ast.FuncDecl)
			if !ok || receiver(fd) != typ || fd.Name.IsExported() {
				continue
			}
			fn := y.info.Defs[fd.Name].(*types.Func)
			mentions := mentionsParam(fn.Signature(), typ)
			for _, part := range []ast.Node{fd.Type, fd.Body} {
				ast.Inspect(part, func(n ast.Node) bool {
					if x, ok := n.(*ast.Ident); ok {
						o := y.info.Uses[x]
						if o == nil {
							o = y.info.Defs[x]
						}
						mentions = mentions || o != nil && mentionsParam(o.Type(), typ)
					}
					if x, ok := n.(ast.Expr); ok {
						mentions = mentions || mentionsParam(y.info.TypeOf(x), typ)
					}
					return true
				})
			}
			if !mentions {
				const text = "method %s of %s mentions neither the page type nor the Materializer"
				found = append(found, y.finding(fd.Pos(), text, fd.Name.Name, typ))
			}
		}
	}
	return found
}

// mentionsParam reports whether a type has a type parameter in it other than as an argument of the named type itself.
func mentionsParam(t types.Type, typ string) bool {
	seen := map[types.Type]bool{}
	var in func(types.Type) bool
	tuple := func(p *types.Tuple) bool {
		for v := range p.Variables() {
			if in(v.Type()) {
				return true
			}
		}
		return false
	}
	in = func(t types.Type) bool {
		if t == nil || seen[t] {
			return false
		}
		seen[t] = true
		switch t := t.(type) {
		case *types.TypeParam:
			return true
		case *types.Named:
			return t.Obj().Name() != typ && slices.ContainsFunc(slices.Collect(t.TypeArgs().Types()), in)
		case *types.Alias:
			return in(types.Unalias(t))
		case *types.Signature:
			return tuple(t.Params()) || tuple(t.Results())
		case *types.Tuple:
			return tuple(t)
		case *types.Map:
			return in(t.Key()) || in(t.Elem())
		case *types.Struct:
			return slices.ContainsFunc(slices.Collect(t.Fields()), func(v *types.Var) bool { return in(v.Type()) })
		case interface{ Elem() types.Type }: // pointer, slice, array, channel
			return in(t.Elem())
		}
		return false
	}
	return in(t)
}

func TestPagelessSamples(t *testing.T) {
	same(t, pageless(sampleTyped(t, "engine", `-- x.go --
package engine
type Materializer[P any] interface{ Size(P) int }
type entry[P any] struct{ v P; n int }
type Cache[P any] struct{ n int; mat Materializer[P]; head *entry[P]; heads map[int][]*entry[P]; next *Cache[P] }
func (c *Cache[P]) a() int { return c.n } // 5
func (c *Cache[P]) b() int { return c.mat.Size(c.head.v) }
func (c *Cache[P]) c() *entry[P] { return nil }
func (c *Cache[P]) d() { c.a(); c.next.a(); _ = func() int { return c.n } } // 8
func (c *Cache[P]) e() int { return len(c.heads) }
func (c *Cache[P]) f() { c.c() }
func (c *Cache[P]) g() { var p P; _ = p }
func (c *Cache[P]) Public() {}
func (c *Cache[P]) h(other *Cache[P]) {}
`), "Cache"), 5, 8)
}

// Every method of PageCache is public, or mentions P, the Materializer or a field whose type has P in it.
func TestPageless(t *testing.T) { report(t, pageless(load(t, "engine"), "PageCache")) }

// checkPath verifies that each function of a path calls the next. load returns the package in a folder.
func checkPath(steps []string, load func(dir string) *typed) (broken []string) {
	for i, step := range steps[:max(len(steps)-1, 0)] {
		dir, name, _ := strings.Cut(step, ": ")
		next := steps[i+1]
		body := bodyOf(load(dir), name)
		if body == nil {
			broken = append(broken, step+" is no function with a body")
			continue
		}
		calls := false
		ast.Inspect(body, func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			if !ok {
				return true
			}
			f, ok := load(dir).info.Uses[id].(*types.Func)
			if !ok {
				return true
			}
			calls = calls || fullName(f) == next || viaInterface(f) && strings.HasSuffix(next, ")."+f.Name())
			return true
		})
		if !calls {
			broken = append(broken, step+" does not call "+next)
		}
	}
	return broken
}

// viaInterface reports whether f is a method of an interface.
func viaInterface(f *types.Func) bool {
	r := f.Signature().Recv()
	return r != nil && types.IsInterface(r.Type())
}

// bodyOf returns the body of the function "name" or "(Type).name", nil if there is none.
func bodyOf(y *typed, name string) *ast.BlockStmt {
	for _, f := range y.files {
		for _, d := range f.Decls {
			if fd, ok := d.(*ast.FuncDecl); ok && nameOf(fd) == name {
				return fd.Body
			}
		}
	}
	return nil
}

func TestPathSamples(t *testing.T) {
	y := sampleTyped(t, "engine", `-- x.go --
package engine
type File interface{ Read() }
type Cache[P any] struct{ f File }
func (c *Cache[P]) Get() { c.slow() }
func (c *Cache[P]) slow() { fetch[P](c) }
func fetch[P any](c *Cache[P]) { c.f.Read() }
`)
	load := func(string) *typed { return y }
	steps := []string{"engine: (Cache).Get", "engine: (Cache).slow", "engine: fetch", "os: (File).Read"}
	if broken := checkPath(steps, load); broken != nil {
		t.Error(broken)
	}
	steps = []string{"engine: (Cache).Get", "engine: fetch", "engine: gone", "os: x"}
	got := strings.Join(checkPath(steps, load), "; ")
	want := "engine: (Cache).Get does not call engine: fetch; engine: fetch does not call engine: gone; " +
		"engine: gone is no function with a body"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A Get that misses takes at most seven functions from Get to the verified bytes.
func TestMissPath(t *testing.T) {
	if len(missPath) == 0 {
		t.Fatal("the functions are not declared")
	}
	if len(missPath) > maxMissPath {
		t.Errorf("%d functions, at most %d", len(missPath), maxMissPath)
	}
	for _, b := range checkPath(missPath, func(dir string) *typed { return load(t, dir) }) {
		t.Error(b)
	}
}
