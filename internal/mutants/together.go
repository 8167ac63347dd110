package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A test binary takes longer to compile than most bugs take to be noticed. So those bugs that change the body of one
// function are planted together: each has a copy of its function, with the bug, in the same file, and the function
// begins by calling the copy of the bug that the environment of the process names, if that is one of its own.
const (
	plantedEnv    = "PAGECACHE_PLANTED"
	plantedImport = "internal/mutants/planted"
	plantedText   = `// Package planted says which bug is planted. It exists in an overlay only.
package planted

import (
	"os"
	"strconv"
)

// Bug is the number of the bug, or 0.
var Bug, _ = strconv.Atoi(os.Getenv("` + plantedEnv + `"))
`
)

// numbered is a bug with its number, which is not 0.
type numbered struct {
	bug
	n int
}

// weave returns the text of a file with those of the bugs that fit, and their numbers.
func weave(text string, bugs []numbered) (string, []int) {
	file, err := parse(text)
	if err != nil {
		return text, nil
	}
	calls := map[*ast.FuncDecl]string{} // behind the function's opening brace
	var copies strings.Builder
	var fit []int
	for _, b := range bugs {
		changed, err := b.apply(text)
		if err != nil {
			continue
		}
		other, err := parse(changed)
		if err != nil {
			continue
		}
		f, g := changedFunc(file, text, other, changed)
		name := fmt.Sprintf("planted%d", b.n)
		call, ok := callOf(f, text, name)
		if !ok {
			continue
		}
		calls[f] += fmt.Sprintf(" if planted__.Bug == %d { %s };", b.n, call)
		copies.WriteString("\n" + part(changed, g.Pos(), g.Name.Pos()) + name)
		copies.WriteString(part(changed, g.Name.End(), g.End()) + "\n")
		fit = append(fit, b.n)
	}
	if fit == nil {
		return text, nil
	}
	var woven strings.Builder
	at := file.Name.End()
	woven.WriteString(part(text, 1, at) + `; import planted__ "pagecache/` + plantedImport + `"`)
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && calls[f] != "" {
			woven.WriteString(part(text, at, f.Body.Lbrace+1) + calls[f])
			at = f.Body.Lbrace + 1
		}
	}
	return woven.String() + part(text, at, token.Pos(len(text)+1)) + copies.String(), fit
}

// parse parses a file. Its positions are 1 more than the offsets in text.
func parse(text string) (*ast.File, error) {
	return parser.ParseFile(token.NewFileSet(), "", text, parser.SkipObjectResolution)
}

// part returns the text between two positions.
func part(text string, from, to token.Pos) string { return text[from-1 : to-1] }

// changedFunc returns the function whose body alone differs between two texts of a file, in both; or nil.
func changedFunc(a *ast.File, textA string, b *ast.File, textB string) (f, g *ast.FuncDecl) {
	if len(a.Decls) != len(b.Decls) {
		return nil, nil
	}
	for i, d := range a.Decls {
		e := b.Decls[i]
		if part(textA, d.Pos(), d.End()) == part(textB, e.Pos(), e.End()) {
			continue
		}
		was, ok := d.(*ast.FuncDecl)
		is, same := e.(*ast.FuncDecl)
		if !ok || !same || f != nil || was.Body == nil || is.Body == nil ||
			part(textA, was.Pos(), was.Body.Pos()) != part(textB, is.Pos(), is.Body.Pos()) {
			return nil, nil
		}
		f, g = was, is
	}
	return f, g
}

// callOf returns a call of the copy of a function, with the parameters and for the results of the function; false if
// there can be no such call.
func callOf(f *ast.FuncDecl, text, name string) (string, bool) {
	if f == nil || f.Recv == nil && slices.Contains([]string{"init", "main", "_"}, f.Name.Name) {
		return "", false
	}
	if f.Recv != nil {
		names := f.Recv.List[0].Names
		if len(names) == 0 || names[0].Name == "_" {
			return "", false
		}
		name = names[0].Name + "." + name
	}
	var types, args []string
	if f.Type.TypeParams != nil {
		for _, field := range f.Type.TypeParams.List {
			for _, n := range field.Names {
				types = append(types, n.Name)
			}
		}
		name += "[" + strings.Join(types, ", ") + "]"
	}
	for _, field := range f.Type.Params.List {
		typ := part(text, field.Type.Pos(), field.Type.End())
		variadic := strings.HasPrefix(typ, "...")
		for i := range max(len(field.Names), 1) {
			switch {
			case len(field.Names) > 0 && field.Names[i].Name != "_" && variadic:
				args = append(args, field.Names[i].Name+"...")
			case len(field.Names) > 0 && field.Names[i].Name != "_":
				args = append(args, field.Names[i].Name)
			case !variadic:
				args = append(args, "func() (zero "+typ+") { return }()") // it is not used
			}
		}
	}
	call := name + "(" + strings.Join(args, ", ") + ")"
	if f.Type.Results.NumFields() > 0 {
		return "return " + call, true
	}
	return call + "; return", true
}

