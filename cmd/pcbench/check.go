package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/pflag"

	"pagecache/segments/format"
)

// faults are the errors of a command line. All of them are reported.
type faults []error

// when adds an error if wrong is true. Its text begins with the option.
func (e *faults) when(wrong bool, form string, args ...any) {
	if wrong {
		*e = append(*e, fmt.Errorf(form, args...))
	}
}

// check returns an error for each option that is out of range or contradicts another one.
func (s *spec) check(f *pflag.FlagSet) (bad faults) {
	s.checkNames(f, &bad)
	s.checkNumbers(&bad)
	s.checkSizes(f, &bad)
	s.checkLoad(f, &bad)
	s.checkTimes(f, &bad)
	return bad
}

// checkNames checks the options that become file names.
func (s *spec) checkNames(f *pflag.FlagSet, bad *faults) {
	const longestName = 255 - len(placeSuffix)
	n := s.Name
	invalid := func(r rune) bool { return r == '/' || unicode.IsControl(r) }
	bad.when(n == "" || n[0] == '.' || strings.ContainsFunc(n, invalid),
		"--name=%q: must be a file name without / and control characters that does not begin with a dot", n)
	bad.when(len(n) > longestName, "--name: has %d bytes, must have at most %d", len(n), longestName)
	bad.when(s.Directory == "", "--directory: must name a directory; . is the working directory")
	bad.when(f.Changed("output") && s.Output == "", "--output: must name a file; leave it out for standard output")
}

// checkNumbers checks the numbers that are not sizes.
func (s *spec) checkNumbers(bad *faults) {
	const maxWorkers = 1 << 12
	bad.when(s.ReadPercent < 0 || s.ReadPercent > 100, "--rwmixread=%d: must be 0 to 100", s.ReadPercent)
	bad.when(s.NumJobs < 1 || s.NumJobs > maxWorkers, "--numjobs=%d: must be 1 to %d", s.NumJobs, maxWorkers)
	bad.when(s.IODepth < 1 || s.IODepth > maxWorkers,
		"--iodepth=%d: must be 1 to %d goroutines of each job", s.IODepth, maxWorkers)
	bad.when(s.NumJobs <= maxWorkers && s.IODepth <= maxWorkers && s.workers() > maxWorkers,
		"--iodepth=%d: times --numjobs=%d must be at most %d goroutines", s.IODepth, s.NumJobs, maxWorkers)
	bad.when(s.FDataSync < 0, "--fdatasync=%d: must be 0 (never) or a number of writes", s.FDataSync)
}

// checkSizes checks each size, and the sizes against each other.
func (s *spec) checkSizes(f *pflag.FlagSet, bad *faults) {
	const maxPage = 1 << 30
	n := s.Engine.SegmentSize
	bad.when(n < format.MinSegmentSize || n > format.MaxSegmentSize || n%4096 != 0,
		"--segment=%d: must be %d to %d, a multiple of 4096", n, format.MinSegmentSize, format.MaxSegmentSize)
	bad.when(s.BS > maxPage, "--bs=%d: must be at most %d", s.BS, maxPage)
	bad.when(s.Size < s.BS, "--size=%d: must be at least one page, --bs=%d", s.Size, s.BS)
	bad.when(s.pages() > maxPages,
		"--size=%d: has %d pages, must have at most %d; use a larger --bs", s.Size, s.pages(), int64(maxPages))
	bad.when(s.Delta > s.BS, "--delta=%d: must be at most the size of a page, --bs=%d", s.Delta, s.BS)
	least := max(s.writeSize()*b2i(s.writes()), s.BS*b2i(s.reads()))
	bad.when(f.Changed("io_size") && s.IOSize < least,
		"--io_size=%d: must be at least one read or write, %d", s.IOSize, least)
}

// checkLoad finds options that have no effect on the load.
func (s *spec) checkLoad(f *pflag.FlagSet, bad *faults) {
	for _, o := range []string{"fdatasync", "end_fsync", "delta", "refill_buffers"} {
		asked := f.Changed(o) && f.Lookup(o).Value.String() != "0"
		bad.when(asked && !s.writes(), "--%s: --rw=%s does not write; use --rw=write, randwrite or randrw", o, s.RW)
		bad.when(asked && s.RW == "randrw" && s.ReadPercent == 100,
			"--%s: --rwmixread=100 leaves nothing to write; use less, or leave --%s out", o, o)
	}
	bad.when(f.Changed("rwmixread") && s.RW != "randrw",
		"--rwmixread: --rw=%s does not mix reads and writes; use --rw=randrw", s.RW)
	bad.when(f.Changed("random_distribution") && !s.random(),
		"--random_distribution: --rw=%s goes in order; use --rw=rand%s", s.RW, s.RW)
}

// checkTimes checks the options that end the load.
func (s *spec) checkTimes(f *pflag.FlagSet, bad *faults) {
	bad.when(s.TimeBased && s.untimed(), "--time_based: needs a --runtime above 0, like --runtime=10s")
	bad.when(s.TimeBased && f.Changed("io_size"),
		"--io_size: --time_based runs for all of --runtime regardless; leave one of the two out")
	bad.when(f.Changed("runtime") && s.untimed() && !s.TimeBased,
		"--runtime=0: must be above 0; leave it out to run until --io_size is done")
}

// parseDistribution returns the theta of zipf, or 0 for random.
func parseDistribution(bad *faults, s string) float64 {
	const defaultTheta, maxTheta = 1.1, 5 // the default is fio's
	kind, arg, hasArg := strings.Cut(s, ":")
	switch {
	case kind == "random" && !hasArg:
		return 0
	case kind == "zipf" && !hasArg:
		return defaultTheta
	case kind == "zipf":
		theta, err := strconv.ParseFloat(arg, 64)
		if err == nil && theta > 0 && theta != 1 && theta <= maxTheta {
			return theta
		}
		bad.when(true, "--random_distribution=%s: theta must be above 0, at most %d and not 1, like zipf:1.2",
			s, maxTheta)
	default:
		bad.when(true, "--random_distribution=%s: must be random or zipf:THETA, like zipf:1.2", s)
	}
	return 0
}
