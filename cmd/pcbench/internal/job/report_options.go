package job

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"pagecache/cmd/pcbench/internal/units"
)

// reportOptions say what is reported of a job.
var reportOptions = []Option{
	{Name: "group_reporting", Help: "report all jobs of a group as one", set: onOff(
		func(s *Spec) *bool { return &s.GroupReporting })},
	{Name: "unified_rw_reporting", Arg: "how", Values: []string{"none", "mixed", "both"}, Default: "none",
		Help: "report reads, writes and trims as one", set: func(s *Spec, v string) error {
			switch v {
			case "0":
				v = "none"
			case "1":
				v = "mixed"
			case "2":
				v = "both"
			}
			return oneOf([]string{"none", "mixed", "both"}, func(s *Spec) *string { return &s.Unified })(s, v)
		}},
	{Name: "clat_percentiles", Default: "1", Help: "report percentiles of the time of calls", set: onOff(
		func(s *Spec) *bool { return &s.ClatPercentiles })},
	{Name: "lat_percentiles", Help: "report percentiles of the time since the intended start", set: onOff(
		func(s *Spec) *bool { return &s.LatPercentiles })},
	{Name: "percentile_list", Arg: "p:…", Default: "1:5:10:20:30:40:50:60:70:80:90:95:99:99.5:99.9:99.95:99.99",
		Help: "the percentiles, at most 20", set: func(s *Spec, v string) error {
			s.Percentiles = nil
			for _, part := range strings.Split(v, ":") {
				p, err := strconv.ParseFloat(part, 64)
				if err != nil || !(p > 0 && p <= 100) { // it may be NaN
					return fmt.Errorf("%q is not a percentile: must be above 0, at most 100", part)
				}
				s.Percentiles = append(s.Percentiles, p)
			}
			if len(s.Percentiles) > 20 {
				return fmt.Errorf("has %d percentiles, at most 20", len(s.Percentiles))
			}
			slices.Sort(s.Percentiles)
			return nil
		}},
	{Name: "significant_figures", Arg: "number", Default: "4", Help: "digits of numbers with a prefix", set: number(1,
		10,
		func(s *Spec) *int { return &s.Significant })},
	{Name: "disk_util", Default: "1", Help: "report the disk of the store, from /proc/diskstats", set: onOff(
		func(s *Spec) *bool { return &s.DiskUtil })},
	{Name: "stats", Default: "1", Help: "with 0, leave the job out of the report", set: onOff(
		func(s *Spec) *bool { return &s.Stats })},
}

// logOptions write the logs that fio's plots are made of, and read and write traces.
var logOptions = []Option{
	{Name: "write_bw_log", Arg: "prefix", Help: "write PREFIX_bw.N.log: the bandwidth of each interval", set: text(
		func(s *Spec) *string { return &s.Logs.BW })},
	{Name: "write_lat_log", Arg: "prefix", Help: "write PREFIX_lat.N.log, _clat and _slat: the latency of each " +
		"operation, or with log_avg_msec of each interval", set: text(func(s *Spec) *string { return &s.Logs.Lat })},
	{Name: "write_iops_log", Arg: "prefix", Help: "write PREFIX_iops.N.log: the operations per second of each interval",
		set: text(func(s *Spec) *string { return &s.Logs.IOPS })},
	{Name: "write_hist_log", Arg: "prefix", Help: "write PREFIX_clat_hist.N.log: a histogram of each log_hist_msec",
		set: text(func(s *Spec) *string { return &s.Logs.Hist })},
	{Name: "log_avg_msec", Arg: "time", Help: "interval of the log of latencies; without a unit in ms", set: duration(
		time.Millisecond, func(s *Spec) *time.Duration { return &s.Logs.Average })},
	{Name: "log_hist_msec", Arg: "time", Help: "interval of the log of histograms; without a unit in ms", set: duration(
		time.Millisecond, func(s *Spec) *time.Duration { return &s.Logs.HistEvery })},
	{Name: "log_hist_coarseness", Arg: "number", Help: "number of times that the buckets are halved", set: number(0, 6,
		func(s *Spec) *int { return &s.Logs.HistCoarseness })},
	{Name: "log_max_value", Aliases: []string{"log_window_value"}, Help: "log the maximum of each interval, not the " +
		"mean",
		set: func(s *Spec, v string) (err error) {
			if v == "avg" || v == "max" {
				s.Logs.Max = v == "max"
				return nil
			}
			s.Logs.Max, err = toBool(v)
			return err
		}},
	{Name: "log_offset", Help: "log the offset of each operation", set: onOff(
		func(s *Spec) *bool { return &s.Logs.Offset })},
	{Name: "log_unix_epoch", Aliases: []string{"log_alternate_epoch"}, Help: "log times since 1970", set: onOff(
		func(s *Spec) *bool { return &s.Logs.UnixEpoch })},
	{Name: "per_job_logs", Default: "1", Help: "with 0, the jobs of a section share a log", set: onOff(
		func(s *Spec) *bool { return &s.Logs.PerJob })},
	{Name: "bwavgtime", Arg: "time", Default: "500ms", Help: "interval of the samples of the bandwidth; without a " +
		"unit " +
		"in ms", set: duration(time.Millisecond, func(s *Spec) *time.Duration { return &s.Logs.BWEvery })},
	{Name: "iopsavgtime", Arg: "time", Default: "500ms", Help: "as bwavgtime; the shorter of both is used",
		set: duration(
			time.Millisecond, func(s *Spec) *time.Duration { return &s.Logs.IOPSEvery })},
	{Name: "write_iolog", Arg: "file", Help: "write a trace of the operations, in fio's version 3", set: text(
		func(s *Spec) *string { return &s.Logs.WriteIOLog })},
	{Name: "read_iolog", Arg: "file", Help: "replay a trace, in fio's version 2 or 3, whatever rw says; a " +
		"request reads or writes all pages that it touches, and offsets beyond size begin again at 0",
		set: setTrace},
	{Name: "replay_no_stall", Help: "replay as fast as possible", set: off(
		func(s *Spec) *bool { return &s.Logs.ReplayStall })},
	{Name: "replay_time_scale", Arg: "percent", Default: "100", Help: "speed of the replay, in percent of the " +
		"recorded one", set: number(1, 1e6,
		func(s *Spec) *int { return &s.Logs.ReplayScale })},
}

