package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"pagecache/engine"
)

// spec says what a group of jobs does. It is validated before anything runs.
type spec struct {
	Name           string
	Directory      string
	RW             string // read, write, randread, randwrite, randrw
	ReadPercent    int    // of randrw
	BS             int64  // bytes of a page
	Size           int64  // bytes of all pages
	IOSize         int64  // bytes to read and write, all jobs together
	NumJobs        int
	IODepth        int // goroutines of each job
	Runtime        time.Duration
	TimeBased      bool
	Ramp           time.Duration
	Theta          float64 // of the zipf distribution; 0 is uniform
	Seed           uint64
	FDataSync      int // writes of a goroutine between waits for stability; 0: none
	EndFsync       bool
	GroupReporting bool
	JSON           bool
	Output         string
	Refill         bool
	Invalidate     bool  // nothing is cached when the jobs begin
	Delta          int64 // bytes of a Link; 0: Replace
	Engine         engine.Options

	given [][2]string // the options of the command line, for the report
}

// defaults returns what holds where nothing is said.
func defaults() spec {
	return spec{Name: "pcbench", Directory: ".", RW: "read", ReadPercent: 50, BS: 4 << 10, Size: 256 << 20, NumJobs: 1, IODepth: 1,
		Seed: 1, Engine: engine.Options{SegmentSize: 8 << 20}}
}

func (s *spec) reads() bool      { return strings.HasSuffix(s.RW, "read") || s.RW == "randrw" }
func (s *spec) writes() bool     { return strings.HasSuffix(s.RW, "write") || s.RW == "randrw" }
func (s *spec) random() bool     { return strings.HasPrefix(s.RW, "rand") }
func (s *spec) pages() int64     { return s.Size / s.BS }
func (s *spec) layout() bool     { return s.reads() || s.Delta > 0 }
func (s *spec) workers() int     { return s.NumJobs * s.IODepth }
func (s *spec) untimed() bool    { return s.Runtime == 0 }
func (s *spec) writeSize() int64 { return max(s.Delta, 0) + s.BS*b2i(s.Delta == 0) }

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// text are the options that need more than pflag's own parsing.
type text struct {
	bs, size, ioSize, runtime, ramp, distribution, format, delta, cache, segment, io, direct string
}

// newFlags returns the flags of pcbench run, which are stored in s and t.
func newFlags(s *spec, t *text) *pflag.FlagSet {
	f := pflag.NewFlagSet("pcbench run", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.SortFlags = false
	f.StringVar(&s.Name, "name", s.Name, "`name` of the job, and of the store's directory, NAME.pcbench")
	f.StringVar(&s.Directory, "directory", s.Directory, "`dir` in which the store is made, and removed afterwards; made if missing")
	f.StringVar(&s.RW, "rw", s.RW, "`kind` of load: read, write (in order), randread, randwrite, randrw (randomly)")
	f.IntVar(&s.ReadPercent, "rwmixread", s.ReadPercent, "`percent` of reads in --rw=randrw")
	f.StringVar(&t.bs, "bs", "4k", "`size` of a page")
	f.StringVar(&t.size, "size", "256m", "`size` of all pages together, shared by all jobs")
	f.StringVar(&t.ioSize, "io_size", "", "`size` of all reads and writes together, over all jobs (default --size)")
	f.IntVar(&s.NumJobs, "numjobs", s.NumJobs, "`number` of jobs")
	f.IntVar(&s.IODepth, "iodepth", s.IODepth, "`number` of goroutines of each job")
	f.StringVar(&t.runtime, "runtime", "", "`time` after which the jobs stop, if they have not done --io_size before")
	boolVar(f, &s.TimeBased, "time_based", "run for all of --runtime, however much that is")
	f.StringVar(&t.ramp, "ramp_time", "", "`time` to run before measuring")
	f.StringVar(&t.distribution, "random_distribution", "random", "`how` pages are chosen: random, or zipf:THETA for a few popular ones")
	f.Uint64Var(&s.Seed, "randseed", s.Seed, "`seed`: the same one chooses the same pages")
	f.IntVar(&s.FDataSync, "fdatasync", 0, "each goroutine waits for stability after this `number` of its writes")
	boolVar(f, &s.EndFsync, "end_fsync", "make everything stable before the clock stops")
	boolVar(f, &s.Refill, "refill_buffers", "fresh random bytes for each write, instead of a few prepared buffers")
	boolVar(f, &s.Invalidate, "invalidate", "open the store anew before the jobs begin, with none of it cached, so that reads are of the disk")
	boolVar(f, &s.GroupReporting, "group_reporting", "report all jobs as one")
	f.StringVar(&t.format, "output-format", "normal", "`format` of the report: normal, json")
	f.StringVar(&s.Output, "output", "", "`file` for the report (default standard output)")
	f.StringVar(&t.delta, "delta", "", "writes are Links of deltas of this `size`, not Replaces of whole pages")
	f.StringVar(&t.cache, "cache", "1g", "`size` of the cache of pages in memory")
	f.StringVar(&t.segment, "segment", "8m", "`size` of a log segment")
	f.StringVar(&t.io, "io", "auto", "`how` the log is written: auto, uring (io_uring), syscall (pwritev2)")
	f.StringVar(&t.direct, "direct", "auto", "`whether` the log is written with O_DIRECT: auto, 1 or on, 0 or off")
	return f
}

// onOff is a flag that takes fio's 0 and 1, and stands alone for 1.
type onOff bool

func (b *onOff) String() string { return strconv.Itoa(int(b2i(bool(*b)))) }
func (b *onOff) Type() string   { return "" }

// Set takes 0, 1, and what strconv.ParseBool does.
func (b *onOff) Set(s string) error {
	v, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("%q is neither 0 nor 1", s)
	}
	*b = onOff(v)
	return nil
}

