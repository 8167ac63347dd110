package job

import (
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"unicode"

	"pagecache/cmd/pcbench/internal/pick"
	"pagecache/segments/format"
)

// PlaceSuffix is the end of the name of the directory that pcbench makes for a store.
const PlaceSuffix = ".pcbench"

// check returns an error for each option that is out of range or contradicts another one. The options that were set
// are in given; those of them that must have an effect on this job are in own.
func (s *Spec) check(given, own map[string]bool) (bad faults) {
	s.checkNames(&bad)
	s.checkSizes(given, &bad)
	s.checkLoad(own, &bad)
	s.checkTimes(given, &bad)
	s.checkOwn(given, &bad)
	return bad
}

// checkNames checks the options that become file names.
func (s *Spec) checkNames(bad *faults) {
	const longestName = 255 - len(PlaceSuffix)
	invalid := func(r rune) bool { return r == '/' || unicode.IsControl(r) }
	wrong := func(n string) bool { return n == "" || n[0] == '.' || strings.ContainsFunc(n, invalid) }
	bad.when(wrong(s.Name),
		"--name=%q: must be a file name without / and control characters that does not begin with a dot", s.Name)
	bad.when(s.Filename != "" && wrong(s.Filename),
		"--filename=%q: must be a file name without control characters that does not begin with a dot", s.Filename)
	bad.when(len(s.Name) > longestName, "--name: has %d bytes, must have at most %d", len(s.Name), longestName)
	bad.when(s.Directory == "", "--directory: must name a directory; . is the working directory")
}

// checkSizes checks each size, and the sizes against each other.
func (s *Spec) checkSizes(given map[string]bool, bad *faults) {
	const maxPage = 1 << 30
	n := s.Engine.SegmentSize
	bad.when(n < format.MinSegmentSize || n > format.MaxSegmentSize || n%4096 != 0,
		"--segment=%d: must be %d to %d, a multiple of 4096", n, format.MinSegmentSize, format.MaxSegmentSize)
	bs := s.PageSize()
	bad.when(bs > maxPage, "--bs=%s: must be at most %s", bytes(bs), bytes(maxPage))
	bad.when(s.Size < bs, "--size=%s: must be at least one page, --bs=%s", bytes(s.Size), bytes(bs))
	bad.when(s.Step%bs != 0 || s.Step < -s.Size || s.Step > s.Size,
		"--rw=%s:%d: the step must be a multiple of the size of a page, --bs=%s, and at most --size=%s", s.RW, s.Step,
		bytes(bs), bytes(s.Size))
	bad.when(s.AllPages() > pick.Most,
		"--size=%s: has %d pages with those before its offsets, must have at most %d; use a larger --bs", bytes(s.Size),
		s.AllPages(), int64(pick.Most))
	bad.when(s.Own.Delta > bs, "--delta=%s: must be at most the size of a page, --bs=%s", bytes(s.Own.Delta), bytes(bs))
	least := int64(0)
	for _, d := range Dirs {
		if s.Does[d] {
			least = max(least, int64(s.OpSize(d)))
		}
	}
	bad.when(given["io_size"] && s.IOSize < least, "--io_size=%d: must be at least one read or write, %d", s.IOSize,
		least)
	bad.when(s.Workers() > maxWorkers, "--iodepth=%d: times --numjobs=%d must be at most %d goroutines", s.IODepth,
		s.NumJobs, maxWorkers)
}

// bytes writes a size as an option takes it: 64k.
func bytes(n int64) string {
	for i, unit := range []string{"t", "g", "m", "k"} {
		if size := int64(1) << (40 - 10*i); n >= size && n%size == 0 {
			return fmt.Sprint(n/size) + unit
		}
	}
	return fmt.Sprint(n)
}

