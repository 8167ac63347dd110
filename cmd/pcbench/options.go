package main

import (
	"errors"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"pagecache/engine"
)

// spec describes the load of a group of jobs. It is validated before anything runs.
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
	Invalidate     bool  // reopen the store before the jobs begin, with nothing cached
	Delta          int64 // bytes of a Link; 0: Replace
	Engine         engine.Options

	given [][2]string // the options of the command line, for the report
}

// defaults returns the default options.
func defaults() spec {
	return spec{Name: "pcbench", Directory: ".", RW: "read", ReadPercent: 50, BS: 4 << 10, Size: 256 << 20,
		NumJobs: 1, IODepth: 1, Seed: 1, Engine: engine.Options{SegmentSize: 8 << 20}}
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

// parse parses the options of pcbench run. Its error names every invalid option and the valid values. help reports
// whether --help was among the options.
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
	if len(bad) == 0 { // otherwise some numbers are missing
		bad = s.check(f)
	}
	return s, false, errors.Join(bad...)
}

// convert parses the values in t.
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
		[]engine.IO{engine.IOAuto, engine.IOUring, engine.IOSyscall})
	s.Engine.Direct = choose(&bad, "direct", t.direct, []string{"auto", "1", "on", "0", "off"},
		[]engine.Direct{engine.DirectAuto, engine.DirectOn, engine.DirectOn, engine.DirectOff, engine.DirectOff})
	s.JSON = choose(&bad, "output-format", t.format, []string{"normal", "json"}, []bool{false, true})
	s.RW = choose(&bad, "rw", s.RW, loads, loads)
	s.Theta = parseDistribution(&bad, t.distribution)
	return bad
}

var loads = []string{"read", "write", "randread", "randwrite", "randrw"}

// choose returns the value that belongs to name, or adds an error to bad.
func choose[T any](bad *faults, option, name string, names []string, values []T) (v T) {
	for i, n := range names {
		if n == name {
			return values[i]
		}
	}
	bad.when(true, "--%s=%s: must be one of %s", option, name, strings.Join(names, ", "))
	return v
}

// layoutWorkers returns the number of goroutines that lay out pages.
func layoutWorkers() int { return 2 * runtime.GOMAXPROCS(0) }
