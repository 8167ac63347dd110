// Package report writes results as fio does: normal, json, json+ and terse.
package report

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
	"pagecache/cmd/pcbench/internal/pick"
	"pagecache/cmd/pcbench/internal/stats"
	"pagecache/cmd/pcbench/internal/units"
)

// Version is the version of pcbench.
const Version = "0.1.0"

// Normal writes the report in the format that fio calls normal.
func Normal(out io.Writer, r *load.Result) error {
	w := bufio.NewWriter(out)
	seen := map[*job.Spec]bool{}
	for _, j := range r.Jobs {
		s := j.Spec
		if seen[s] {
			continue
		}
		seen[s] = true
		fmt.Fprintf(w, "%s: (g=%d): rw=%s, bs=(R) %s, (W) %s, (T) %s, ioengine=pagecache, iodepth=%d\n",
			s.Name, j.Group, s.RW, bsRange(s.BS[job.DirRead]), writeRange(s), bsRange(s.BS[job.DirTrim]), s.IODepth)
		if s.NumJobs > 1 {
			fmt.Fprintln(w, "...")
		}
	}
	fmt.Fprintf(w, "pcbench-%s\n", Version)
	if len(r.Jobs) > 0 {
		fmt.Fprintf(w, "log: %s\n", r.Jobs[0].Store.Device)
	}
	if r.Interrupted {
		fmt.Fprintln(w, "interrupted: the jobs were stopped early")
	}
	for _, j := range r.Jobs {
		writeJob(w, j)
	}
	for i := range r.Groups {
		fmt.Fprintf(w, "\nRun status group %d (all jobs):\n", i)
		for _, d := range job.Dirs {
			writeStatus(w, r, i, d)
		}
	}
	writeDisks(w, r.Disks)
	if len(r.Jobs) > 0 {
		fmt.Fprintln(w, "\nStore stats:")
	}
	var last *load.StoreUse
	for _, j := range r.Jobs {
		if j.Store != last {
			writeStore(w, j)
		}
		last = j.Store
	}
	return w.Flush()
}

// writeStore writes the statistics of the store, which fio's report does not have.
func writeStore(w io.Writer, j *load.Job) {
	u, name := j.Store, j.Spec.Name
	if u.Reads > 0 {
		resident, cache, device := u.Served()
		fmt.Fprintf(w, "  %s: reads: %.1f %% resident, %.1f %% page cache, %.1f %% device\n", name, resident, cache,
			device)
	}
	write, space := "", ""
	if u.Given > 0 {
		write = fmt.Sprintf(" (write amplification %.2f)", u.WriteAmplification())
	}
	if u.SpaceAmplification > 0 { // a log has none
		space = fmt.Sprintf(", space amplification %.2f", u.SpaceAmplification)
	}
	fmt.Fprintf(w, "  %s: given=%s, written=%s%s, in flight=%s, padded=%s\n", name,
		units.Bytes(u.Given), units.Bytes(u.Written), write, units.Bytes(u.InFlight), units.Bytes(u.Padded))
	fmt.Fprintf(w, "  %s: flushes=%d, buffer_waits=%d, merges=%d, consolidations=%d, snapshots=%d\n", name, u.Flushes,
		u.Waits, u.Merges, u.Consolidations, u.Snapshots)
	fmt.Fprintf(w, "  %s: segments=%d/%d, recycled=%d, draining=%d, cleaned=%d, moved=%s%s\n", name,
		u.SegmentsInUse, u.Segments, u.Recycled, u.Draining, u.Cleaned, units.Bytes(u.Moved), space)
	fmt.Fprintf(w, "  %s: hits=%d, misses=%d, cold=%d, evicted=%d, resident=%s in the heap, %s in slabs, %s mapped\n",
		name, u.Hits, u.Misses, u.FromDevice, u.Evicted, units.Bytes(u.Heap), units.Bytes(u.Slabs),
		units.Bytes(u.Mapped))
	fmt.Fprintf(w, "  %s: open Txs=%d, oldest Tx=%d\n", name, u.OpenTxs, u.OldestTx)
}

// writeDisks writes the use of the disks as fio does.
func writeDisks(w io.Writer, disks []load.Disk) {
	if len(disks) == 0 {
		return
	}
	fmt.Fprintln(w, "\nDisk stats (read/write):")
	for _, d := range disks {
		fmt.Fprintf(w, "  %s: ios=%d/%d, merge=%d/%d, ticks=%d/%d, in_queue=%d, util=%3.2f%%\n", d.Name, d.Reads,
			d.Writes,
			d.ReadMerges, d.WriteMerges, d.ReadTicks, d.WriteTicks, d.In, d.Util)
	}
}