// runOptions belong to the whole run.
var runOptions = []Option{
	{Name: "output", Arg: "file", Help: "file for the report (default standard output); written at the end",
		Scope: ScopeRun, setRun: func(r *Run, v string) error {
			r.Output = v
			if v == "" {
				return fmt.Errorf("must name a file; leave it out for standard output")
			}
			return nil
		}},
	{Name: "output-format", Arg: "format", Values: formats, Default: "normal", Help: "format of the report; several " +
		"with commas between", Scope: ScopeRun, setRun: func(r *Run, v string) error {
		r.Formats = nil
		for _, f := range strings.Split(v, ",") {
			if !slices.Contains(formats, f) {
				return explainValue(f, formats)
			}
			r.Formats = append(r.Formats, f)
		}
		return nil
	}},
	{Name: "minimal", Help: "the same as output-format=terse", Scope: ScopeRun, setRun: func(r *Run, v string) error {
		on, err := toBool(v)
		if on {
			r.Formats = []string{"terse"}
		}
		return err
	}},
	{Name: "terse-version", Arg: "number", Values: []string{"2", "3", "4", "5"}, Default: "3", Help: "version of terse",
		Scope: ScopeRun, setRun: func(r *Run, v string) error {
			n, err := toInt(v, 2, 5)
			r.TerseVersion = int(n)
			return err
		}},
	{Name: "status-interval", Arg: "time", Help: "interval of reports while the jobs run; SIGUSR1 reports once",
		Scope: ScopeRun, setRun: runTime(func(r *Run) *time.Duration { return &r.StatusInterval })},
	{Name: "eta", Arg: "when", Values: []string{"auto", "always", "never"}, Default: "auto", Help: "show progress on " +
		"standard error", Scope: ScopeRun, setRun: func(r *Run, v string) error {
		if !slices.Contains([]string{"auto", "always", "never"}, v) {
			return fmt.Errorf("must be auto, always or never")
		}
		r.ETA = v
		return nil
	}},
	{Name: "eta-newline", Arg: "time", Help: "interval between new lines of progress", Scope: ScopeRun, setRun: runTime(
		func(r *Run) *time.Duration { return &r.ETANewline })},
	{Name: "eta-interval", Arg: "time", Help: "interval of progress", Scope: ScopeRun, setRun: runTime(
		func(r *Run) *time.Duration { return &r.ETAInterval })},
	{Name: "section", Arg: "name", Help: "run only this section of the job files; may be given more than once",
		Scope: ScopeRun, setRun: func(r *Run, v string) error { r.Sections = append(r.Sections, v); return nil }},
	{Name: "parse-only", Help: "check the options, and run nothing", Scope: ScopeRun, setRun: runOnOff(
		func(r *Run) *bool { return &r.ParseOnly })},
	{Name: "showcmd", Help: "print the jobs as one command line, and run nothing", Scope: ScopeRun, setRun: runOnOff(
		func(r *Run) *bool { return &r.ShowCmd })},
	{Name: "html", Arg: "file", Own: true, Help: "file for a page of pictures, which needs no network: speeds, " +
		"latencies, amplification, memory and cleaning over time; written at the end", Scope: ScopeRun,
		setRun: func(r *Run, v string) error {
			r.HTML = v
			if v == "" {
				return fmt.Errorf("must name a file, like run.html")
			}
			return nil
		}},
	{Name: "live", Arg: "address", Own: true, Help: "serve the pictures while the jobs run, on host:port; without a " +
		"host on 127.0.0.1; :0 chooses a port", Scope: ScopeRun, setRun: func(r *Run, v string) error {
		r.Live = v
		if _, _, err := net.SplitHostPort(v); err != nil {
			return fmt.Errorf("must be host:port or :port, like :8080")
		}
		return nil
	}},
	{Name: "readonly", Help: "refuse jobs that write", Scope: ScopeRun, setRun: runOnOff(
		func(r *Run) *bool { return &r.ReadOnly })},
}

// formats are the formats of the report.
var formats = []string{"normal", "json", "json+", "terse"}

func runOnOff(at func(*Run) *bool) func(*Run, string) error {
	return func(r *Run, v string) (err error) { *at(r), err = toBool(v); return err }
}

func runTime(at func(*Run) *time.Duration) func(*Run, string) error {
	return func(r *Run, v string) (err error) { *at(r), err = units.ParseTime(v, time.Second); return err }
}
