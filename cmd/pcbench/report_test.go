package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files, and the table in docs/BENCHMARKS.md")

// fixedResult returns a result whose numbers never change.
func fixedResult() *result {
	s := defaults()
	s.Name, s.RW, s.FDataSync, s.NumJobs, s.IODepth = "golden", "randrw", 32, 2, 4
	s.given = [][2]string{{"rw", "randrw"}, {"fdatasync", "32"}}
	r := &result{spec: &s, started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), elapsed: 1500 * time.Millisecond}
	r.store = storeUse{device: "a device", written: 5 << 20, padded: 4096, flushes: 12, waits: 1, merges: 2,
		consolidations: 3, segments: 9, segmentsInUse: 8, recycled: 4, cleaned: 3, moved: 7 << 10, draining: 1}
	for k := range 2 {
		j := newJob(s.Name, 1)
		j.runtime = int64(1000+k) * millisecond
		j.read.runtime, j.write.runtime = j.runtime, j.runtime
		for i := range int64(10_000) {
			j.read.add(60 + i*i%9973/10)
			j.write.add(2100 + i*i%99_991)
		}
		for i := range int64(300) {
			j.sync.add(2_500_000 + i*1_000_000)
		}
		j.read.bytes, j.write.bytes = j.read.n*s.BS, j.write.n*s.writeSize()
		j.read.bw, j.read.iops = newSpread([]float64{38e6, 40e6, 42e6}), newSpread([]float64{9500, 10000, 10500})
		j.write.bw, j.write.iops = newSpread([]float64{2e9, 3e9}), newSpread([]float64{9500, 10500})
		j.usage = usage{userPercent: 12.345, systemPercent: 6.7, switches: 89, majFaults: 1, minFaults: 2}
		r.jobs = append(r.jobs, j)
	}
	for _, j := range r.jobs {
		j.read.bw.of, j.write.bw.of = r.total(opKindRead).bytesPerSecond(), 6e9
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
	if err := writeNormal(b, []*result{fixedResult()}); err != nil {
		t.Fatal(err)
	}
	golden(t, "normal.txt", b.Bytes())
}

// The percentiles of the histogram are within a hundredth of the exact ones, and merging loses nothing.
func TestLatencies(t *testing.T) {
	var a, b latencies
	a.init()
	b.init()
	for i := int64(1); i <= 10_000; i++ {
		if i%2 == 0 {
			a.add(i * 1000)
		} else {
			b.add(i * 1000)
		}
	}
	a.merge(&b)
	if a.n != 10_000 || a.least != 1000 || a.most != 10_000_000 || a.mean() != 5_000_500 {
		t.Errorf("n %d, min %d, max %d, mean %v", a.n, a.least, a.most, a.mean())
	}
	if d := a.deviation(); d < 2.88e6 || d > 2.89e6 {
		t.Errorf("deviation %v", d)
	}
	for i, got := range a.at() {
		want := percentiles[i] * 100 * 1000
		if f := float64(got); f < want*0.99-1000 || f > want*1.01+1000 {
			t.Errorf("percentile %v: %d, want %v", percentiles[i], got, want)
		}
	}
	sum := 0.0
	for _, s := range shares(&a) {
		sum += s
	}
	if sum < 99.99 || sum > 100.01 {
		t.Errorf("the bands hold %v%%", sum)
	}
	a.add(5 * longest) // beyond the range of the histogram, but counted
	if a.most != 5*longest || a.hist.TotalCount() != 10_001 {
		t.Errorf("max %d, %d in the histogram", a.most, a.hist.TotalCount())
	}
}

func TestProgressLine(t *testing.T) {
	now := progressState{share: 0.5, writeBytes: 3 << 30, writes: 49152}
	last := progressState{share: 0.4, writeBytes: 1 << 30, writes: 16384}
	want := "x: [w=2048MiB/s,32.8k IOPS][50.0%][eta 00m:02s]"
	if got := now.line("x", last, time.Second, 2*time.Second); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	ramping := progressState{ramping: true}
	if got := ramping.line("x", progressState{}, time.Second, time.Second); !strings.Contains(got, "ramping") {
		t.Error(got)
	}
}

func TestOpKindString(t *testing.T) {
	for kind, want := range map[opKind]string{
		opKindRead: "read", opKindWrite: "write", -1: "opKind(-1)", 7: "opKind(7)",
	} {
		if got := kind.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestErrno(t *testing.T) {
	if n := errno(&os.PathError{Err: unix.ENOSPC}); n != int(unix.ENOSPC) {
		t.Error(n)
	}
	if n := errno(os.ErrClosed); n != int(unix.EIO) {
		t.Error(n)
	}
}
