package load

import (
	"context"
	"strings"
	"testing"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/stats"
)

// timelines runs jobs and returns their timelines.
func timelines(t *testing.T, line string) *Result {
	t.Helper()
	p, err := job.Parse(strings.Fields(line + " --segment=256k --directory=" + t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	r := &Runner{Jobs: p.Jobs, Timelines: true}
	res, err := r.Run(context.Background())
	if err != nil || res.Err != nil || len(res.Timelines) != len(p.Jobs) {
		t.Fatalf("%s: %v, %+v", line, err, res)
	}
	return res
}

// The intervals of a timeline have every operation and byte of the report exactly once, and cover its time.
func TestTimelineIsWhole(t *testing.T) {
	for _, line := range []string{
		"--rw=randrw --size=1m --runtime=900ms --time_based --numjobs=2 --iodepth=2 --group_reporting",
		"--rw=randwrite --size=1m --io_size=4m --iodepth=4 --fdatasync=2 --end_fsync",
		"--rw=randread --size=1m --runtime=700ms --time_based --ramp_time=250ms",
		"--rw=randread --size=1m --runtime=700ms --time_based --rate_iops=500",
		"--rw=randread --size=1m --runtime=900ms --time_based --rate_iops=3 --iodepth=2",
		"--rw=write --size=16k",
		"--rw=randtrim --size=1m",
	} {
		r := timelines(t, line)
		l, j := r.Timelines[0], r.Jobs[0]
		if l.Whole == nil || len(l.Intervals) == 0 {
			t.Fatalf("%s: %+v", line, l)
		}
		for d := range j.Dirs {
			sum := l.Sum(d)
			if sum.N() != j.Dirs[d].N() || sum.Bytes != j.Dirs[d].Bytes || sum.N() != l.Whole.Dirs[d].N() {
				t.Errorf("%s: %s: %d operations of %d bytes, want %d of %d", line, job.Dir(d), sum.N(), sum.Bytes,
					j.Dirs[d].N(), j.Dirs[d].Bytes)
			}
		}
		if n := l.Sum(KindCommit); n.N() != j.Sync.N {
			t.Errorf("%s: %d commits, want %d", line, n.N(), j.Sync.N)
		}
		end, written := int64(0), int64(0)
		before := l.Before
		for i := range l.Intervals {
			at := &l.Intervals[i]
			if at.End <= end {
				t.Errorf("%s: interval %d ends at %d, the one before at %d", line, i, at.End, end)
			}
			end = at.End
			written += at.Stats.Log.BytesWritten - before.Log.BytesWritten
			before = at.Stats
		}
		if n := len(l.Intervals); n > 1+int(end/(int64(trackEvery)/2)) || end < j.Runtime-int64(trackEvery) {
			t.Errorf("%s: %d intervals until %v, runtime %v", line, n, time.Duration(end), time.Duration(j.Runtime))
		}
		if written > j.Store.Written {
			t.Errorf("%s: %d bytes written, want at most %d", line, written, j.Store.Written)
		}
	}
}

// A timeline of many intervals keeps all work in fewer, longer ones.
func TestTimelineIsBounded(t *testing.T) {
	tr := &tracker{g: &section{}, every: 10, most: 8}
	for i := range int64(100) {
		w := Work{Bytes: 7, Bins: []stats.Bin{{Value: i % 3, Count: 1}, {Value: 5, Count: 2}}}
		tr.add(Interval{End: (i + 1) * 10, Kinds: [numKinds]Work{0: w}})
	}
	l := tr.timeline()
	sum := l.Sum(0)
	if n := len(l.Intervals); n < 4 || n > 8 || l.Intervals[n-1].End != 1000 || tr.every <= 10 {
		t.Errorf("%d intervals: %+v", n, l.Intervals)
	}
	if sum.N() != 300 || sum.Bytes != 700 || len(sum.Bins) != 4 || sum.Bins[3] != (stats.Bin{Value: 5, Count: 200}) {
		t.Errorf("%+v", sum)
	}
}

// The hot loop allocates nothing for a timeline, once each of the two copies exists.
func TestNoAllocationsForTimeline(t *testing.T) {
	w := laidOut(t)
	w.g.tracker = newTracker(w.g)
	turn := func() {
		w.step(t)
		w.g.tracker.began.Add(1)
		w.shots.turn = 1 - w.shots.turn
		if !w.publish() {
			t.Fatal("the worker made no copy")
		}
	}
	turn()
	turn()
	if n := testing.AllocsPerRun(1000, turn); n != 0 {
		t.Errorf("%v allocations for each copy", n)
	}
	if w.publish() {
		t.Error("the worker made a copy that nobody has asked for")
	}
}