// garden has the bugs that are planted together.
type garden struct {
	dir      string       // of the overlay and the test binaries
	overlay  string       // its name
	fits     map[int]bool // the numbers of the bugs
	binaries map[string]built
	sound    map[string]error // the outcomes of tests without a bug
}

// built is a test binary. Its name is empty if there is none: the package has no tests, or does not compile.
type built struct {
	name string
	err  error
}

// newGarden plants those of the bugs together that fit.
func newGarden(bugs []planted) (*garden, error) {
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return nil, err
	}
	g := &garden{dir, filepath.Join(dir, "overlay.json"), map[int]bool{}, map[string]built{}, map[string]error{}}
	byFile := map[string][]numbered{}
	for _, b := range bugs {
		byFile[b.t.file] = append(byFile[b.t.file], numbered{b.bug(), b.n})
	}
	replace := map[string]string{}
	add := func(file, text string) {
		to := filepath.Join(dir, strings.ReplaceAll(file, "/", "+"))
		abs, e := filepath.Abs(filepath.FromSlash(file))
		replace[abs] = to
		err = cmp.Or(err, e, os.WriteFile(to, []byte(text), 0o666))
	}
	add(plantedImport+"/planted.go", plantedText)
	for file, of := range byFile {
		text, e := os.ReadFile(filepath.FromSlash(file))
		if e != nil {
			continue // plant says it
		}
		woven, fit := weave(string(text), of)
		for _, n := range fit {
			g.fits[n] = true
		}
		if fit != nil {
			add(file, woven)
		}
	}
	overlay, e := json.Marshal(map[string]map[string]string{"Replace": replace})
	return g, cmp.Or(err, e, os.WriteFile(g.overlay, overlay, 0o666))
}

// test runs tests of a package with a bug, or with none.
func (g *garden) test(pkg, run string, bug int) ([]byte, error) {
	b, known := g.binaries[pkg]
	if !known {
		b.name = filepath.Join(g.dir, strings.ReplaceAll(pkg, "/", "+")+".test")
		dir, rel := moduleOf(pkg)
		cmd := exec.Command("go", "test", "-c", "-vet=off", "-overlay", g.overlay, "-o", b.name, "./"+rel)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("%w: %s", err, out)
		} else if _, err := os.Stat(b.name); err != nil {
			b.name = "" // the package has no tests
		}
		g.binaries[pkg] = b
	}
	if b.err != nil || b.name == "" {
		return nil, b.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), *timeout+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.name, "-test.short", "-test.failfast", "-test.timeout", timeout.String(),
		"-test.run", run)
	cmd.Dir = filepath.FromSlash(pkg)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", plantedEnv, bug))
	cmd.WaitDelay = 10 * time.Second
	return cmd.CombinedOutput()
}

// plant runs the tests with a bug that is planted with others. It returns false if the bug must be planted alone: it
// does not fit, the files do not compile together, or the tests fail without it.
func (g *garden) plant(b planted) (result, string, bool) {
	if !g.fits[b.n] {
		return "", "", false
	}
	for _, tests := range b.t.which() {
		pkg, run, _ := strings.Cut(tests, " ")
		out, err := g.test(pkg, run, b.n)
		if err != nil {
			if g.isSound(tests) != nil {
				return "", "", false
			}
			return caught, noticed(pkg, out), true
		}
		if *quick {
			return survived, "(quick)", true
		}
	}
	return survived, b.change(), true
}

// isSound returns an error if tests fail without a bug.
func (g *garden) isSound(tests string) error {
	err, known := g.sound[tests]
	if known {
		return err
	}
	pkg, run, _ := strings.Cut(tests, " ")
	for range 2 { // the machine may be busy
		var out []byte
		if out, err = g.test(pkg, run, 0); err == nil {
			break
		}
		err = fmt.Errorf("%s: %w", noticed(pkg, out), err)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s fails without a bug, where many are planted together: %v\n", tests, err)
	}
	g.sound[tests] = err
	return err
}
