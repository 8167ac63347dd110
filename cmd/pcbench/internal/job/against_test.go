package job

import (
	"os/exec"
	"strings"
	"testing"
)

// A comparison needs one job whose work all sides can do; the error names the option.
func TestAgainstChecks(t *testing.T) {
	for line, want := range map[string]string{
		"--against=fio --rw=randrw --fdatasync=4 --numjobs=2 --cache=64m":         "",
		"--against=fio --rw=randread --cold --iodepth=4":                          "",
		"--against=fio,pebble --rw=randwrite --unlink=1":                          "",
		"--against=pebble --rw=randread --random_distribution=zipf:1.2":           "",
		"--against=fio --rw=randrw --rate_iops=100":                               "",
		"--against=fio --rw=randrw --rate_iops=100 --iodepth=4":                   "--rate",
		"--against=fio --rw=randrw --rate_iops=9 --iodepth=4 --ioengine=io_uring": "",
		"--against=pebble --rw=randrw --rate_iops=100":                            "--rate_iops",
		"--against=fio,fio": "each side once", "--against=": "must name", "--rounds=0 --against=fio": "--rounds",
		"--against=fio --name=a --name=b": "compares one job", "--against=fio --rw=randtrim": "frees pages",
		"--against=fio --rw=randwrite --delta=100":     "--delta",
		"--against=fio --rw=randwrite --verify=crc32c": "--verify",
		"--against=fio --unlink=0":                     "--unlink", "--against=fio --write_bw_log=x": "--write_bw_log",
		"--against=pebble --rw=randread --cold": "--cold", "--against=pebble --bsrange=1k-4k --rw=randwrite": "--bs",
		"--against=pebble --rw=randread --thinktime=5":          "--thinktime",
		"--against=pebble --rw=randread:8":                      "--rw",
		"--against=pebble --rw=randread --norandommap=0":        "--norandommap",
		"--against=fio --status-interval=1s":                    "--status-interval",
		"--peers=x":                                             "--against",
		"--against=fio --name=a --name=b --section=b --cache=9": "",
	} {
		_, err := Parse(strings.Fields(line))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
}

// fioCases are jobs with the options that fio gets for the same work.
var fioCases = map[string]string{
	"--rw=randread --size=64m --numjobs=2 --iodepth=4 --cold": "--name=pcbench --ioengine=psync --numjobs=8 " +
		"--iodepth=1 --thread --group_reporting --rw=randread --bs=4096 --size=67108864 --io_size=8388608 " +
		"--norandommap=1 --direct=1 --invalidate=1",
	"--rw=write --bs=8k --size=1m --numjobs=2 --end_fsync": "--name=pcbench --ioengine=psync --numjobs=2 " +
		"--iodepth=1 --thread --group_reporting --rw=write --bs=8k --end_fsync=1 --offset_increment=524288 " +
		"--size=524288 --io_size=524288 --direct=0 --invalidate=0",
	"--name=x --rw=randrw --ioengine=io_uring --iodepth=4 --runtime=1s --time_based --norandommap=0 --direct=1 " +
		"--random_distribution=random": "--name=x --ioengine=io_uring --numjobs=1 --iodepth=4 --thread " +
		"--group_reporting --rw=randrw --runtime=1s --time_based=1 --random_distribution=random --bs=4096 " +
		"--size=268435456 --norandommap=0 --direct=1 --invalidate=0",
	"--rw=randwrite --fdatasync=1 --iodepth=3 --size=1m --io_size=100k": "--name=pcbench --ioengine=psync " +
		"--numjobs=3 --iodepth=1 --thread --group_reporting --rw=randwrite --fdatasync=1 --bs=4096 --size=1048576 " +
		"--io_size=32768 --norandommap=1 --direct=0 --invalidate=0",
}

// fio gets the same work: the bytes, sizes, mixes and waits, one thread for each goroutine.
func TestOptionsForFio(t *testing.T) {
	for line, want := range fioCases {
		p, err := Parse(strings.Fields(line))
		if err != nil {
			t.Fatal(err)
		}
		options := p.Jobs[0].FioOptions()
		if with, err := Parse(append(strings.Fields(line), "--against=fio")); err != nil || len(with.Notes) > 0 {
			t.Errorf("%s: %v, notes %q", line, err, with.Notes)
		}
		if got := strings.Join(options, " "); got != want {
			t.Errorf("%s:\n%s, want\n%s", line, got, want)
		}
	}
}

// The fio that is installed accepts the options.
func TestFioAcceptsOptions(t *testing.T) {
	path, err := exec.LookPath("fio")
	if err != nil {
		t.Skip("SKIPPED: fio is not installed")
	}
	for line := range fioCases {
		p, err := Parse(strings.Fields(line))
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), path, append(p.Jobs[0].FioOptions(), "--parse-only")...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", line, err, out)
		}
	}
}
