package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"pagecache/engine"
)

// againstOptions compare the load with other programs.
var againstOptions = []Option{
	{Name: "against", Arg: "side,…", Own: true, Help: "do the same work with other programs in turns, and report " +
		"one table: fio, and the stores of " + "bench/cmd/compare: pebble, badger, bbolt, sqlite", Scope: ScopeRun,
		setRun: func(r *Run, v string) error {
			r.Against = nil
			for _, name := range strings.Split(strings.ToLower(v), ",") {
				if name == "" || slices.Contains(r.Against, name) {
					return fmt.Errorf("must name each side once, with commas between, like fio,pebble")
				}
				r.Against = append(r.Against, name)
			}
			return nil
		}},
	{Name: "rounds", Arg: "number", Own: true, Default: "3", Help: "times that each side of against does the work",
		Scope: ScopeRun, setRun: func(r *Run, v string) error {
			n, err := toInt(v, 1, 1000)
			r.Rounds = int(n)
			return err
		}},
	{Name: "peers", Arg: "file", Own: true, Help: "the program of bench/cmd/compare that against needs for stores " +
		"(default pagecache-compare beside pcbench or in PATH)", Scope: ScopeRun, setRun: func(r *Run, v string) error {
		r.Peers = v
		return nil
	}},
}

// AgainstFio is the name of fio in --against. Other names are those of stores.
const AgainstFio = "fio"

// uncomparable are options whose work no other side can do, or whose rounds would differ, each with the reason.
var uncomparable = map[string]string{
	"delta": "no other side has deltas that patch pages", "batch": "no other side has batches of pages",
	"transaction": "the loads of the other sides have no transactions",
	"log":         "no other side has a standalone log", "verify": "the other sides do not verify contents",
	"verify_only": "the other sides do not verify contents", "unlink": "each round begins with a new store",
	"temporary": "each round begins with a new store", "store_read_only": "each round begins with a new store",
	"steadystate":    "the sides would end at different times",
	"latency_target": "the sides would have different depths", "max_latency": "the sides would end at different times",
	"continue_on_error": "a comparison has no errors", "offset": "each side uses all of its pages",
	"offset_increment": "each side uses all of its pages", "startdelay": "the sides begin in turns",
	"read_iolog":  "the other sides draw their pages themselves",
	"write_iolog": "the rounds would overwrite it", "write_bw_log": "the rounds would overwrite it",
	"write_lat_log": "the rounds would overwrite it", "write_iops_log": "the rounds would overwrite it",
	"write_hist_log": "the rounds would overwrite it",
}

// forFio are the options that fio gets as they were given, since they mean the same there.
var forFio = []string{
	"rw", "bs", "bsrange", "bssplit", "bs_unaligned", "rwmixread", "rwmixwrite", "random_distribution",
	"percentage_random", "randseed", "randrepeat", "fdatasync", "end_fsync", "sync", "cpus_allowed",
	"cpus_allowed_policy", "runtime", "time_based", "ramp_time", "rate", "rate_iops", "rate_min", "rate_iops_min",
	"rate_process", "rate_cycle", "rate_ignore_thinktime", "thinktime", "thinktime_spin", "thinktime_blocks",
	"thinktime_iotime", "refill_buffers", "zero_buffers", "buffer_pattern", "buffer_compress_percentage",
	"buffer_compress_chunk", "dedupe_percentage", "fallocate", "iodepth_batch", "iodepth_batch_submit",
	"iodepth_batch_complete", "iodepth_batch_complete_min", "iodepth_batch_complete_max", "iodepth_low", "hipri",
	"registerfiles", "fixedbufs", "sqthread_poll", "sqthread_poll_cpu", "mem", "iomem_align", "scramble_buffers",
}

// forPeers are the options of a load that other stores can do. Options of the store and of the report are of no
// concern to them.
var forPeers = []string{
	"rw", "bs", "rwmixread", "rwmixwrite", "random_distribution", "randseed", "randrepeat", "fdatasync", "end_fsync",
	"runtime", "time_based", "ramp_time", "size", "io_size", "number_ios", "loops", "numjobs", "iodepth", "norandommap",
	"name", "description", "directory", "filename", "stonewall", "new_group", "exitall", "unlink",
}