func boolVar(f *pflag.FlagSet, p *bool, name, usage string) {
	f.VarPF((*onOff)(p), name, "", usage).NoOptDefVal = "1"
}

// parse reads the options of pcbench run. Its errors name every option that is wrong and say what would be right. help means
// that --help was among them.
func parse(args []string) (s *spec, help bool, err error) {
	d := defaults()
	s = &d
	var t text
	f := newFlags(s, &t)
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return nil, true, nil
	} else if err != nil {
		return nil, false, explain(f, err)
	}
	if f.NArg() > 0 {
		return nil, false, explainArgument(f.Arg(0))
	}
	f.Visit(func(o *pflag.Flag) { s.given = append(s.given, [2]string{o.Name, o.Value.String()}) })
	bad := s.convert(f, &t)
	if len(bad) == 0 { // else the numbers mean nothing
		bad = s.check(f)
	}
	return s, false, errors.Join(bad...)
}

// convert turns the texts into values.
func (s *spec) convert(f *pflag.FlagSet, t *text) (bad faults) {
	size := func(name, text string, to *int64) {
		n, err := parseSize(text)
		bad.when(err != nil, "--%s: %w", name, err)
		bad.when(err == nil && n <= 0, "--%s=%s: must be above 0", name, text)
		if n > 0 {
			*to = n
		}
	}
	duration := func(name, text string, to *time.Duration) {
		n, err := parseTime(text)
		bad.when(err != nil, "--%s: %w", name, err)
		*to = n
	}
	segment := int64(0)
	size("bs", t.bs, &s.BS)
	size("size", t.size, &s.Size)
	size("cache", t.cache, &s.Engine.CacheCapacity)
	size("segment", t.segment, &segment)
	if segment == int64(int(segment)) {
		s.Engine.SegmentSize = int(segment)
	}
	s.IOSize = s.Size
	for _, o := range []struct {
		name, text string
		to         *int64
	}{{"io_size", t.ioSize, &s.IOSize}, {"delta", t.delta, &s.Delta}} {
		if f.Changed(o.name) {
			size(o.name, o.text, o.to)
		}
	}
	if f.Changed("runtime") {
		duration("runtime", t.runtime, &s.Runtime)
	}
	if f.Changed("ramp_time") {
		duration("ramp_time", t.ramp, &s.Ramp)
	}
	s.Engine.IO = choose(&bad, "io", t.io, []string{"auto", "uring", "syscall"},
		[]engine.IOMode{engine.IOAuto, engine.IOUring, engine.IOSyscall})
	s.Engine.Direct = choose(&bad, "direct", t.direct, []string{"auto", "1", "on", "0", "off"},
		[]engine.DirectMode{engine.DirectAuto, engine.DirectOn, engine.DirectOn, engine.DirectOff, engine.DirectOff})
	s.JSON = choose(&bad, "output-format", t.format, []string{"normal", "json"}, []bool{false, true})
	s.RW = choose(&bad, "rw", s.RW, loads, loads)
	s.Theta = parseDistribution(&bad, t.distribution)
	return bad
}

var loads = []string{"read", "write", "randread", "randwrite", "randrw"}

// choose returns the value that belongs to a name.
func choose[T any](bad *faults, option, name string, names []string, values []T) (v T) {
	for i, n := range names {
		if n == name {
			return values[i]
		}
	}
	bad.when(true, "--%s=%s: must be one of %s", option, name, strings.Join(names, ", "))
	return v
}

// layoutWorkers is how many goroutines lay pages out.
func layoutWorkers() int { return 2 * runtime.GOMAXPROCS(0) }
