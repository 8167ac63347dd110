package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"
)

// The report in JSON has the names, units and order of fio's report, so that programs that read fio's report can read
// it. Times of operations are in ns, runtimes in ms, bw in KiB/s.

type jsonReport struct {
	Version     string    `json:"fio version"`
	Timestamp   int64     `json:"timestamp"`
	TimestampMS int64     `json:"timestamp_ms"`
	Time        string    `json:"time"`
	Global      pairs     `json:"global options"`
	Jobs        []jsonJob `json:"jobs"`
	Disks       []pairs   `json:"disk_util"` // empty: pcbench does not find out which disks the store uses
}

type jsonJob struct {
	Name       string        `json:"jobname"`
	Group      int           `json:"groupid"`
	Error      int           `json:"error"`
	ETA        int           `json:"eta"`
	Elapsed    int64         `json:"elapsed"` // s
	Options    pairs         `json:"job options"`
	Read       jsonDirection `json:"read"`
	Write      jsonDirection `json:"write"`
	Trim       jsonDirection `json:"trim"`
	Sync       jsonSync      `json:"sync"`
	JobRuntime int64         `json:"job_runtime"` // ms
	User       fixed         `json:"usr_cpu"`
	System     fixed         `json:"sys_cpu"`
	Switches   int64         `json:"ctx"`
	MajFaults  int64         `json:"majf"`
	MinFaults  int64         `json:"minf"`
	Depths     pairs         `json:"iodepth_level"`
	Submit     pairs         `json:"iodepth_submit"`
	Complete   pairs         `json:"iodepth_complete"`
	NS         pairs         `json:"latency_ns"`
	US         pairs         `json:"latency_us"`
	MS         pairs         `json:"latency_ms"`
	Depth      int           `json:"latency_depth"`
	Target     int64         `json:"latency_target"`
	Percentile fixed         `json:"latency_percentile"`
	Window     int64         `json:"latency_window"`
	Store      jsonStore     `json:"store"`
}

type jsonDirection struct {
	Bytes       int64       `json:"io_bytes"`
	KBytes      int64       `json:"io_kbytes"`
	BWBytes     int64       `json:"bw_bytes"`
	BW          int64       `json:"bw"`
	IOPS        fixed       `json:"iops"`
	Runtime     int64       `json:"runtime"`
	Total       int64       `json:"total_ios"`
	Short       int64       `json:"short_ios"`
	Dropped     int64       `json:"drop_ios"`
	Slat        jsonLatency `json:"slat_ns"`
	Clat        jsonLatency `json:"clat_ns"`
	Lat         jsonLatency `json:"lat_ns"`
	BWMin       int64       `json:"bw_min"`
	BWMax       int64       `json:"bw_max"`
	BWAgg       fixed       `json:"bw_agg"`
	BWMean      fixed       `json:"bw_mean"`
	BWDev       fixed       `json:"bw_dev"`
	BWSamples   int         `json:"bw_samples"`
	IOPSMin     int64       `json:"iops_min"`
	IOPSMax     int64       `json:"iops_max"`
	IOPSMean    fixed       `json:"iops_mean"`
	IOPSDev     fixed       `json:"iops_stddev"`
	IOPSSamples int         `json:"iops_samples"`
}

type jsonLatency struct {
	Min        int64 `json:"min"`
	Max        int64 `json:"max"`
	Mean       fixed `json:"mean"`
	Dev        fixed `json:"stddev"`
	N          int64 `json:"N"`
	Percentile pairs `json:"percentile,omitempty"`
}

type jsonSync struct {
	Total int64       `json:"total_ios"`
	Lat   jsonLatency `json:"lat_ns"`
}

// jsonStore is not in fio's report. It holds the statistics of the store over the run of the whole group.
type jsonStore struct {
	Device         string `json:"device"`
	Written        int64  `json:"written_bytes"`
	Padded         int64  `json:"padded_bytes"`
	Flushes        int64  `json:"flushes"`
	BufferWaits    int64  `json:"buffer_waits"`
	Merges         int64  `json:"merges"`
	Consolidations int64  `json:"consolidations"`
	Segments       int    `json:"segments"`
	SegmentsInUse  int    `json:"segments_in_use"`
	Recycled       int64  `json:"recycled"`
	Cleaned        int64  `json:"cleaned"`
	Moved          int64  `json:"moved_bytes"`
	Hits           int64  `json:"hits"`
	Misses         int64  `json:"misses"`
	ColdPulls      int64  `json:"cold_pulls"`
	Evictions      int64  `json:"evictions"`
	HeapResident   int64  `json:"heap_resident_bytes"`
	MappedResident int64  `json:"mapped_resident_bytes"`
}

// fixed is a number that is written with six decimals, as by fio.
type fixed float64

// MarshalJSON returns the number, or 0 for infinity and NaN.
func (f fixed) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(f)) || math.IsInf(float64(f), 0) {
		f = 0
	}
	return strconv.AppendFloat(nil, float64(f), 'f', 6, 64), nil
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