// checkAgainst checks that a comparison can do the same work on all sides.
func checkAgainst(p *Parsed) (bad faults) {
	r := &p.Run
	bad.when(len(r.Against) == 0 && r.Peers != "", "--peers: needs --against, like --against=pebble")
	if len(r.Against) == 0 || len(p.Jobs) == 0 {
		return bad
	}
	bad.when(len(p.Jobs) > 1, "--against: compares one job, and there are %d; choose one with --section", len(p.Jobs))
	bad.when(r.StatusInterval > 0, "--status-interval: --against reports at its end; leave one of the two out")
	s := p.Jobs[0]
	bad.when(s.Does[DirTrim], "--against: --rw=%s frees pages, which the other sides do not", s.RW)
	peers := len(r.Against) > 1 || r.Against[0] != AgainstFio
	for _, g := range slices.Concat(s.Global, s.Given) {
		why := uncomparable[g[0]]
		if g[0] == "unlink" && s.Unlink {
			why = ""
		}
		bad.when(why != "", "--%s: with --against, %s; leave one of the two out", g[0], why)
		o := Lookup(g[0])
		own := o.Own || o.NoOp != "" || ofReport(o.Name)
		bad.when(why == "" && peers && !own && !slices.Contains(forPeers, g[0]),
			"--%s: other stores than fio cannot do that with --against; leave one of the two out", g[0])
	}
	bad.when(peers && s.Own.Cold, "--cold: other stores than fio cannot be kept cold; leave them out of --against")
	if peers {
		sizes := s.BS[DirRead]
		if s.Writes() {
			sizes = s.BS[DirWrite]
		}
		reads := s.BS[DirRead]
		bad.when(!sizes.Fixed() || s.Reads() && (!reads.Fixed() || reads.Most != sizes.Most),
			"--bs: with other stores than fio in --against, all pages have one size")
		bad.when(s.Step != 0 || s.Run != 1,
			"--rw: with other stores than fio in --against, pages are in order or random")
		bad.when(s.Map && s.Random, "--norandommap=0: other stores than fio draw pages independently; leave it out")
	}
	if slices.Contains(r.Against, AgainstFio) {
		bad.when(s.Pace.Open() && s.IODepth > 1 && !s.Asynchronous(),
			"--rate: fio has one rate for each thread; with --iodepth=%d, give --ioengine=io_uring too", s.IODepth)
	}
	return bad
}

// isForFio reports whether fio gets an option in a comparison.
func (r *Run) isForFio(name string) bool {
	return slices.Contains(r.Against, AgainstFio) && (name == "ioengine" || slices.Contains(forFio, name))
}

// ofReport reports whether an option says only what is reported.
func ofReport(name string) bool {
	return slices.ContainsFunc(reportOptions, func(o Option) bool { return o.Name == name })
}

// given returns the value of an option that was given, or "".
func (s *Spec) given(name string) string {
	for _, g := range slices.Concat(s.Global, s.Given) {
		if g[0] == name {
			return g[1]
		}
	}
	return ""
}

// Asynchronous reports whether fio is to use an engine that has several requests in flight.
func (s *Spec) Asynchronous() bool {
	return slices.Contains([]string{"io_uring", "libaio", "posixaio"}, s.given("ioengine"))
}

// FioOptions returns the options with which fio does the work of s on one file, besides those for the name of the file
// and the output. Each goroutine is a thread, unless --ioengine is an asynchronous engine.
func (s *Spec) FioOptions() []string {
	jobs, depth, engineName := s.Workers(), 1, "psync"
	if name := s.given("ioengine"); name != "" {
		engineName = name
	}
	if s.Asynchronous() {
		jobs, depth = s.NumJobs, s.IODepth
	}
	opts := []string{"--name=" + s.Name, "--ioengine=" + engineName, fmt.Sprintf("--numjobs=%d", jobs),
		fmt.Sprintf("--iodepth=%d", depth), "--thread", "--group_reporting"}
	if s.given("rw") == "" {
		opts = append(opts, "--rw="+s.RW)
	}
	for _, g := range slices.Concat(s.Global, s.Given) {
		if slices.Contains(forFio, g[0]) {
			opts = append(opts, "--"+g[0]+"="+g[1])
		}
	}
	bs := s.PageSize()
	if s.given("bs")+s.given("bsrange")+s.given("bssplit") == "" {
		opts = append(opts, fmt.Sprintf("--bs=%d", bs))
	}
	size := s.Size / bs * bs
	if part := size / bs / int64(jobs) * bs; !s.Random && jobs > 1 && part > 0 {
		size = part // each job begins at its share
		opts = append(opts, fmt.Sprintf("--offset_increment=%d", part))
	}
	opts = append(opts, fmt.Sprintf("--size=%d", size))
	if n, limited := s.Operations(); limited {
		share := s.ReadPercent()
		mean := (s.OpSize(DirRead)*float64(share) + s.OpSize(DirWrite)*float64(100-share)) / 100
		opts = append(opts, fmt.Sprintf("--io_size=%d", max(bs, int64(float64(n)*mean)/int64(jobs)/bs*bs)))
	}
	if s.Random {
		opts = append(opts, "--norandommap="+strconv.Itoa(1-int(oneIf(s.Map))))
	}
	direct := s.Own.Cold || s.Engine.Direct == engine.DirectOn
	return append(opts, fmt.Sprintf("--direct=%d", oneIf(direct)), fmt.Sprintf("--invalidate=%d", oneIf(s.Invalidate)))
}

func oneIf(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
