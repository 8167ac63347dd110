package job

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// paceOptions limit the speed of a job.
var paceOptions = []Option{
	{Name: "rate", Arg: "bytes/s", Help: "open loop: begin operations at this speed, whether or not earlier ones " +
		"have " +
		"ended; lat is measured from the intended start", set: sizes(func(s *Spec) *[3]int64 { return &s.Pace.Rate })},
	{Name: "rate_iops", Arg: "number/s", Help: "as rate, in operations per second", set: numbers(
		func(s *Spec) *[3]int64 { return &s.Pace.IOPS })},
	{Name: "rate_min", Aliases: []string{"ratemin"}, Arg: "bytes/s", Help: "the job fails if it is slower",
		set: sizes(func(s *Spec) *[3]int64 { return &s.Pace.RateMin })},
	{Name: "rate_iops_min", Arg: "number/s", Help: "as rate_min, in operations per second", set: numbers(
		func(s *Spec) *[3]int64 { return &s.Pace.IOPSMin })},
	{Name: "rate_process", Arg: "kind", Values: []string{"linear", "poisson"}, Default: "linear",
		Help: "intended starts " +
			"are at equal distances, or those of independent callers", set: func(s *Spec, v string) error {
			s.Pace.Poisson = v == "poisson"
			if v != "poisson" && v != "linear" {
				return fmt.Errorf("must be linear or poisson")
			}
			return nil
		}},
	{Name: "rate_cycle", Aliases: []string{"ratecycle"}, Arg: "time", Default: "1000ms",
		Help: "interval of rate_min; " +
			"without a unit in ms", set: duration(time.Millisecond,
			func(s *Spec) *time.Duration { return &s.Pace.Cycle })},
	{Name: "rate_ignore_thinktime", Help: "do not make up for the time of thinktime", set: onOff(
		func(s *Spec) *bool { return &s.Pace.IgnoreThink })},
	{Name: "thinktime", Arg: "time", Help: "pause of a goroutine after an operation; without a unit in us",
		set: duration(time.Microsecond, func(s *Spec) *time.Duration { return &s.Think.Time })},
	{Name: "thinktime_spin", Arg: "time", Help: "part of thinktime that computes instead of sleeping", set: duration(
		time.Microsecond, func(s *Spec) *time.Duration { return &s.Think.Spin })},
	{Name: "thinktime_blocks", Arg: "number", Default: "1", Help: "operations between two pauses", set: wide(1, 1<<31,
		func(s *Spec) *int64 { return &s.Think.Blocks })},
	{Name: "thinktime_iotime", Arg: "time", Help: "time of work between two pauses, without thinktime_blocks or " +
		"if that takes longer; without a unit in s", set: duration(time.Second,
		func(s *Spec) *time.Duration { return &s.Think.IOTime })},
	{Name: "max_latency", Arg: "time", Help: "the job fails at an operation that takes longer; without a unit in us",
		set: duration(time.Microsecond, func(s *Spec) *time.Duration { return &s.MaxLatency })},
	{Name: "latency_target", Arg: "time", Help: "search for the largest queue depth, up to iodepth, whose operations " +
		"are this fast; without a unit in us", set: duration(time.Microsecond,
		func(s *Spec) *time.Duration { return &s.Target.Latency })},
	{Name: "latency_window", Arg: "time", Help: "time for which a depth is tried; without a unit in us", set: duration(
		time.Microsecond, func(s *Spec) *time.Duration { return &s.Target.Window })},
	{Name: "latency_percentile", Arg: "percent", Default: "100", Help: "share of the operations that must be as fast " +
		"as latency_target", set: float(0, 100, func(s *Spec) *float64 { return &s.Target.Percentile })},
	{Name: "latency_run", Help: "go on at the depth that latency_target has found", set: onOff(
		func(s *Spec) *bool { return &s.Target.Keep })},
	{Name: "steadystate", Aliases: []string{"ss"}, Arg: "what:limit", Help: "end when iops, bw or lat vary by at " +
		"most " +
		"limit (iops:3%), or their slope does (bw_slope:0.1%)", set: setSteady},
	{Name: "steadystate_duration", Aliases: []string{"ss_dur"}, Arg: "time",
		Help: "time for which steadystate must hold",
		set:  duration(time.Second, func(s *Spec) *time.Duration { return &s.Steady.Duration })},
	{Name: "steadystate_ramp_time", Aliases: []string{"ss_ramp"}, Arg: "time", Help: "time before steadystate looks",
		set: duration(time.Second, func(s *Spec) *time.Duration { return &s.Steady.Ramp })},
	{Name: "steadystate_check_interval", Aliases: []string{"ss_interval"}, Arg: "time", Default: "1s",
		Help: "interval of " +
			"the samples of steadystate", set: duration(time.Second,
			func(s *Spec) *time.Duration { return &s.Steady.Every })},
}

