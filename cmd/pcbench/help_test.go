package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pagecache/cmd/pcbench/internal/job"
)

var update = flag.Bool("update", false, "write the golden files, and the table in docs/PCBENCH.md")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the text differs from %s (-update rewrites it):\n%s", file, got)
	}
}

// The help texts are golden files, so that a change of an option shows in a diff.
func TestHelpGolden(t *testing.T) {
	for name, line := range map[string]string{
		"help.txt": "help", "help-run.txt": "run --help", "help-dump.txt": "dump --help",
		"help-tour.txt": "help tour", "help-check.txt": "check --help", "help-salvage.txt": "salvage --help",
		"help-backup.txt": "backup --help", "help-restore.txt": "restore --help", "help-verify.txt": "verify --help",
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

// help knows all commands, and suggests one for a misspelt word.
func TestHelpOfCommands(t *testing.T) {
	for _, name := range commands {
		if text, status := call("help", name); status != 0 || !strings.Contains(text, "pcbench "+name) {
			t.Errorf("%s: %d, %s", name, status, text)
		}
	}
	if text, status := call("help", "rnu"); status != exitUsage || !strings.Contains(text, "did you mean run?") {
		t.Errorf("%d, %s", status, text)
	}
}

const (
	benchmarksDoc = "../../docs/BENCHMARKS.md"
	pcbenchDoc    = "../../docs/PCBENCH.md"
)

// The table of all options in docs/PCBENCH.md is generated from the one table.
func TestDocumentedOptions(t *testing.T) {
	const begin, end = "<!-- begin: written by go test ./cmd/pcbench -update -->\n", "<!-- end -->\n"
	text, err := os.ReadFile(pcbenchDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no section for the options of pcbench", pcbenchDoc)
	}
	if want := "\n" + job.Markdown() + "\n"; table != want {
		if *update {
			if err := os.WriteFile(pcbenchDoc, []byte(before+begin+want+end+after), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Errorf("the options in %s differ: go test ./cmd/pcbench -update writes them", pcbenchDoc)
	}
}

// Every option that docs/PCBENCH.md shows exists, and every command line of pcbench run in the documents is valid.
func TestDocumentedCommands(t *testing.T) {
	text, err := os.ReadFile(pcbenchDoc)
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, m := range regexp.MustCompile("`--([a-z_-]+)").FindAllStringSubmatch(string(text), -1) {
		if named++; job.Lookup(m[1]) == nil && m[1] != "keep" {
			t.Errorf("%s: --%s does not exist", pcbenchDoc, m[1])
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
			if _, err := job.Parse(strings.Fields(m[1])); err != nil {
				t.Errorf("%s: pcbench run %s: %v", name, m[1], err)
			}
		}
	}
	if named < 10 || commands < 5 {
		t.Errorf("the documents name %d options and %d commands: the test does not find them any more", named, commands)
	}
}
