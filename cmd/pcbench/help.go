package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

const usageText = `pcbench applies loads to the page cache and reports as fio does.

  pcbench               take a tour of under 30 seconds on a temporary store below
                        the working directory: load, random reads, appends, commits
  pcbench run OPTIONS   apply a load, with the options of fio
  pcbench run --help    list the options
  pcbench dump DIR      show the files of a store as annotated hex
  pcbench check DIR     verify a store that is not open
  pcbench salvage DIR OUT
                        copy everything readable from a corrupt store to a new one
  pcbench version       print the version
`

// ownOptions are the options of run that fio does not have.
var ownOptions = []string{"delta", "cache", "segment", "io"}

// text holds the values of options that pflag cannot parse by itself.
type text struct {
	bs, size, ioSize, runtime, ramp, distribution, format, delta, cache, segment, io, direct string
}

// newFlags returns the flags of pcbench run. Parsing them stores their values in s and t.
func newFlags(s *spec, t *text) *pflag.FlagSet {
	f := pflag.NewFlagSet("pcbench run", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.SortFlags = false
	f.StringVar(&s.Name, "name", s.Name, "`name` of the job; the directory of the store is NAME.pcbench")
	f.StringVar(&s.Directory, "directory", s.Directory,
		"`dir` in which the store is made, and removed at the end; made if missing")
	f.StringVar(&s.RW, "rw", s.RW, "`kind` of load: read, write (in order), randread, randwrite, randrw (randomly)")
	f.IntVar(&s.ReadPercent, "rwmixread", s.ReadPercent, "`percent` of reads with --rw=randrw")
	f.StringVar(&t.bs, "bs", "4k", "`size` of a page")
	f.StringVar(&t.size, "size", "256m", "`size` of all pages together, which all jobs share")
	f.StringVar(&t.ioSize, "io_size", "", "`size` of all reads and writes together, of all jobs (default --size)")
	f.IntVar(&s.NumJobs, "numjobs", s.NumJobs, "`number` of jobs")
	f.IntVar(&s.IODepth, "iodepth", s.IODepth, "`number` of goroutines of each job")
	f.StringVar(&t.runtime, "runtime", "", "`time` after which the jobs stop, even if --io_size is not done")
	boolVar(f, &s.TimeBased, "time_based", "run for all of --runtime, even if --io_size is done")
	f.StringVar(&t.ramp, "ramp_time", "", "`time` to run before measuring")
	f.StringVar(&t.distribution, "random_distribution", "random",
		"`how` random pages are drawn: random (uniformly), or zipf:THETA (few pages are popular)")
	f.Uint64Var(&s.Seed, "randseed", s.Seed, "`seed` of the random numbers: the same seed draws the same pages")
	f.IntVar(&s.FDataSync, "fdatasync", 0,
		"`number` of its writes after which a goroutine waits for stability (default 0, never)")
	boolVar(f, &s.EndFsync, "end_fsync", "make all writes stable before the clock stops")
	boolVar(f, &s.Refill, "refill_buffers", "write fresh random bytes each time, instead of a few prepared buffers")
	boolVar(f, &s.Invalidate, "invalidate",
		"reopen the store before the jobs begin, with nothing cached, so that reads are from disk")
	boolVar(f, &s.GroupReporting, "group_reporting", "report all jobs as one")
	f.StringVar(&t.format, "output-format", "normal", "`format` of the report: normal, json")
	f.StringVar(&s.Output, "output", "", "`file` for the report (default standard output)")
	f.StringVar(&t.delta, "delta", "", "`size` of a delta: writes are Links of deltas, not Replaces of whole pages")
	f.StringVar(&t.cache, "cache", "1g", "`size` limit of the resident pages (CacheCapacity)")
	f.StringVar(&t.segment, "segment", "8m", "`size` of a log segment (SegmentSize)")
	f.StringVar(&t.io, "io", "auto", "`how` the log is written: auto, uring (io_uring), syscall (pwritev2)")
	f.StringVar(&t.direct, "direct", "auto", "`whether` the log is written with O_DIRECT: auto, 1 or on, 0 or off")
	return f
}

// onOff is a flag that takes fio's 0 and 1. Without a value it means 1.
type onOff bool

var _ pflag.Value = (*onOff)(nil)

// String returns 0 or 1.
func (b *onOff) String() string { return strconv.Itoa(int(b2i(bool(*b)))) }

// Type returns the name of the value in help texts, which is empty.
func (b *onOff) Type() string { return "" }

// Set accepts the same texts as strconv.ParseBool.
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

// helpText is the output of pcbench run --help.
func helpText() string {
	var t text
	s := defaults()
	return `pcbench run makes a store, applies a load to it, reports as fio does, and removes the store.

The options are those of fio, except --` + strings.Join(ownOptions, ", --") + `:

` + newFlags(&s, &t).FlagUsagesWrapped(100) + `
Sizes are in bytes or have a unit, in any case: k, m, g, t, alone or followed by b or i, are powers of 1024
(64k, 1gb). kib, mib, gib, tib are powers of 1000, as in fio.
Times are in seconds or have a unit: us, ms, s, m, h, d (500ms).
On/off options take 0 or 1, and mean 1 without a value: --time_based, --end_fsync=1.

A read is a Get. A write is a Replace of a whole page, or with --delta a Link that patches the page.
Reads, and writes with --delta, need pages: all pages are laid out before the load, which is not measured.
Other writes allocate the pages that do not exist yet. Random pages are drawn independently of each other.
In order (--rw=read, write), each job starts at its share of the pages.

clat is the time of one call with its Begin and End. sync is the time that --fdatasync waits for stability.
The processor time is that of the whole process.
Ctrl-C stops the load, and pcbench reports it. A second Ctrl-C ends pcbench at once.

  pcbench run --rw=randwrite --bs=64k --numjobs=4 --size=1g --io_size=3g --end_fsync=1
  pcbench run --rw=randrw --rwmixread=90 --bs=4k --size=512m --iodepth=8 --runtime=10s --time_based \
              --random_distribution=zipf:1.2
  pcbench run --rw=randwrite --delta=100 --bs=1k --size=100m --iodepth=64 --fdatasync=1 --runtime=10s --time_based
`
}
