package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// typed is a package with its types, without its tests.
type typed struct {
	dir   string // from the root
	fset  *token.FileSet
	files []*ast.File
	pkg   *types.Package
	info  *types.Info
}

// file returns the name of the file that declares what is at p.
func (y *typed) file(p token.Pos) string {
	return path.Base(filepath.ToSlash(y.fset.Position(p).Filename))
}

// finding makes a finding at p.
func (y *typed) finding(p token.Pos, format string, args ...any) finding {
	return finding{path.Join(y.dir, y.file(p)), y.fset.Position(p).Line, fmt.Sprintf(format, args...)}
}

// check resolves the types of a package's files.
func check(dir string, fset *token.FileSet, files []*ast.File, im types.Importer) (*typed, error) {
	y := &typed{dir: dir, fset: fset, files: files, info: &types.Info{
		Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{},
		Types: map[ast.Expr]types.TypeAndValue{}, Selections: map[*ast.SelectorExpr]*types.Selection{},
	}}
	var err error
	y.pkg, err = (&types.Config{Importer: im}).Check(module+"/"+dir, fset, files, y.info)
	return y, err
}

// listed is what go list prints of a package.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
}

// goList lists package engine and all that it imports, with their export data.
var goList = sync.OnceValues(func() (map[string]listed, error) {
	cmd := exec.Command("go", "list", "-deps", "-export", "-json=ImportPath,Dir,Export,GoFiles", "./engine")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, &stderr)
	}
	all := map[string]listed{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		switch err := d.Decode(&l); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
		all[l.ImportPath] = l
	}
})

var (
	loadMu sync.Mutex
	loaded = map[string]*typed{}
)

// load returns the package in a folder with its types.
func load(t *testing.T, dir string) *typed {
	t.Helper()
	loadMu.Lock()
	defer loadMu.Unlock()
	if y := loaded[dir]; y != nil {
		return y
	}
	all, err := goList()
	if err != nil {
		t.Fatal(err)
	}
	l, ok := all[module+"/"+dir]
	if !ok {
		t.Fatalf("no package in %s", dir)
	}
	fset := token.NewFileSet()
	var asts []*ast.File
	for _, name := range l.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(l.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		asts = append(asts, f)
	}
	exports := func(p string) (io.ReadCloser, error) { return os.Open(all[p].Export) }
	y, err := check(dir, fset, asts, importer.ForCompiler(fset, "gc", exports))
	if err != nil {
		t.Fatal(err)
	}
	loaded[dir] = y
	return y
}

// sampleTyped resolves a package given as text: each file as "-- name --" and its lines. It may import nothing.
func sampleTyped(t *testing.T, dir, text string) *typed {
	t.Helper()
	fset := token.NewFileSet()
	var asts []*ast.File
	for _, part := range strings.Split(text, "-- ")[1:] {
		name, body, _ := strings.Cut(part, " --\n")
		f, err := parser.ParseFile(fset, name, body, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		asts = append(asts, f)
	}
	y, err := check(dir, fset, asts, nil)
	if err != nil {
		t.Fatal(err)
	}
	return y
}

// origin returns the declared function or variable of which o may be an instance.
func origin(o types.Object) types.Object {
	switch o := o.(type) {
	case *types.Func:
		return o.Origin()
	case *types.Var:
		return o.Origin()
	}
	return o
}

// fullName returns the name of a function as the lists have it: "engine: (PageCache).Get".
func fullName(f *types.Func) string {
	f = f.Origin()
	name := f.Name()
	if r := f.Signature().Recv(); r != nil {
		name = "(" + typeName(r.Type()) + ")." + name
	}
	if f.Pkg() == nil {
		return name
	}
	return strings.TrimPrefix(f.Pkg().Path(), module+"/") + ": " + name
}

// typeName returns the name of a type or of what it points to.
func typeName(t types.Type) string {
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	if n, ok := t.(*types.Named); ok {
		return n.Obj().Name()
	}
	return t.String()
}
