package job

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"pagecache/cmd/pcbench/internal/pick"
	"pagecache/cmd/pcbench/internal/units"
)

// loadKind is a value of rw.
type loadKind struct {
	name   string
	does   [3]bool
	random bool
}

var loadKinds = []loadKind{
	{"read", [3]bool{DirRead: true}, false}, {"write", [3]bool{DirWrite: true}, false},
	{"trim", [3]bool{DirTrim: true}, false}, {"randread", [3]bool{DirRead: true}, true},
	{"randwrite", [3]bool{DirWrite: true}, true}, {"randtrim", [3]bool{DirTrim: true}, true},
	{"rw", [3]bool{true, true, false}, false}, {"readwrite", [3]bool{true, true, false}, false},
	{"randrw", [3]bool{true, true, false}, true}, {"trimwrite", [3]bool{false, true, true}, false},
	{"randtrimwrite", [3]bool{false, true, true}, true},
}

// loadNames are the values of rw.
var loadNames = func() (names []string) {
	for _, k := range loadKinds {
		names = append(names, k.name)
	}
	return names
}()

// setLoad parses rw, with fio's suffix: of a random load, the number of operations in a row; of one in order, the bytes
// from the end of an operation to the next.
func setLoad(s *Spec, v string) error {
	name, suffix, hasSuffix := strings.Cut(v, ":")
	for _, k := range loadKinds {
		if k.name != name {
			continue
		}
		s.RW, s.Does, s.Random, s.Run, s.Step = k.name, k.does, k.random, 1, 0
		if !hasSuffix {
			return nil
		}
		if k.random {
			n, err := toInt(suffix, 1, 1<<31)
			s.Run = n
			return err
		}
		n, err := units.ParseSize(suffix)
		if err == nil && n == 0 {
			err = fmt.Errorf("the step must not be 0")
		}
		s.Step = n
		return err
	}
	return explainValue(name, loadNames)
}

func setBS(parse func(string) (pick.Sizes, error)) setter {
	return eachDir(func(s *Spec, d Dir, v string) (err error) { s.BS[d], err = parse(v); return err })
}

func oneSize(v string) (pick.Sizes, error) {
	n, err := toSize(v, 1)
	return pick.OneSize(n), err
}

// setOffset parses offset: bytes, or a percentage of the pages.
func setOffset(s *Spec, v string) error {
	if p, ok := strings.CutSuffix(v, "%"); ok {
		n, err := toInt(p, 0, 99)
		s.OffsetPercent = int(n)
		return err
	}
	n, err := toSize(v, 0)
	s.Offset = n
	return err
}

func setFilename(s *Spec, v string) error {
	switch {
	case strings.HasPrefix(v, "/dev/") && !strings.HasPrefix(v, "/dev/shm/"): // see deviceNote
		s.Filename = path.Base(v)
		return nil
	case strings.Contains(v, ":"):
		return fmt.Errorf("a store is one directory; name one only")
	}
	dir, name := path.Split(v)
	if dir != "" {
		s.Directory = path.Clean(dir)
	}
	s.Filename = name
	return nil
}

func setDistribution(s *Spec, v string) (err error) {
	if strings.Contains(v, ",") {
		return fmt.Errorf("one distribution is for reads, writes and trims; give one only")
	}
	s.Dist, err = pick.ParseDist(v)
	return err
}

