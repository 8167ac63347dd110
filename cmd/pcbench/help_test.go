package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// The help texts are golden files, so that a change of an option shows in a diff.
func TestHelpGolden(t *testing.T) {
	for name, line := range map[string]string{
		"help.txt": "help", "help-run.txt": "run --help", "help-dump.txt": "dump --help",
		"help-check.txt": "check --help", "help-salvage.txt": "salvage --help",
	} {
		var out, errOut bytes.Buffer
		if status := command(context.Background(), strings.Fields(line), &out, &errOut, nil); status != 0 {
			t.Errorf("%s: status %d, %s", line, status, &errOut)
		}
		golden(t, name, out.Bytes())
		for i, l := range strings.Split(out.String(), "\n") {
			if len([]rune(l)) > 120 {
				t.Errorf("%s: line %d has more than 120 columns: %s", line, i+1, l)
			}
		}
	}
}

const benchmarksDoc = "../../docs/BENCHMARKS.md"

// The table of pcbench's own options in docs/BENCHMARKS.md is generated from the flags.
func TestDocumentedOptions(t *testing.T) {
	const begin, end = "<!-- begin: written by go test ./cmd/pcbench -update -->\n", "<!-- end -->\n"
	text, err := os.ReadFile(benchmarksDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no section for the options of pcbench", benchmarksDoc)
	}
	if want := "\n" + ownTable() + "\n"; table != want {
		if *update {
			if err := os.WriteFile(benchmarksDoc, []byte(before+begin+want+end+after), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Errorf("the options in %s are\n%s\nwant (-update writes it)\n%s", benchmarksDoc, table, want)
	}
}

func runFlags() *pflag.FlagSet {
	s := defaults()
	return newFlags(&s, &text{})
}

// ownTable returns the options that fio does not have, as a Markdown table.
func ownTable() string {
	b := &strings.Builder{}
	fmt.Fprint(b, "| option | meaning | default |\n|---|---|---|\n")
	runFlags().VisitAll(func(o *pflag.Flag) {
		if slices.Contains(ownOptions, o.Name) {
			value, usage := pflag.UnquoteUsage(o)
			fmt.Fprintf(b, "| `--%s=%s` | %s | %s |\n", o.Name, strings.ToUpper(value), usage, o.DefValue)
		}
	})
	return b.String()
}

// Every option that docs/BENCHMARKS.md shows in a section about pcbench exists, and every command line of pcbench run
// in the documents is valid.
func TestDocumentedCommands(t *testing.T) {
	text, err := os.ReadFile(benchmarksDoc)
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## pcbench and fio\n")
	if !ok {
		t.Fatalf("%s has no section about pcbench", benchmarksDoc)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	flags, named := runFlags(), 0
	for _, m := range regexp.MustCompile("`--([a-z_-]+)").FindAllStringSubmatch(section, -1) {
		if named++; flags.Lookup(m[1]) == nil {
			t.Errorf("%s: --%s does not exist", benchmarksDoc, m[1])
		}
	}
	names, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for _, name := range append(names, "../../README.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		joined := regexp.MustCompile(`\\\n\s*`).ReplaceAllString(string(text), "")
		for _, m := range regexp.MustCompile("pcbench run (--[^`#\n]*)").FindAllStringSubmatch(joined, -1) {
			commands++
			if _, _, err := parse(strings.Fields(m[1])); err != nil {
				t.Errorf("%s: pcbench run %s: %v", name, m[1], err)
			}
		}
	}
	if named < 10 || commands < 5 {
		t.Errorf("the documents name %d options and %d commands: the test does not find them any more", named, commands)
	}
}
