package job

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pagecache/cmd/pcbench/internal/pick"
	"pagecache/engine"
)

// one parses a command line with one job.
func one(t *testing.T, line string) *Spec {
	t.Helper()
	p, err := Parse(strings.Fields(line))
	if err != nil || len(p.Jobs) != 1 {
		t.Fatalf("%q: %+v, %v", line, p, err)
	}
	return p.Jobs[0]
}

func TestParse(t *testing.T) {
	s := one(t, "--name=x --directory=/tmp --rw=randrw --rwmixread=70 --bs=8k --size 1g "+
		"--io_size=3g --numjobs=4 --iodepth=2 --runtime=500ms --ramp_time=1 --random_distribution=zipf:1.2 "+
		"--randseed=7 --fdatasync=32 --end_fsync=1 --group_reporting --delta=100 "+
		"--cache=2g --segment=1m --io=syscall --direct=off --refill_buffers")
	want := Defaults()
	want.Name, want.Directory, want.RW, want.Random, want.ReadShare = "x", "/tmp", "randrw", true, 70
	want.Does = [3]bool{true, true, false}
	for _, d := range Dirs {
		want.BS[d] = pick.OneSize(8 << 10)
	}
	want.Size, want.IOSize, want.NumJobs, want.IODepth = 1<<30, 3<<30, 4, 2
	want.Runtime, want.Ramp = 500*time.Millisecond, time.Second
	want.Dist = pick.Dist{Kind: pick.KindZipf, Param: 1.2}
	want.Seed, want.FDataSync, want.EndFsync, want.GroupReporting, want.Buffers.Refill = 7, 32, true, true, true
	want.Own.Delta = 100
	want.Engine = engine.Options{SegmentSize: 1 << 20, CacheCapacity: 2 << 30, IO: engine.IOSyscall,
		Direct: engine.DirectOff}
	if len(s.Given) != 22 || s.Given[4] != [2]string{"bs", "8k"} {
		t.Errorf("given: %v", s.Given)
	}
	s.Global, s.Given = nil, nil
	if !reflect.DeepEqual(*s, want) {
		t.Errorf("got  %+v\nwant %+v", *s, want)
	}
}