// loadOptions say what a job does to which pages.
var loadOptions = []Option{
	{Name: "name", Arg: "name", Default: "pcbench", Help: "name of the job; each --name begins another job. The " +
		"directory of the store is NAME.pcbench, after the first job that uses it", set: text(
		func(s *Spec) *string { return &s.Name })},
	{Name: "description", Arg: "text", Help: "text for the report", set: text(
		func(s *Spec) *string { return &s.Description })},
	{Name: "directory", Arg: "dir", Default: ".", Help: "directory in which the store is made, and removed at the " +
		"end; " +
		"made if missing", set: text(func(s *Spec) *string { return &s.Directory })},
	{Name: "filename", Arg: "name", Help: "name of the store, if not that of the first job. Jobs with equal names " +
		"and " +
		"directories share a store", set: setFilename},
	{Name: "rw", Aliases: []string{"readwrite"}, Arg: "kind", Values: loadNames, Default: "read",
		Help: "kind of load: " +
			"in order, or random pages (rand…); with :N, N pages in a row (random) or N bytes to leave out after " +
			"each page (in order; negative: to go back)",
		set: setLoad},
	{Name: "rwmixread", Arg: "percent", Default: "50", Help: "percentage of reads if the load reads and writes",
		set: number(0, 100, func(s *Spec) *int { return &s.ReadShare })},
	{Name: "rwmixwrite", Arg: "percent", Default: "50", Help: "100 minus rwmixread", set: func(s *Spec,
		v string) error {
		n, err := toInt(v, 0, 100)
		s.ReadShare = 100 - int(n)
		return err
	}},
	{Name: "bs", Aliases: []string{"blocksize"}, Arg: "size", Default: "4k", Help: "size of a page; up to three with " +
		"commas, for reads, writes and trims", set: setBS(oneSize)},
	{Name: "bsrange", Aliases: []string{"blocksize_range"}, Arg: "least-most",
		Help: "sizes of pages are uniform in this " +
			"range", set: setBS(pick.ParseRange)},
	{Name: "bssplit", Arg: "size/percent:…", Help: "sizes of pages, each with its share", set: setBS(pick.ParseSplit)},
	{Name: "bs_unaligned", Aliases: []string{"blocksize_unaligned"}, Help: "with bsrange, also sizes that are not " +
		"multiples of the least", set: onOff(func(s *Spec) *bool { return &s.Unaligned })},
	{Name: "size", Aliases: []string{"filesize"}, Arg: "size", Default: "256m",
		Help: "size of all pages together, which " +
			"all jobs of the store share", set: size(1, func(s *Spec) *int64 { return &s.Size })},
	{Name: "io_size", Aliases: []string{"io_limit"}, Arg: "size", Help: "size of all reads and writes together, of " +
		"all " +
		"jobs of a section (default --size)", set: size(1, func(s *Spec) *int64 { return &s.IOSize })},
	{Name: "number_ios", Arg: "number", Help: "operations of each job, if fewer than io_size", set: wide(1, 1<<60,
		func(s *Spec) *int64 { return &s.NumberIOs })},
	{Name: "offset", Aliases: []string{"fileoffset"}, Arg: "size", Default: "0",
		Help: "bytes, or with % a share, of the " +
			"pages before the first page of the job", set: setOffset},
	{Name: "offset_increment", Arg: "size", Help: "added to offset for each further job of numjobs", set: size(0,
		func(s *Spec) *int64 { return &s.OffsetIncrement })},
	{Name: "loops", Arg: "number", Default: "1", Help: "times that io_size is done", set: wide(1, 1<<31,
		func(s *Spec) *int64 { return &s.Loops })},
	{Name: "numjobs", Arg: "number", Default: "1", Help: "number of equal jobs", set: number(1, maxWorkers,
		func(s *Spec) *int { return &s.NumJobs })},
	{Name: "iodepth", Arg: "number", Default: "1", Help: "number of goroutines of each job", set: number(1, maxWorkers,
		func(s *Spec) *int { return &s.IODepth })},
	{Name: "random_distribution", Arg: "how", Default: "random", Help: "how random pages are drawn: random " +
		"(uniformly), " +
		"zipf:THETA, pareto:POWER, normal:DEVIATION, zoned:ACCESS/SIZE:…, zoned_abs:ACCESS/BYTES:…",
		set: setDistribution},
	{Name: "percentage_random", Arg: "percent", Default: "100", Help: "share of random pages in a random load; the " +
		"others follow the page before", set: eachDir(func(s *Spec, d Dir, v string) error {
		n, err := toInt(v, 0, 100)
		s.PercentRandom[d] = int(n)
		return err
	})},
	{Name: "norandommap", Default: "1", Help: "draw random pages independently; with 0, each page once, then again",
		set: off(func(s *Spec) *bool { return &s.Map })},
	{Name: "randseed", Arg: "seed", Default: "1", Help: "seed of the random numbers: the same seed draws the same " +
		"pages",
		set: func(s *Spec, v string) (err error) {
			if s.Seed, err = strconv.ParseUint(v, 0, 64); err != nil {
				err = fmt.Errorf("must be a whole number, 0 to 18446744073709551615")
			}
			return err
		}},
	{Name: "randrepeat", Aliases: []string{"allrandrepeat"}, Default: "1", Help: "with 0, the seed is another one in " +
		"each run", set: onOff(func(s *Spec) *bool { return &s.Repeat })},
	{Name: "fdatasync", Aliases: []string{"fsync"}, Arg: "number", Default: "0", Help: "writes of a goroutine after " +
		"which it waits for stability; 0: never", set: number(0, 1<<31, func(s *Spec) *int { return &s.FDataSync })},
	{Name: "sync", Arg: "kind", Values: []string{"none", "0", "1", "sync", "dsync"}, Default: "none",
		Help: "with 1, sync or dsync, a goroutine waits for the stability of each write", set: func(s *Spec,
			v string) error {
			switch v {
			case "none", "0":
				s.FDataSync = 0
			case "1", "sync", "dsync":
				s.FDataSync = 1
			default:
				return fmt.Errorf("must be none, 0, 1, sync or dsync")
			}
			return nil
		}},
	{Name: "end_fsync", Aliases: []string{"fsync_on_close"}, Help: "make all writes stable before the clock stops",
		set: onOff(func(s *Spec) *bool { return &s.EndFsync })},
	{Name: "invalidate", Default: "0", Help: "reopen the store before the job begins, with nothing cached, so that " +
		"reads " +
		"are from disk", set: onOff(func(s *Spec) *bool { return &s.Invalidate })},
	{Name: "unlink", Default: "1", Help: "with 0, use the store that is there, and leave it at the end",
		set: onOff(func(s *Spec) *bool { return &s.Unlink })},
	{Name: "cpus_allowed", Arg: "list", Help: "processors on which the goroutines run, like 0,2-3", set: setCPUs},
	{Name: "cpus_allowed_policy", Arg: "how", Values: []string{"shared", "split"}, Default: "shared",
		Help: "split gives each job one of these processors", set: func(s *Spec, v string) error {
			s.CPUsSplit = v == "split"
			if v != "split" && v != "shared" {
				return fmt.Errorf("must be shared or split")
			}
			return nil
		}},
}

