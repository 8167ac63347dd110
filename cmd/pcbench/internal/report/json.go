package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
	"pagecache/cmd/pcbench/internal/stats"
	"pagecache/internal/htmlpage"
)

// The report in JSON has the names, units and order of fio's report, so that programs that read fio's report can read
// it. Times of operations are in ns, runtimes in ms, bw in KiB/s.

// Detail says how much of the latencies JSON has.
type Detail int

// The details.
const (
	DetailPercentiles Detail = iota // json
	DetailBins                      // json+: also the buckets of the histogram
)

// String returns fio's name of the format with this detail.
func (d Detail) String() string {
	switch d {
	case DetailPercentiles:
		return "json"
	case DetailBins:
		return "json+"
	}
	return fmt.Sprintf("Detail(%d)", int(d))
}

// fixed is a number that is written with six decimals, as by fio.
type fixed float64

// MarshalJSON returns the number, or 0 for infinity and NaN.
func (f fixed) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, finite(float64(f)), 'f', 6, 64), nil
}

// pairs is a JSON object that keeps the order of its names.
type pairs []pair

type pair struct {
	name  string
	value any
}

// MarshalJSON returns the object.
func (p pairs) MarshalJSON() ([]byte, error) {
	b := &bytes.Buffer{}
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false) // keeps >=64 as fio writes it
	b.WriteByte('{')
	for i, m := range p {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := e.Encode(m.name); err != nil {
			return nil, err
		}
		b.WriteByte(':')
		if err := e.Encode(m.value); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func pid() int { return os.Getpid() }

// JSON writes the report in the format that fio calls json or json+.
func JSON(out io.Writer, r *load.Result, at time.Time, detail Detail) error {
	return JSONAgainst(out, r, at, detail, nil)
}

// JSONAgainst writes the report with a comparison, unless that is nil. r is the page cache's last round.
func JSONAgainst(out io.Writer, r *load.Result, at time.Time, detail Detail, c *htmlpage.Comparison) error {
	jobs, disks := []pairs{}, []pairs{}
	for _, j := range r.Jobs {
		jobs = append(jobs, jobPairs(r, j, detail))
	}
	for _, d := range r.Disks {
		disks = append(disks, pairs{{"name", d.Name}, {"read_ios", d.Reads}, {"write_ios", d.Writes},
			{"read_merges", d.ReadMerges}, {"write_merges", d.WriteMerges}, {"read_ticks", d.ReadTicks},
			{"write_ticks", d.WriteTicks}, {"in_queue", d.In}, {"util", fixed(d.Util)}})
	}
	global := pairs{}
	if len(r.Jobs) > 0 {
		global = globalOptions(r.Jobs[0].Spec)
	}
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	all := pairs{{"fio version", "pcbench-" + Version}, {"timestamp", at.Unix()},
		{"timestamp_ms", at.UnixMilli()}, {"time", at.Format(time.ANSIC)}, {"global options", global}, {"jobs", jobs},
		{"disk_util", disks}}
	if c != nil {
		all = append(all, pair{"comparison", comparisonPairs(c)})
	}
	if err := e.Encode(all); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// globalOptions returns the options that were given for all jobs, and those that programs need to label a job even if
// nobody has given them. In fio's report, the global options apply where a job has none of its own.
func globalOptions(s *job.Spec) (p pairs) {
	for _, o := range s.Global {
		p = append(p, pair{o[0], o[1]})
	}
	for _, o := range [][2]string{
		{"rw", s.RW}, {"bs", strconv.FormatInt(s.PageSize(), 10)}, {"size", strconv.FormatInt(s.Size, 10)},
		{"numjobs", strconv.Itoa(s.NumJobs)}, {"iodepth", strconv.Itoa(s.IODepth)},
	} {
		is := func(g [2]string) bool { return g[0] == o[0] }
		if !slices.ContainsFunc(s.Given, is) && !slices.ContainsFunc(s.Global, is) {
			p = append(p, pair{o[0], o[1]})
		}
	}
	return append(slices.DeleteFunc(p, func(o pair) bool { return o.name == "ioengine" }),
		pair{"ioengine", "pagecache"})
}

func jobPairs(r *load.Result, j *load.Job, detail Detail) pairs {
	s, u := j.Spec, &j.Usage
	options := pairs{}
	for _, o := range s.Global { // a job file may change the options for all jobs between two sections
		if !slices.Contains(r.Jobs[0].Spec.Global, o) {
			options = append(options, pair{o[0], o[1]})
		}
	}
	for _, o := range s.Given {
		if o[0] != "ioengine" { // it is in the global options
			options = append(options, pair{o[0], o[1]})
		}
	}
	p := pairs{{"jobname", s.Name}, {"groupid", j.Group}, {"job_start", j.Started.UnixMilli()},
		{"error", load.Errno(j.Err)}, {"eta", 0}, {"elapsed", int64(math.Ceil(j.Elapsed.Seconds()))},
		{"job options", options}}
	mixedOnly := s.Unified == "mixed"
	if !mixedOnly {
		for _, d := range job.Dirs {
			p = append(p, pair{d.String(), directionPairs(&j.Dirs[d], s, detail)})
		}
	} else {
		p = append(p, pair{"mixed", directionPairs(mixed(j), s, detail)})
	}
	list := percentileNone
	if s.ClatPercentiles || s.LatPercentiles {
		list = percentiles(s)
	}
	if !mixedOnly { // as in fio
		p = append(p, pair{"sync", pairs{{"total_ios", j.Sync.N}, {"lat_ns", latencyPairs(&j.Sync, list, detail)}}})
	}
	if s.Unified == "both" {
		p = append(p, pair{"mixed", directionPairs(mixed(j), s, detail)})
	}
	p = append(p, pairs{{"job_runtime", j.Runtime / 1e6}, {"usr_cpu", fixed(u.User)}, {"sys_cpu", fixed(u.System)},
		{"ctx", u.Switches}, {"majf", u.MajFaults}, {"minf", u.MinFaults}}...)
	p = append(p, depthPairs(j)...)
	if s.ContinueOn != "none" {
		p = append(p, pair{"total_err", j.Errors}, pair{"first_error", load.Errno(j.First)})
	}
	p = append(p, pairs{{"latency_depth", j.Depth}, {"latency_target", s.Target.Latency.Nanoseconds()},
		{"latency_percentile", fixed(s.Target.Percentile)}, {"latency_window", s.Target.Window.Microseconds()}}...)
	if s.Description != "" {
		p = append(p, pair{"desc", s.Description})
	}
	if s.Steady.What != "" {
		p = append(p, pair{"steadystate", steadyPairs(j)})
	}
	return append(p, pair{"store", storePairs(r, j)})
}

// steadyPairs has the state of steadystate.
func steadyPairs(j *load.Job) pairs {
	o, s := &j.Spec.Steady, j.Steady
	unit := ""
	if o.Percent {
		unit = "%"
	}
	whole := func(values []float64) (out []int64) {
		out = []int64{}
		for _, v := range values {
			out = append(out, int64(v))
		}
		return out
	}
	return pairs{{"ss", fmt.Sprintf("%s:%f%s", o.What, o.Limit, unit)}, {"duration", int64(o.Duration.Seconds())},
		{"attained", b2i(s.Attained)}, {"criterion", fmt.Sprintf("%f%s", finite(s.Measure), unit)},
		{"max_deviation", fixed(s.Deviation)}, {"slope", fixed(s.Slope)},
		{"data", pairs{{"bw_mean", int64(s.BWMean())}, {"iops_mean", int64(s.IOPSMean())}, {"iops", whole(s.IOPS)},
			{"bw", whole(s.BW)}}}}
}

// finite returns v, or 0 for infinity and NaN.
func finite(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	return v
}

var percentileNone = []float64{}

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// depthPairs returns the distributions of queue depths and latencies.
func depthPairs(j *load.Job) pairs {
	var all []*stats.Latencies
	for d := range j.Dirs {
		all = append(all, lat(&j.Dirs[d], j.Spec))
	}
	list := stats.Shares(all...)
	var level, submit pairs
	for _, d := range depths {
		level = append(level, pair{d.name, fixed(d.share(j.Depth))})
	}
	// The ranges are fio's. pcbench submits one operation at a time, which is in the range up to 4.
	for _, n := range []string{"0", "4", "8", "16", "32", "64", ">=64"} {
		submit = append(submit, pair{n, fixed(100 * b2i(n == "4"))})
	}
	return pairs{{"iodepth_level", level}, {"iodepth_submit", submit}, {"iodepth_complete", submit},
		{"latency_ns", bandPairs(list, 1)}, {"latency_us", bandPairs(list, stats.Microsecond)},
		{"latency_ms", bandPairs(list, stats.Millisecond)}}
}

func bandPairs(list []float64, unit int64) (p pairs) {
	for i, b := range stats.Bands {
		if b.Unit == unit {
			p = append(p, pair{b.Name, fixed(list[i])})
		}
	}
	return p
}

// storePairs has what fio's report does not have: the loop, and the statistics of the store over the measured time.
func storePairs(r *load.Result, j *load.Job) pairs {
	u, s := j.Store, j.Spec
	kind := "closed"
	if s.Open() {
		kind = "open"
	}
	resident, cache, device := u.Served()
	return pairs{{"interrupted", r.Interrupted}, {"loop", kind}, {"pid", pid()}, {"device", u.Device},
		{"given_bytes", u.Given}, {"written_bytes", u.Written}, {"in_flight_bytes", u.InFlight},
		{"padded_bytes", u.Padded}, {"write_amplification", fixed(u.WriteAmplification())},
		{"space_amplification", fixed(u.SpaceAmplification)}, {"flushes", u.Flushes}, {"buffer_waits", u.Waits},
		{"merges", u.Merges}, {"consolidations", u.Consolidations}, {"segments", u.Segments},
		{"segments_in_use", u.SegmentsInUse}, {"recycled", u.Recycled}, {"draining", u.Draining}, {"cleaned",
			u.Cleaned},
		{"moved_bytes", u.Moved}, {"reads", u.Reads}, {"hits", u.Hits}, {"misses", u.Misses},
		{"cold_pulls", u.FromDevice}, {"reads_resident_percent", fixed(resident)},
		{"reads_page_cache_percent", fixed(cache)}, {"reads_device_percent", fixed(device)}, {"evictions", u.Evicted},
		{"heap_resident_bytes", u.Heap}, {"slab_resident_bytes", u.Slabs}, {"mapped_resident_bytes", u.Mapped},
		{"snapshots", u.Snapshots},
		{"open_txs", u.OpenTxs}, {"oldest_tx", u.OldestTx}, {"verified_pages", j.Verified},
		{"not_begun", j.NotBegun}}
}

func directionPairs(d *load.Direction, s *job.Spec, detail Detail) pairs {
	const kib = 1024
	bw, iops := &d.BW, &d.IOPS
	clat, whole := percentileNone, percentileNone
	if s.ClatPercentiles {
		clat = percentiles(s)
	}
	if s.LatPercentiles {
		whole = percentiles(s)
	}
	return pairs{{"io_bytes", d.Bytes}, {"io_kbytes", d.Bytes / kib}, {"bw_bytes", int64(d.BytesPerSecond())},
		{"bw", int64(d.BytesPerSecond() / kib)}, {"iops", fixed(d.PerSecond())}, {"runtime", d.Runtime / 1e6},
		{"total_ios", d.N()}, {"short_ios", 0}, {"drop_ios", 0},
		{"slat_ns", latencyPairs(&stats.Latencies{}, percentileNone, detail)},
		{"clat_ns", latencyPairs(&d.Clat, clat, detail)}, {"lat_ns", latencyPairs(lat(d, s), whole, detail)},
		{"bw_min", int64(bw.Least / kib)}, {"bw_max", int64(bw.Most / kib)}, {"bw_agg", fixed(bw.Share())},
		{"bw_mean", fixed(bw.Mean / kib)}, {"bw_dev", fixed(bw.Dev / kib)}, {"bw_samples", bw.N},
		{"iops_min", int64(iops.Least)}, {"iops_max", int64(iops.Most)}, {"iops_mean", fixed(iops.Mean)},
		{"iops_stddev", fixed(iops.Dev)}, {"iops_samples", iops.N}}
}

func latencyPairs(l *stats.Latencies, list []float64, detail Detail) pairs {
	p := pairs{{"min", l.Least}, {"max", l.Most}, {"mean", fixed(l.Mean())}, {"stddev", fixed(l.Deviation())},
		{"N", l.N}}
	if l.N == 0 || len(list) == 0 {
		return p
	}
	of := pairs{}
	for i, ns := range l.At(list) {
		of = append(of, pair{strconv.FormatFloat(list[i], 'f', 6, 64), ns})
	}
	p = append(p, pair{"percentile", of})
	if detail == DetailBins {
		bins := pairs{}
		for _, b := range l.Bins() {
			bins = append(bins, pair{strconv.FormatInt(b.Value, 10), b.Count})
		}
		p = append(p, pair{"bins", bins})
	}
	return p
}