// setSteady parses steadystate.
func setSteady(s *Spec, v string) error {
	what, limit, ok := strings.Cut(v, ":")
	known := oneOf([]string{"iops", "iops_slope", "bw", "bw_slope", "lat", "lat_slope"},
		func(s *Spec) *string { return &s.Steady.What })
	if err := known(s, what); err != nil {
		return err
	}
	limit, s.Steady.Percent = strings.CutSuffix(limit, "%")
	n, err := strconv.ParseFloat(limit, 64)
	if !ok || err != nil || !(n >= 0) { // it may be NaN
		return fmt.Errorf("must be WHAT:LIMIT, like iops:3%%")
	}
	s.Steady.Limit = n
	return nil
}

// valueOptions say what is written, and how it is checked.
var valueOptions = []Option{
	{Name: "verify", Arg: "method", Values: VerifyMethods, Default: "0",
		Help: "writes carry a checksum, and reads check " +
			"it. After writing, the job reads everything again. With rw=read and unlink=0 it checks an earlier run",
		set: func(s *Spec, v string) error {
			if v == "0" || v == "none" {
				s.Verify.Method = ""
				return nil
			}
			if name, ok := verifyAliases[v]; ok {
				v = name
			}
			return oneOf(VerifyMethods, func(s *Spec) *string { return &s.Verify.Method })(s, v)
		}},
	{Name: "verify_pattern", Arg: "pattern", Help: "pattern that verify=pattern writes: 0x…, a number or \"text\"",
		set: func(s *Spec, v string) (err error) {
			if s.Verify.Pattern, err = toPattern(v); err == nil && s.Verify.Method == "" {
				s.Verify.Method = "pattern"
			}
			return err
		}},
	{Name: "do_verify", Default: "1", Help: "with 0, do not read everything again after writing", set: onOff(
		func(s *Spec) *bool { return &s.Verify.Reread })},
	{Name: "verify_fatal", Help: "stop at the first bad page",
		set: onOff(func(s *Spec) *bool { return &s.Verify.Fatal })},
	{Name: "verify_only", Help: "write nothing, and verify all pages that are there", set: onOff(
		func(s *Spec) *bool { return &s.Verify.Only })},
	{Name: "continue_on_error", Arg: "kinds", Default: "none", Help: "go on after errors of this kind: none, read, " +
		"write, " +
		"io, verify, all", set: func(s *Spec, v string) error {
		switch v {
		case "0":
			v = "none"
		case "1", "":
			v = "all"
		}
		return oneOf([]string{"none", "read", "write", "io", "verify", "all"},
			func(s *Spec) *string { return &s.ContinueOn })(s, v)
	}},
	{Name: "refill_buffers", Help: "write fresh random bytes each time, instead of a few prepared buffers", set: onOff(
		func(s *Spec) *bool { return &s.Buffers.Refill })},
	{Name: "zero_buffers", Help: "write zeros", set: onOff(func(s *Spec) *bool { return &s.Buffers.Zero })},
	{Name: "buffer_pattern", Arg: "pattern", Help: "write this pattern: 0x…, a number or \"text\"",
		set: func(s *Spec, v string) (err error) { s.Buffers.Pattern, err = toPattern(v); return err }},
	{Name: "buffer_compress_percentage", Arg: "percent", Help: "share of each chunk that is zero, so that it can be " +
		"compressed", set: number(0, 100, func(s *Spec) *int { return &s.Buffers.Compress })},
	{Name: "buffer_compress_chunk", Arg: "size", Default: "512", Help: "bytes of a chunk", set: size(1,
		func(s *Spec) *int64 { return &s.Buffers.CompressChunk })},
	{Name: "dedupe_percentage", Arg: "percent", Help: "share of the written pages that repeat an earlier one",
		set: number(0, 100, func(s *Spec) *int { return &s.Buffers.Dedupe })},
}

// VerifyMethods are the values of verify.
var VerifyMethods = []string{"crc32c", "crc32", "crc64", "md5", "sha1", "sha256", "sha512", "sha3-256", "sha3-512",
	"meta", "pattern", "null"}

// verifyAliases are other names of fio for these methods.
var verifyAliases = map[string]string{"crc32c-intel": "crc32c", "1": "crc32c"}

// toPattern parses fio's patterns: hexadecimal digits after 0x, a decimal number of a byte, or a text in quotes.
func toPattern(v string) ([]byte, error) {
	bad := fmt.Errorf("must be 0x and hexadecimal digits, a number or \"text\"")
	var b []byte
	if hex, ok := strings.CutPrefix(v, "0x"); ok {
		if len(hex)%2 == 1 {
			hex = "0" + hex
		}
		for ; hex != ""; hex = hex[2:] {
			n, err := strconv.ParseUint(hex[:2], 16, 8)
			if err != nil {
				return nil, bad
			}
			b = append(b, byte(n))
		}
	} else if t, ok := strings.CutPrefix(v, `"`); ok {
		b = []byte(strings.TrimSuffix(t, `"`))
	} else {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return nil, bad
		}
		for u := uint64(n); len(b) == 0 || u > 0; u >>= 8 {
			b = append(b, byte(u))
		}
	}
	if len(b) == 0 {
		return nil, bad
	}
	return b, nil
}
