package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// benchMode says which benchmark code measures the old version. It implements pflag.Value.
type benchMode int

// The zero value is benchModeAuto.
const (
	benchModeAuto benchMode = iota // benchModeNew if that compiles, else benchModeOwn
	benchModeNew                   // the new checkout's code, compiled against the old engine
	benchModeOwn                   // the old checkout's code
)

var benchModes = []string{"auto", "new", "own"}

// String returns the name of the mode on the command line.
func (m benchMode) String() string {
	if m < 0 || int(m) >= len(benchModes) {
		return fmt.Sprintf("benchMode(%d)", int(m))
	}
	return benchModes[m]
}

// Type returns the name of the type for help texts.
func (m benchMode) Type() string { return "which" }

// Set parses the name of a mode.
func (m *benchMode) Set(s string) error {
	for i, name := range benchModes {
		if s == name {
			*m = benchMode(i)
			return nil
		}
	}
	return fmt.Errorf("must be one of %s", strings.Join(benchModes, ", "))
}

// version is a compiled compare.
type version struct {
	path   string // of the binary
	binary string // the beginning of its SHA-256, which says whether two runs measured the same code
	commit string // of the engine's checkout, "" if it is not a git checkout
	bench  benchMode
}

func (v version) String() string {
	return fmt.Sprintf("commit %s, %s benchmark code, binary %s", v.commit, v.bench, v.binary)
}

// build compiles compare for both checkouts into o.dir.
func build(ctx context.Context, o options) (before, after version, err error) {
	b := builder{ctx: ctx, options: o}
	if after, err = b.own("new", o.newDir); err != nil {
		return before, after, err
	}
	if o.bench != benchModeOwn {
		before, err = b.newBench()
		if err == nil || o.bench == benchModeNew || ctx.Err() != nil {
			return before, after, err
		}
		fmt.Fprintln(os.Stderr,
			"the new benchmark code does not compile against the old engine; the old version uses its own code")
	}
	before, err = b.own("old", o.oldDir)
	return before, after, err
}

// builder compiles compare.
type builder struct {
	ctx context.Context
	options
}

// own compiles the compare of the checkout in dir. A compare that has no ours command yet gets the new checkout's.
func (b builder) own(name, dir string) (version, error) {
	var flags []string
	command := filepath.Join(dir, "bench", "cmd", "compare")
	if _, err := os.Stat(filepath.Join(command, "ours.go")); errors.Is(err, fs.ErrNotExist) {
		overlay, err := b.overlay(command)
		if err != nil {
			return version{}, err
		}
		flags = append(flags, "-overlay", overlay)
	}
	return b.compile(name, dir, dir, flags...)
}

// oursHook makes a compare whose main does not know the ours command run it.
const oursHook = `package main

import (
	"context"
	"fmt"
	"os"
)

func init() {
	if len(os.Args) < 2 || os.Args[1] != "ours" {
		return
	}
	if err := runOurs(context.Background(), os.Args[2:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
`

// overlay writes the file for go build -overlay that adds the ours command to the compare in the folder command.
func (b builder) overlay(command string) (string, error) {
	hook := filepath.Join(b.dir, "ours_hook.go")
	text, err := json.Marshal(map[string]map[string]string{"Replace": {
		filepath.Join(command, "ours.go"):      filepath.Join(b.newDir, "bench", "cmd", "compare", "ours.go"),
		filepath.Join(command, "ours_hook.go"): hook,
	}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(b.dir, "overlay.json")
	return overlay, errors.Join(os.WriteFile(hook, []byte(oursHook), 0o644), os.WriteFile(overlay, text, 0o644))
}

// newBench compiles the new checkout's compare against the old checkout's engine.
func (b builder) newBench() (version, error) {
	modfile := filepath.Join(b.dir, "old.mod")
	for from, to := range map[string]string{"go.mod": modfile, "go.sum": filepath.Join(b.dir, "old.sum")} {
		text, err := os.ReadFile(filepath.Join(b.newDir, "bench", from))
		if err != nil {
			return version{}, err
		}
		if err := os.WriteFile(to, text, 0o644); err != nil {
			return version{}, err
		}
	}
	if _, err := command(b.ctx, b.dir, "go", "mod", "edit", "-replace", "pagecache="+b.oldDir, modfile); err != nil {
		return version{}, err
	}
	v, err := b.compile("old", b.oldDir, b.newDir, "-mod=mod", "-modfile", modfile)
	v.bench = benchModeNew
	return v, err
}

// compile builds the compare of the checkout benchDir, which uses the engine of engineDir.
func (b builder) compile(name, engineDir, benchDir string, flags ...string) (version, error) {
	v := version{path: filepath.Join(b.dir, "compare-"+name), bench: benchModeOwn}
	// These flags keep paths and commits out of the binary, so that its hash depends on the code. Only the path of the
	// old engine remains, if the new benchmark code uses it.
	// The tag leaves out the parts of compare that abtest does not use.
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-tags", "abtest", "-o", v.path}, flags...)
	if _, err := command(b.ctx, filepath.Join(benchDir, "bench"), "go", append(args, "./cmd/compare")...); err != nil {
		return v, fmt.Errorf("build the %s version: %w", name, err)
	}
	binary, err := os.ReadFile(v.path)
	if err != nil {
		return v, err
	}
	sum := sha256.Sum256(binary)
	v.binary = fmt.Sprintf("%x", sum[:6])
	if commit, err := command(b.ctx, engineDir, "git", "describe", "--always", "--dirty"); err == nil {
		v.commit = strings.TrimSpace(string(commit))
	}
	return v, nil
}

// command runs a program in dir and returns its standard output. Its error holds the standard error.
func command(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "PWD="+dir)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, bytes.TrimSpace(errOut.Bytes()))
	}
	return out, nil
}
