package job

import (
	"strings"
	"testing"
)

// wrong holds invalid command lines. The error of each must contain the texts: the option, and a valid value.
var wrong = []struct {
	line  string
	wants []string
}{
	// Options that have no effect on the load.
	{"--rwmixread=70", []string{"--rwmixread: --rw=read", "use --rw=randrw"}},
	{"--rw=randwrite --rwmixread=70", []string{"--rwmixread: --rw=randwrite", "use --rw=randrw"}},
	{"--rw=randrw --rwmixread=101", []string{"--rwmixread=101", "0 to 100"}},
	{"--rw=randrw --rwmixread=-1", []string{"--rwmixread=-1", "0 to 100"}},
	{"--rw=randrw --rwmixread=x", []string{"--rwmixread=x", "whole number"}},
	{"--rw=randrw --rwmixread=100 --fdatasync=1", []string{"--fdatasync: --rwmixread=100", "use less"}},
	{"--rw=randrw --rwmixread=100 --delta=8", []string{"--delta: --rwmixread=100", "leave --delta out"}},
	{"--rw=read --delta=8", []string{"--delta: --rw=read does not write", "--rw=write"}},
	{"--rw=randread --delta=8", []string{"--delta: --rw=randread does not write", "randrw"}},
	{"--rw=read --fdatasync=1", []string{"--fdatasync: --rw=read does not write"}},
	{"--rw=read --end_fsync=1", []string{"--end_fsync: --rw=read does not write"}},
	{"--rw=read --refill_buffers", []string{"--refill_buffers: --rw=read does not write"}},
	{"--rw=read --random_distribution=zipf:1.2",
		[]string{"--random_distribution: --rw=read goes in order", "use --rw=randread"}},
	{"--rw=trum", []string{"--rw=trum", "read, write, trim, randread"}},
	{"--rw=randread:0", []string{"--rw=randread:0", "1 to"}},
	{"--rw=", []string{"--rw=:", "randread,"}},

	// Times.
	{"--time_based", []string{"--time_based", "--runtime=10s"}},
	{"--time_based --runtime=0", []string{"--time_based", "--runtime above 0"}},
	{"--time_based --ramp_time=1", []string{"--time_based", "--runtime above 0"}},
	{"--time_based --runtime=1 --io_size=1g", []string{"--io_size: --time_based", "leave one of the two out"}},
	{"--time_based=maybe", []string{"--time_based=maybe", "neither 0 nor 1"}},
	{"--runtime=0", []string{"--runtime=0", "above 0"}},
	{"--runtime=-1", []string{"--runtime", "0 or more"}},
	{"--runtime=5x", []string{"--runtime", "5x", "500ms"}},
	{"--runtime=100000000d", []string{"--runtime", "too long"}},
	{"--ramp_time=-1", []string{"--ramp_time", "0 or more"}},
	{"--ramp_time=-5ms", []string{"--ramp_time", "0 or more"}},
	{"--ramp_time=soon", []string{"--ramp_time", "500ms"}},

	// Sizes.
	{"--bs=0", []string{"--bs=0", "above 0"}},
	{"--bs=-4k", []string{"--bs=-4k", "above 0"}},
	{"--bs=4x", []string{"--bs", "4x", "unit"}},
	{"--bs=4k:8k", []string{"--bs", "one only"}},
	{"--bs", []string{"--bs", "needs a value"}},
	{"--bs=2g --size=4g", []string{"--bs=2g", "at most 1g"}},
	{"--size=1k", []string{"--size=1k", "--bs=4k"}},
	{"--size=0", []string{"--size=0", "above 0"}},
	{"--size=50%", []string{"--size", "percents"}},
	{"--size=9t --bs=1", []string{"--size", "larger --bs"}},
	{"--io_size=0", []string{"--io_size=0", "above 0"}},
	{"--io_size=1k", []string{"--io_size=1024", "4096"}},
	{"--rw=randrw --delta=10 --io_size=1k", []string{"--io_size=1024", "4096"}},
	{"--rw=write --delta=10 --io_size=9", []string{"--io_size=9", "one read or write, 10"}},
	{"--rw=randwrite --delta=8k", []string{"--delta=8k", "--bs=4k"}},
	{"--rw=write --delta=0", []string{"--delta=0", "above 0"}},
	{"--rw=write --delta=-1", []string{"--delta=-1", "above 0"}},
	{"--cache=0", []string{"--cache=0", "above 0"}},
	{"--segment=1k", []string{"--segment=1024", "multiple of 4096"}},
	{"--segment=17m", []string{"--segment=17825792", "16777216"}},
	{"--segment=10000000", []string{"--segment=10000000", "multiple of 4096"}},

	// Numbers.
	{"--numjobs=0", []string{"--numjobs=0", "1 to 4096"}},
	{"--numjobs=-1", []string{"--numjobs=-1", "1 to 4096"}},
	{"--numjobs=5000", []string{"--numjobs=5000", "1 to 4096"}},
	{"--numjobs=x", []string{"--numjobs=x", "whole number"}},
	{"--numjobs=99999999999999999999", []string{"--numjobs=9", "18 digits"}},
	{"--iodepth=0", []string{"--iodepth=0", "1 to 4096"}},
	{"--iodepth=-3", []string{"--iodepth=-3", "1 to 4096"}},
	{"--iodepth=100 --numjobs=100", []string{"--iodepth=100", "--numjobs=100", "4096 goroutines"}},
	{"--rw=write --fdatasync=-1", []string{"--fdatasync=-1", "0 to"}},
	{"--randseed=-1", []string{"--randseed=-1", "whole number, 0 to"}},
	{"--randseed=18446744073709551616", []string{"--randseed", "to 18446744073709551615"}},
	{"--rw=randread --random_distribution=zipf:1", []string{"--random_distribution=zipf:1", "not 1", "zipf:1.2"}},
	{"--rw=randread --random_distribution=zipf:1.000", []string{"--random_distribution", "not 1"}},
	{"--rw=randread --random_distribution=zipf:0", []string{"--random_distribution", "above 0"}},
	{"--rw=randread --random_distribution=zipf:-1", []string{"--random_distribution", "above 0"}},
	{"--rw=randread --random_distribution=zipf:9", []string{"--random_distribution", "at most 5"}},
	{"--rw=randread --random_distribution=zipf:inf", []string{"--random_distribution", "at most 5"}},
	{"--rw=randread --random_distribution=zipf:nan", []string{"--random_distribution", "zipf:1.2"}},
	{"--rw=randread --random_distribution=zipf:", []string{"--random_distribution=zipf:", "zipf:1.2"}},
	{"--rw=randread --random_distribution=zipf:x", []string{"--random_distribution=zipf:x", "zipf:1.2"}},
	{"--rw=randread --random_distribution=zipf:1.2:0.5", []string{"--random_distribution", "zipf:1.2"}},
	{"--rw=randread --random_distribution=pareto:1", []string{"--random_distribution", "pareto:0.2"}},
	{"--rw=randread --random_distribution=random:1", []string{"--random_distribution", "no parameter"}},

	// Names and choices.
	{"--name=a/b", []string{`--name="a/b"`, "without /"}},
	{"--name=.", []string{"--name", "dot"}},
	{"--name=", []string{"--name", "must be"}},
	{"--name=a\x1bb", []string{"--name", "control characters"}},
	{"--name=" + strings.Repeat("n", 300), []string{"--name", "at most 247"}},
	{"--directory=", []string{"--directory", "must name"}},
	{"--output=", []string{"--output", "must name"}},
	{"--io=aio", []string{"--io=aio", "auto, uring, syscall"}},
	{"--direct=2", []string{"--direct=2", "auto, 1, on, 0, off"}},
	{"--direct", []string{"--direct", "needs a value"}},
	{"--output-format=yaml", []string{"--output-format=yaml", "normal, json"}},

	// Options that do not exist.
	{"--ioengine=http", []string{"--ioengine=http", "network"}},
	{"--filename=f:g", []string{"--filename", "one directory"}},
	{"--buffered=x", []string{"--buffered=x", "neither 0 nor 1"}},
	{"--zonemode=zbd", []string{"--zonemode", "pages have no zones"}},
	{"--runtim=5", []string{"--runtim", "did you mean --runtime"}},
	{"--kb_base=1000", []string{"--kb_base=1000", "1024 only"}},
	{"--queue_depth=3", []string{"--queue_depth", "use --iodepth"}},
	{"--frobnicate", []string{"--frobnicate", "--help"}},
	{"-x", []string{"-x", "two dashes"}},
	{"-name=x", []string{"-name=x", "two dashes"}},
	{"job.fio", []string{"job.fio", "no such file"}},
	{"--rw=write --end_fsync 1", []string{`"1"`, "--end_fsync=1"}},

	{"--rw=read:6k", []string{"--rw=read:6144", "multiple", "--bs=4k"}},
	{"--rw=write:-300m", []string{"--rw=write", "at most --size=256m"}},

	// Sizes that overflow.
	{"--offset_increment=8000p --numjobs=4", []string{"--size=256m", "pages", "larger --bs"}},
	{"--offset_increment=8191p --numjobs=64 --bs=1", []string{"--size=256m", "pages", "larger --bs"}},
	{"--offset=8191p --size=8191p --bs=1", []string{"--size=8387584t", "pages", "larger --bs"}},

	// Numbers that are none, and those that fio refuses.
	{"--bssplit=4k/nan:8k/5", []string{"--bssplit", "nan", "percentage"}},
	{"--percentile_list=50:nan", []string{"--percentile_list", "nan", "at most 100"}},
	{"--percentile_list=0", []string{"--percentile_list", "above 0"}},
	{"--percentile_list=50:0:99", []string{"--percentile_list", "above 0"}},
	{"--latency_percentile=nan", []string{"--latency_percentile", "must be a number"}},
	{"--cleanup_threshold=nan", []string{"--cleanup_threshold", "must be a number"}},
	{"--steadystate=iops:nan", []string{"--steadystate", "iops:3%"}},
	{"--rw=randread --random_distribution=zoned:nan/10:40/90", []string{"--random_distribution", "0 to 100"}},
	{"--rw=randread --random_distribution=zoned:60/nan:40/90", []string{"--random_distribution", "at most 100"}},
	{"--rw=randread --random_distribution=zoned_abs:nan/1m:40/1m", []string{"--random_distribution", "0 to 100"}},
	{"--rw=randread --random_distribution=zipf:nan", []string{"--random_distribution", "theta"}},
	{"--rw=randread --random_distribution=normal:nan", []string{"--random_distribution", "deviation"}},

	// One error reports all faults.
	{"--rw=read --rwmixread=5 --fdatasync=1 --time_based", []string{"--rwmixread", "--fdatasync", "--time_based"}},
	{"--bs=0 --size=x --direct=maybe", []string{"--bs=0", "--size", "--direct=maybe"}},
}

