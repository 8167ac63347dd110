// Command mutants plants bugs, one at a time, and reports whether the tests notice them. A bug that no test notices
// shows a property that is not tested.
//
//	go run ./internal/mutants                      all bugs, for hours
//	go run ./internal/mutants -only iobuf/flush    those whose label matches a regular expression
//	go run ./internal/mutants -list                labels and changes, without running anything
//
// The working tree is not changed: go test -overlay plants the bugs. Those that change the body of one function are
// compiled together, and the environment of the tests chooses one (together.go); each other bug is compiled alone. The
// tests of each file run in the order that its entry in the list gives, with -short, and stop at the first failure. A
// bug of which the list says that it is equivalent, so that no test can notice it, is not planted unless -equivalent is
// given.
//
// list_*.go have the bugs. mutants_test.go checks that each one still applies and compiles.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// kind is what a bug does.
type kind string

// The kinds of bug.
const (
	syncDropped  kind = "sync dropped"
	reordered    kind = "reordered"
	wakeupLost   kind = "wake-up lost"
	offByOne     kind = "off by one"
	swallowed    kind = "error swallowed"
	wrongVictim  kind = "wrong victim"
	notCounted   kind = "not counted"
	inverted     kind = "condition inverted"
	checkDropped kind = "check dropped"
)

// bug is a change of one place in a file. old occurs once in it.
type bug struct {
	kind     kind
	old, new string
	// equivalent, if set, says why no test can notice the bug.
	equivalent string
}

// target is a file, the bugs for it, and the tests that must notice them: packages, each with an optional space and
// regular expression of tests.
type target struct {
	file  string
	tests []string
	bugs  []bug
}

