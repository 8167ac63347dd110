package main

import (
	"context"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

// fioReport is fio's report as a Go program declares it. Whole numbers are int64: a decimal point is an error.
type fioReport struct {
	Version     string            `json:"fio version"`
	Timestamp   int64             `json:"timestamp"`
	TimestampMS int64             `json:"timestamp_ms"`
	Time        string            `json:"time"`
	Global      map[string]string `json:"global options"`
	Jobs        []fioJob          `json:"jobs"`
	Disks       []map[string]any  `json:"disk_util"`
}

type fioJob struct {
	Name              string            `json:"jobname"`
	Group             int64             `json:"groupid"`
	Start             int64             `json:"job_start"` // since fio 3.36
	Error             int64             `json:"error"`
	ETA               int64             `json:"eta"`
	Elapsed           int64             `json:"elapsed"`
	Options           map[string]string `json:"job options"`
	Read, Write, Trim fioDirection
	Sync              struct {
		Total int64      `json:"total_ios"`
		Lat   fioLatency `json:"lat_ns"`
	}
	Runtime           int64              `json:"job_runtime"`
	User              float64            `json:"usr_cpu"`
	System            float64            `json:"sys_cpu"`
	Switches          int64              `json:"ctx"`
	MajFaults         int64              `json:"majf"`
	MinFaults         int64              `json:"minf"`
	Level             map[string]float64 `json:"iodepth_level"`
	Submit            map[string]float64 `json:"iodepth_submit"`
	Complete          map[string]float64 `json:"iodepth_complete"`
	NS                map[string]float64 `json:"latency_ns"`
	US                map[string]float64 `json:"latency_us"`
	MS                map[string]float64 `json:"latency_ms"`
	LatencyDepth      int64              `json:"latency_depth"`
	LatencyTarget     int64              `json:"latency_target"`
	LatencyPercentile float64            `json:"latency_percentile"`
	LatencyWindow     int64              `json:"latency_window"`
	Store             map[string]any     `json:"store"` // not in fio's report
}

type fioDirection struct {
	Bytes       int64      `json:"io_bytes"`
	KBytes      int64      `json:"io_kbytes"`
	Bps         int64      `json:"bw_bytes"`
	BW          int64      `json:"bw"`
	IOPS        float64    `json:"iops"`
	MS          int64      `json:"runtime"`
	Total       int64      `json:"total_ios"`
	Short       int64      `json:"short_ios"`
	Dropped     int64      `json:"drop_ios"`
	Slat        fioLatency `json:"slat_ns"`
	Clat        fioLatency `json:"clat_ns"`
	Lat         fioLatency `json:"lat_ns"`
	BWMin       int64      `json:"bw_min"`
	BWMax       int64      `json:"bw_max"`
	BWAgg       float64    `json:"bw_agg"`
	BWMean      float64    `json:"bw_mean"`
	BWDev       float64    `json:"bw_dev"`
	BWSamples   int64      `json:"bw_samples"`
	IOPSMin     int64      `json:"iops_min"`
	IOPSMax     int64      `json:"iops_max"`
	IOPSMean    float64    `json:"iops_mean"`
	IOPSDev     float64    `json:"iops_stddev"`
	IOPSSamples int64      `json:"iops_samples"`
}

type fioLatency struct {
	Min        int64            `json:"min"`
	Max        int64            `json:"max"`
	Mean       float64          `json:"mean"`
	Dev        float64          `json:"stddev"`
	N          int64            `json:"N"`
	Percentile map[string]int64 `json:"percentile"`
}

// readReport decodes a report. An unknown field is an error.
func readReport(t *testing.T, text string) (r fioReport) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return r
}

func runJSON(t *testing.T, line string) fioReport {
	t.Helper()
	out, errOut, status := pcbench(t, context.Background(), "run --output-format=json --segment=256k "+line)
	if status != 0 {
		t.Fatalf("%s: status %d, %s", line, status, errOut)
	}
	return readReport(t, out)
}

