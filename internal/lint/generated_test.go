package lint

import (
	"flag"
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the generated parts of documents")

// Documents repeat the code between the lines <!-- begin: NAME --> and <!-- end: NAME -->:
//
//	imports     generated: each package and what it imports of this module
//	goroutines  | started in | function | does | ends |: the package and function of every go statement, and of
//	            every call of Go or AfterFunc
//	options     | option | default | …: the fields of engine.Options, with the default that their
//	            comments give in brackets
//	errors      | error | …: the exported errors of package engine
//	events      generated: the fields of report.Events, with their comments and the fields of their arguments
var parts = []string{"imports", "goroutines", "options", "errors", "events"}

var (
	partBegin = regexp.MustCompile(`(?m)^<!-- begin: (\w+) -->\n`)
	linkText  = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

// part returns where the text of a part begins and ends in a document.
func part(text, name string) (begin, end int, ok bool) {
	open, closing := "<!-- begin: "+name+" -->\n", "<!-- end: "+name+" -->\n"
	i := strings.Index(text, open)
	if i < 0 {
		return 0, 0, false
	}
	begin = i + len(open)
	j := strings.Index(text[begin:], closing)
	return begin, begin + j, j >= 0
}

// document returns the document that has a part, and the part. The test is skipped if none has it.
func document(t *testing.T, name string) (doc, text string) {
	t.Helper()
	for _, doc := range files(t, ".md") {
		text := read(t, doc)
		if begin, end, ok := part(text, name); ok {
			return doc, text[begin:end]
		}
	}
	t.Fatalf("no document has the part %q", name)
	return "", ""
}

// Every part of a document is one that is tested, has an end, and is in one document only.
func TestParts(t *testing.T) {
	in := map[string]string{}
	for _, doc := range files(t, ".md") {
		text := read(t, doc)
		for _, m := range partBegin.FindAllStringSubmatch(text, -1) {
			name := m[1]
			if _, _, ok := part(text, name); !ok {
				t.Errorf("%s: part %q has no end", doc, name)
			}
			if in[name] != "" || !slices.Contains(parts, name) {
				t.Errorf("%s: part %q is in %q too, or not tested", doc, name, in[name])
			}
			in[name] = doc
		}
	}
}

// importLines returns the part "imports": a wrapped line for each package. Those below a command belong to it.
func importLines(all []*source) string {
	imports := map[string]map[string]bool{}
	for _, s := range all {
		pkg := owner(s.pkg)
		if s.test || pkg == "" {
			continue
		}
		if imports[pkg] == nil {
			imports[pkg] = map[string]bool{}
		}
		for _, im := range s.ast.Imports {
			p, err := strconv.Unquote(im.Path.Value)
			if own, ok := strings.CutPrefix(p, module+"/"); err == nil && ok && owner(own) != pkg {
				imports[pkg][own] = true
			}
		}
	}
	var b strings.Builder
	b.WriteString("\n```\n")
	for _, pkg := range sorted(imports) {
		line := pkg + " →"
		for i, im := range sorted(imports[pkg]) {
			if i > 0 {
				line += ","
			}
			if columns(line)+len(im)+2 > maxColumns {
				b.WriteString(line + "\n")
				line = "   "
			}
			line += " " + im
		}
		b.WriteString(line + "\n")
	}
	b.WriteString("```\n\n")
	return b.String()
}

// sorted returns the keys of a map in order.
func sorted[V any](m map[string]V) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func TestImportLines(t *testing.T) {
	many := "package b\nimport (\n\"fmt\"\n"
	for i := range 8 {
		many += fmt.Sprintf("\"pagecache/engine/internal/%d\"\n", i)
	}
	got := importLines([]*source{
		sample(t, "b/b.go", many+")\n"), sample(t, "a/x/x.go", "package x\n"),
		sample(t, "cmd/pcbench/sub/x.go", "package sub\nimport \"pagecache/engine\"\n"),
		sample(t, "b/b_test.go", "package b\nimport \"pagecache/z\"\n"),
	})
	want := "\n```\na/x →\n" +
		"b → engine/internal/0, engine/internal/1, engine/internal/2, engine/internal/3, " +
		"engine/internal/4, engine/internal/5,\n    engine/internal/6, engine/internal/7\ncmd/pcbench → engine\n```\n\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The document has the imports as they are. With -update they are written anew.
func TestDocumentedImports(t *testing.T) { generated(t, "imports", importLines(sources(t))) }

// generated fails the test unless the part of a document is want. With -update it is written anew.
func generated(t *testing.T, name, want string) {
	t.Helper()
	doc, have := document(t, name)
	if have == want {
		return
	}
	if !*update {
		const text = "%s: the part %s differs: run go test ./internal/lint -run %s -update\nwant\n%s"
		t.Fatalf(text, doc, name, t.Name(), want)
	}
	text := read(t, doc)
	begin, end, _ := part(text, name)
	if err := os.WriteFile(filepath.Join(root, doc), []byte(text[:begin]+want+text[end:]), 0o644); err != nil {
		t.Fatal(err)
	}
}

// harnesses are packages for tests only.
var harnesses = []string{"internal/simdisk", "engine/internal/enginetest", "engine/pagetest"}

// started returns the functions of a file that start goroutines, with their package: "lru: (Policy).Start".
func started(s *source) (names []string) {
	for _, d := range s.ast.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		ast.Inspect(f.Body, func(n ast.Node) bool {
			starts := false
			switch n := n.(type) {
			case *ast.GoStmt:
				starts = true
			case *ast.CallExpr:
				sel, ok := n.Fun.(*ast.SelectorExpr)
				starts = ok && (sel.Sel.Name == "Go" || sel.Sel.Name == "AfterFunc")
			}
			if name := funcName(s, f); starts && !slices.Contains(names, name) {
				names = append(names, name)
			}
			return true
		})
	}
	return names
}

// starters returns the functions that the part "goroutines" lists, written like those of started: the first column
// names the package or the file, the second the function.
func starters(text string) (names []string) {
	for _, row := range table(text, "started in", "function", "does", "ends") {
		where, f := linkText.ReplaceAllString(row[0], "$1"), linkText.ReplaceAllString(row[1], "$1")
		if strings.HasSuffix(where, ".go") {
			where = path.Dir(where)
		}
		f = strings.TrimSuffix(strings.NewReplacer("*", "", "[P]", "").Replace(f), "()")
		if typ, name, ok := strings.Cut(f, "."); ok && !strings.HasPrefix(typ, "(") {
			f = "(" + typ + ")." + name
		}
		names = append(names, where+": "+f)
	}
	return names
}

// sameFunc reports whether a listed name is that of a function. It may leave out the type of a method.
func sameFunc(listed, name string) bool {
	pkg, f, _ := strings.Cut(name, ": ")
	_, method, isMethod := strings.Cut(f, ").")
	return listed == name || isMethod && listed == pkg+": "+method
}

func TestStarters(t *testing.T) {
	s := sample(t, "lru/x.go", `package lru
func (p *Policy[K]) Start() { go p.run(); go func() {}() }
func grow() { s.wg.Go(func() {}); time.AfterFunc(1, f) }
func none() { x.Going() }
`)
	got, want := started(s), []string{"lru: (Policy).Start", "lru: grow"}
	if !slices.Equal(got, want) {
		t.Errorf("started: %q, want %q", got, want)
	}
	got = starters("| started in | function | does | ends |\n|--|--|--|--|\n" +
		"| `lru` | `(*Policy).Start` | a | b |\n" +
		"| [lru/x.go](../lru/x.go) | grow() | a | b |\n| lru | Policy.Start | a | b |\n")
	if want = append(want, want[0]); !slices.Equal(got, want) {
		t.Errorf("starters: %q, want %q", got, want)
	}
	for listed, want := range map[string]bool{
		"lru: Start": true, "lru: (Policy).Start": true, "lru: Stop": false, "lru: ": false,
	} {
		if sameFunc(listed, "lru: (Policy).Start") != want {
			t.Errorf("sameFunc of %q is %v", listed, !want)
		}
	}
}

// The document lists every function that starts a goroutine, and none else.
func TestDocumentedGoroutines(t *testing.T) {
	doc, text := document(t, "goroutines")
	listed := starters(text)
	var real []string
	for _, s := range sources(t) {
		top, _, _ := strings.Cut(s.pkg, "/")
		if s.test || slices.Contains([]string{"cmd", "bench"}, top) || strings.HasPrefix(s.pkg, "raft/cmd/") ||
			slices.Contains(harnesses, s.pkg) {
			continue
		}
		for _, name := range started(s) {
			real = append(real, name)
			if !slices.ContainsFunc(listed, func(l string) bool { return sameFunc(l, name) }) {
				t.Errorf("%s: lacks the goroutine that %s starts", doc, name)
			}
		}
	}
	for _, name := range listed {
		if !slices.ContainsFunc(real, func(r string) bool { return sameFunc(name, r) }) {
			t.Errorf("%s: %s starts no goroutine", doc, name)
		}
	}
}

var inBrackets = regexp.MustCompile(`\[([^\]]+)\]`)

// option is a field of Options, with the default that its comment gives in brackets.
type option struct {
	name, def string
	at        token.Pos
}

// optionsOf returns the exported fields of the struct type Options that a file declares.
func optionsOf(f *ast.File) (all []option) {
	ast.Inspect(f, func(n ast.Node) bool {
		ts, ok := n.(*ast.TypeSpec)
		if !ok || ts.Name.Name != "Options" {
			return true
		}
		st, ok := ts.Type.(*ast.StructType)
		if !ok {
			return false
		}
		for _, field := range st.Fields.List {
			text := strings.Join(strings.Fields(field.Doc.Text()+field.Comment.Text()), " ")
			for _, id := range field.Names {
				if id.IsExported() {
					o := option{name: id.Name, at: id.Pos()}
					if m := inBrackets.FindStringSubmatch(text); m != nil {
						o.def = m[1]
					}
					all = append(all, o)
				}
			}
		}
		return false
	})
	return all
}

// amount returns what a default says as a number: "8 MiB", "1 000 000", "500 ms", "0.40".
func amount(text string) (constant.Value, bool) {
	text = strings.NewReplacer("\u00a0", " ", "\u202f", " ", ",", "").Replace(text)
	number := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZµ %")
	unit := strings.TrimSpace(text[len(number):])
	v := constant.MakeFromLiteral(strings.ReplaceAll(number, " ", ""), token.FLOAT, 0)
	scale := map[string]int64{
		"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "ms": int64(time.Millisecond), "s": int64(time.Second),
		"min": int64(time.Minute), "bytes": 1, "ids": 1, "messages": 1,
	}[unit]
	if v.Kind() == constant.Unknown || scale == 0 {
		return nil, false
	}
	return constant.BinaryOp(v, token.MUL, constant.MakeInt64(scale)), true
}

func equal(a, b constant.Value) bool {
	return constant.Compare(constant.ToFloat(a), token.EQL, constant.ToFloat(b))
}

func TestAmounts(t *testing.T) {
	for text, want := range map[string]float64{
		"8 MiB": 8 << 20, "1 000 000": 1e6, "500 ms": 5e8, "0.40": 0.4, "3": 3, "1 GiB": 1 << 30,
	} {
		v, ok := amount(text)
		if got, _ := constant.Float64Val(constant.ToFloat(v)); !ok || got != want {
			t.Errorf("%s: %v %v, want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{"none", "IOAuto", "5 apples", ""} {
		if v, ok := amount(text); ok {
			t.Errorf("%s: %v", text, v)
		}
	}
}

// The defaults that the comments of engine.Options give are those of the constants default…, and the document has the
// same.
func TestDocumentedOptions(t *testing.T) {
	doc, text := document(t, "options")
	y := load(t, "engine")
	have := map[string]string{}
	for _, row := range table(text, "option", "default") {
		have[row[0]] = row[1]
	}
	for _, o := range commented(t) {
		got, ok := have[o.name]
		switch delete(have, o.name); {
		case !ok:
			t.Errorf("%s: lacks the option %s", doc, o.name)
		case o.def != "" && plain(got) != plain(o.def):
			t.Errorf("%s: the default of %s is %q in the table and %q in its comment", doc, o.name, got, o.def)
		case o.def == "" && strings.TrimSpace(got) == "":
			t.Errorf("%s: %s has no default", doc, o.name)
		}
		if c, ok := y.pkg.Scope().Lookup("default" + o.name).(*types.Const); ok {
			if v, ok := amount(got); ok && !equal(v, c.Val()) {
				t.Errorf("%s: the default of %s is %q, that of the code is %v", doc, o.name, got, c.Val())
			}
		}
	}
	for name := range have {
		t.Errorf("%s: there is no option %s", doc, name)
	}
}

// plain writes a default as it is compared.
func plain(def string) string {
	return strings.Join(strings.Fields(strings.NewReplacer("`", "", "\u00a0", " ", "\u202f", " ").Replace(def)), " ")
}

// commented returns the options of package engine.
func commented(t *testing.T) (options []option) {
	for _, s := range sources(t) {
		if s.pkg == "engine" && !s.test {
			options = append(options, optionsOf(s.ast)...)
		}
	}
	if len(options) == 0 {
		t.Fatal("engine.Options was not found")
	}
	return options
}

// The defaults in the comments of engine.Options are those of the constants default….
func TestCommentedDefaults(t *testing.T) {
	y := load(t, "engine")
	compared := 0
	for _, o := range commented(t) {
		c, ok := y.pkg.Scope().Lookup("default" + o.name).(*types.Const)
		if !ok {
			continue
		}
		compared++
		if v, ok := amount(o.def); !ok || !equal(v, c.Val()) {
			t.Errorf("the comment of Options.%s gives the default as %q, the code as %v", o.name, o.def, c.Val())
		}
	}
	if compared == 0 {
		t.Error("no constant default… was found")
	}
}

// The document lists the exported errors of package engine, and none else.
func TestDocumentedErrors(t *testing.T) {
	doc, text := document(t, "errors")
	listed := map[string]bool{}
	for _, row := range table(text, "error") {
		listed[strings.TrimPrefix(row[0], "engine.")] = true
	}
	scope := load(t, "engine").pkg.Scope()
	for _, name := range scope.Names() {
		if v, ok := scope.Lookup(name).(*types.Var); ok && v.Exported() && strings.HasPrefix(name, "Err") {
			if !listed[name] {
				t.Errorf("%s: lacks %s", doc, name)
			}
			delete(listed, name)
		}
	}
	for name := range listed {
		t.Errorf("%s: there is no error %s", doc, name)
	}
}