// targets returns all bugs.
func targets() (all []target) {
	lists := [][]target{
		logTargets, spaceTargets, storeTargets, checkpointTargets, pageTargets, ioTargets, raftTargets,
	}
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// which returns the tests that run for the bugs of a target.
func (t target) which() []string {
	if *instead != "" {
		return []string{*instead}
	}
	return t.tests
}

// apply returns the text of the file with the bug.
func (b bug) apply(text string) (string, error) {
	if n := strings.Count(text, b.old); n != 1 {
		return "", fmt.Errorf("the text to replace occurs %d times, want 1", n)
	}
	return strings.Replace(text, b.old, b.new, 1), nil
}

// result is the outcome for a bug.
type result string

const (
	caught     result = "caught"
	survived   result = "SURVIVED"
	broken     result = "DOES NOT APPLY"
	equivalent result = "equivalent"
)

var (
	only    = flag.String("only", "", "a regular expression: plant the bugs whose label or kind matches")
	list    = flag.Bool("list", false, "print the bugs and run nothing")
	also    = flag.Bool("equivalent", false, "plant also the bugs that are listed as equivalent")
	instead = flag.String("tests", "", "a package, with an optional regular expression: run only these tests")
	alone   = flag.Bool("alone", false, "compile anew for each bug, and plant no bugs together")
	quick   = flag.Bool("quick", false, "run only the first tests that each file's entry names, for a first look")
	timeout = flag.Duration("timeout", 4*time.Minute, "how long the tests of one package may take")
)

// planted is a bug of a target.
type planted struct {
	t     target
	i     int    // in t.bugs
	n     int    // the bug in short
	label string // its file, and its number in it
}

func (p planted) bug() bug       { return p.t.bugs[p.i] }
func (p planted) change() string { return fmt.Sprintf("%q became %q", p.bug().old, p.bug().new) }

// number returns all bugs of targets. A file may have several. A number depends on its bug alone, so that a bug more
// changes no text that was compiled with others.
func number(ts []target) (all []planted) {
	ofFile := map[string]int{}
	for _, t := range ts {
		for i, b := range t.bugs {
			ofFile[t.file]++
			n := int(crc32.ChecksumIEEE([]byte(t.file+b.old+b.new))>>1) + 1
			all = append(all, planted{t, i, n, fmt.Sprintf("%s#%d", t.file, ofFile[t.file])})
		}
	}
	return all
}

func main() {
	flag.Parse()
	match, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	var bugs []planted
	all := number(targets())
	for _, p := range all {
		b := p.bug()
		if !match.MatchString(p.label) && !match.MatchString(string(b.kind)) {
			continue
		}
		bugs = append(bugs, p)
		if *list {
			fmt.Printf("%s: %s\n- %s\n+ %s\n", p.label, b.kind, b.old, b.new)
		}
	}
	if !*list {
		os.Exit(runAll(all, bugs))
	}
}

// runAll plants some bugs of all. It returns the exit code.
func runAll(all, bugs []planted) int {
	g, err := newGarden(all) // of all, so that the next run finds what this one compiles
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer os.RemoveAll(g.dir)
	counts := map[result]int{}
	for _, b := range bugs {
		start := time.Now()
		r, by := g.runOne(b)
		counts[r]++
		fmt.Printf("%-14s %4.0fs  %s: %s: %s\n", r, time.Since(start).Seconds(), b.label, b.bug().kind, by)
	}
	fmt.Println(counts)
	if counts[survived]+counts[broken] > 0 {
		return 1
	}
	return 0
}

// runOne runs the tests with a bug. It returns the outcome and the test that noticed the bug, or why it was not
// planted.
func (g *garden) runOne(b planted) (result, string) {
	if why := b.bug().equivalent; why != "" && !*also {
		return equivalent, why
	}
	if !*alone {
		if r, by, ok := g.plant(b); ok {
			return r, by
		}
	}
	return plant(b)
}

// plant runs the tests with a bug that is planted alone.
func plant(b planted) (result, string) {
	dir, err := os.MkdirTemp("", "mutant")
	if err != nil {
		return broken, err.Error()
	}
	defer os.RemoveAll(dir)
	overlay, err := write(dir, b.t.file, b.bug())
	if err != nil {
		return broken, err.Error()
	}
	for _, tests := range b.t.which() {
		pkg, run, _ := strings.Cut(tests, " ")
		out, err := test(overlay, pkg, run)
		switch {
		case bytes.Contains(out, []byte("[build failed]")) || bytes.Contains(out, []byte("[setup failed]")):
			return broken, string(out)
		case err != nil:
			return caught, noticed(pkg, out)
		case *quick:
			return survived, "(quick)"
		}
	}
	return survived, b.change()
}

// write writes the file with the bug, and the overlay that puts it in the place of the file, to dir. It returns the
// name of the overlay.
func write(dir, file string, b bug) (string, error) {
	text, err := os.ReadFile(filepath.FromSlash(file))
	if err != nil {
		return "", err
	}
	changed, err := b.apply(string(text))
	if err != nil {
		return "", err
	}
	abs, err := filepath.Abs(filepath.FromSlash(file))
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, filepath.Base(file))
	overlay := filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {abs: to}})
	if err == nil {
		err = os.WriteFile(to, []byte(changed), 0o666)
	}
	if err == nil {
		err = os.WriteFile(overlay, replace, 0o666)
	}
	return overlay, err
}

// test runs tests of a package. Tests that hang are ended, and count as failed.
func test(overlay, pkg, run string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), *timeout+time.Minute)
	defer cancel()
	args := []string{"test", "-short", "-count=1", "-failfast", "-vet=off", "-overlay", overlay,
		"-timeout", timeout.String()}
	if run != "" {
		args = append(args, "-run", run)
	}
	dir, rel := moduleOf(pkg)
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+rel)...)
	cmd.Dir = dir
	cmd.WaitDelay = 10 * time.Second
	return cmd.CombinedOutput()
}

// moduleOf returns the directory of the module of a package, and the package's place in it.
func moduleOf(pkg string) (dir, rel string) {
	for dir = pkg; dir != "."; dir = path.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, strings.TrimPrefix(pkg, dir+"/")
		}
	}
	return ".", pkg
}

var failure = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)|^panic: (.*)|^fatal error: (.*)`)

// noticed returns the name of the test that failed.
func noticed(pkg string, out []byte) string {
	m := failure.FindSubmatch(out)
	if m == nil {
		return pkg
	}
	return pkg + ": " + string(bytes.Join(m[1:], nil))
}