// values are command lines with what their jobs must be like.
var values = map[string]func(*Spec) bool{
	"": func(s *Spec) bool {
		return s.RW == "read" && s.PageSize() == 4096 && s.IOSize == s.Size && s.Pages() == 65536 && !s.TimeBased
	},
	"--time_based --runtime=1m":   func(s *Spec) bool { return s.TimeBased && s.Runtime == time.Minute },
	"--time_based=1 --runtime=10": func(s *Spec) bool { return s.TimeBased && s.Runtime == 10*time.Second },
	"--time_based=0":              func(s *Spec) bool { return !s.TimeBased },
	"--time-based --runtime=1":    func(s *Spec) bool { return s.TimeBased },
	"--rw=write --end_fsync":      func(s *Spec) bool { return s.EndFsync },
	"--rw=write --end_fsync=0":    func(s *Spec) bool { return !s.EndFsync },
	"--rw=read --end_fsync=0":     func(s *Spec) bool { return !s.EndFsync },
	"--io=uring --direct=on": func(s *Spec) bool {
		return s.Engine.IO == engine.IOUring && s.Engine.Direct == engine.DirectOn
	},
	"--direct=1":    func(s *Spec) bool { return s.Engine.Direct == engine.DirectOn },
	"--direct 0":    func(s *Spec) bool { return s.Engine.Direct == engine.DirectOff },
	"--direct=off":  func(s *Spec) bool { return s.Engine.Direct == engine.DirectOff },
	"--buffered=1":  func(s *Spec) bool { return s.Engine.Direct == engine.DirectOff },
	"--direct=auto": func(s *Spec) bool { return s.Engine.Direct == engine.DirectAuto },
	"--bs=8KB --size=2Mi --io_size=3GiB --runtime=5M --delta=1Ki --rw=write": func(s *Spec) bool {
		return s.PageSize() == 8192 && s.Size == 2<<20 && s.IOSize == 3e9 && s.Runtime == 5*time.Minute &&
			s.Own.Delta == 1024
	},
	"--rw=randread":  func(s *Spec) bool { return s.NeedsPages() && s.Random },
	"--rw=randwrite": func(s *Spec) bool { return !s.NeedsPages() },
	"--rw=randwrite --delta=1k": func(s *Spec) bool {
		return s.NeedsPages() &&
			s.OpSize(DirWrite) == 1024
	},
	"--rw=randread --random_distribution=zipf": func(s *Spec) bool { return s.Dist.Param == 1.1 },
	"--bs=4k,8k": func(s *Spec) bool {
		return most(s) == [3]int64{4 << 10, 8 << 10,
			8 << 10}
	},
	"--bs=,8k,": func(s *Spec) bool {
		return most(s) == [3]int64{4 << 10, 8 << 10,
			4 << 10}
	},
	"--rw=read:-8k":    func(s *Spec) bool { return s.Step == -8<<10 && !s.Random },
	"--rw=randwrite:8": func(s *Spec) bool { return s.Run == 8 && s.Random },
	"--rate=1m,2m": func(s *Spec) bool {
		return s.Pace.Rate == [3]int64{1 << 20, 2 << 20, 2 << 20} && s.Pace.Open()
	},
	"--thinktime=50":           func(s *Spec) bool { return s.Think.Time == 50*time.Microsecond },
	"--offset=25% --size=1m":   func(s *Spec) bool { return s.FirstPage() == 63 },
	"--cpus_allowed=0,2-3":     func(s *Spec) bool { return reflect.DeepEqual(s.CPUs, []int{0, 2, 3}) },
	"--verify=crc32c-intel":    func(s *Spec) bool { return s.Verify.Method == "crc32c" },
	"--percentile_list=99.9:5": func(s *Spec) bool { return reflect.DeepEqual(s.Percentiles, []float64{5, 99.9}) },
	"--cold": func(s *Spec) bool {
		return s.Invalidate && s.Engine.CacheCapacity == 1 && s.Engine.CopyOnRead
	},
	"--steadystate=iops:3% --ss_dur=10": func(s *Spec) bool {
		return s.Steady.What == "iops" && s.Steady.Percent && s.Steady.Limit == 3 && s.Steady.Duration == 10*time.Second
	},
	"--buffer_pattern=0xdeadbeef --rw=write": func(s *Spec) bool {
		return reflect.DeepEqual(s.Buffers.Pattern, []byte{0xde, 0xad, 0xbe, 0xef})
	},
	"--thread --rw=write":           func(s *Spec) bool { return s.RW == "write" },
	"--filename=/dev/sda":           func(s *Spec) bool { return s.Filename == "sda" && s.Directory == "." },
	"--filename=/a/b":               func(s *Spec) bool { return s.Filename == "b" && s.Directory == "/a" },
	"--flush_every=never":           func(s *Spec) bool { return s.Engine.FlushEvery < 0 },
	"--startdelay=1-2":              func(s *Spec) bool { return s.StartDelay == 1e9 && s.StartDelayMost == 2e9 },
	"--rw=randrw --rwmixwrite=30":   func(s *Spec) bool { return s.ReadPercent() == 70 },
	"--rw=randwrite --number_ios=7": func(s *Spec) bool { n, ok := s.Operations(); return n == 7 && ok },
	"--size=1m --loops=3":           func(s *Spec) bool { n, ok := s.Operations(); return n == 3*256 && ok },
	"--rw=trimwrite --size=1m": func(s *Spec) bool {
		n, _ := s.Operations()
		return n == 256 &&
			s.NeedsPages()
	},
	"--bssplit=4k/50:8k/50 --rw=write": func(s *Spec) bool { return s.OpSize(DirWrite) == 6<<10 },
}

func most(s *Spec) [3]int64 { return [3]int64{s.BS[0].Most, s.BS[1].Most, s.BS[2].Most} }

func TestParseValues(t *testing.T) {
	for line, ok := range values {
		if s := one(t, line); !ok(s) {
			t.Errorf("%q: %+v", line, s)
		}
	}
}

