// Package main is pcbench, the load generator of the page cache. Its options, job files and reports are those of fio,
// so that the results of both can be compared.
//
// main.go chooses the command and signals.go stops it; tour.go, run.go, dump.go, store.go and backup.go are the
// commands, and pictures.go makes the pages of --html and --live. Package job has the one table of options and parses
// command lines and job files; load applies the load; report writes the results. Their helpers are pick
// (distributions), stats (latencies and speeds) and units (sizes and times).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
	"pagecache/cmd/pcbench/internal/report"
)

// Exit statuses.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitNoStore     = 3   // there is no store in the directory
	exitInterrupted = 130 // the status that a shell reports for Ctrl-C
)

func main() {
	ctx, _ := listen(stopSignals(), os.Stderr, os.Exit)
	os.Exit(command(ctx, os.Args[1:], fold(os.Stdout), fold(os.Stderr), load.NewProgress(os.Stderr)))
}

// command runs one command line and returns its exit status. When ctx is done, it stops the load, reports it, and
// removes the store.
func command(ctx context.Context, args []string, out, errOut io.Writer, pr *load.Progress) int {
	var err error
	first := ""
	if len(args) > 0 {
		first = args[0]
	}
	switch first {
	case "", "tour":
		err = tourCommand(ctx, args, out, pr)
	case "run":
		err = run(ctx, args[1:], out, pr)
	case "dump":
		err = dump(ctx, args[1:], unfolded(out), pr)
	case "check":
		err = check(ctx, args[1:], out, pr)
	case "salvage":
		err = salvage(ctx, args[1:], out, pr)
	case "backup":
		err = backup(ctx, args[1:], out, unfolded(out))
	case "restore":
		err = restore(ctx, args[1:], out)
	case "verify":
		err = verify(ctx, args[1:], out)
	case "version", "--version", "-v":
		_, err = fmt.Fprintln(out, versionText())
	case "completion":
		err = completion(args[1:], unfolded(out))
	case "man":
		_, err = fmt.Fprint(unfolded(out), job.Man(report.Version, commandsText(), notesText))
	case "help", "--help", "-h":
		err = help(ctx, args[1:], out)
	default:
		err = &usageError{unknownCommand(first)}
	}
	var wrong *usageError
	var unfinished *unfinishedError
	switch {
	case errors.As(err, &unfinished):
		fmt.Fprintf(errOut, "pcbench: %v\n", err)
		return exitInterrupted
	case errors.As(err, &wrong):
		fmt.Fprintf(errOut, "pcbench: %v\n", err)
		return exitUsage
	case errors.Is(err, errNoStore):
		fmt.Fprintf(errOut, "pcbench: %v\n", err)
		return exitNoStore
	case err != nil:
		fmt.Fprintf(errOut, "pcbench: %v\n", err)
		return exitFailed
	case ctx.Err() != nil:
		removed := "; the store is removed"
		if first != "" && first != "run" && first != "tour" {
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
	return fmt.Sprintf("pcbench %s (%s, %s/%s%s)", report.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH,
		commit)
}

// commands are the commands of pcbench.
var commands = []string{"run", "tour", "dump", "check", "salvage", "backup", "restore", "verify", "completion", "man",
	"help", "version"}

// unknownCommand returns an error that suggests the right command.
func unknownCommand(word string) error {
	if word[0] == '-' {
		return fmt.Errorf("%q: options follow run: pcbench run %s", word, word)
	}
	if strings.HasSuffix(word, ".fio") {
		return fmt.Errorf("%q: job files follow run: pcbench run %s", word, word)
	}
	best := slices.MinFunc(commands, func(a, b string) int { return job.Distance(word, a) - job.Distance(word, b) })
	if job.Distance(word, best) <= 2 && len(word) > 1 {
		return fmt.Errorf("%q: no such command; did you mean %s?", word, best)
	}
	return fmt.Errorf("%q: no such command; pcbench help lists the commands", word)
}

// help is the command pcbench help, with the name of a command or without.
func help(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		_, err := fmt.Fprint(out, usageText)
		return err
	}
	switch args[0] {
	case "run":
		return run(ctx, []string{"--help"}, out, nil)
	case "tour":
		return tourCommand(ctx, []string{"tour", "--help"}, out, nil)
	case "dump":
		return dump(ctx, []string{"--help"}, out, nil)
	case "check":
		return check(ctx, []string{"--help"}, out, nil)
	case "salvage":
		return salvage(ctx, []string{"--help"}, out, nil)
	case "backup":
		return backup(ctx, []string{"--help"}, out, nil)
	case "restore":
		return restore(ctx, []string{"--help"}, out)
	case "verify":
		return verify(ctx, []string{"--help"}, out)
	}
	if !slices.Contains(commands, args[0]) {
		return &usageError{fmt.Errorf("help: %w", unknownCommand(args[0]))}
	}
	for line := range strings.Lines(usageText) { // the others have no options
		if strings.HasPrefix(line, "  pcbench "+args[0]+" ") {
			_, err := fmt.Fprint(out, strings.TrimLeft(line, " "))
			return err
		}
	}
	_, err := fmt.Fprint(out, usageText)
	return err
}

// completion is the command pcbench completion.
func completion(args []string, out io.Writer) error {
	if len(args) != 1 {
		return &usageError{errors.New("completion: name one shell: bash, zsh or fish")}
	}
	text, err := (&job.Completer{Commands: commands, Tour: tourOptions}).Completion(args[0])
	if err != nil {
		return &usageError{err}
	}
	_, err = fmt.Fprint(out, text)
	return err
}
