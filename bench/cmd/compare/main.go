//go:build !abtest

// Command compare measures the promises of the project, side by side with other stores and with fio.
//
//	go run ./cmd/compare [--dir DIR] [--rounds N] [--seconds S] [--only REGEX] [--check] [--json=FILE] [--html=FILE]
//	go run ./cmd/compare report FILE.json… [--markdown=FILE] [--html=FILE] [--docs=FILE]
//	go run ./cmd/compare ours [--dir DIR] [--seconds S] [--only REGEX]
//	go run ./cmd/compare peer [--list]
//
// Each round makes every comparison once, one after another. Within a comparison the sides take turns in going first,
// so that disturbances of the machine affect all of them alike. It prints medians over the rounds, the median of the
// rounds' ratios, and their ranges. Everything happens in a fresh directory below --dir, which is removed at the end.
// Before it starts, it estimates the time, and fails if the disk space does not suffice.
//
// The JSON document has every figure of every round. The report command makes tables and pictures of it.
//
// The ours command measures our side only, once, and writes JSON; abtest uses it. The peer command applies one load to
// one other store: pcbench run --against uses it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"pagecache/bench"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch args := os.Args[1:]; {
	case len(args) > 0 && args[0] == "ours":
		err = runOurs(ctx, args[1:], os.Stdout)
	case len(args) > 0 && args[0] == "report":
		err = runReport(args[1:], os.Stdout)
	case len(args) > 0 && args[0] == "peer":
		err = runPeer(ctx, args[1:], os.Stdin, os.Stdout)
	default:
		err = run(ctx, args, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// settings are the options of a run.
type settings struct {
	config
	outputs
	pattern, child string
	check, list    bool
}

// parse reads the options. help reports that the help text was printed.
func parse(args []string) (s *settings, help bool, err error) {
	s = &settings{}
	f := pflag.NewFlagSet("compare", pflag.ContinueOnError)
	f.StringVar(&s.dir, "dir", ".", "make the stores in a fresh directory below `DIR`")
	f.IntVar(&s.rounds, "rounds", 5, "`number` of rounds")
	f.Float64Var(&s.seconds, "seconds", 3, "length of each timed measurement")
	f.Int64Var(&s.logMiB, "log-mib", 3<<10, "MiB written to measure the bandwidth of the log")
	f.IntVar(&s.divide, "divide", 1, "divide the amounts of data by `N`, to try the program: the figures mean nothing")
	f.StringVar(&s.pattern, "only", "", "measure only comparisons whose name matches this `REGEX`")
	f.BoolVar(&s.check, "check", false, "fail if a comparison misses its target")
	f.BoolVar(&s.list, "list", false, "print the names of the comparisons (with --json: and what abtest needs)")
	f.StringVar(&s.json, "json", "", "write all figures as JSON to this `FILE` (none: standard output)")
	f.Lookup("json").NoOptDefVal = stdoutName
	s.outputs.flags(f)
	f.StringVar(&s.child, "child", "", "measurement that needs a process of its own")
	if err := f.MarkHidden("child"); err != nil {
		return nil, false, err
	}
	if err := f.Parse(args); err != nil {
		return nil, errors.Is(err, pflag.ErrHelp), err
	}
	if f.NArg() > 0 || s.rounds < 1 || s.seconds <= 0 || s.logMiB < 1 || s.divide < 1 {
		const want = "want no arguments, --rounds, --log-mib and --divide of 1 or more, and --seconds above 0"
		return nil, false, errors.New(want)
	}
	if s.only, err = regexp.Compile(s.pattern); err != nil {
		return nil, false, fmt.Errorf("--only: %w", err)
	}
	return s, false, nil
}

func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	s, help, err := parse(args)
	switch {
	case help:
		return nil
	case err != nil:
		return err
	case s.child != "":
		return runChild(&s.config, s.child)
	case s.list:
		return printList(stdout, s.json != "")
	}
	chosen := slices.DeleteFunc(comparisons(), func(m *comparison) bool { return !s.only.MatchString(m.name) })
	if len(chosen) == 0 {
		return fmt.Errorf("--only=%s matches no comparison; --list prints the names", s.pattern)
	}
	took, bytes := estimate(&s.config, chosen)
	if err := errors.Join(s.outputs.check(), enoughSpace(s.dir, bytes)); err != nil {
		return err
	}
	r := newRecord(ctx, &s.config, args)
	r.Busy = bench.Busy(time.Second)
	// The JSON or Markdown may go to the standard output, so everything else goes to the standard error output then.
	human := stdout
	if s.json == stdoutName || s.markdown == stdoutName {
		human = os.Stderr
	}
	if _, err := fmt.Fprintf(human, "%sestimate     about %s (until %s), up to %.1f GiB in %s\n", r.head(), about(took),
		time.Now().Add(took).Format("15:04"), float64(bytes)/(1<<30), s.dir); err != nil {
		return fmt.Errorf("write the standard output: %w", err)
	}
	if s.dir, err = os.MkdirTemp(s.dir, "compare.tmp."); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	return s.measureAll(ctx, r, chosen, output{stdout, human})
}

// output is where results go.
type output struct {
	machine io.Writer // documents with the name -
	human   io.Writer // the table
}

// measureAll measures all rounds, prints the table and writes the files. With --check, a missed target is an error.
func (s *settings) measureAll(ctx context.Context, r *record, chosen []*comparison, out output) error {
	var failed error
	for i := 0; i < s.rounds*len(chosen) && ctx.Err() == nil && failed == nil; i++ {
		m := chosen[i%len(chosen)]
		if err := m.measure(ctx, &s.config, i/len(chosen)); err != nil && ctx.Err() == nil {
			failed = fmt.Errorf("%s: %w", m.name, err)
		}
	}
	r.Interrupted = ctx.Err() != nil || failed != nil
	r.fill(chosen)
	// After a failure, too, the rounds measured so far are worth having.
	_, err := fmt.Fprintf(out.human, "\n%s", r.text())
	if err != nil {
		err = fmt.Errorf("write the standard output: %w", err)
	}
	if err := errors.Join(failed, err, s.outputs.write(r, out.machine)); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted; the table holds the rounds measured so far")
	}
	if missed := r.missed(); s.check && missed > 0 {
		return fmt.Errorf("%d of %d comparisons miss their targets", missed, len(chosen))
	}
	return nil
}
