// Command compare measures what the project promises, side by side with other stores and with fio.
//
//	go run ./cmd/compare [--dir DIR] [--rounds N] [--seconds S] [--only REGEX] [--check]
//
// Each comparison is made once in each round, one after another, and within it the sides take turns in going first, so that what
// the machine does meanwhile meets all of them alike. It prints medians over the rounds, and the median of the rounds' ratios.
// Everything happens in a fresh directory below --dir, which is removed at the end.
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
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// config is what the options say.
type config struct {
	dir     string // of this run, fresh
	rounds  int
	seconds float64
	logMiB  int64
	only    *regexp.Regexp
}

// during is how long one measurement takes.
func (c *config) during() time.Duration { return time.Duration(c.seconds * float64(time.Second)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	c := &config{}
	var only, child string
	check, list := false, false
	pflag.StringVar(&c.dir, "dir", ".", "make the stores in a fresh directory below `DIR`")
	pflag.IntVar(&c.rounds, "rounds", 5, "rounds")
	pflag.Float64Var(&c.seconds, "seconds", 3, "length of each timed measurement")
	pflag.Int64Var(&c.logMiB, "log-mib", 3<<10, "MiB written to measure the bandwidth of the log")
	pflag.StringVar(&only, "only", "", "only comparisons whose name matches this `REGEX`")
	pflag.BoolVar(&check, "check", false, "fail if anything falls short of what is wanted")
	pflag.BoolVar(&list, "list", false, "print the names of the comparisons")
	pflag.StringVar(&child, "child", "", "one measurement that wants a process of its own")
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
	if c.only, err = regexp.Compile(only); err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	all := comparisons()
	if list {
		for _, m := range all {
			fmt.Printf("%-16s %s\n", m.name, m.what)
		}
		return nil
	}
	if c.dir, err = os.MkdirTemp(c.dir, "compare.tmp."); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()

	fmt.Printf("%s, %d processors, %d rounds, %gs each, in %s\n", runtime.Version(), runtime.GOMAXPROCS(0), c.rounds, c.seconds, c.dir)
	if b := busy(time.Second); b > 0.05 {
		fmt.Printf("other programs use %.0f%% of the machine: expect noise\n", 100*b)
	}
	var chosen []*comparison
	for _, m := range all {
		if c.only.MatchString(m.name) {
			chosen = append(chosen, m)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("--only=%s matches none; --list prints the names", only)
	}
	for i := 0; i < c.rounds*len(chosen) && ctx.Err() == nil; i++ {
		m := chosen[i%len(chosen)]
		if err := m.measure(ctx, c, i/len(chosen)); err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	failed := printTable(os.Stdout, slices.DeleteFunc(chosen, (*comparison).unmeasured))
	if ctx.Err() != nil {
		return errors.New("interrupted; the table has what was measured until then")
	}
	if check && failed > 0 {
		return fmt.Errorf("%d of %d fall short", failed, len(chosen))
	}
	return nil
}

// busy is the share of the machine's processors that is in use while this program rests.
func busy(d time.Duration) float64 {
	read := func() (total, idle float64) {
		b, err := os.ReadFile("/proc/stat")
		if err != nil {
			return 0, 0
		}
		line, _, _ := strings.Cut(string(b), "\n")
		for i, f := range strings.Fields(line) {
			v, err := strconv.ParseFloat(f, 64)
			if err != nil || i > 8 {
				continue // the name; guests' time, which is in user's too
			}
			total += v
			if i == 4 || i == 5 { // idle, and waiting for the disk
				idle += v
			}
		}
		return total, idle
	}
	total, idle := read()
	time.Sleep(d)
	total2, idle2 := read()
	if total2 <= total {
		return 0
	}
	return 1 - (idle2-idle)/(total2-total)
}

// settle gives every measurement the same start: no garbage, nothing left to be written back. The runtime keeps the memory that it has,
// as it would in a program that runs for long: where memory is virtual twice over, first touching a page costs more than what is
// measured here, for either side.
func settle() {
	runtime.GC()
	unix.Sync()
	const rest = 200 * time.Millisecond
	time.Sleep(rest)
}