// Each --name begins another job, and options before the first are for all, as in fio.
func TestSeveralJobs(t *testing.T) {
	p, err := Parse(strings.Fields("--bs=8k --name=a --rw=write --output=f --name=b --rw=randread --stonewall " +
		"--iodepth=4"))
	if err != nil {
		t.Fatal(err)
	}
	a, b := p.Jobs[0], p.Jobs[1]
	if len(p.Jobs) != 2 || a.Name != "a" || b.Name != "b" || a.RW != "write" || b.RW != "randread" || a.Stonewall ||
		!b.Stonewall || a.IODepth != 1 || b.IODepth != 4 || a.PageSize() != 8192 || b.PageSize() != 8192 ||
		p.Run.Output != "f" || !SameStore(a, b) {
		t.Errorf("%+v\n%+v", a, b)
	}
	if _, err := Parse(strings.Fields("--name=a --name=b --cache=1m")); err == nil {
		t.Error("jobs that share a store may have other options of the store")
	}
	if _, err := Parse(strings.Fields("--name=a --name=b --cache=1m --filename=other")); err != nil {
		t.Error(err)
	}
	if _, err := Parse(strings.Fields("--name=a --name=b --wait_for=c")); err == nil {
		t.Error("a job may wait for one that does not exist")
	}
}

func writeJobFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	name = filepath.Join(dir, name)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// Job files have sections, [global], comments, includes, variables and sections to choose, as fio's.
func TestJobFile(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PCBENCH_TEST_SIZE", "2m")
	writeJobFile(t, dir, "more.fio", "bs=8k\n")
	file := writeJobFile(t, dir, "a.fio", "; a comment\n[global]\nsize=${PCBENCH_TEST_SIZE}\ninclude more.fio\n"+
		"time_based=0 # text\n\n[first]\nrw=write\nend_fsync\n\n[global]\niodepth=3\n[second]\nstonewall\nrw = "+
		"randread\n"+
		"io_size=$pagesize*4\nioengine=libaio\n")
	p, err := Parse([]string{"--numjobs=2", file})
	if err != nil {
		t.Fatal(err)
	}
	a, b := p.Jobs[0], p.Jobs[1]
	if len(p.Jobs) != 2 || a.Name != "first" || a.Size != 2<<20 || a.PageSize() != 8192 || !a.EndFsync ||
		a.IODepth != 1 ||
		a.NumJobs != 2 || b.Name != "second" || b.RW != "randread" || b.IODepth != 3 || !b.Stonewall ||
		b.IOSize != int64(4*os.Getpagesize()) || len(p.Notes) != 1 {
		t.Errorf("%+v\n%+v\n%v", a, b, p.Notes)
	}
	if p, err := Parse([]string{"--section=second", file}); err != nil || len(p.Jobs) != 1 ||
		p.Jobs[0].Name != "second" {
		t.Errorf("%+v, %v", p, err)
	}
	if got := b.Command(); !strings.HasPrefix(got, "--name=second --numjobs=2") || !strings.Contains(got,
		"--stonewall=1") {
		t.Errorf("%s", got)
	}
	again, err := Parse(strings.Fields(b.Command()))
	if err != nil || again.Jobs[0].Size != b.Size || again.Jobs[0].RW != b.RW {
		t.Errorf("the command line of showcmd: %v", err)
	}
}

