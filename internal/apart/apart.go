// Package apart runs tests in processes of their own, beside other tests. It is for tests that change or measure what
// belongs to a whole process, such as GOMAXPROCS, the settings of the collector, the heap, descriptors or the working
// directory. Such a test could otherwise run only while no other test of its package does. Only tests import it.
package apart

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Env is an environment variable. If it is set, tests run in this process and not in others: Run returns false.
// Debuggers and profiles of go test see such tests only then.
const Env = "PAGECACHE_TEST_APART"

// Run makes t a parallel test, runs it in a process of its own, with the same flags and GOMAXPROCS, and returns true
// once that has ended: t is to return. A failure there fails t, with all output of the process, and so does a process
// that ends without having run the test. If the test is skipped there, t is. In that process, Run returns false.
func Run(t *testing.T) bool {
	t.Helper()
	if os.Getenv(Env) != "" {
		return false
	}
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, arguments(t)...)
	cmd.Env = append(os.Environ(), Env+"="+t.Name())
	out, err := cmd.CombinedOutput()
	result := regexp.MustCompile(`(?m)^--- (PASS|SKIP): ` + regexp.QuoteMeta(t.Name()) + ` \(`).FindSubmatch(out)
	switch {
	case err != nil:
		t.Fatalf("in a process of its own: %v\n%s", err, out)
	case result == nil:
		t.Fatalf("the process of its own did not run the test:\n%s", out)
	case string(result[1]) == "SKIP":
		t.Skipf("in a process of its own:\n%s", out)
	}
	t.Logf("in a process of its own:\n%s", out)
	return true
}

// arguments returns the arguments of the process of t. Flags that write files, or select or repeat tests, are not
// passed on.
func arguments(t *testing.T) []string {
	args := []string{"-test.run=" + pattern(t), "-test.v", "-test.count=1"}
	args = append(args, fmt.Sprint("-test.cpu=", runtime.GOMAXPROCS(0)))
	if at, limited := t.Deadline(); limited { // it ends before this process does, and prints its goroutines
		args = append(args, fmt.Sprint("-test.timeout=", max(time.Until(at)-2*time.Second, time.Second)))
	} else {
		args = append(args, "-test.timeout=0")
	}
	flag.Visit(func(f *flag.Flag) {
		if f.Name == "test.short" || !strings.HasPrefix(f.Name, "test.") {
			args = append(args, fmt.Sprintf("-%s=%v", f.Name, f.Value))
		}
	})
	return args
}

// pattern returns a pattern that selects t, and of its subtests those that were asked for, if that can be told.
func pattern(t *testing.T) string {
	own := "^" + t.Name() + "$"
	asked := flag.Lookup("test.run").Value.String()
	if _, subtests, found := strings.Cut(asked, "/"); found && !strings.Contains(asked, "|") {
		own += "/" + subtests
	}
	return own
}