func bsRange(z pick.Sizes) string { return units.Bytes(z.Least) + "-" + units.Bytes(z.Most) }

// writeRange returns the sizes of writes.
func writeRange(s *job.Spec) string {
	if s.Own.Delta > 0 {
		return bsRange(pick.OneSize(s.Own.Delta))
	}
	return bsRange(s.BS[job.DirWrite])
}

// loop says when operations begin.
func loop(s *job.Spec) string {
	if s.Trace != nil && s.Open() {
		return "open (trace): operations begin at the times of the trace; lat is from the intended start"
	}
	if s.Pace.Open() {
		kind := "linear"
		if s.Pace.Poisson {
			kind = "poisson"
		}
		return "open (" + kind + "): operations begin at the given rate; lat is from the intended start"
	}
	if s.Workers() == 1 {
		return "closed: 1 goroutine, which begins an operation when the one before has ended"
	}
	return fmt.Sprintf("closed: %d goroutines, each begins an operation when the one before has ended", s.Workers())
}

func writeJob(w io.Writer, j *load.Job) {
	s := j.Spec
	fmt.Fprintf(w, "\n%s: (groupid=%d, jobs=%d): err=%2d", s.Name, j.Group, j.Jobs, load.Errno(j.Err))
	if j.Err != nil {
		fmt.Fprintf(w, " (%s)", strings.ReplaceAll(j.Err.Error(), "\n", "; "))
	}
	fmt.Fprintf(w, ": pid=%d: %s\n", pid(), j.Started.Format(time.ANSIC))
	if s.Description != "" {
		fmt.Fprintf(w, "  Description  : [%s]\n", s.Description)
	}
	fmt.Fprintf(w, "  loop         : %s\n", loop(s))
	if j.NotBegun > 0 {
		fmt.Fprintf(w, "  not begun    : %d operations were due before the end; lat does not have them\n", j.NotBegun)
	}
	var all []*stats.Latencies
	for i := range directions(j) {
		d := &directions(j)[i]
		writeDirection(w, d, s)
		all = append(all, lat(d.Direction, s))
	}
	list := stats.Shares(all...)
	writeBands(w, list, "nsec", 1)
	writeBands(w, list, "usec", stats.Microsecond)
	writeBands(w, list, "msec", stats.Millisecond)
	if j.Sync.N > 0 {
		fmt.Fprintln(w, "  fsync/fdatasync/sync_file_range:")
		writeLatency(w, "sync", &j.Sync)
		writePercentiles(w, "sync", &j.Sync, percentiles(s))
	}
	if j.Verified > 0 {
		fmt.Fprintf(w, "  verify       : %d pages read again and checked\n", j.Verified)
	}
	u := &j.Usage
	fmt.Fprintf(w, "  cpu          : usr=%.2f%%, sys=%.2f%%, ctx=%d, majf=%d, minf=%d\n",
		u.User, u.System, u.Switches, u.MajFaults, u.MinFaults)
	fmt.Fprint(w, "  IO depths    : ")
	for i, d := range depths {
		if i > 0 {
			fmt.Fprint(w, ", ")
		}
		fmt.Fprintf(w, "%s=%.1f%%", d.name, d.share(j.Depth))
	}
	d := &j.Dirs
	fmt.Fprintf(w, "\n     issued rwts: total=%d,%d,%d,%d short=0,0,0,0 dropped=0,0,0,0\n",
		d[job.DirRead].N(), d[job.DirWrite].N(), d[job.DirTrim].N(), j.Sync.N)
	if s.ContinueOn != "none" {
		fmt.Fprintf(w, "     errors    : total=%d, first_error=%d/<%v>\n", j.Errors, load.Errno(j.First), j.First)
	}
	fmt.Fprintf(w, "     latency   : target=%d, window=%d, percentile=%.2f%%, depth=%d\n",
		s.Target.Latency.Nanoseconds(),
		s.Target.Window.Microseconds(), s.Target.Percentile, j.Depth)
	if s.Steady.What != "" {
		writeSteady(w, j)
	}
}