// The numbers of a real run are in fio's units, and related numbers agree.
func TestJSONUnits(t *testing.T) {
	before := time.Now()
	r := runJSON(t, "--name=u --rw=randrw --bs=8k --size=1m --runtime=1100ms --time_based --fdatasync=64 --iodepth=2")
	j := r.Jobs[0]
	near := func(what string, a, b, part float64) {
		if math.Abs(a-b) > part*max(math.Abs(a), math.Abs(b)) {
			t.Errorf("%s: %v, want %v", what, a, b)
		}
	}
	at := time.Unix(r.Timestamp, 0)
	if at.Before(before.Truncate(time.Second)) || at.After(time.Now()) || r.TimestampMS/1000 != r.Timestamp {
		t.Errorf("timestamp %d, %d ms", r.Timestamp, r.TimestampMS)
	}
	_, err := time.Parse(time.ANSIC, r.Time)
	if err != nil || !strings.HasPrefix(r.Version, "pcbench-") || r.Disks == nil {
		t.Errorf("%v, version %q, disks %v", err, r.Version, r.Disks)
	}
	if j.Elapsed < 2 || j.Options["bs"] != "8k" || j.Options["name"] != "u" || r.Global["numjobs"] != "1" ||
		r.Global["bs"] != "" {
		t.Errorf("elapsed %d s, options %v, global %v", j.Elapsed, j.Options, r.Global)
	}
	near("job_runtime", float64(j.Runtime), 1100, 0.5)
	for _, d := range []fioDirection{j.Read, j.Write} {
		near("io_bytes", float64(d.Bytes), float64(d.Total)*8192, 0)
		near("io_kbytes", float64(d.KBytes), float64(d.Bytes/1024), 0)
		near("bw_bytes", float64(d.Bps), float64(d.Bytes)*1000/float64(d.MS), 0.01)
		near("bw", float64(d.BW), float64(d.Bps/1024), 0)
		near("iops", d.IOPS, float64(d.Total)*1000/float64(d.MS), 0.01)
		near("bw_mean", d.BWMean, d.IOPSMean*8, 0.001)
		if d.MS != j.Runtime || d.Clat.N != d.Total || d.Lat.N != d.Total || len(d.Clat.Percentile) != 17 {
			t.Errorf("%+v", d)
		}
		if d.BWSamples < 1 || d.IOPSSamples != d.BWSamples || d.IOPSMin > d.IOPSMax ||
			float64(d.BWMin) > d.BWMean || float64(d.BWMax) < math.Floor(d.BWMean) {
			t.Errorf("%+v", d)
		}
		if l := d.Clat; float64(l.Min) > l.Mean || l.Mean > float64(l.Max) ||
			l.Percentile["50.000000"] < l.Min || l.Percentile["99.990000"] > l.Max {
			t.Errorf("%+v", l)
		}
	}
	if j.Trim.Total != 0 || j.Sync.Total == 0 || j.Sync.Lat.N != j.Sync.Total ||
		j.Sync.Lat.Percentile["50.000000"] == 0 {
		t.Errorf("trim %+v, sync %+v", j.Trim, j.Sync)
	}
	sum := 0.0
	for _, list := range []map[string]float64{j.NS, j.US, j.MS} {
		for _, share := range list {
			sum += share
		}
	}
	near("all latencies", sum, 100, 0.001)
	if j.User+j.System <= 0 || j.Switches <= 0 || j.Level["2"] != 100 || j.Submit["4"] != 100 ||
		j.Complete["4"] != 100 || j.LatencyDepth != 2 {
		t.Errorf("%+v", j)
	}
}

// fio-plot merges the options of a job with the global ones. It fails if any of these is missing, set or not.
func TestJSONLabels(t *testing.T) {
	for _, line := range []string{"--size=64k", "--rw=read --bs=4k --iodepth=1 --numjobs=1 --size=64k"} {
		r := runJSON(t, line)
		for name, want := range map[string]string{
			"rw": "read", "bs": "4", "iodepth": "1", "numjobs": "1", "size": "64k",
		} {
			a, inJob := r.Jobs[0].Options[name]
			b, global := r.Global[name]
			if inJob == global || !strings.HasPrefix(a+b, want) {
				t.Errorf("%s: %s is %q in the job, %q globally", line, name, a, b)
			}
		}
	}
}