func TestJobFileErrors(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"rw=read\n": "before the first section", "[a\n": "closing bracket", "[a]\nzonemode=zbd\n": ":2: zonemode",
		"[a]\nsize=${PCBENCH_TEST_NONE}\n": "no variable", "[a]\nbs=x\n": ":2: bs=x",
		"[a]\noutput=\n":          "is for the whole run",
		"[a]\ninclude self.fio\n": "include each other", "[global]\n": "no job",
	} {
		_, err := Parse([]string{writeJobFile(t, dir, "self.fio", text)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// Every row of the table can be found by its name and its aliases, has a reason or a meaning, and no name comes twice.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for i := range Options {
		o := &Options[i]
		for _, n := range append([]string{o.Name}, o.Aliases...) {
			if seen[n] {
				t.Errorf("%s comes twice", n)
			}
			seen[n] = true
			if Lookup(n) != o {
				t.Errorf("%s is not found", n)
			}
		}
		meaning := o.set != nil || o.setRun != nil
		switch {
		case o.Refused != "":
			if o.Help+o.NoOp != "" || meaning {
				t.Errorf("%s is refused and has a meaning", o.Name)
			}
		case o.NoOp == "" && (!meaning || o.Help == ""):
			t.Errorf("%s lacks a help text or a setter", o.Name)
		}
	}
	if len(Options) < 250 {
		t.Errorf("%d options", len(Options))
	}
}

// Each exported field of engine.Options can be set, but for Events, which pcbench prints.
func TestEngineFields(t *testing.T) {
	have := map[string]bool{"Events": true}
	for i := range Options {
		have[Options[i].Field] = true
	}
	for f := range reflect.TypeFor[engine.Options]().Fields() {
		if f.IsExported() && !have[f.Name] {
			t.Errorf("no option sets engine.Options.%s", f.Name)
		}
	}
}

// Each option that fio 3.33 lists is in the table: accepted, without effect, or refused with a reason.
func TestFioOptions(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "fio-3.33-options.txt"))
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(b))
	for _, n := range names {
		if Lookup(n) == nil {
			t.Errorf("%s is not in the table", n)
		}
	}
	if len(names) < 210 {
		t.Errorf("only %d options", len(names))
	}
}

// The defaults that the table states are those that Defaults has: setting them changes nothing.
func TestDefaults(t *testing.T) {
	for i := range Options {
		o := &Options[i]
		if o.set == nil || o.Default == "" || o.Name == "percentile_list" || o.Name == "name" {
			continue
		}
		s, want := Defaults(), Defaults()
		if err := o.set(&s, o.Default); err != nil {
			t.Errorf("%s=%s: %v", o.Name, o.Default, err)
		}
		s.Engine, want.Engine = engine.Options{}, engine.Options{}
		if !reflect.DeepEqual(s, want) {
			t.Errorf("%s=%s changes the defaults", o.Name, o.Default)
		}
	}
}

