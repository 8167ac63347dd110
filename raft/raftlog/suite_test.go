package raftlog_test

import (
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var suite = flag.Bool("suite", false, "run TestSuite, which takes minutes and needs the module proxy")

// skipped are tests of package raft, or parts of them, that do not fit: one compares its store in memory with others,
// one expects that root may not write to a directory, and one expects gaps, as in logs that are not monotonic.
const skipped = "^TestRaft_LogStoreIsMonotonic$|^TestFileSS_BadPerm$|^TestRaft_UserRestore$/^case"

// attempts is the number of times that a test of package raft is tried. They have timeouts of 50 ms, and fail on a busy
// machine now and then, with any store. TestRaft_FollowerRemovalNoElection needs most of them: it fails 4 times in 10
// with raft's own store in memory, on an idle machine, when a heartbeat is under way while it restarts a follower.
const attempts = 25

// The tests of package raft pass with raftlog in place of its store in memory: a copy of the module gets another
// inmem_store.go. Each runs in a process of its own.
func TestSuite(t *testing.T) {
	if !*suite {
		t.Skip("it takes minutes: use -args -suite")
	}
	dir := t.TempDir()
	run := func(name string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	command := func(name string, args ...string) string {
		t.Helper()
		out, err := run(name, args...)
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return out
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
	command("go", "test", "-mod=mod", "-c", "-o", "suite.test", ".")
	names := strings.Fields(command("./suite.test", "-test.list", "^Test"))
	if len(names) < 100 {
		t.Fatalf("package raft has %d tests: %q", len(names), names)
	}
	slices.Sort(names)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			for i := range attempts {
				out, err := run("./suite.test", "-test.run", "^"+name+"$", "-test.skip", skipped, "-test.timeout", "2m")
				if err == nil {
					return
				}
				if i == attempts-1 {
					t.Fatalf("%v\n%s", err, out)
				}
				t.Logf("attempt %d: %v", i+1, err)
				time.Sleep(time.Second)
			}
		})
	}
}

// copyFiles copies the files of a directory, without those below, over those of another.
func copyFiles(to, from string) error {
	names, err := fs.Glob(os.DirFS(from), "*")
	if err != nil {
		return err
	}
	for _, name := range names {
		info, err := os.Stat(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if info.IsDir() {
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
