package report

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
	"pagecache/cmd/pcbench/internal/stats"
)

var update = flag.Bool("update", false, "write the golden files")

// fixedResult returns a result whose numbers never change.
func fixedResult() *load.Result {
	s := job.Defaults()
	s.Name, s.RW, s.Does, s.Random, s.FDataSync = "golden", "randrw", [3]bool{true, true, false}, true, 32
	s.NumJobs, s.IODepth = 2, 4
	s.Given = [][2]string{{"rw", "randrw"}, {"fdatasync", "32"}}
	started := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := &load.Result{Started: started, Groups: 1, Disks: []load.Disk{{Name: "vda", Reads: 1, Writes: 2, ReadMerges: 3,
		WriteMerges: 4, ReadTicks: 5, WriteTicks: 6, In: 11, Util: 12.5}}}
	use := &load.StoreUse{Device: "a device", Given: 2 << 20, Written: 5 << 20, Padded: 4096, InFlight: 100,
		Flushes: 12,
		Waits:   1, Merges: 2, Consolidations: 3, Segments: 9, SegmentsInUse: 8, Recycled: 4, Cleaned: 3,
		Moved:    7 << 10,
		Draining: 1, Reads: 20_000, Hits: 19_000, Misses: 1000, FromDevice: 900, FromCache: 100}
	for k := range int64(2) {
		j := &load.Job{Spec: &s, Jobs: 1, Started: started, Elapsed: 1500 * time.Millisecond, Depth: 4, Store: use}
		j.Runtime = (1000 + k) * stats.Millisecond
		for i := range int64(10_000) {
			j.Dirs[job.DirRead].Clat.Add(60 + i*i%9973/10)
			j.Dirs[job.DirWrite].Clat.Add(2100 + i*i%99_991)
		}
		for i := range int64(300) {
			j.Sync.Add(2_500_000 + i*1_000_000)
		}
		for d := range 2 {
			j.Dirs[d].Runtime, j.Dirs[d].Bytes = j.Runtime, j.Dirs[d].N()*4096
		}
		rd, wr := &j.Dirs[job.DirRead], &j.Dirs[job.DirWrite]
		rd.BW, rd.IOPS = stats.NewSpread([]float64{38e6, 40e6, 42e6}), stats.NewSpread([]float64{9500, 10000, 10500})
		wr.BW, wr.IOPS = stats.NewSpread([]float64{2e9, 3e9}), stats.NewSpread([]float64{9500, 10500})
		j.Usage = load.Usage{User: 12.345, System: 6.7, Switches: 89, MajFaults: 1, MinFaults: 2}
		r.Jobs = append(r.Jobs, j)
	}
	for _, j := range r.Jobs {
		j.Dirs[job.DirRead].BW.Of = r.Total(0, job.DirRead).BytesPerSecond()
		j.Dirs[job.DirWrite].BW.Of = 6e9
	}
	return r
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the text differs from %s (-update rewrites it):\n%s", file, got)
	}
}

func TestNormalGolden(t *testing.T) {
	b := &bytes.Buffer{}
	if err := Normal(b, fixedResult()); err != nil {
		t.Fatal(err)
	}
	golden(t, "normal.txt", pidless(b.Bytes()))
}

// pidless replaces the process id, which differs in each run.
func pidless(b []byte) []byte {
	id := strconv.Itoa(os.Getpid())
	b = bytes.ReplaceAll(b, []byte("pid="+id), []byte("pid=1"))
	return bytes.ReplaceAll(b, []byte(`"pid": `+id), []byte(`"pid": 1`))
}

// Terse has the columns of fio 3.33, whose line of version 3 and 5 for the same kind of load are in testdata.
func TestTerse(t *testing.T) {
	for _, version := range []int{2, 3, 4, 5} {
		b := &bytes.Buffer{}
		if err := Terse(b, fixedResult(), version); err != nil {
			t.Fatal(err)
		}
		golden(t, fmt.Sprintf("terse-%d.txt", version), b.Bytes())
		line, _, _ := strings.Cut(b.String(), "\n")
		if theirs, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("fio-3.33-terse-%d.txt",
			version))); err == nil {
			first, _, _ := strings.Cut(string(theirs), "\n")
			if n, want := strings.Count(line, ";"), strings.Count(first, ";"); n != want {
				t.Errorf("version %d: %d columns, fio has %d", version, n+1, want+1)
			}
		} else if version == 3 || version == 5 {
			t.Error(err)
		}
	}
}

// With unified_rw_reporting, all directions are one.
func TestMixed(t *testing.T) {
	r := fixedResult()
	r.Jobs[0].Spec.Unified = "mixed"
	b := &bytes.Buffer{}
	if err := Normal(b, r); err != nil || !strings.Contains(b.String(), "  mixed: IOPS=20.0k") {
		t.Errorf("%v\n%s", err, b)
	}
	b.Reset()
	if err := JSON(b, r, time.Now(), DetailBins); err != nil || !strings.Contains(b.String(), `"mixed": {`) ||
		!strings.Contains(b.String(), `"bins": {`) {
		t.Errorf("%v\n%s", err, b)
	}
}
