// Command compare measures the promises of the project, side by side with other stores and with fio.
//
//	go run ./cmd/compare [--dir DIR] [--rounds N] [--seconds S] [--only REGEX] [--check]
//	go run ./cmd/compare ours [--dir DIR] [--seconds S] [--only REGEX]
//
// Each round makes every comparison once, one after another. Within a comparison the sides take turns in going first,
// so that disturbances of the machine affect all of them alike. It prints medians over the rounds, and the median of
// the rounds' ratios. Everything happens in a fresh directory below --dir, which is removed at the end.
//
// The ours command measures our side only, once, and writes JSON; abtest uses it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"pagecache/bench"
)

// config is the measurement's part of the options.
type config struct {
	dir     string // of this run, fresh
	rounds  int
	seconds float64
	logMiB  int64
	only    *regexp.Regexp
}

// during returns the length of one timed measurement.
func (c *config) during() time.Duration { return time.Duration(c.seconds * float64(time.Second)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == "ours" {
		err = runOurs(ctx, os.Args[2:], os.Stdout)
	} else {
		err = run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	c := &config{}
	var only, child string
	check, list, asJSON := false, false, false
	pflag.StringVar(&c.dir, "dir", ".", "make the stores in a fresh directory below `DIR`")
	pflag.IntVar(&c.rounds, "rounds", 5, "`number` of rounds")
	pflag.Float64Var(&c.seconds, "seconds", 3, "length of each timed measurement")
	pflag.Int64Var(&c.logMiB, "log-mib", 3<<10, "MiB written to measure the bandwidth of the log")
	pflag.StringVar(&only, "only", "", "measure only comparisons whose name matches this `REGEX`")
	pflag.BoolVar(&check, "check", false, "fail if a comparison misses its target")
	pflag.BoolVar(&list, "list", false, "print the names of the comparisons")
	pflag.BoolVar(&asJSON, "json", false, "with --list: as JSON, one comparison a line")
	pflag.StringVar(&child, "child", "", "measurement that needs a process of its own")
	if err := pflag.CommandLine.MarkHidden("child"); err != nil {
		return err
	}
	pflag.Parse()
	if pflag.NArg() > 0 || c.rounds < 1 || c.seconds <= 0 || c.logMiB < 1 {
		return errors.New("want no arguments, --rounds of 1 or more, --seconds and --log-mib above 0")
	}
	if child != "" {
		return runChild(c, child)
	}
	if list {
		return printList(os.Stdout, asJSON)
	}
	if c.only, err = regexp.Compile(only); err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	chosen := slices.DeleteFunc(comparisons(), func(m *comparison) bool { return !c.only.MatchString(m.name) })
	if len(chosen) == 0 {
		return fmt.Errorf("--only=%s matches no comparison; --list prints the names", only)
	}
	if c.dir, err = os.MkdirTemp(c.dir, "compare.tmp."); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()
	return measureAll(ctx, c, chosen, check)
}

// measureAll measures all rounds and prints the table. With check, a missed target is an error.
func measureAll(ctx context.Context, c *config, chosen []*comparison, check bool) error {
	fmt.Printf("%s, %d processors, %d rounds, %gs each, in %s\n",
		runtime.Version(), runtime.GOMAXPROCS(0), c.rounds, c.seconds, c.dir)
	if b := bench.Busy(time.Second); b > 0.05 {
		fmt.Printf("other programs use %.0f%% of the machine: expect noise\n", 100*b)
	}
	for i := 0; i < c.rounds*len(chosen) && ctx.Err() == nil; i++ {
		m := chosen[i%len(chosen)]
		if err := m.measure(ctx, c, i/len(chosen)); err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	missed := printTable(os.Stdout, slices.DeleteFunc(chosen, (*comparison).unmeasured))
	if ctx.Err() != nil {
		return errors.New("interrupted; the table holds the rounds measured so far")
	}
	if check && missed > 0 {
		return fmt.Errorf("%d of %d comparisons miss their targets", missed, len(chosen))
	}
	return nil
}

// settle gives every measurement the same start: it collects the garbage and writes back dirty data. The runtime
// keeps its memory, as it does in a long-running program: on a virtual machine the first touch of a page costs more
// than an operation measured here, on either side.
func settle() {
	runtime.GC()
	unix.Sync()
	const rest = 200 * time.Millisecond
	time.Sleep(rest)
}
