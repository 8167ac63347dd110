package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"pagecache/cmd/pcbench/internal/load"
	"pagecache/engine"
)

// check is the command pcbench check. It verifies a store that is not open and lists its problems.
func check(ctx context.Context, args []string, out io.Writer, pr *load.Progress) error {
	f := pflag.NewFlagSet("pcbench check", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	snaps := f.String("snapshots", "", "`directory` of the snapshots (default that of the store)")
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err := fmt.Fprint(out, "pcbench check OPTIONS DIR verifies every byte that matters of a store\n",
			"that is not open, and lists the problems. The exit status is 1 if there are any,\n",
			"and 3 if DIR holds no store. Ctrl-C ends it at once.\n\n", f.FlagUsages())
		return err
	} else if err != nil {
		return &usageError{explainFlag(f, err)}
	}
	if f.NArg() != 1 {
		return &usageError{errors.New("check: name one directory, that of the store")}
	}
	if err := wantStore("check", f.Arg(0)); err != nil {
		return err
	}
	lines := &lister{out: out}
	var r engine.CheckReport
	read := reading(f.Arg(0))
	state := func() string { return fmt.Sprintf("%s, %d problems", read(), lines.count()) }
	finished, err := interruptible(ctx, pr, "checking "+f.Arg(0), state, func() (err error) {
		r, err = engine.Check(f.Arg(0), &engine.Options{SnapshotDir: *snaps},
			func(err error) { lines.add(err.Error()) })
		return err
	})
	if !finished {
		return &unfinishedError{fmt.Errorf("check: interrupted: %s was not checked to its end; %d problems so far",
			f.Arg(0), lines.end())}
	}
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	contents := fmt.Sprintf("%d pages in %d messages, %d blobs", r.Pages, r.Fragments, r.Blobs)
	if r.Records > 0 {
		contents = fmt.Sprintf("%d records", r.Records)
	}
	note := ""
	if r.Snapshot != "" {
		note = "; " + r.Snapshot + " agrees"
	}
	if r.Strays > 0 {
		note += fmt.Sprintf("; %d blobs left by a crash, which the next Open removes", r.Strays)
	}
	if r.Problems > 0 {
		return fmt.Errorf("check: %d problems in %s: %s, %d bytes, in %d segments",
			r.Problems, f.Arg(0), contents, r.Bytes, r.Segments)
	}
	_, err = fmt.Fprintf(out, "%s is good: %s, %d bytes, in %d segments%s\n",
		f.Arg(0), contents, r.Bytes, r.Segments, note)
	return err
}

// salvage is the command pcbench salvage. It copies everything readable from a corrupt store to a new one.
func salvage(ctx context.Context, args []string, out io.Writer, pr *load.Progress) error {
	f := pflag.NewFlagSet("pcbench salvage", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	snaps := f.String("snapshots", "", "`directory` of the snapshots of the corrupt store (default that of the store)")
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err := fmt.Fprint(out, "pcbench salvage OPTIONS DIR OUT copies everything readable from the corrupt store\n",
			"in DIR to a new one in OUT, and lists everything that is lost. It reads around bad\n",
			"blocks, and needs neither superblock nor snapshots.\n\n", f.FlagUsages())
		return err
	} else if err != nil {
		return &usageError{explainFlag(f, err)}
	}
	if f.NArg() != 2 {
		return &usageError{errors.New("salvage: name two directories: that of the corrupt store, and a new one")}
	}
	if err := wantStore("salvage", f.Arg(0)); err != nil {
		return err
	}
	lines := &lister{out: out}
	var r engine.SalvageReport
	read := reading(f.Arg(0))
	state := func() string { return fmt.Sprintf("%s, %d losses", read(), lines.count()) }
	finished, err := interruptible(ctx, pr, "salvaging "+f.Arg(0), state, func() (err error) {
		r, err = engine.Salvage(f.Arg(0), f.Arg(1), &engine.Options{SnapshotDir: *snaps},
			func(what string) { lines.add("lost: " + what) })
		return err
	})
	if !finished {
		return &unfinishedError{fmt.Errorf("salvage: interrupted: %s is incomplete, remove it; %d losses so far",
			f.Arg(1), lines.end())}
	}
	if err != nil {
		return err
	}
	contents := fmt.Sprintf("%d pages in %d messages", r.Pages, r.Fragments)
	if r.Records > 0 {
		contents = fmt.Sprintf("%d records", r.Records)
	}
	ranges := 0
	for _, l := range r.Losses {
		if l.Kind == engine.LossRange {
			ranges++
		}
	}
	note := ""
	if ranges > 0 {
		note = fmt.Sprintf("; %d parts of the log are lost, and pages written there are lost or as they were before",
			ranges)
	}
	_, err = fmt.Fprintf(out, "saved %s, %d bytes; %d pages are incomplete or lost; "+
		"of the log %d bytes are corrupt and %d cannot be read%s\n",
		contents, r.Bytes, r.Lost, r.Corrupt, r.Unreadable, note)
	return err
}