// checkLoad finds options that have no effect on the load.
func (s *Spec) checkLoad(given map[string]bool, bad *faults) {
	fixed := s.Does[DirRead] && s.Does[DirWrite] && s.ReadShare == 100
	for _, o := range []struct {
		name string
		on   bool
	}{
		{"fdatasync", s.FDataSync > 0}, {"end_fsync", s.EndFsync}, {"delta", s.Own.Delta > 0},
		{"refill_buffers", s.Buffers.Refill}, {"batch", s.Own.Batch > 0},
		{"transaction", s.Own.Transaction > 0}, {"verify_only", s.Verify.Only},
	} {
		asked := given[o.name] && o.on && !s.Verify.Only && !(o.name == "delta" && s.Own.Node)
		bad.when(asked && !s.Writes(), "--%s: --rw=%s does not write; use --rw=write, randwrite or randrw", o.name,
			s.RW)
		bad.when(asked && fixed, "--%s: --rwmixread=100 leaves nothing to write; use less, or leave --%s out", o.name,
			o.name)
	}
	mixes := s.Does[DirRead] && s.Does[DirWrite]
	bad.when(given["rwmixread"] && !mixes, "--rwmixread: --rw=%s does not mix reads and writes; use --rw=randrw", s.RW)
	bad.when(given["random_distribution"] && !s.Random && s.Trace == nil && s.Dist.Kind != pick.KindRandom,
		"--random_distribution: --rw=%s goes in order; use --rw=rand%s", s.RW, s.RW)
	bad.when(s.Map && s.Random && s.Dist.Kind != pick.KindRandom,
		"--norandommap=0: each page once contradicts --random_distribution=%s; leave one of the two out", s.Dist.Kind)
	bad.when(s.Verify.Method != "" && s.Own.Delta > 0, "--verify: deltas change parts of pages; leave --delta out")
	bad.when(s.Verify.Method == "pattern" && len(s.Verify.Pattern) == 0,
		"--verify=pattern: needs --verify_pattern, like 0xdeadbeef")
	bad.when(s.Verify.Only && s.Verify.Method == "", "--verify_only: needs --verify, like --verify=crc32c")
	bad.when(s.Logs.Hist != "" && s.Logs.HistEvery == 0, "--write_hist_log: needs --log_hist_msec, like 1000")
}

// checkTimes checks the options that end the load.
func (s *Spec) checkTimes(given map[string]bool, bad *faults) {
	bad.when(s.TimeBased && s.Untimed(), "--time_based: needs a --runtime above 0, like --runtime=10s")
	bad.when(s.TimeBased && given["io_size"],
		"--io_size: --time_based runs for all of --runtime regardless; leave one of the two out")
	bad.when(given["runtime"] && s.Untimed() && !s.TimeBased,
		"--runtime=0: must be above 0; leave it out to run until --io_size is done")
	bad.when(s.Steady.What != "" && s.Steady.Duration <= 0,
		"--steadystate: needs --steadystate_duration, like --steadystate_duration=10s")
	bad.when(s.Steady.Every <= 0, "--steadystate_check_interval: must be above 0")
	bad.when(s.Logs.BWEvery < 1e6 || s.Logs.IOPSEvery < 1e6, "--bwavgtime: must be at least 1 ms, and iopsavgtime too")
	bad.when(s.Pace.Cycle < 1e6, "--rate_cycle: must be at least 1 ms")
	bad.when(given["snapshots"] && s.Own.Snapshots <= 0, "--snapshots: must be above 0; leave it out for none")
}

