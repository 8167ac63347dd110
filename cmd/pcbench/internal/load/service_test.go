package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/stats"
	"pagecache/internal/osfs"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

// slow is a disk whose durable writes and cold reads take the service time serve, by the fake clock of a bubble of
// synctest, or longer if the device itself waits. It records what they took.
type slow struct {
	serve time.Duration
	mu    sync.Mutex
	took  []int64 // ns
}

// sleep waits until the service time since start is over, and records what it was.
func (s *slow) sleep(start time.Time) {
	time.Sleep(s.serve - time.Since(start))
	s.mu.Lock()
	s.took = append(s.took, int64(time.Since(start)))
	s.mu.Unlock()
}

// fs returns a file system whose log lies on the disk.
func (s *slow) fs() vfs.FS {
	return &simdisk.Wrap{FS: osfs.OS, File: func(d vfs.Dir, name string, flag vfs.Flag) (vfs.File, error) {
		f, err := d.Open(name, flag)
		if err != nil || name != "log" {
			return f, err
		}
		return slowFile{f, s}, nil
	}}
}

type slowFile struct {
	vfs.File
	s *slow
}

func (f slowFile) OpenDevice(o vfs.DeviceOptions) (vfs.Device, vfs.DeviceReport, error) {
	d, r, err := f.File.OpenDevice(o)
	return slowDevice{d, f.s}, r, err
}

func (f slowFile) OpenMap(p vfs.Pattern, r vfs.Reader) (vfs.Map, error) {
	m, err := f.File.OpenMap(p, r)
	return slowMap{m, f.s}, err
}

// slowDevice waits for all writes that it is given.
type slowDevice struct {
	vfs.Device
	s *slow
}

func (d slowDevice) Do(writes []vfs.Write, need int, dst []vfs.Completion) ([]vfs.Completion, error) {
	if len(writes) == 0 {
		return d.Device.Do(writes, need, dst)
	}
	start := time.Now()
	dst, err := d.Device.Do(writes, len(writes), dst)
	d.s.sleep(start)
	return dst, err
}

// slowMap is never warm.
type slowMap struct {
	vfs.Map
	s *slow
}

func (slowMap) IsWarm(vfs.Range) bool { return false }

func (m slowMap) Warm(ranges []vfs.Range) (int, error) {
	start := time.Now()
	_, err := m.Map.Warm(ranges)
	m.s.sleep(start)
	return len(ranges), err
}

// For a disk with a service time of 1 ms, the report has that as the time of synchronous writes, of cold reads, and of
// all their percentiles: within 5 % of what the disk says that it took. The clock is a fake one, so that other programs
// do not count.
func TestServiceTime(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "pcbench-test-") // a disk without a service time of its own
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	defer os.RemoveAll(dir)
	for _, c := range []struct {
		line string
		of   func(*Job) *stats.Latencies
	}{
		{"--rw=randwrite --number_ios=300 --fdatasync=1 --flush_every=never",
			func(j *Job) *stats.Latencies { return &j.Sync }},
		{"--rw=randread --number_ios=300 --invalidate --cache=1 --copy_on_read",
			func(j *Job) *stats.Latencies { return &j.Dirs[job.DirRead].Clat }},
	} {
		// The pages are laid out before, by several goroutines. One that waits for a lock would stop the fake clock.
		if _, _, err := serve(dir, c.line, 0); err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			if err := serviceTime(dir, c.line, c.of); err != nil {
				t.Errorf("%s: %v", c.line, err)
			}
		})
	}
}

// serve runs a job on a disk with a service time.
func serve(dir, line string, long time.Duration) (*slow, *Result, error) {
	p, err := job.Parse(append(strings.Fields(line), "--size=4m", "--io_size=100m", "--segment=1m",
		"--io=syscall", "--unlink=0", "--directory="+dir))
	if err != nil {
		return nil, nil, err
	}
	disk := &slow{}
	vfs.SetFS(&p.Jobs[0].Engine, disk.fs())
	runner := &Runner{Jobs: p.Jobs, Opened: func([]string) { disk.serve = long }}
	r, err := runner.Run(context.Background())
	if err == nil {
		err = r.Err
	}
	return disk, r, err
}

func serviceTime(dir, line string, of func(*Job) *stats.Latencies) error {
	disk, r, err := serve(dir, line, time.Millisecond)
	if err != nil {
		return err
	}
	l := of(r.Jobs[0])
	took := disk.took[max(0, len(disk.took)-int(l.N)):] // the last ones are those of the jobs
	slices.Sort(took)
	var errs []error
	near := func(what string, got, want float64) {
		if math.Abs(got-want) > 0.05*want {
			errs = append(errs, fmt.Errorf("%s is %v, want %v", what, time.Duration(got), time.Duration(want)))
		}
	}
	if l.N != 300 || len(took) != 300 {
		return errors.New("not 300 operations")
	}
	if took[0] < int64(disk.serve) {
		return errors.New("the disk is faster than it should be")
	}
	sum := 0.0
	for _, ns := range took {
		sum += float64(ns)
	}
	near("the mean", l.Mean(), sum/300)
	for i, ns := range l.At([]float64{10, 50, 90}) {
		near("a percentile", float64(ns), float64(took[[]int{30, 150, 270}[i]]))
	}
	return errors.Join(errs...)
}
