// Package main is pcbench, the load generator of the page cache. Its options and reports are fio's, so that one can be set
// beside the other.
//
// main.go chooses the command, signals.go stops it; tour.go, run.go, dump.go and store.go are the commands. options.go reads what is asked
// for (spec), check.go checks it, explain.go says what would be right; session.go opens a store (in a place.go) and runs groups of
// jobs on it, worker.go is the hot loop. What comes of it (result.go) is written by normal.go or json.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/pflag"
)

// version is pcbench's.
const version = "0.1.0"

const usageText = `pcbench drives the page cache and reports as fio does.

  pcbench               a tour of under 30 seconds on a temporary store below the
                        working directory: load, random reads, appends, commits
  pcbench run OPTIONS   a load of your own, with fio's options
  pcbench run --help    lists them
  pcbench dump DIR      a store's files as annotated hex
  pcbench check DIR     verifies a store that is not open
  pcbench salvage DIR OUT
                        saves what is left of a damaged store
  pcbench version       prints the version
`

// Exit statuses.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // as the shell has it for Ctrl-C
)

func main() {
	ctx, _ := listen(stopSignals(), os.Stderr, os.Exit)
	os.Exit(command(ctx, os.Args[1:], os.Stdout, os.Stderr, newProgress(os.Stderr)))
}

// command runs one command line and returns its exit status. When ctx is done it stops, reports what was done, and removes what it
// made.
func command(ctx context.Context, args []string, out, errOut io.Writer, pr *progress) int {
	var err error
	first := ""
	if len(args) > 0 {
		first = args[0]
	}
	switch first {
	case "":
		err = tour(ctx, ".", out, pr)
	case "run":
		err = run(ctx, args[1:], out, pr)
	case "dump":
		err = dump(ctx, args[1:], out)
	case "check":
		err = check(ctx, args[1:], out)
	case "salvage":
		err = salvage(ctx, args[1:], out)
	case "version", "--version", "-v":
		_, err = fmt.Fprintln(out, versionText())
	case "help", "--help", "-h":
		_, err = fmt.Fprint(out, usageText)
	default:
		err = &usageError{fmt.Errorf("%q: no such command; pcbench has run, dump, check, salvage, version and help, and a tour without arguments", first)}
		if first[0] == '-' {
			err = &usageError{fmt.Errorf("%q: options come after run: pcbench run %s", first, first)}
		}
	}
	var wrong *usageError
	switch {
	case errors.As(err, &wrong):
		fmt.Fprintf(errOut, "pcbench: %v\n", err)
		return exitUsage
	case err != nil:
		fmt.Fprintf(errOut, "pcbench: %v\n", err)
		return exitFailed
	case ctx.Err() != nil:
		what := "; the store is removed"
		if first != "" && first != "run" {
			what = ""
		}
		fmt.Fprintf(errOut, "pcbench: interrupted%s\n", what)
		return exitInterrupted
	}
	return 0
}

// usageError is an error of the command line.
type usageError struct{ error }

// Unwrap returns the error itself.
func (e *usageError) Unwrap() error { return e.error }

func versionText() string {
	commit := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = ", commit " + s.Value
			}
		}
	}
	return fmt.Sprintf("pcbench %s (%s, %s/%s%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH, commit)
}

// helpText lists the options of run.
func helpText() string {
	var s spec
	var t text
	s = defaults()
	return `pcbench run makes a store, drives it, reports as fio does, and removes the store.

Options are fio's, and a few of ours (--delta, --cache, --segment, --io, --direct):

` + newFlags(&s, &t).FlagUsagesWrapped(100) + `
Sizes are bytes, or have k, m, g, t or kb, ki, in any case (powers of 1024): 64k, 1g. With kib, mib they are powers of 1000,
as fio has it. Times are seconds, or have us, ms, s, m, h, d: 500ms.
Options that are on or off stand alone or take 0 or 1: --time_based, --end_fsync=1.

A read is a Get, a write a Replace of a whole page, or with --delta a Link that patches it. Reads, and writes with --delta, are
preceded by a layout of all pages, which is not measured; other writes allocate what does not exist yet. Pages are chosen
independently of each other. In order (--rw=read, write) each job goes on from its share of the pages. clat is the time of one call
with its Begin and End; sync is the time that --fdatasync waits for stability. The processor time is that of the whole process.
Ctrl-C stops the load, which is reported; a second one ends pcbench at once.

  pcbench run --rw=randwrite --bs=64k --numjobs=4 --size=1g --io_size=3g --end_fsync=1
  pcbench run --rw=randrw --rwmixread=90 --bs=4k --size=512m --iodepth=8 --runtime=10s --time_based --random_distribution=zipf:1.2
  pcbench run --rw=randwrite --delta=100 --bs=1k --size=100m --iodepth=64 --fdatasync=1 --runtime=10s --time_based
`
}

var _ pflag.Value = (*onOff)(nil)