// Help, manual and completions come from the table.
func TestHelp(t *testing.T) {
	p, err := Parse([]string{"--help"})
	if err != nil || !p.Help {
		t.Fatal(p, err)
	}
	text, man := Help(), Man("1", "  pcbench run", "Sizes are in bytes.")
	for i := range Options {
		o := &Options[i]
		if !o.Accepted() || o.NoOp != "" {
			continue
		}
		if !strings.Contains(text, "--"+o.Name) || !strings.Contains(man, strings.ReplaceAll(o.Name, "-", `\-`)) {
			t.Errorf("--%s is missing", o.Name)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		c, err := (&Completer{Commands: []string{"run"}, Tour: []string{"keep"}}).Completion(shell)
		if err != nil || !strings.Contains(c, "random_distribution") || !strings.Contains(c, "keep") {
			t.Errorf("%s: %v", shell, err)
		}
	}
	if _, err := (&Completer{}).Completion("csh"); err == nil {
		t.Error("completion for csh")
	}
}

func TestStrings(t *testing.T) {
	for got, want := range map[string]string{
		DirTrim.String(): "trim", Dir(-1).String(): "Dir(-1)", Dir(3).String(): "Dir(3)", ScopeRun.String(): "run",
		ScopeJob.String(): "job", Scope(9).String(): "Scope(9)",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"rnu", "run", 1}, {"", "ab", 2}, {"abc", "abd", 1}, {"abc", "abc", 0}, {"kitten", "sitting", 3}} {
		if got := Distance(c.a, c.b); got != c.want {
			t.Errorf("%s, %s: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// Trap: an option of [global] that one job cannot use was an error, so that common job files of fio were refused. The
// only job must be able to use it.
func TestGlobalOptionsOfOthers(t *testing.T) {
	for _, global := range []string{"--fdatasync=1", "--end_fsync=1", "--random_distribution=zipf:1.2",
		"--rwmixread=80", "--refill_buffers", "--batch=4", "--transaction=4", "--delta=100"} {
		p, err := Parse([]string{global, "--name=a", "--rw=read", "--name=b", "--rw=randrw"})
		if err != nil || len(p.Jobs) != 2 {
			t.Errorf("%s: %v", global, err)
		}
		if _, err := Parse([]string{global, "--rw=trim"}); err == nil {
			t.Errorf("%s: no error for the only job, which cannot use it", global)
		}
		if _, err := Parse([]string{"--name=a", "--rw=trim", global, "--name=b", "--rw=randrw"}); err == nil {
			t.Errorf("%s: no error for the job that it is given to", global)
		}
	}
}

// Trap: the engine takes 0 for its default, so 0 was not what it seemed to be. Messages named options that were not
// given.
func TestNoSilentDefaults(t *testing.T) {
	for line, want := range map[string]string{"--flush_every=0": "must be above 0, or never",
		"--slow_write=0": "must be above 0, or never", "--cleanup_skew=99": "must be 0 to 98",
		"--rate_iops=0.5": "must be at least 1", "--rate_iops=0": "must be above 0", "--rounds=2": "add --against",
		"--segment=16g": "must be 16384 to"} {
		if _, err := Parse([]string{line}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", line, err, want)
		}
	}
	if _, err := Parse([]string{"--log", "--node"}); err == nil || strings.Contains(err.Error(), "deltas") {
		t.Error(err)
	}
}

// Trap: bash, whose words end at =, completed file names for values and for the words of help and completion, and the
// options of run for the tour.
func TestCompletionInBash(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("SKIPPED: bash is not installed")
	}
	script, err := (&Completer{Commands: []string{"run", "tour"}, Tour: []string{"keep"}}).Completion("bash")
	if err != nil {
		t.Fatal(err)
	}
	for words, want := range map[string]string{"ru": "run", "run --rate_io": "--rate_iops --rate_iops_min",
		"run --io = ur": "uring", "run --io = ''": "auto uring syscall", "run --io =": "auto uring syscall",
		"run --io=sys": "syscall", "tour --": "--keep", "help to": "tour", "completion ''": "bash zsh fish"} {
		out, err := exec.CommandContext(t.Context(), bash, "-c", script+"COMP_WORDS=(pcbench "+words+
			"); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _pcbench; echo \"${COMPREPLY[@]}\"").CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", words, got, err, want)
		}
	}
}

// Trap: options for all jobs became options of each, which not each can use.
func TestCommandsKeepGlobals(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.fio")
	text := "[global]\nrwmixread=80\nsize=1m\n[a]\nrw=write\n[global]\nsize=2m\nbs=8k\n[b]\nstonewall\nrw=randrw\n"
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := Parse([]string{name})
	if err != nil {
		t.Fatal(err)
	}
	want := "--rwmixread=80 --size=1m --name=a --rw=write --name=global --size=2m --bs=8k --name=b --stonewall=1 " +
		"--rw=randrw"
	got := Commands(p.Jobs)
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	again, err := Parse(strings.Fields(got))
	if err != nil || len(again.Jobs) != 2 || again.Jobs[0].Size != 1<<20 || again.Jobs[1].Size != 2<<20 {
		t.Errorf("%+v, %v", again.Jobs, err)
	}
}

// Trap: an option of the whole run in a job file was taken, as of a file to write to; - was no file; and the message of
// a file without jobs named an empty section.
func TestJobFileLimits(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.fio")
	for text, want := range map[string]string{"[a]\noutput=x\n": "is for the whole run",
		"":                    "has no section but [global]",
		"[global]\nrw=read\n": "has no section but [global]", "\ufeff[a]\nrw=randread\n": ""} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Parse([]string{name}); (err == nil) != (want == "") || err != nil &&
			!strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
	if _, err := Parse([]string{"-"}); err == nil || strings.Contains(err.Error(), "two dashes") {
		t.Errorf("standard input, which is empty: %v", err)
	}
}

// A transaction cannot be a batch, and needs pages. Nothing verifies it, and nothing is compared with it.
func TestTransactionOptions(t *testing.T) {
	if _, err := Parse([]string{"--rw=randrw", "--transaction=4"}); err != nil {
		t.Error(err)
	}
	for _, other := range []string{"--batch=4", "--log", "--verify=crc32c", "--against=fio"} {
		_, err := Parse([]string{"--rw=randrw", "--transaction=4", other})
		if err == nil || !strings.Contains(err.Error(), "--transaction: ") {
			t.Errorf("%s: %v", other, err)
		}
	}
}
