// Package main is pcbench, the load generator of the page cache. Its options and reports are those of fio, so that
// the results of both can be compared.
//
// main.go chooses the command and signals.go stops it; tour.go, run.go, dump.go and store.go are the commands.
// help.go and options.go define the options of a load (spec), check.go validates them, and explain.go suggests
// corrections. session.go opens a store, in a directory that place.go makes, and runs groups of jobs on it; worker.go
// is the hot loop. normal.go and json.go write the results (result.go).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
)

// version is the version of pcbench.
const version = "0.1.0"

// Exit statuses.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // the status that a shell reports for Ctrl-C
)

func main() {
	ctx, _ := listen(stopSignals(), os.Stderr, os.Exit)
	os.Exit(command(ctx, os.Args[1:], os.Stdout, os.Stderr, newProgress(os.Stderr)))
}

// command runs one command line and returns its exit status. When ctx is done, it stops the load, reports it, and
// removes the store.
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
		err = &usageError{fmt.Errorf("%q: no such command; pcbench help lists the commands", first)}
		if first[0] == '-' {
			err = &usageError{fmt.Errorf("%q: options follow run: pcbench run %s", first, first)}
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
		removed := "; the store is removed"
		if first != "" && first != "run" {
			removed = ""
		}
		fmt.Fprintf(errOut, "pcbench: interrupted%s\n", removed)
		return exitInterrupted
	}
	return 0
}

// usageError is an error in the command line.
type usageError struct{ error }

// Unwrap returns the error that it wraps.
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
