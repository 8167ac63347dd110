package main

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"pagecache/engine"
)

func TestParse(t *testing.T) {
	s, help, err := parse(strings.Fields("--name=x --directory=/tmp --rw=randrw --rwmixread=70 --bs=8k --size 1g " +
		"--io_size=3g --numjobs=4 --iodepth=2 --runtime=500ms --ramp_time=1 --random_distribution=zipf:1.2 " +
		"--randseed=7 --fdatasync=32 --end_fsync=1 --group_reporting --output-format=json --output=o --delta=100 " +
		"--cache=2g --segment=1m --io=syscall --direct=off --refill_buffers"))
	if err != nil || help {
		t.Fatal(help, err)
	}
	want := spec{Name: "x", Directory: "/tmp", RW: "randrw", ReadPercent: 70, BS: 8 << 10, Size: 1 << 30,
		IOSize: 3 << 30, NumJobs: 4, IODepth: 2, Runtime: 500 * time.Millisecond, Ramp: time.Second, Theta: 1.2,
		Seed: 7, FDataSync: 32, EndFsync: true, GroupReporting: true, JSON: true, Output: "o", Delta: 100, Refill: true,
		Engine: engine.Options{SegmentSize: 1 << 20, CacheCapacity: 2 << 30, IO: engine.IOSyscall,
			Direct: engine.DirectOff}}
	if len(s.given) != 24 || s.given[4] != [2]string{"bs", "8k"} {
		t.Errorf("given: %v", s.given)
	}
	got := *s
	got.given = nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for line, ok := range map[string]func(*spec) bool{
		"": func(s *spec) bool {
			return s.RW == "read" && s.BS == 4096 && s.IOSize == s.Size && s.pages() == 65536 && !s.TimeBased
		},
		"--time_based --runtime=1m":   func(s *spec) bool { return s.TimeBased && s.Runtime == time.Minute },
		"--time_based=1 --runtime=10": func(s *spec) bool { return s.TimeBased && s.Runtime == 10*time.Second },
		"--time_based=0":              func(s *spec) bool { return !s.TimeBased },
		"--rw=write --end_fsync":      func(s *spec) bool { return s.EndFsync },
		"--rw=write --end_fsync=0":    func(s *spec) bool { return !s.EndFsync },
		"--rw=read --end_fsync=0":     func(s *spec) bool { return !s.EndFsync },
		"--io=uring --direct=on": func(s *spec) bool {
			return s.Engine.IO == engine.IOUring && s.Engine.Direct == engine.DirectOn
		},
		"--direct=1":    func(s *spec) bool { return s.Engine.Direct == engine.DirectOn },
		"--direct 0":    func(s *spec) bool { return s.Engine.Direct == engine.DirectOff },
		"--direct=off":  func(s *spec) bool { return s.Engine.Direct == engine.DirectOff },
		"--direct=auto": func(s *spec) bool { return s.Engine.Direct == engine.DirectAuto },
		"--bs=8KB --size=2Mi --io_size=3GiB --runtime=5M --delta=1Ki --rw=write": func(s *spec) bool {
			return s.BS == 8192 && s.Size == 2<<20 && s.IOSize == 3e9 && s.Runtime == 5*time.Minute && s.Delta == 1024
		},
		"--rw=randread":                            func(s *spec) bool { return s.layout() && s.Theta == 0 },
		"--rw=randwrite":                           func(s *spec) bool { return !s.layout() },
		"--rw=randwrite --delta=1k":                func(s *spec) bool { return s.layout() && s.writeSize() == 1024 },
		"--rw=randread --random_distribution=zipf": func(s *spec) bool { return s.Theta == 1.1 },
	} {
		if s, _, err := parse(strings.Fields(line)); err != nil || !ok(s) {
			t.Errorf("%q: %+v, %v", line, s, err)
		}
	}
}

func TestHelp(t *testing.T) {
	if _, help, err := parse([]string{"--help"}); err != nil || !help {
		t.Fatal(help, err)
	}
	text, n := helpText(), 0
	runFlags().VisitAll(func(o *pflag.Flag) {
		if n++; !strings.Contains(text, "--"+o.Name) {
			t.Errorf("--%s is missing", o.Name)
		}
	})
	if n < 26 {
		t.Errorf("only %d options", n)
	}
}