// writeSteady writes the state of steadystate.
func writeSteady(w io.Writer, j *load.Job) {
	o, s := &j.Spec.Steady, j.Steady
	attained, unit, kind := "no", "", "mean dev"
	if s.Attained {
		attained = "yes"
	}
	if o.Percent {
		unit = "%"
	}
	what, slope := strings.CutSuffix(o.What, "_slope")
	if slope {
		kind = "slope"
	}
	bw := int64(s.BWMean())
	fmt.Fprintf(w, "  steadystate  : attained=%s, bw=%s/s (%s/s), iops=%s, %s %s=%.3f%s\n", attained, units.Bytes(bw),
		units.BytesSI(bw), units.Shorten(uint64(s.IOPSMean()), j.Spec.Significant, units.Decimal), what, kind,
		finite(s.Measure), unit)
}

// depth is a range of queue depths, as fio lists them.
type depth struct {
	name        string
	least, most int
}

var depths = []depth{{"1", 1, 1}, {"2", 2, 3}, {"4", 4, 7}, {"8", 8, 15}, {"16", 16, 31}, {"32", 32, 63},
	{">=64", 64, math.MaxInt}}

// share returns the percentage of operations at these depths. It is 0 or 100, since each goroutine always has one
// operation in progress.
func (d depth) share(iodepth int) float64 {
	if iodepth >= d.least && iodepth <= d.most {
		return 100
	}
	return 0
}

func writeDirection(w io.Writer, nd *named, sp *job.Spec) {
	d := nd.Direction
	if d.N() == 0 {
		return
	}
	bw := int64(d.BytesPerSecond())
	fmt.Fprintf(w, "  %s: IOPS=%s, BW=%s/s (%s/s)(%s/%dmsec)\n", nd.name,
		units.Shorten(uint64(d.PerSecond()), sp.Significant, units.Decimal),
		units.Bytes(bw), units.BytesSI(bw), units.Bytes(d.Bytes), d.Runtime/1e6)
	writeLatency(w, "clat", &d.Clat)
	writeLatency(w, " lat", lat(d, sp))
	if sp.ClatPercentiles {
		writePercentiles(w, "clat", &d.Clat, percentiles(sp))
	}
	if sp.LatPercentiles || sp.Open() {
		writePercentiles(w, "lat", lat(d, sp), percentiles(sp))
	}
	if d.BW.N == 0 {
		return
	}
	unit, scale, s := "KiB", 1024.0, &d.BW
	if s.Mean > 1<<30 {
		unit, scale = "MiB", 1<<20
	}
	fmt.Fprintf(w, "   bw (%5s/s): min=%5.0f, max=%5.0f, per=%3.2f%%, avg=%5.2f, stdev=%5.2f, samples=%d\n", unit,
		s.Least/scale, s.Most/scale, shareOf(s), s.Mean/scale, s.Dev/scale, s.N)
	s = &d.IOPS
	fmt.Fprintf(w, "   iops        : min=%5.0f, max=%5.0f, avg=%5.2f, stdev=%5.2f, samples=%d\n",
		s.Least, s.Most, s.Mean, s.Dev, s.N)
}

// shareOf returns the share of the speed of all jobs; of nothing it is all, as in fio.
func shareOf(s *stats.Spread) float64 {
	if s.Of <= 0 {
		return 100
	}
	return s.Share()
}

// lat returns the latencies since the intended start. In a closed loop they are those of the calls.
func lat(d *load.Direction, s *job.Spec) *stats.Latencies {
	if s.Open() && d.Lat.N > 0 {
		return &d.Lat
	}
	return &d.Clat
}

// percentiles returns the percentiles that are reported.
func percentiles(s *job.Spec) []float64 {
	if s.Percentiles != nil {
		return s.Percentiles
	}
	return stats.Percentiles
}

// named is a direction with its name in the report.
type named struct {
	name string
	*load.Direction
}

// directions returns the directions of a job: with unified_rw_reporting=mixed all of them as one, with both also.
func directions(j *load.Job) (out []named) {
	if j.Spec.Unified != "mixed" {
		for _, d := range job.Dirs {
			out = append(out, named{d.String(), &j.Dirs[d]})
		}
	}
	if j.Spec.Unified != "none" {
		out = append(out, named{"mixed", mixed(j)})
	}
	return out
}

// mixed adds up the directions of a job.
func mixed(j *load.Job) *load.Direction {
	sum := &load.Direction{}
	for i := range j.Dirs {
		d := &j.Dirs[i]
		sum.Clat.Merge(&d.Clat)
		sum.Lat.Merge(&d.Lat)
		sum.Bytes += d.Bytes
		sum.Runtime = max(sum.Runtime, d.Runtime)
		sum.BW, sum.IOPS = plus(sum.BW, d.BW), plus(sum.IOPS, d.IOPS)
	}
	return sum
}