// checkOwn checks the options of the store against each other.
func (s *Spec) checkOwn(given map[string]bool, bad *faults) {
	bad.when(s.Own.Log && !s.Own.Node && (s.Own.Delta > 0 || s.Own.Prefetch > 0 || s.Own.Snapshots > 0),
		"--log: a log has neither deltas nor snapshots, and reads nothing ahead; leave those options out")
	bad.when(s.Own.Log && s.Does[DirTrim], "--log: --rw=%s frees pages, which a log does not have", s.RW)
	bad.when(s.Own.Log && s.Verify.Method != "", "--log: records are not verified; leave --verify out")
	bad.when(s.Own.Log && !s.Unlink, "--log: a log is always removed; leave --unlink out")
	if s.Own.Node {
		bad.when(s.Own.Log, "--node: a log has no pages; leave --log out")
		bad.when(s.Verify.Method != "", "--node: nodes are not verified; leave --verify out")
		for _, d := range Dirs {
			bad.when(s.Does[d] && !s.BS[d].Fixed(), "--node: nodes have one size; use --bs")
		}
		bad.when(s.Own.Delta < NodeKey+1 || s.Own.Delta > 1<<15,
			"--delta=%d: a record of --node must have %d to %d bytes", s.Own.Delta, NodeKey+1, 1<<15)
		bad.when(s.NodeRecords() < 2, "--node: a page of --bs=%d has no room for two records of --delta=%d",
			s.PageSize(), s.Own.Delta)
	}
	bad.when(s.Own.Transaction > 0 && s.Own.Batch > 0,
		"--transaction: a transaction is recovered whole without a batch; leave --batch out")
	bad.when(s.Own.Transaction > 0 && s.Own.Log, "--transaction: a log has no pages; leave --log out")
	bad.when(s.Own.Transaction > 0 && s.Verify.Method != "",
		"--transaction: transactions are not verified; leave --verify out")
	bad.when(s.Own.Batch > 0 && s.Verify.Method != "", "--batch: batches are not verified; leave --verify out")
	bad.when(s.Engine.ReadOnly && (s.Writes() || s.Does[DirTrim]), "--store_read_only: --rw=%s writes; use --rw=read",
		s.RW)
	bad.when(s.Engine.ReadOnly && s.Unlink, "--store_read_only: needs a store that is there: --unlink=0")
	bad.when(s.Engine.Temporary && !s.Unlink, "--temporary: contradicts --unlink=0, which keeps the store")
	bad.when(s.Engine.Temporary && s.Invalidate, "--temporary: --invalidate and --cold reopen the store, which is "+
		"gone then")
	bad.when(s.Engine.Temporary && s.Own.Log, "--temporary: is for pages only; leave --log out")
	bad.when(s.Own.Cold && s.Own.Log, "--cold: is for pages only; leave --log out")
}

// checkAll checks the jobs against each other.
func checkAll(p *Parsed) (bad faults) {
	bad.when(len(p.Run.Against) == 0 && p.Run.Rounds != DefaultRun().Rounds,
		"--rounds=%d: is for comparisons; add --against, like --against=fio", p.Run.Rounds)
	bad.when(p.Run.HTML != "" && filepath.Clean(p.Run.HTML) == filepath.Clean(p.Run.Output),
		"--html=%s: is the file of --output; give another one", p.Run.HTML)
	bad = append(bad, checkAgainst(p)...)
	names := map[string]bool{}
	for _, s := range p.Jobs {
		bad.when(s.WaitFor != "" && !names[s.WaitFor], "--wait_for=%s: no job before %s has this name", s.WaitFor,
			s.Name)
		names[s.Name] = true
		bad.when(p.Run.ReadOnly && (s.Writes() || s.Does[DirTrim]), "--readonly: --rw=%s of %s writes", s.RW, s.Name)
	}
	for i, s := range p.Jobs {
		if s.Trace != nil && s.beyond() > 0 {
			p.Notes = append(p.Notes, fmt.Sprintf("read_iolog: %d of %d operations lie beyond --size, and begin again "+
				"at 0", s.beyond(), len(s.Trace.Ops)))
		}
		first := p.Jobs[0]
		for _, o := range p.Jobs[:i] {
			if SameStore(o, s) {
				first = o
				break
			}
		}
		if !SameStore(first, s) || first == s {
			continue
		}
		bad.when(first.Own.Log != s.Own.Log, "--log: %s and %s share a store; give it to both", first.Name, s.Name)
		bad.when(first.Own.Node != s.Own.Node || s.Own.Node && (first.PageSize() != s.PageSize() ||
			first.Own.Delta != s.Own.Delta),
			"--node: %s and %s share a store; give it, and the same --bs and --delta, to both", first.Name, s.Name)
		a, b := first.Engine, s.Engine
		b.Direct = a.Direct // a note says which counts
		bad.when(!reflect.DeepEqual(a, b) || first.Unlink != s.Unlink,
			"%s and %s share a store; give its options, like --cache or --cold, to both, or another --filename",
			first.Name,
			s.Name)
		if first.Engine.Direct != s.Engine.Direct {
			p.Notes = append(p.Notes, fmt.Sprintf("direct: %s and %s share a store, whose log is written as %s says",
				first.Name, s.Name, first.Name))
		}
		bad.when(first.Verify.Method != s.Verify.Method && s.Reads() && s.Verify.Method != "" && first.Writes(),
			"--verify: %s and %s share a store; give both the same", first.Name, s.Name)
	}
	return bad
}

// SameStore reports whether two jobs use the same store.
func SameStore(a, b *Spec) bool { return a.Directory == b.Directory && a.Filename == b.Filename }