// Every error names the option and states valid values.
func TestParseErrors(t *testing.T) {
	for _, c := range wrong {
		_, err := Parse(strings.Fields(c.line))
		if err == nil {
			t.Errorf("%q: no error", c.line)
			continue
		}
		for _, want := range c.wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v\nwant %q in it", c.line, err, want)
			}
		}
		if lines := strings.Count(err.Error(), "\n"); lines > 0 && len(c.wants) < 3 {
			t.Errorf("%q: %d errors: %v", c.line, lines+1, err)
		}
	}
}

// Odd but valid command lines are accepted: values at a limit, and options that repeat the default.
func TestParseOddities(t *testing.T) {
	for _, line := range []string{
		"--rw=randrw --rwmixread=0", "--rw=randrw --rwmixread=100", "--rw=randrw --rwmixread=100 --fdatasync=0",
		"--rw=read --fdatasync=0", "--rw=read --end_fsync=0", "--rw=read --iodepth=8",
		"--rw=write --iodepth=64 --numjobs=64",
		"--rw=randwrite --delta=4k --bs=4k", "--rw=randwrite --delta=1", "--bs=1 --size=1", "--size=5000",
		"--io_size=1t",
		"--ramp_time=0", "--ramp_time=1", "--runtime=1 --io_size=1g", "--time_based=0 --io_size=1g", "--randseed=0",
		"--randseed=18446744073709551615", "--rw=randread --random_distribution=zipf",
		"--rw=randread --random_distribution=random",
		"--rw=randread --random_distribution=zipf:0.99", "--rw=randread --random_distribution=zipf:5",
		"--segment=16k --bs=8k", "--segment=20k",
		"--segment=16m --bs=15m", "--segment=16k --bs=16k", "--bs=64m --size=256m",
		"--rw=read --rw=write --end_fsync=1", "--group_reporting --numjobs=1", "--name=" + strings.Repeat("n", 247),
		"--fdatasync=1000000 --rw=write", "--runtime=10000d --ramp_time=10000d", "--cache=1",
	} {
		if _, err := Parse(strings.Fields(line)); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// A misspelt value is answered with the right one, and one that resembles none with the list alone.
func TestExplainValue(t *testing.T) {
	for line, want := range map[string]string{
		"--rw=randwrit": "did you mean randwrite?", "--compression=zst": "did you mean zstd?",
		"--rw=rndread": "did you mean randread?", "--output-format=jsn": "did you mean json?", "--rw=xyz": "",
		"--io=io_uring_is_it": "",
	} {
		_, err := Parse(strings.Fields(line))
		if err == nil || !strings.Contains(err.Error(), "must be one of") || !strings.Contains(err.Error(), want) ||
			want == "" && strings.Contains(err.Error(), "mean") {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// Trap: the product of the operations of each loop or job wrapped, so that a job did nothing.
func TestOperationsAreSaturated(t *testing.T) {
	for _, line := range []string{
		"--io_size=8191p --loops=2147483648", "--number_ios=1152921504606846976 --numjobs=16 --io_size=8191p --bs=1",
		"--io_size=9223372036854775807 --bs=1 --loops=3", "--io_size=9223372036854775807 --bs=1",
	} {
		p, err := Parse(strings.Fields(line))
		if err != nil {
			t.Fatal(err)
		}
		if n, limited := p.Jobs[0].Operations(); n < 1<<59 || !limited {
			t.Errorf("%s: %d operations, limited: %t", line, n, limited)
		}
	}
}