func plus(a, b stats.Spread) stats.Spread {
	if a.N == 0 {
		return b
	}
	if b.N == 0 {
		return a
	}
	return stats.Spread{N: max(a.N, b.N), Least: a.Least + b.Least, Most: a.Most + b.Most, Mean: a.Mean + b.Mean,
		Dev: math.Hypot(a.Dev, b.Dev), Of: a.Of + b.Of}
}

// writeLatency writes the extremes, mean and deviation, in the largest unit of ns, us and ms that all of them exceed.
func writeLatency(w io.Writer, name string, l *stats.Latencies) {
	fills := func(unit float64) bool {
		return float64(l.Least) > unit && float64(l.Most) > 2*unit && l.Mean() > unit && l.Deviation() > unit
	}
	unit, scale := "nsec", 1.0
	if fills(stats.Millisecond) {
		unit, scale = "msec", stats.Millisecond
	} else if fills(stats.Microsecond) {
		unit, scale = "usec", stats.Microsecond
	}
	scaled := func(ns int64) string { return units.Shorten(uint64(float64(ns)/scale), 6, units.Decimal) }
	fmt.Fprintf(w, "    %s (%s): min=%s, max=%s, avg=%5.2f, stdev=%5.2f\n", name, unit,
		scaled(l.Least), scaled(l.Most), l.Mean()/scale, l.Deviation()/scale)
}

// writePercentiles writes the percentiles in lines of at most 80 columns.
func writePercentiles(w io.Writer, name string, l *stats.Latencies, list []float64) {
	at := l.At(list)
	least, most := at[0], at[len(at)-1]
	unit, scale := "nsec", int64(1)
	if least > 2*stats.Millisecond && most >= 100*stats.Millisecond {
		unit, scale = "msec", stats.Millisecond
	} else if least > 2*stats.Microsecond && most >= 100*stats.Microsecond {
		unit, scale = "usec", stats.Microsecond
	}
	fmt.Fprintf(w, "    %s percentiles (%s):\n", name, unit)
	width := max(5, len(fmt.Sprint(most/scale)))
	perLine := (80 - 7) / (12 + width)
	for i, p := range list {
		if i%perLine == 0 {
			fmt.Fprint(w, "     |")
		}
		end := ","
		if i == len(list)-1 {
			end = "\n"
		} else if i%perLine == perLine-1 {
			end = ",\n"
		}
		fmt.Fprintf(w, " %5.2fth=[%*d]%s", p, width, (at[i]+scale-1)/scale, end)
	}
}

// writeBands writes the shares of the bands of one unit, five on a line.
func writeBands(w io.Writer, list []float64, name string, unit int64) {
	n := 0
	for i, b := range stats.Bands {
		if b.Unit != unit || list[i] <= 0 {
			continue
		}
		switch {
		case n == 0:
			fmt.Fprintf(w, "  lat (%s)   : ", name)
		case n%5 == 0:
			fmt.Fprintf(w, "\n  lat (%s)   : ", name)
		default:
			fmt.Fprint(w, ", ")
		}
		fmt.Fprintf(w, "%s=%.2f%%", b.Name, list[i])
		n++
	}
	if n > 0 {
		fmt.Fprintln(w)
	}
}

// writeStatus writes one direction of all jobs: the sum, and the slowest and fastest job.
func writeStatus(w io.Writer, r *load.Result, group int, dir job.Dir) {
	sum := r.Total(group, dir)
	if sum.N() == 0 {
		return
	}
	least, most := math.Inf(1), 0.0
	short, long := int64(math.MaxInt64), int64(0)
	for _, j := range r.Jobs {
		if d := &j.Dirs[dir]; d.N() > 0 && j.Group == group {
			least, most = min(least, d.BytesPerSecond()), max(most, d.BytesPerSecond())
			short, long = min(short, d.Runtime), max(long, d.Runtime)
		}
	}
	bw := int64(sum.BytesPerSecond())
	fmt.Fprintf(w, "%7s: bw=%s/s (%s/s), %s/s-%s/s (%s/s-%s/s), io=%s (%s), run=%d-%dmsec\n",
		strings.ToUpper(dir.String()), units.Bytes(bw), units.BytesSI(bw), units.Bytes(int64(least)),
		units.Bytes(int64(most)), units.BytesSI(int64(least)), units.BytesSI(int64(most)), units.Bytes(sum.Bytes),
		units.BytesSI(sum.Bytes), short/1e6, long/1e6)
}