// maxWorkers limits the goroutines of a section.
const maxWorkers = 1 << 12

// setCPUs parses cpus_allowed: numbers and ranges with commas between.
func setCPUs(s *Spec, v string) error {
	s.CPUs = nil
	for _, part := range strings.Split(v, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := toInt(from, 0, 1023)
		last := first
		if isRange && err == nil {
			last, err = toInt(to, first, 1023)
		}
		if err != nil {
			return fmt.Errorf("must be numbers and ranges of processors, like 0,2-3")
		}
		for ; first <= last; first++ {
			s.CPUs = append(s.CPUs, int(first))
		}
	}
	return nil
}

// timeOptions say when a job begins and ends.
var timeOptions = []Option{
	{Name: "runtime", Aliases: []string{"timeout"}, Arg: "time", Help: "time after which the job stops, even if " +
		"io_size " +
		"is not done", set: duration(time.Second, func(s *Spec) *time.Duration { return &s.Runtime })},
	{Name: "time_based", Help: "run for all of runtime, even if io_size is done", set: onOff(
		func(s *Spec) *bool { return &s.TimeBased })},
	{Name: "ramp_time", Arg: "time", Help: "time to run before measuring; nothing of it is reported", set: duration(
		time.Second, func(s *Spec) *time.Duration { return &s.Ramp })},
	{Name: "startdelay", Arg: "time", Help: "begin this time after the run; a range draws a time in it",
		set: func(s *Spec, v string) (err error) {
			from, to, isRange := strings.Cut(v, "-")
			if s.StartDelay, err = units.ParseTime(from, time.Second); err != nil || !isRange {
				s.StartDelayMost = s.StartDelay
				return err
			}
			if s.StartDelayMost, err = units.ParseTime(to, time.Second); err == nil && s.StartDelayMost < s.StartDelay {
				err = fmt.Errorf("the range descends")
			}
			return err
		}},
	{Name: "stonewall", Aliases: []string{"wait_for_previous"}, Help: "begin after all jobs before this one have " +
		"ended; " +
		"begins a new group", set: onOff(func(s *Spec) *bool { return &s.Stonewall })},
	{Name: "wait_for", Arg: "name", Help: "begin after all jobs of this name have ended", set: text(
		func(s *Spec) *string { return &s.WaitFor })},
	{Name: "new_group", Help: "begin a new group in the report",
		set: onOff(func(s *Spec) *bool { return &s.NewGroup })},
	{Name: "exitall", Help: "when this job ends, end the others too",
		set: onOff(func(s *Spec) *bool { return &s.ExitAll })},
	{Name: "exit_what", Arg: "which", Values: []string{"group", "stonewall", "all"}, Default: "group",
		Help: "the jobs that exitall ends", set: oneOf([]string{"group", "stonewall", "all"},
			func(s *Spec) *string { return &s.ExitWhat })},
	{Name: "exitall_on_error", Help: "when this job fails, end all jobs", set: onOff(
		func(s *Spec) *bool { return &s.ExitOnError })},
}
