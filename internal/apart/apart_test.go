package apart

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

var (
	how   = flag.String("apart.how", "", "what TestApart does")
	exits = flag.Bool("apart.exits", false, "TestApart ends its process")
)

// TestApart is run by the tests below, with -apart.how.
func TestApart(t *testing.T) {
	if *how == "" {
		t.Skip("only for the other tests")
	}
	if Run(t) {
		return
	}
	fmt.Printf("process %d, GOMAXPROCS %d, short %v\n", os.Getpid(), runtime.GOMAXPROCS(0), testing.Short())
	if *exits {
		os.Exit(0)
	}
	switch *how {
	case "fails":
		t.Error("something is wrong")
	case "panics":
		panic("something is wrong")
	case "skips":
		t.Skip("something is missing")
	}
	for _, name := range []string{"one", "two"} {
		t.Run(name, func(t *testing.T) { fmt.Println("subtest", name) })
	}
}

// run runs TestApart with arguments, in a process that Run makes another one from.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(os.Args[0], append([]string{"-test.v"}, args...)...).CombinedOutput()
	return string(out), err
}

// A test that runs in a process of its own passes, fails or is skipped as it does there, and its output is shown.
func TestResults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		how, result, shown string
		passes             bool
	}{
		{"passes", "--- PASS: TestApart", "in a process of its own", true},
		{"fails", "--- FAIL: TestApart", "something is wrong", false},
		{"panics", "--- FAIL: TestApart", "panic: something is wrong", false},
		{"skips", "--- SKIP: TestApart", "something is missing", true},
	} {
		out, err := run(t, "-test.run=^TestApart$", "-apart.how="+c.how)
		at := strings.LastIndex(out, "\n"+c.result) // that of the outer process comes last, and is not indented
		if (err == nil) != c.passes || at < 0 || !strings.Contains(out, c.shown) {
			t.Errorf("a test that %s: %v\n%s", c.how, err, out)
		}
	}
	if out, err := run(t, "-test.run=^TestApart$", "-apart.how=passes", "-apart.exits"); err == nil {
		t.Errorf("a process that has not run its test to the end: no error\n%s", out)
	}
}

// The process has the flags of the test, its GOMAXPROCS, and the subtests that were asked for.
func TestFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ run, cpu, want, not string }{
		{"^TestApart$", "3", "GOMAXPROCS 3, short true", ""},
		{"TestApart/two", "1", "subtest two", "subtest one"},
		{"^(TestApart|TestNone/one)$", "2", "subtest two", "nothing"},
	} {
		out, err := run(t, "-test.run="+c.run, "-test.cpu="+c.cpu, "-test.short", "-apart.how=passes")
		if err != nil || !strings.Contains(out, c.want) || c.not != "" && strings.Contains(out, c.not) {
			t.Errorf("%+v: %v\n%s", c, err, out)
		}
	}
}

// With Env, and in the process of its own, a test runs where it is.
func TestHere(t *testing.T) {
	t.Setenv(Env, "here")
	out, err := run(t, "-test.run=^TestApart$", "-apart.how=passes")
	if err != nil || strings.Contains(out, "in a process of its own") || !strings.Contains(out, "subtest two") {
		t.Errorf("%v\n%s", err, out)
	}
}
