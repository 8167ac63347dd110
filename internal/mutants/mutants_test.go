package main

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
	"slices"
	"testing"
)

const root = "../.." // of the repository, from this package

// listed is what go list prints of a package.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
}

// listPackages returns the packages of the modules and all that they import, with their export data.
func listPackages(t *testing.T) map[string]listed {
	t.Helper()
	all := map[string]listed{}
	for dir, packages := range map[string]string{"": "./engine/...", "raft": "./raftpages"} {
		cmd := exec.Command("go", "list", "-deps", "-export", "-json=ImportPath,Dir,Export,GoFiles", packages)
		cmd.Dir = filepath.Join(root, dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list %s in %q: %v: %s", packages, dir, err, &stderr)
		}
		for d := json.NewDecoder(bytes.NewReader(out)); ; {
			var l listed
			err := d.Decode(&l)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			all[l.ImportPath] = l
		}
	}
	return all
}

// compiles returns an error unless a package compiles with other text for one of its files.
func compiles(l listed, all map[string]listed, name, text string) error {
	fset := token.NewFileSet()
	var files []*ast.File
	for _, n := range l.GoFiles {
		var src any
		if n == name {
			src = text
		}
		f, err := parser.ParseFile(fset, filepath.Join(l.Dir, n), src, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	exports := func(p string) (io.ReadCloser, error) {
		if all[p].Export == "" {
			return nil, fmt.Errorf("no export data of %s", p)
		}
		return os.Open(all[p].Export)
	}
	_, err := (&types.Config{Importer: importer.ForCompiler(fset, "gc", exports)}).Check(l.ImportPath, fset, files, nil)
	return err
}

// Every bug applies to its file and compiles, has a kind, and is planted once.
func TestBugsApply(t *testing.T) {
	if testing.Short() {
		t.Skip("go test without -short checks it")
	}
	all := listPackages(t)
	kinds, seen, numbers := map[kind]int{}, map[string]bool{}, map[int]bool{}
	bugs := number(targets())
	for _, p := range bugs {
		file, bug := p.t.file, p.bug()
		b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(file)))
		if err != nil {
			t.Error(err)
			continue
		}
		l, known := all["pagecache/"+path.Dir(file)]
		if !known || !slices.Contains(l.GoFiles, path.Base(file)) {
			t.Errorf("%s is not compiled", file)
			continue
		}
		kinds[bug.kind]++
		if key := file + bug.old + "\x00" + bug.new; seen[key] {
			t.Errorf("%s is there twice", p.label)
		} else {
			seen[key] = true
		}
		if numbers[p.n] {
			t.Errorf("%s has the number of another", p.label)
		}
		numbers[p.n] = true
		text, err := bug.apply(string(b))
		if err == nil {
			err = compiles(l, all, path.Base(file), text)
		}
		if err != nil {
			t.Errorf("%s: %v", p.label, err)
		}
	}
	n := len(bugs)
	if n < 150 {
		t.Errorf("%d bugs, want 150 or more", n)
	}
	for _, k := range []kind{syncDropped, reordered, wakeupLost, offByOne, swallowed, wrongVictim, notCounted, inverted,
		checkDropped} {
		if kinds[k] == 0 {
			t.Errorf("no bug of kind %q", k)
		}
	}
	t.Logf("%d bugs: %v", n, kinds)
}
