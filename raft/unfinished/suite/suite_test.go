package raftlog_test

import (
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var suite = flag.Bool("suite", false, "run TestSuite, which takes minutes and needs the module proxy")

// ownStores are the tests of package raft that compare its store in memory with others.
const ownStores = "^TestRaft_LogStoreIsMonotonic$"

// The tests of package raft pass with raftlog in place of its store in memory: a copy of the module gets another
// inmem_store.go.
func TestSuite(t *testing.T) {
	if !*suite {
		t.Skip("it takes minutes: use -args -suite")
	}
	dir := t.TempDir()
	command := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	here, err := os.Getwd()
	must(t, err)
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/hashicorp/raft")
	out, err := list.Output()
	must(t, err)
	must(t, copyFiles(dir, strings.TrimSpace(string(out))))
	must(t, copyFiles(dir, filepath.Join(here, "testdata", "suite")))
	sums := []byte{}
	for _, name := range []string{filepath.Join(dir, "go.sum"), filepath.Join(here, "..", "go.sum")} {
		b, err := os.ReadFile(name)
		must(t, err)
		sums = append(sums, b...)
	}
	must(t, os.WriteFile(filepath.Join(dir, "go.sum"), sums, 0o600))
	command("go", "mod", "edit", "-go=1.26.0", "-require=pagecache@v0.0.0", "-require=pagecache/raft@v0.0.0",
		"-replace=pagecache="+filepath.Join(here, "..", ".."), "-replace=pagecache/raft="+filepath.Join(here, ".."))
	t.Log(command("go", "test", "-mod=mod", "-count=1", "-timeout=9m", "-skip="+ownStores, "."))
}

// copyFiles copies the files of a directory, without those below, over those of another.
func copyFiles(to, from string) error {
	names, err := fs.Glob(os.DirFS(from), "*")
	if err != nil {
		return err
	}
	for _, name := range names {
		info, err := os.Stat(filepath.Join(from, name))
		if err != nil || info.IsDir() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}
