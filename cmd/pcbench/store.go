package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"pagecache/engine"
)

// check is the command pcbench check: it verifies a store that is not open and lists what is wrong with it.
func check(_ context.Context, args []string, out io.Writer) error {
	f := pflag.NewFlagSet("pcbench check", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	snaps := f.String("snapshots", "", "`directory` of the snapshots (default the store's)")
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err := fmt.Fprintf(out, "pcbench check OPTIONS DIR verifies every byte that matters of a store that is not open, and lists what is wrong.\nIts status is 1 if something is.\n\n%s",
			f.FlagUsages())
		return err
	} else if err != nil {
		return &usageError{explain(f, err)}
	}
	if f.NArg() != 1 {
		return &usageError{errors.New("check: name one directory, the one that a store was opened with")}
	}
	r, err := engine.Check(f.Arg(0), &engine.Options{SnapshotDir: *snaps}, func(problem error) { fmt.Fprintln(out, problem) })
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	what := fmt.Sprintf("%d pages in %d messages, %d blobs", r.Pages, r.Fragments, r.Blobs)
	if r.Records > 0 {
		what = fmt.Sprintf("%d records", r.Records)
	}
	snapshot := ""
	if r.Snapshot != "" {
		snapshot = "; " + r.Snapshot + " says the same"
	}
	if r.Strays > 0 {
		snapshot += fmt.Sprintf("; %d blobs left by a crash, which the next opening removes", r.Strays)
	}
	if r.Problems > 0 {
		return fmt.Errorf("check: %d problems in %s: %s, %d bytes, in %d segments", r.Problems, f.Arg(0), what, r.Bytes, r.Segments)
	}
	_, err = fmt.Fprintf(out, "%s is good: %s, %d bytes, in %d segments%s\n", f.Arg(0), what, r.Bytes, r.Segments, snapshot)
	return err
}

// salvage is the command pcbench salvage: it saves what is left of a damaged store.
func salvage(_ context.Context, args []string, out io.Writer) error {
	f := pflag.NewFlagSet("pcbench salvage", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	snaps := f.String("snapshots", "", "`directory` of the snapshots of the damaged store (default its own)")
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err := fmt.Fprintf(out, "pcbench salvage OPTIONS DIR OUT writes what can still be read of a damaged store into a new one, and says what is lost.\n\n%s", f.FlagUsages())
		return err
	} else if err != nil {
		return &usageError{explain(f, err)}
	}
	if f.NArg() != 2 {
		return &usageError{errors.New("salvage: name two directories, that of the damaged store and one that is to be made")}
	}
	r, err := engine.Salvage(f.Arg(0), f.Arg(1), &engine.Options{SnapshotDir: *snaps}, func(what string) { fmt.Fprintln(out, "lost:", what) })
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%d pages in %d messages", r.Pages, r.Fragments)
	if r.Records > 0 {
		what = fmt.Sprintf("%d records", r.Records)
	}
	_, err = fmt.Fprintf(out, "saved %s, %d bytes; %d pages are known to have lost something, %d bytes of the log are damaged\n", what, r.Bytes, r.Lost, r.Damaged)
	return err
}
