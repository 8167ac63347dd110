package lint

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// structs returns the fields of the structs that a file declares, by the name of the struct.
func structs(f *ast.File) map[string][]*ast.Field {
	found := map[string][]*ast.Field{}
	ast.Inspect(f, func(n ast.Node) bool {
		if ts, ok := n.(*ast.TypeSpec); ok {
			if st, ok := ts.Type.(*ast.StructType); ok {
				found[ts.Name.Name] = st.Fields.List
			}
		}
		return true
	})
	return found
}

// levels returns the constant of package slog that each method Level of a file returns, by the method's type.
func levels(f *ast.File) map[string]string {
	found := map[string]string{}
	for _, d := range f.Decls {
		if fd, ok := d.(*ast.FuncDecl); ok && fd.Name.Name == "Level" && fd.Recv != nil {
			ast.Inspect(fd.Body, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					found[receiver(fd)] = strings.TrimPrefix(sel.Sel.Name, "Level")
				}
				return true
			})
		}
	}
	return found
}

// eventRows returns the part "events": a row for each field of the struct Events, and its comment.
func eventRows(s *source) string {
	all, level := structs(s.ast), levels(s.ast)
	var b strings.Builder
	b.WriteString("\n| event | level | fields of the argument |\n|---|---|---|\n")
	var said strings.Builder
	for _, f := range all["Events"] {
		name := f.Names[0].Name
		_, text, _ := strings.Cut(strings.Join(strings.Fields(f.Doc.Text()), " "), name+": ")
		var fields []string
		for _, g := range all[name+"Info"] {
			for _, id := range g.Names {
				fields = append(fields, "`"+id.Name+"`")
			}
		}
		cells := []string{"`" + name + "`", level[name+"Info"], strings.Join(fields, ", ")}
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
		line := "- **" + name + ":**"
		for _, word := range strings.Fields(text) {
			if columns(line)+1+columns(word) > maxColumns {
				said.WriteString(line + "\n")
				line = " "
			}
			line += " " + word
		}
		said.WriteString(line + "\n")
	}
	return b.String() + "\n" + said.String() + "\n"
}

func TestEventRows(t *testing.T) {
	got := eventRows(sample(t, "x/x.go", `package x
type Events struct {
	// A: the first
	// thing.
	A func(AInfo)
}
type AInfo struct {
	X, Y int
	Err error
}
func (AInfo) Level() slog.Level { return slog.LevelWarn }
`))
	want := "| `A` | Warn | `X`, `Y`, `Err` |\n\n- **A:** the first thing.\n\n"
	if !strings.HasSuffix(got, "|---|---|---|\n"+want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The document has the events as they are. With -update they are written anew.
func TestDocumentedEvents(t *testing.T) {
	for _, s := range sources(t) {
		if s.name == "engine/internal/report/events.go" {
			generated(t, "events", eventRows(s))
			return
		}
	}
	t.Fatal("the events were not found")
}

// Package report is the only one of the library that writes to a Logger, so that everything that is logged is an event,
// too. Package engine has the option.
func TestOneReporter(t *testing.T) {
	allowed := []string{"engine/internal/report/events.go", "engine/internal/report/report.go", "engine/options.go"}
	for _, s := range sources(t) {
		top, _, _ := strings.Cut(s.pkg, "/")
		if s.test || top == "cmd" || top == "bench" || slices.Contains(harnesses, s.pkg) ||
			slices.Contains(allowed, s.name) {
			continue
		}
		for _, im := range s.ast.Imports {
			if im.Path.Value == `"log/slog"` || im.Path.Value == `"log"` {
				t.Errorf("%s: imports %s; report events through package report", s.at(im.Pos()), im.Path.Value)
			}
		}
	}
}
