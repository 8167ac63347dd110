// Command abtest compares two versions of the engine: it measures both in turns on this machine and reports, for each
// comparison of docs/BENCHMARKS.md, the ratio of new to old with its 95 % confidence interval.
//
//	go run ./cmd/abtest --old DIR --new DIR [--rounds 20] [--only REGEX] [--seconds S] [--out FILE]
//	go run ./cmd/abtest --table FILE
//
// DIR is the root of a checkout. Only our side of each comparison is measured, by compare's ours command, in a
// process of its own. The two versions of a comparison run one directly after the other; the order alternates from
// round to round.
//
// --out appends each finished pair to FILE, one JSON object a line. A later run with the same FILE continues up to
// --rounds, so a long measurement can be interrupted, or made in pieces with --only. --table prints the table of FILE
// and measures nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"pagecache/bench"
)

// options are the options of the command line.
type options struct {
	oldDir, newDir string // roots of the two checkouts
	dir            string // the stores are made in a fresh directory below it
	out, table     string // files of pairs; "": none
	bench          benchMode
	rounds         int
	seconds        float64
	only           *regexp.Regexp
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return
	case err == nil && o.table != "":
		err = printFile(o)
	case err == nil:
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "abtest:", err)
		os.Exit(1)
	}
}

func parse(args []string) (o options, err error) {
	f := pflag.NewFlagSet("abtest", pflag.ContinueOnError)
	f.SortFlags = false
	f.StringVar(&o.oldDir, "old", "", "`DIR` of the checkout of the old version")
	f.StringVar(&o.newDir, "new", "..", "`DIR` of the checkout of the new version")
	f.IntVar(&o.rounds, "rounds", 20, "measure each comparison until FILE holds this `number` of rounds")
	f.Float64Var(&o.seconds, "seconds", 3, "length of each timed measurement")
	only := f.String("only", "", "measure, or print, only comparisons whose name matches this `REGEX`")
	f.StringVar(&o.dir, "dir", ".", "make the stores in a fresh directory below `DIR`")
	f.StringVar(&o.out, "out", "", "append the figures to `FILE`, and continue the rounds that are already there")
	f.StringVar(&o.table, "table", "", "print the table of `FILE` and measure nothing")
	f.Var(&o.bench, "bench", "`which` benchmark code measures the old version: new, own, or auto (new if it compiles)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("--only: %w", err)
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("%q: abtest takes options only", f.Arg(0))
	case o.table != "":
		return o, nil
	case o.oldDir == "":
		return o, errors.New("--old: name the checkout of the old version")
	case o.rounds < 1 || o.seconds <= 0:
		return o, errors.New("--rounds must be at least 1, and --seconds above 0")
	}
	for _, dir := range []*string{&o.oldDir, &o.newDir} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return o, err
		}
	}
	return o, nil
}

// run builds both versions, measures the missing rounds, and prints the table.
func run(ctx context.Context, o options) (err error) {
	if o.dir, err = os.MkdirTemp(o.dir, "abtest.tmp."); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return err
	}
	before, after, err := build(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "old: %s\nnew: %s\n", before, after)
	lines, err := list(ctx, after, o.only)
	if err != nil {
		return err
	}
	pairs, err := open(o.out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pairs.close()) }()
	s := &session{options: o, old: before, new: after, pairs: pairs}
	if err := pairs.check(s.template()); err != nil {
		return err
	}
	if b := bench.Busy(time.Second); b > 0.05 {
		fmt.Fprintf(os.Stderr, "other programs use %.0f%% of the machine: expect noise\n", 100*b)
	}
	err = s.measure(ctx, lines)
	writeTable(os.Stdout, pairs.all, o.only)
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted; the table holds the rounds measured so far")
	}
	return err
}

// printFile prints the table of a file of pairs.
func printFile(o options) error {
	pairs, err := read(o.table)
	if err != nil {
		return err
	}
	writeTable(os.Stdout, pairs, o.only)
	return nil
}