// writeJSON writes the report in the format that fio calls json.
func writeJSON(out io.Writer, results []*result, at time.Time) error {
	report := jsonReport{Version: "pcbench-" + version, Timestamp: at.Unix(), TimestampMS: at.UnixMilli(),
		Time: at.Format(time.ANSIC), Global: pairs{}, Jobs: []jsonJob{}, Disks: []pairs{}}
	for i, r := range results {
		if i == 0 {
			report.Global = globalOptions(r.spec)
		}
		for _, j := range r.jobs {
			report.Jobs = append(report.Jobs, newJSONJob(r, i, j))
		}
	}
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(report); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// globalOptions returns the options that programs need to label a job and that the command line does not set. In
// fio's report, the global options apply where a job has none of its own.
func globalOptions(s *spec) pairs {
	p := pairs{}
	for _, o := range [][2]string{
		{"rw", s.RW}, {"bs", strconv.FormatInt(s.BS, 10)}, {"size", strconv.FormatInt(s.Size, 10)},
		{"numjobs", strconv.Itoa(s.NumJobs)}, {"iodepth", strconv.Itoa(s.IODepth)},
	} {
		if !slices.ContainsFunc(s.given, func(g [2]string) bool { return g[0] == o[0] }) {
			p = append(p, pair{o[0], o[1]})
		}
	}
	return p
}

func newJSONJob(r *result, group int, j *job) jsonJob {
	u, st := &j.usage, &r.store
	list := shares(&j.read.latencies, &j.write.latencies)
	out := jsonJob{Name: j.name, Group: group, Error: errno(j.err), Elapsed: int64(math.Ceil(r.elapsed.Seconds())),
		Options: pairs{}, Read: newJSONDirection(&j.read), Write: newJSONDirection(&j.write),
		Trim: newJSONDirection(&newJob("", 0).read), Sync: jsonSync{j.sync.n, newJSONLatency(&j.sync)},
		JobRuntime: j.runtime / 1e6, User: fixed(u.userPercent), System: fixed(u.systemPercent), Switches: u.switches,
		MajFaults: u.majFaults, MinFaults: u.minFaults, NS: bandPairs(list, 1), US: bandPairs(list, microsecond),
		MS: bandPairs(list, millisecond), Depth: r.spec.IODepth, Percentile: 100,
		Store: jsonStore{st.device, st.written, st.padded, st.flushes, st.waits, st.merges, st.consolidations,
			st.segments, st.segmentsInUse, st.recycled, st.cleaned, st.moved, st.hits, st.misses, st.fromDisk,
			st.evicted, st.heap, st.mapped}}
	for _, o := range r.spec.given {
		out.Options = append(out.Options, pair{o[0], o[1]})
	}
	for _, d := range depths {
		out.Depths = append(out.Depths, pair{d.name, fixed(d.share(r.spec.IODepth))})
	}
	// The ranges are fio's. pcbench submits one operation at a time, which is in the range up to 4.
	for _, n := range []string{"0", "4", "8", "16", "32", "64", ">=64"} {
		share := fixed(100 * b2i(n == "4"))
		out.Submit, out.Complete = append(out.Submit, pair{n, share}), append(out.Complete, pair{n, share})
	}
	return out
}

func bandPairs(list []float64, unit int64) (p pairs) {
	for i, b := range bands {
		if b.unit == unit {
			p = append(p, pair{b.name, fixed(list[i])})
		}
	}
	return p
}

func newJSONDirection(d *direction) jsonDirection {
	const kib = 1024
	bw, iops := &d.bw, &d.iops
	share := 0.0
	if bw.of > 0 {
		share = min(100, 100*bw.mean/bw.of)
	}
	l := newJSONLatency(&d.latencies)
	whole := l
	whole.Percentile = nil
	return jsonDirection{Bytes: d.bytes, KBytes: d.bytes / kib, BWBytes: int64(d.bytesPerSecond()),
		BW: int64(d.bytesPerSecond() / kib), IOPS: fixed(d.perSecond()), Runtime: d.runtime / 1e6, Total: d.n,
		Clat: l, Lat: whole,
		BWMin: int64(bw.least / kib), BWMax: int64(bw.most / kib), BWAgg: fixed(share), BWMean: fixed(bw.mean / kib),
		BWDev: fixed(bw.dev / kib), BWSamples: bw.n,
		IOPSMin: int64(iops.least), IOPSMax: int64(iops.most), IOPSMean: fixed(iops.mean), IOPSDev: fixed(iops.dev),
		IOPSSamples: iops.n}
}

func newJSONLatency(l *latencies) jsonLatency {
	out := jsonLatency{Min: l.least, Max: l.most, Mean: fixed(l.mean()), Dev: fixed(l.deviation()), N: l.n}
	if l.n > 0 {
		for i, ns := range l.at() {
			out.Percentile = append(out.Percentile, pair{strconv.FormatFloat(percentiles[i], 'f', 6, 64), ns})
		}
	}
	return out
}
