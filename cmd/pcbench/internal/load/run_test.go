package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/pick"
	"pagecache/cmd/pcbench/internal/stats"
	"pagecache/engine"
)

// runIn runs a command line in dir. Its error is that of the run or of a job.
func runIn(t *testing.T, dir, line string) (*Result, error) {
	t.Helper()
	p, err := job.Parse(append([]string{"--directory=" + dir, "--segment=256k"}, strings.Fields(line)...))
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	r, err := (&Runner{Jobs: p.Jobs}).Run(context.Background())
	if r == nil {
		return nil, err
	}
	return r, errors.Join(r.Err, err)
}

// good runs a command line that must succeed and leave nothing behind.
func good(t *testing.T, line string) *Result {
	t.Helper()
	dir := t.TempDir()
	r, err := runIn(t, dir, line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	wantInside(t, dir)
	return r
}

// ops returns the operations of all jobs in one direction.
func ops(r *Result, d job.Dir) (n, bytes int64) {
	for _, j := range r.Jobs {
		n, bytes = n+j.Dirs[d].N(), bytes+j.Dirs[d].Bytes
	}
	return n, bytes
}

// A run reports the files that it leaves.
func TestRunKeepsForeignFiles(t *testing.T) {
	dir := t.TempDir()
	p, err := job.Parse(strings.Fields("--rw=write --size=64k --directory=" + dir))
	if err != nil {
		t.Fatal(err)
	}
	r := &Runner{Jobs: p.Jobs, Opened: func(dirs []string) { put(t, filepath.Join(dirs[0], storeName, "mine")) }}
	_, err = r.Run(t.Context())
	wantError(t, err, "pcbench has not made", "store/mine")
}

// When many workers race for missing pages, each page is allocated once and all pages are written.
func TestClaims(t *testing.T) {
	p, err := job.Parse(strings.Fields("--rw=randwrite --size=64k --io_size=8m --numjobs=4 --iodepth=2 --directory=" +
		t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	st, err := openStore(p.Jobs, space{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := newSection(p.Jobs[0], st, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	g.run(context.Background())
	seen := map[uint64]bool{}
	for i := range st.table {
		seen[st.table[i].Load()] = true
	}
	if pages := st.pc.Stats().Pages.InUse; pages != 16 || len(seen) != 16 || seen[0] || seen[claimed] {
		t.Errorf("%d pages in the store, %d in the table", pages, len(seen))
	}
	if err := st.close(); err != nil {
		t.Error(err)
	}
}

// A load of --size bytes in order writes each page once, with any number of jobs. A second job reads what the first has
// written, since they share a store; nothing is laid out before.
func TestJobsShareStore(t *testing.T) {
	r := good(t, "--size=400k --name=a --rw=write --numjobs=4 --iodepth=2 --name=b --stonewall --rw=randread")
	if n, bytes := ops(r, job.DirWrite); n != 100 || bytes != 400<<10 || len(r.Jobs) != 5 || r.Groups != 2 {
		t.Errorf("%d writes of %d bytes, %d jobs, %d groups", n, bytes, len(r.Jobs), r.Groups)
	}
	b := r.Jobs[4]
	if b.Group != 1 || b.Dirs[job.DirRead].N() != 100 || b.Dirs[job.DirRead].Bytes != 400<<10 || b.Store.Given != 0 {
		t.Errorf("%+v, store %+v", b, b.Store)
	}
}

// The counts of the store are exact however short the run is, and do not have those of the ramp.
func TestExactCounts(t *testing.T) {
	r := good(t, "--rw=read --bs=1k --size=25k")
	if u := r.Jobs[0].Store; u.Reads != 25 || u.Hits != 25 || u.Misses != 0 {
		t.Errorf("%+v", u)
	}
	r = good(t, "--rw=read --bs=4k --size=400k --invalidate")
	if u := r.Jobs[0].Store; u.Misses != 100 || u.Hits != 0 || u.FromCache+u.FromDevice != 100 {
		t.Errorf("%+v", u)
	}
	r = good(t, "--rw=randwrite --bs=4k --size=128k --ramp_time=300ms --runtime=100ms --time_based")
	j := r.Jobs[0]
	n, given := j.Dirs[job.DirWrite].N(), j.Store.Given
	if given != n*4096 || n == 0 {
		t.Errorf("%d bytes were given for %d writes: the ramp is counted", given, n)
	}
	r = good(t, "--rw=write --bs=4k --size=64k --flush_every=never")
	if u := r.Jobs[0].Store; u.InFlight+u.Written < 60<<10 || u.Given < 64<<10 {
		t.Errorf("%d bytes in flight, %d written, %d given", u.InFlight, u.Written, u.Given)
	}
}

// An open loop is not faster than its rate, and its latencies count from the intended start.
func TestOpenLoop(t *testing.T) {
	for _, line := range []string{
		"--rate_iops=2000", "--rate=8m", "--rate_iops=1000,2000 --iodepth=4", "--rate_iops=4000 --thinktime=100us",
	} {
		r := good(t, "--rw=randread --bs=4k --size=1m --number_ios=200 --io_size=10m "+line)
		j := r.Jobs[0]
		d := &j.Dirs[job.DirRead]
		if d.N() != 200 || j.Runtime < 199*1e9/4000 {
			t.Errorf("%s: %d operations in %d ns", line, d.N(), j.Runtime)
		}
		if d.Lat.N != d.N() || d.Lat.Least < d.Clat.Least {
			t.Errorf("%s: %d latencies from the intended start, least %d; calls %d", line, d.Lat.N, d.Lat.Least,
				d.Clat.Least)
		}
	}
}

// The intended starts of poisson have exponential distances with the given mean.
func TestPacer(t *testing.T) {
	s := job.Defaults()
	s.Pace.IOPS[job.DirRead], s.Pace.Poisson = 1000, true
	p := newPacer(&s, pick.New(1, 1))
	const n = 50_000
	sum, squares, last := 0.0, 0.0, int64(0)
	p.take(job.DirRead)
	for range n {
		at := p.take(job.DirRead)
		d := float64(at - last)
		sum, squares, last = sum+d, squares+d*d, at
	}
	mean := sum / n
	if dev := math.Sqrt(squares/n - mean*mean); math.Abs(mean-1e6) > 2e4 || math.Abs(dev-1e6) > 3e4 {
		t.Errorf("mean %v, deviation %v, want 1e6 and 1e6", mean, dev)
	}
	if at := p.take(job.DirWrite); at != -1 {
		t.Errorf("writes are not limited, and start at %d", at)
	}
	before := p.take(job.DirRead)
	p.shift(5e9)
	if at := p.take(job.DirRead); at-before < 5e9 {
		t.Errorf("after a shift by 5 s: %d ns later", at-before)
	}
	s.Pace = job.Pace{Rate: [3]int64{8 << 20}}
	p = newPacer(&s, pick.New(1, 1))
	p.take(job.DirRead)
	if at := p.take(job.DirRead); at != 488281 {
		t.Errorf("4 KiB at 8 MiB/s: the second operation starts at %d", at)
	}
}

// Mixed loads, sizes, trims, batches, deltas and logs do the operations that were asked for.
func TestLoads(t *testing.T) {
	for _, c := range []struct {
		line                        string
		reads, writes, trims, bytes int64 // −1: at least one; bytes of reads and writes, 0: not checked
	}{
		{"--rw=randrw --rwmixread=70 --size=1m --io_size=4m", -1, -1, 0, 4 << 20},
		{"--rw=write --bssplit=4k/50:8k/50 --size=1m --number_ios=50", 0, 50, 0, 0},
		{"--rw=randtrim --size=64k --io_size=64k", 0, 0, 16, 0},
		{"--rw=trimwrite --size=64k --io_size=128k", 0, 16, 16, 64 << 10},
		{"--rw=randtrimwrite --size=64k --io_size=1m --numjobs=2 --iodepth=2", 0, -1, -1, 0},
		{"--rw=write --batch=4 --size=64k --io_size=64k --fdatasync=1", 0, 16, 0, 256 << 10},
		{"--rw=write --transaction=4 --size=64k --io_size=64k --fdatasync=1", 0, 16, 0, 256 << 10},
		{"--rw=write --transaction=100 --size=32k --number_ios=3", 0, 3, 0, 3 * 32 << 10},
		{"--rw=randwrite --transaction=6 --size=64k --io_size=1m --number_ios=50 --numjobs=2 --iodepth=4", 0, 100, 0,
			100 * 6 * 4 << 10},
		{"--rw=randwrite --transaction=4 --delta=64 --size=64k --io_size=1m --number_ios=50 --iodepth=2", 0, 50, 0,
			50 * 4 * 64},
		{"--rw=randtrimwrite --transaction=4 --size=64k --io_size=1m --numjobs=2 --iodepth=2", 0, -1, -1, 0},
		{"--node --rw=randrw --bs=4k --delta=100 --size=64k --io_size=1m --iodepth=4 --transaction=4", -1, -1, 0, 0},
		{"--rw=randrw --log --size=64k --io_size=1m --iodepth=2", -1, -1, 0, 0},
		{"--rw=read --log --size=64k --io_size=128k --invalidate", 32, 0, 0, 128 << 10},
		{"--rw=read --prefetch=8 --size=64k --invalidate", 16, 0, 0, 64 << 10},
		{"--rw=read:-4k --size=64k", 16, 0, 0, 64 << 10},
		{"--rw=randread:4 --size=64k --percentage_random=50", 16, 0, 0, 64 << 10},
		{"--rw=randread --norandommap=0 --size=64k --loops=2", 32, 0, 0, 128 << 10},
		{"--rw=write --size=64k --zero_buffers --compression=zstd", 0, 16, 0, 64 << 10},
		{"--rw=randwrite --size=64k --dedupe_percentage=50 --buffer_compress_percentage=50", 0, 16, 0, 64 << 10},
		{"--rw=randwrite --size=64k --snapshots=1ms --runtime=30ms --time_based", 0, -1, 0, 0},
		{"--rw=write --size=64k --offset=16k --offset_increment=64k --numjobs=2", 0, 16, 0, 64 << 10},
		{"--rw=read --size=64k --thinktime=10 --thinktime_spin=5 --thinktime_blocks=4", 16, 0, 0, 64 << 10},
		{"--rw=write --size=64k --temporary", 0, 16, 0, 64 << 10},
		{"--node --rw=randread --size=256k --io_size=1m", 64, 0, 0, 1 << 20},
		{"--node --rw=randwrite --size=256k --number_ios=500 --io_size=1m --fdatasync=50", 0, 500, 0, 500 * 128},
		{"--node --rw=randrw --bs=4k --delta=100 --size=64k --io_size=1m --iodepth=4 --batch=4", -1, -1, 0, 0},
		{"--node --rw=randread --cold --prefetch=4 --size=256k", 16, 0, 0, 256 << 10},
		{"--node --rw=randtrimwrite --size=256k --io_size=1m --numjobs=2 --iodepth=2", 0, -1, -1, 0},
		{"--node --rw=randrw --size=256k --snapshots=5ms --runtime=50ms --time_based", -1, -1, 0, 0},
	} {
		r := good(t, c.line)
		reads, rb := ops(r, job.DirRead)
		writes, wb := ops(r, job.DirWrite)
		trims, _ := ops(r, job.DirTrim)
		for _, n := range [][2]int64{{c.reads, reads}, {c.writes, writes}, {c.trims, trims}} {
			if n[0] < 0 && n[1] == 0 || n[0] >= 0 && n[0] != n[1] {
				t.Errorf("%s: %d reads, %d writes, %d trims", c.line, reads, writes, trims)
				break
			}
		}
		if c.bytes > 0 && rb+wb != c.bytes {
			t.Errorf("%s: %d bytes, want %d", c.line, rb+wb, c.bytes)
		}
	}
}

// With norandommap=0, each round reads each page once.
func TestMap(t *testing.T) {
	s := job.Defaults()
	s.RW, s.Random, s.Map, s.Size = "randread", true, true, 400<<10
	g, err := newSection(&s, &store{table: makeTable(100)}, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		seen := map[int64]bool{}
		for range 100 {
			i, _ := g.workers[0].next()
			seen[i] = true
		}
		if len(seen) != 100 {
			t.Errorf("round %d: %d of 100 pages", round, len(seen))
		}
	}
}

// The mix of reads and writes, and the share of random pages, are those that were asked for.
func TestMix(t *testing.T) {
	s := job.Defaults()
	s.RW, s.Random, s.ReadShare, s.Does, s.Size = "randrw", true, 70, [3]bool{true, true, false}, 4<<20
	s.PercentRandom = [3]int{25, 25, 25}
	g, err := newSection(&s, &store{table: makeTable(1024)}, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	const n = 100_000
	reads, follows, last := 0.0, 0.0, int64(-1)
	for range n {
		i, d := g.workers[0].next()
		if d == job.DirRead {
			reads++
		}
		if i == (last+1)%1024 {
			follows++
		}
		last = i
	}
	if math.Abs(reads/n-0.7) > 0.01 || math.Abs(follows/n-0.75) > 0.01 {
		t.Errorf("%v reads, want 0.7; %v in order, want 0.75", reads/n, follows/n)
	}
}

// verify finds nothing wrong in a good store: while the load runs, after it, and after another run has reopened it.
func TestVerify(t *testing.T) {
	for _, method := range job.VerifyMethods {
		line := "--rw=randwrite --size=256k --bs=1k --io_size=512k --verify=" + method
		if method == "pattern" {
			line += " --verify_pattern=0xdeadbeef"
		}
		if r := good(t, line); r.Jobs[0].Verified == 0 {
			t.Errorf("%s: nothing was verified", method)
		}
	}
	dir := t.TempDir()
	if _, err := runIn(t, dir, "--rw=randwrite --size=256k --verify=crc32c --unlink=0 --do_verify=0"); err != nil {
		t.Fatal(err)
	}
	r, err := runIn(t, dir, "--rw=read --size=256k --verify=crc32c --unlink=0")
	if err != nil || r.Jobs[0].Dirs[job.DirRead].N() != 64 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := runIn(t, dir, "--rw=read --size=256k --verify=sha256 --unlink=0"); !errors.Is(err, errVerify) {
		t.Errorf("another method: %v", err)
	}
	r, err = runIn(t, dir, "--rw=read --size=256k --verify=sha256 --unlink=0 --continue_on_error=verify")
	if err != nil || r.Jobs[0].Errors == 0 || !errors.Is(r.Jobs[0].First, errVerify) {
		t.Errorf("%+v, %v", r.Jobs[0], err)
	}
	if _, err := runIn(t, dir, "--rw=read --size=256k --verify=crc32c --unlink=1"); err != nil {
		t.Error(err)
	}
	wantInside(t, dir)
}

// A flipped bit, the page of another number and a page that is cut off are found.
func TestVerifier(t *testing.T) {
	v := newVerifier(&job.Verify{Method: "crc32c"})
	page := bytes.Repeat([]byte("x"), 100)
	if err := v.seal(page, 7); err != nil || v.check(page, 7) != nil {
		t.Fatal(err, v.check(page, 7))
	}
	for what, bad := range map[string]error{"number": v.check(page, 8), "length": v.check(page[:99], 7),
		"header": v.check(make([]byte, 100), 7)} {
		if !errors.Is(bad, errVerify) {
			t.Errorf("%s: %v", what, bad)
		}
	}
	page[50] ^= 1
	if err := v.check(page, 7); !errors.Is(err, errVerify) || !strings.Contains(err.Error(), "digest") {
		t.Error(err)
	}
	if err := v.seal(make([]byte, 10), 7); !errors.Is(err, errVerify) {
		t.Error(err)
	}
}

// The search finds the largest depth that is fast enough, or 1.
func TestSearch(t *testing.T) {
	for most := 1; most <= 20; most++ {
		for limit := 0; limit <= most; limit++ {
			s, steps := newSearch(most), 0
			for !s.step(s.now <= limit) {
				if steps++; steps > 10 {
					t.Fatalf("most %d, limit %d: no end", most, limit)
				}
			}
			if s.now != max(1, limit) {
				t.Errorf("most %d, limit %d: found %d", most, limit, s.now)
			}
		}
	}
	r := good(t, "--rw=randread --size=64k --iodepth=4 --latency_target=1 --latency_window=20ms --runtime=5 "+
		"--time_based "+
		"--latency_percentile=100 --thinktime=100")
	if j := r.Jobs[0]; j.Depth < 1 || j.Depth > 4 {
		t.Errorf("depth %d", j.Depth)
	}
}

func TestSteady(t *testing.T) {
	for _, c := range []struct {
		values []float64
		s      job.Steady
		want   bool
	}{
		{[]float64{100, 102, 98}, job.Steady{What: "iops", Limit: 2}, true},
		{[]float64{100, 102, 98}, job.Steady{What: "iops", Limit: 1.9}, false},
		{[]float64{100, 102, 98}, job.Steady{What: "bw", Limit: 2, Percent: true}, true},
		{[]float64{100, 101, 102}, job.Steady{What: "iops_slope", Limit: 0.5}, true},
		{[]float64{100, 101, 102}, job.Steady{What: "iops_slope", Limit: 0.4}, false},
		{[]float64{0, 0}, job.Steady{What: "iops", Limit: 1, Percent: true}, false},
	} {
		var got Steadiness
		if got.look(c.values, 2, &c.s); got.Attained != c.want {
			t.Errorf("%v, %+v: %+v", c.values, c.s, got)
		}
	}
	r := good(t, "--rw=randread --size=64k --steadystate=iops:100% --steadystate_duration=30ms "+
		"--steadystate_check_interval=10ms --runtime=1m --time_based")
	if s := r.Jobs[0].Steady; !s.Attained || len(s.IOPS) != 3 || s.IOPSMean() <= 0 ||
		math.Abs(s.BWMean()-4096*s.IOPSMean()) > s.BWMean()/1000 {
		t.Errorf("%+v", s)
	}
}

func TestMaxLatency(t *testing.T) {
	_, err := runIn(t, t.TempDir(), "--rw=randwrite --size=64k --max_latency=0.001us")
	if Errno(err) != 110 || !strings.Contains(err.Error(), "max_latency") { // as in fio: ETIMEDOUT
		t.Error(err)
	}
	_, err = runIn(t, t.TempDir(), "--rw=randread --size=64k --thinktime=1ms --rate_iops_min=1000000 "+
		"--rate_cycle=50ms "+
		"--runtime=5 --time_based")
	if !errors.Is(err, unix.ETIME) || !strings.Contains(err.Error(), "too slow") {
		t.Errorf("rate_iops_min: %v", err)
	}
}

func makeTable(n int) []atomic.Uint64 { return make([]atomic.Uint64, n) }

// The logs have fio's names and columns, and a trace that was written can be replayed.
func TestLogs(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	good(t, fmt.Sprintf("--rw=randrw --size=64k --io_size=1m --write_lat_log=%s --write_bw_log=%s --write_iops_log=%s "+
		"--write_hist_log=%s --log_hist_msec=1000 --write_iolog=%s --log_offset --bwavgtime=1", at("l"), at("b"),
		at("i"),
		at("h"), at("trace")))
	lines := func(name string) []string {
		b, err := os.ReadFile(at(name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(b)), "\n")
	}
	if l := lines("l_clat.1.log"); len(l) != 256 || strings.Count(l[0], ",") != 5 {
		t.Errorf("%d latencies, the first %q", len(l), l[0])
	}
	if l := lines("h_clat_hist.1.log"); len(l) < 2 || strings.Count(l[0], ",") != stats.Buckets+2 {
		t.Errorf("%d histograms, %d columns", len(l), strings.Count(l[0], ","))
	}
	lines("l_lat.1.log")
	lines("l_slat.1.log")
	lines("b_bw.1.log")
	lines("i_iops.1.log")
	if l := lines("trace"); l[0] != "fio version 3 iolog" || len(l) != 256+4 {
		t.Errorf("%d lines, the first %q", len(l), l[0])
	}
	r := good(t, "--rw=randrw --size=64k --replay_no_stall --read_iolog="+at("trace"))
	n, _ := ops(r, job.DirRead)
	m, _ := ops(r, job.DirWrite)
	if n+m != 256 {
		t.Errorf("%d reads and %d writes were replayed, want 256", n, m)
	}
	good(t, fmt.Sprintf("--rw=randread --size=64k --numjobs=2 --write_lat_log=%s --log_avg_msec=1000 --per_job_logs=0 "+
		"--log_max_value", at("avg")))
	if l := lines("avg_clat.1.log"); len(l) != 1 || !strings.HasPrefix(l[0], "1000, ") {
		t.Errorf("averages: %q", l)
	}
}

// Trap: operations of an open loop that were due when the time was over were neither done nor reported, and the time
// after the last operation did not count: a store that stalled seemed to keep up with the rate.
func TestDueOperations(t *testing.T) {
	j := good(t, "--rw=randread --size=64k --rate_iops=40000000 --runtime=50ms --time_based --iodepth=2").Jobs[0]
	if n := j.Dirs[job.DirRead].N(); n+j.NotBegun != 2_000_000 || j.NotBegun == 0 || j.Runtime < 50e6 {
		t.Errorf("%d operations, %d due, in %d ns", n, j.NotBegun, j.Runtime)
	}
	j = good(t, "--rw=randread --size=64k --thinktime=40ms --runtime=100ms --time_based").Jobs[0]
	if j.Runtime < 100e6 {
		t.Errorf("the job ran for 100 ms, and reports %d ns", j.Runtime)
	}
	if j := good(t, "--rw=randread --size=64k --rate_iops=1000 --number_ios=5").Jobs[0]; j.NotBegun != 0 {
		t.Errorf("%d operations did not begin, of a job that has done all", j.NotBegun)
	}
}

// Trap: the operations of reads and writes with rates were drawn by rwmixread, so that one rate was not kept and its
// latencies grew without end. fio keeps both.
func TestBothRates(t *testing.T) {
	p, err := job.Parse(strings.Fields("--rw=randrw --rwmixread=90 --rate_iops=1000,2000"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := newSection(p.Jobs[0], &store{table: makeTable(16)}, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	var n [3]int
	for range 300 {
		_, d := g.workers[0].next()
		g.lanes[0].pacer.take(d)
		n[d]++
	}
	if n[job.DirRead] != 100 || n[job.DirWrite] != 200 {
		t.Errorf("%v reads, writes and trims, want 100 and 200", n)
	}
}

// Trap: a trace was replayed as rw said, so that a write of a job that reads, as by default, crashed. A request that
// touches several pages read the first only, and the report called the loop closed.
func TestReplay(t *testing.T) {
	name := filepath.Join(t.TempDir(), "trace")
	replay := func(text, options string) *Result {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return good(t, "--size=64k --read_iolog="+name+" "+options)
	}
	trace := "fio version 3 iolog\n0 f add\n0 f open\n0 f write 4096 4096\n9 f read 4096 10000\n" +
		"20000 f trim 8192 4096\n20000 f datasync 0 0\n20000 f close\n"
	r := replay(trace, "")
	n, bytes := ops(r, job.DirRead)
	m, _ := ops(r, job.DirWrite)
	k, _ := ops(r, job.DirTrim)
	j := r.Jobs[0]
	if n != 1 || bytes != 3*4096 || m != 1 || k != 1 || j.Sync.N != 1 || j.Runtime < 20e6 {
		t.Errorf("%d reads of %d bytes, %d writes, %d trims, %d syncs in %d ns", n, bytes, m, k, j.Sync.N, j.Runtime)
	}
	if !j.Spec.Open() || j.Dirs[job.DirRead].Lat.Least < j.Dirs[job.DirRead].Clat.Least {
		t.Errorf("open %v, lat %d, clat %d", j.Spec.Open(), j.Dirs[job.DirRead].Lat.Least,
			j.Dirs[job.DirRead].Clat.Least)
	}
	if j := replay(trace, "--rw=randread --replay_no_stall").Jobs[0]; j.Spec.Open() || j.Dirs[job.DirWrite].N() != 1 {
		t.Errorf("open %v, %d writes", j.Spec.Open(), j.Dirs[job.DirWrite].N())
	}
	// The waits of version 2 are in ms after the start, as in fio 3.33.
	j = replay("fio version 2 iolog\nf read 0 4096\nf wait 30 0\nf read 0 4096\nf wait 30 0\nf read 0 4096\n",
		"").Jobs[0]
	if j.Spec.Open() || j.Runtime < 30e6 || j.Runtime > 30e9 || j.Dirs[job.DirRead].N() != 3 {
		t.Errorf("open %v, %d reads in %d ns", j.Spec.Open(), j.Dirs[job.DirRead].N(), j.Runtime)
	}
}

func TestParseDiskstats(t *testing.T) {
	text := "   8       0 sda 1 2 3 4 5 6 7 8 9 10 11 0 0\n 254       0 vda 100 2 30 40 50 6 70 80 0 90 110 0 0\n"
	d := parseDiskstats(bufio.NewScanner(strings.NewReader(text)), 254, 0)
	if d == nil || d.Name != "vda" || d.Reads != 100 || d.Writes != 50 || d.Busy != 90 || d.In != 110 {
		t.Fatalf("%+v", d)
	}
	later := *d
	later.Reads, later.Busy = 160, 140
	if u := later.since(d, 100); u.Reads != 60 || u.Util != 50 {
		t.Errorf("%+v", u)
	}
	if parseDiskstats(bufio.NewScanner(strings.NewReader(text)), 1, 1) != nil {
		t.Error("a disk that is not listed")
	}
}

// A size that does not fit the disk is refused before anything runs, and a layout that fails reports one error.
func TestSpace(t *testing.T) {
	dir := t.TempDir()
	_, err := runIn(t, dir, "--size=900t --bs=1m")
	wantError(t, err, "the pages need", "free")
	if strings.Count(err.Error(), "need") != 1 {
		t.Error(err)
	}
	wantInside(t, dir)
	p, err := job.Parse(strings.Fields("--size=64k --segment=64k --directory=" + dir))
	if err != nil {
		t.Fatal(err)
	}
	st, err := openStore(p.Jobs, space{})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.pc.Close(); err != nil {
		t.Fatal(err)
	}
	err = st.layout(context.Background(), p.Jobs[0], 16, nil)
	if !errors.Is(err, engine.ErrClosed) || strings.Count(err.Error(), "closed") != 1 {
		t.Errorf("%v", err)
	}
	if err := st.place.remove(); err != nil {
		t.Error(err)
	}
}

// wait_for, startdelay and exitall order and end jobs.
func TestOrder(t *testing.T) {
	r := good(t, "--size=64k --name=a --rw=write --name=b --rw=read --wait_for=a --startdelay=20ms --name=c "+
		"--rw=randread "+
		"--runtime=1h --time_based --name=d --rw=read --startdelay=50ms --exitall")
	a, b, d := r.Jobs[0], r.Jobs[1], r.Jobs[3]
	if b.Started.Before(a.Started.Add(a.Elapsed)) || b.Started.Sub(r.Started) < 20*time.Millisecond ||
		d.Started.Sub(r.Started) < 50*time.Millisecond {
		t.Errorf("a %v, b %v, d %v after the start", a.Started.Sub(r.Started), b.Started.Sub(r.Started),
			d.Started.Sub(r.Started))
	}
}

// A report of the jobs that run has their operations so far.
func TestStatus(t *testing.T) {
	p, err := job.Parse(strings.Fields("--rw=randread --size=64k --runtime=1h --time_based --directory=" + t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var got *Result
	r := &Runner{Jobs: p.Jobs, Status: func(x *Result) { got = x }}
	done := make(chan error, 1)
	go func() {
		_, err := r.Run(ctx)
		done <- err
	}()
	for got == nil || got.Jobs[0].Dirs[job.DirRead].N() == 0 {
		if ctx.Err() != nil {
			t.Fatal("no report")
		}
		time.Sleep(time.Millisecond)
		r.Ask(ctx)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// group_reporting adds up jobs as fio does.
func TestGroups(t *testing.T) {
	r := good(t, "--rw=randread --size=64k --io_size=1m --numjobs=4 --group_reporting --unified_rw_reporting=both")
	if len(r.Jobs) != 1 || r.Jobs[0].Jobs != 4 || r.Jobs[0].Dirs[job.DirRead].N() != 256 {
		t.Errorf("%+v", r.Jobs[0])
	}
}

func TestProgressLine(t *testing.T) {
	now := progressState{share: 0.5, bytes: [3]int64{0, 3 << 30, 0}, ops: [3]int64{0, 49152, 0}}
	last := progressState{share: 0.4, bytes: [3]int64{0, 1 << 30, 0}, ops: [3]int64{0, 16384, 0}}
	want := "x: [w=2048MiB/s,32.8k IOPS][50.0%][eta 00m:02s]"
	since := [2]time.Duration{time.Second, 2 * time.Second}
	for most, want := range map[int]string{0: want, 60: want, 39: "x: [w=2048MiB/s][50.0%][eta 00m:02s]",
		33: "[w=2048MiB/s][50.0%][eta 00m:02s]", 25: "[50.0%][eta 00m:02s]", 5: "[50.0%][eta 00m:02s]"} {
		if got := now.line("x", last, since, most); got != want {
			t.Errorf("%d columns: %s\nwant %s", most, got, want)
		}
	}
	waiting := progressState{ramping: true, waiting: true} // trap: a job that waited for its startdelay ramped up
	if got := waiting.line("x", progressState{}, since, 0); got != "x: [waiting][0.0%]" {
		t.Error(got)
	}
	ramping := progressState{ramping: true}
	if got := ramping.line("x", progressState{}, since, 0); !strings.Contains(got, "ramping") {
		t.Error(got)
	}
}

func TestErrno(t *testing.T) {
	if n := Errno(&os.PathError{Err: unix.ENOSPC}); n != int(unix.ENOSPC) {
		t.Error(n)
	}
	if n := Errno(os.ErrClosed); n != int(unix.EIO) {
		t.Error(n)
	}
}

// Reads of pages whose fragments are all in memory count as resident, though the fragments have to be merged.
func TestMergedReadsAreResident(t *testing.T) {
	for _, line := range []string{"--delta=100", "--node"} {
		r := good(t, "--rw=randrw --size=1m --io_size=8m --flush_every=never "+line)
		if u := r.Jobs[0].Store; u.Merges == 0 || u.Misses > 0 || u.FromCache+u.FromDevice > 0 {
			t.Errorf("%s: %d merges, %d misses, %d from the page cache, %d from the device", line, u.Merges, u.Misses,
				u.FromCache, u.FromDevice)
		}
	}
}

// Trap: verifying a store whose pages were written without verify laid out each of these pages again.
func TestVerifyUnnumberedPages(t *testing.T) {
	dir := t.TempDir()
	for _, line := range []string{"--rw=write --verify=crc32c", "--rw=randwrite --io_size=16k"} {
		if _, err := runIn(t, dir, "--unlink=0 --size=64k "+line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	r, err := runIn(t, dir, "--unlink=0 --size=64k --rw=read --verify=crc32c")
	if wantError(t, err, "no header"); r.Jobs[0].Dirs[job.DirRead].N() != 16 {
		t.Errorf("%d reads", r.Jobs[0].Dirs[job.DirRead].N())
	}
	p, err := job.Parse(strings.Fields("--unlink=0 --size=64k --segment=256k --directory=" + dir))
	if err != nil {
		t.Fatal(err)
	}
	st, err := openStore(p.Jobs, space{})
	if err != nil {
		t.Fatal(err)
	}
	if n := st.pc.Stats().Pages.InUse; n != 16 {
		t.Errorf("the store has %d pages, want 16", n)
	}
	if err := st.close(); err != nil {
		t.Error(err)
	}
}

// Trap: the snapshots in a directory of their own stayed, and so did the directory that was made for them.
func TestSnapshotDirIsRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for")
	good(t, "--rw=write --size=64k --snapshot_dir="+dir)
	if _, err := os.Stat(filepath.Dir(dir)); err == nil {
		t.Error("the directory for snapshots stays")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "snapshot."+strings.Repeat("0", 32)+"."+strings.Repeat("0", 16)+"."+
		strings.Repeat("0", 15)+"1")
	if err := os.WriteFile(other, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	good(t, "--rw=write --size=64k --snapshot_dir="+dir)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v are left, %v", left, err)
	}
}

// Trap: pages that were opened as nodes were nodes for ever, and pages with deltas that were opened without lost them.
func TestKindOfStore(t *testing.T) {
	dir := t.TempDir()
	run := func(line string) error {
		_, err := runIn(t, dir, "--unlink=0 --size=64k "+line)
		return err
	}
	if err := run("--rw=write"); err != nil {
		t.Fatal(err)
	}
	wantError(t, run("--node --rw=randread"), "holds pages, and the jobs want nodes of 16384 bytes")
	for _, line := range []string{"--rw=randread", "--rw=randwrite --delta=10", "--rw=randread", "--rw=read"} {
		if err := run(line); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	r, err := runIn(t, dir, "--unlink=0 --size=64k --rw=read")
	if err != nil {
		t.Fatal(err)
	}
	if n, bytes := ops(r, job.DirRead); n != 16 || bytes != 64<<10 {
		t.Errorf("%d pages of %d bytes", n, bytes)
	}
	if err := run("--name=n --node --rw=randrw --bs=4k"); err != nil {
		t.Fatal(err)
	}
	wantError(t, run("--name=n --node --rw=randread --bs=8k"), "holds nodes of 4096 bytes")
	wantError(t, run("--name=n --rw=randread"), "the jobs want pages")
	if err := run("--name=n --node --rw=randread --bs=4k"); err != nil {
		t.Error(err)
	}
}

// Trap: an operation that failed, after which the job goes on, was reported as work.
func TestFailedOperationsAreNoWork(t *testing.T) {
	for _, line := range []string{"--rw=randrw --continue_on_error=all", "--rw=write --continue_on_error=io",
		"--rw=write --fdatasync=1 --continue_on_error=write", "--rw=trim --continue_on_error=all"} {
		p, err := job.Parse(append(strings.Fields(line), "--size=64k", "--directory="+t.TempDir()))
		if err != nil {
			t.Fatal(err)
		}
		st, err := openStore(p.Jobs, space{})
		if err != nil {
			t.Fatal(err)
		}
		if err := st.layout(t.Context(), p.Jobs[0], 16, nil); err != nil {
			t.Fatal(err)
		}
		g, err := newSection(p.Jobs[0], st, 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.pc.Close(); err != nil { // from now on, each operation fails
			t.Fatal(err)
		}
		g.run(t.Context())
		j := g.collect(func(w *worker) *workerStats { return &w.workerStats }, g.now())[0]
		if j.Errors != 16 || !errors.Is(j.First, engine.ErrClosed) || j.Err != nil {
			t.Errorf("%s: %d errors, the first %v, %v", line, j.Errors, j.First, j.Err)
		}
		for d := range j.Dirs {
			if j.Dirs[d].N() != 0 || j.Dirs[d].Bytes != 0 {
				t.Errorf("%s: %d failed operations of %d bytes are reported", line, j.Dirs[d].N(), j.Dirs[d].Bytes)
			}
		}
		if err := st.close(); err != nil && !errors.Is(err, engine.ErrClosed) {
			t.Error(err)
		}
	}
}

// Trap: verify_only with time_based verified nothing, and its writes, which do nothing, were reported as work.
func TestVerifyOnly(t *testing.T) {
	for _, more := range []string{"", " --time_based --runtime=50ms", " --rw=read --time_based --runtime=50ms",
		" --numjobs=2 --iodepth=2 --do_verify=0"} {
		dir := t.TempDir()
		if r, err := runIn(t, dir, "--rw=write --size=64k --verify=crc32c --unlink=0"); err != nil {
			t.Fatal(r, err)
		}
		r, err := runIn(t, dir, "--rw=write --size=64k --verify=crc32c --unlink=0 --verify_only"+more)
		if err != nil {
			t.Fatal(more, err)
		}
		reads, _ := ops(r, job.DirRead)
		writes, _ := ops(r, job.DirWrite)
		verified := int64(0)
		for _, j := range r.Jobs {
			verified += j.Verified
		}
		if reads+writes != 0 || verified < 16 {
			t.Errorf("%q: %d reads, %d writes, %d pages verified", more, reads, writes, verified)
		}
		r, err = runIn(t, dir, "--rw=write --size=64k --verify=sha256 --unlink=0 --verify_only"+more)
		if !errors.Is(err, errVerify) {
			t.Errorf("%q: %v, %v", more, r, err)
		}
	}
}

// Trap: the error of a job with stats=0, which is not reported, was lost.
func TestErrorOfUnreportedJob(t *testing.T) {
	const fails = "--rw=write --size=64k --max_latency=0.001us "
	for _, line := range []string{fails + "--stats=0", "--size=64k --name=a --rw=write --name=b --stonewall " + fails +
		"--stats=0", "--name=a " + fails + "--stats=0 --name=b --stonewall --rw=write --size=64k --max_latency=0"} {
		if r, err := runIn(t, t.TempDir(), line); !errors.Is(err, unix.ETIMEDOUT) {
			t.Errorf("%s: %v, %v", line, r, err)
		}
	}
}

// Trap: the free space was compared neither with pages before an offset, which are laid out, nor with those of several
// jobs or stores.
func TestSpaceOfAllPages(t *testing.T) {
	dir := t.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	free := int64(st.Bavail) * st.Bsize >> 30
	for _, line := range []string{
		fmt.Sprintf("--rw=read --bs=1m --size=1m --offset=%dg", free+1),
		fmt.Sprintf("--rw=read --bs=1m --size=1m --offset_increment=%dg --numjobs=3", free/2+1),
		fmt.Sprintf("--rw=write --bs=1m --size=%dg --offset_increment=%dg --numjobs=3", free/3+1, free/3+1),
		fmt.Sprintf("--bs=1m --size=%dg --name=a --filename=a --rw=write --name=b --filename=b --rw=write", free/2+1),
	} {
		p, err := job.Parse(append([]string{"--directory=" + dir}, strings.Fields(line)...))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // if the check lets it pass, nothing is written
		_, err = (&Runner{Jobs: p.Jobs}).Run(ctx)
		wantError(t, err, "the pages need", "free")
		wantInside(t, dir)
	}
}

// The pages of rw=KIND:N are those of fio. The sequences are from its write_iolog.
func TestStepsLikeFio(t *testing.T) {
	for kind, want := range map[string]string{
		"write:4k": "0 2 4 6 8 0 2 4 6 8 0", "read:8k": "0 3 6 9 0 3 6 9 0 3 6", "write:12k": "0 4 8 0 4 8 0 4 8 0 4",
		"read:-4k": "0 0 0 0 0 0 0 0 0 0 0", "read:-8k": "0 8 7 6 5 4 3 2 1 0 8", "write:-16k": "0 6 3 0 6 3 0 6 3 0 6",
		"read": "0 1 2 3 4 5 6 7 8 9 0",
	} {
		dir := t.TempDir()
		log := filepath.Join(dir, "log")
		if _, err := runIn(t, dir, "--bs=4k --size=40k --io_size=44k --write_iolog="+log+" --rw="+kind); err != nil {
			t.Fatal(err)
		}
		found, _ := filepath.Glob(log + "*")
		b, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		var pages []string
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 5 {
				var offset int64
				if _, err := fmt.Sscan(f[3], &offset); err != nil {
					t.Fatal(err)
				}
				pages = append(pages, fmt.Sprint(offset/4096))
			}
		}
		if got := strings.Join(pages, " "); got != want {
			t.Errorf("%s: %s, fio: %s", kind, got, want)
		}
	}
}

// As in fio, a goroutine pauses after thinktime_iotime or thinktime_blocks, whichever is first, and thinktime_iotime is
// in seconds and has thinktime_blocks ignored unless that is given.
func TestThinkTimeLikeFio(t *testing.T) {
	for line, pauses := range map[string]int64{
		"--thinktime_iotime=1": 0, "--thinktime_iotime=1h --thinktime_blocks=4": 3,
		"--thinktime_iotime=1us --thinktime_blocks=1000": 15, "--thinktime_blocks=4": 3, "": 15,
	} {
		r := good(t, "--rw=read --size=64k --thinktime=150ms "+line)
		if took, want := r.Jobs[0].Runtime, pauses*15e7; took < want || pauses == 0 && took > 19e8 {
			t.Errorf("%q: %v, want %d pauses of 150 ms", line, time.Duration(took), pauses)
		}
	}
}
