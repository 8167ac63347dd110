package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/engine"
)

// result is the outcome of a group of jobs.
type result struct {
	spec    *spec
	started time.Time
	elapsed time.Duration
	flushed int64 // time when the final Flush ended, in ns after started; 0 without one
	err     error // the first error of a worker, or that of the final Flush
	jobs    []*job
	usage   usage
	store   storeUse
}

// job is the outcome of one job, or of several together.
type job struct {
	name        string
	jobs        int // number of jobs that it sums up
	err         error
	runtime     int64 // measured time in ns, without --ramp_time
	read, write direction
	sync        latencies
	usage       usage
}

// direction sums up all reads of a job, or all its writes.
type direction struct {
	latencies
	bytes    int64
	runtime  int64 // ns
	bw, iops spread
}

func (d *direction) bytesPerSecond() float64 { return perSecond(d.bytes, d.runtime) }
func (d *direction) perSecond() float64      { return perSecond(d.n, d.runtime) }

func perSecond(n, ns int64) float64 {
	if ns <= 0 {
		return 0
	}
	return float64(n) * 1e9 / float64(ns)
}

// newJob returns an empty job.
func newJob(name string, jobs int) *job {
	j := &job{name: name, jobs: jobs}
	j.read.init()
	j.write.init()
	j.sync.init()
	return j
}

// collect merges the counts of the workers into jobs, or into one job with --group_reporting.
func (r *result) collect(g *group) {
	s := g.spec
	n := s.NumJobs
	if s.GroupReporting {
		n = 1
	}
	for range n {
		r.jobs = append(r.jobs, newJob(s.Name, s.NumJobs/n))
	}
	for _, w := range g.workers {
		j := r.jobs[w.job*n/s.NumJobs]
		j.read.merge(&w.read)
		j.write.merge(&w.write)
		j.sync.merge(&w.sync)
		j.runtime = max(j.runtime, w.end-g.ramp)
		if j.err == nil {
			j.err = w.err
		}
		if r.err == nil && w.err != nil {
			r.err = w.err
		}
	}
	for i, j := range r.jobs {
		if r.flushed > 0 {
			j.runtime = max(0, r.flushed-g.ramp)
		}
		j.read.bytes, j.write.bytes = j.read.n*s.BS, j.write.n*s.writeSize()
		if j.read.n > 0 {
			j.read.runtime = j.runtime
		}
		if j.write.n > 0 {
			j.write.runtime = j.runtime
		}
		j.spreads(g.sampled[i*s.NumJobs/n : (i+1)*s.NumJobs/n])
		j.usage = r.usage.share(n)
	}
	for _, j := range r.jobs {
		j.read.bw.of = r.total(opKindRead).bytesPerSecond()
		j.write.bw.of = r.total(opKindWrite).bytesPerSecond()
	}
}

// spreads sums up the samples of several jobs for each interval, and sets the spreads of j.
func (j *job) spreads(jobs [][]sample) {
	var rb, wb, r, w []float64
	for i := range jobs[0] {
		var sum sample
		for _, samples := range jobs {
			sum.readBytes += samples[i].readBytes
			sum.writeBytes += samples[i].writeBytes
			sum.reads += samples[i].reads
			sum.writes += samples[i].writes
		}
		rb, wb = append(rb, sum.readBytes), append(wb, sum.writeBytes)
		r, w = append(r, sum.reads), append(w, sum.writes)
	}
	if j.read.n > 0 {
		j.read.bw, j.read.iops = newSpread(rb), newSpread(r)
	}
	if j.write.n > 0 {
		j.write.bw, j.write.iops = newSpread(wb), newSpread(w)
	}
}

// opKind is the kind of an operation.
type opKind int

const (
	opKindRead opKind = iota
	opKindWrite
)

// String returns the name of the kind.
func (k opKind) String() string {
	switch k {
	case opKindRead:
		return "read"
	case opKindWrite:
		return "write"
	}
	return fmt.Sprintf("opKind(%d)", int(k))
}

func (j *job) direction(kind opKind) *direction {
	if kind == opKindRead {
		return &j.read
	}
	return &j.write
}

// total returns the operations, bytes and time of one direction over all jobs.
func (r *result) total(kind opKind) *direction {
	d := &direction{}
	for _, j := range r.jobs {
		from := j.direction(kind)
		d.bytes += from.bytes
		d.n += from.n
		d.runtime = max(d.runtime, from.runtime)
	}
	return d
}

// errno returns the error number of err for the report, or 0 if err is nil.
func errno(err error) int {
	var e unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return int(e)
	case errors.Is(err, engine.ErrNoSpace):
		return int(unix.ENOSPC)
	}
	return int(unix.EIO)
}

// storeUse is the statistics of the store over the run of a group.
type storeUse struct {
	device                   string
	written, padded          int64 // bytes
	flushes, waits           int64
	merges, consolidations   int64
	segments, segmentsInUse  int
	recycled, cleaned, moved int64
	draining                 int
	hits, misses             int64 // Gets
	fromDisk                 int64 // fetches that read from disk
	evicted                  int64 // pages
	heap, mapped             int64 // bytes resident at the end
}

// storeStats returns the difference between two Stats.
func storeStats(before, after engine.Stats) storeUse {
	return storeUse{
		device:         after.Log.Device,
		written:        after.Log.BytesWritten - before.Log.BytesWritten,
		padded:         after.Log.BytesPadded - before.Log.BytesPadded,
		flushes:        after.Log.Flushes - before.Log.Flushes,
		waits:          after.Log.BufferWaits - before.Log.BufferWaits,
		merges:         after.Pages.Merges - before.Pages.Merges,
		consolidations: after.Pages.Consolidations - before.Pages.Consolidations,
		segments:       after.Space.Segments,
		segmentsInUse:  after.Space.SegmentsInUse,
		recycled:       after.Space.Recycled - before.Space.Recycled,
		cleaned:        after.Space.Cleaned - before.Space.Cleaned,
		moved:          after.Space.BytesMoved - before.Space.BytesMoved,
		draining:       after.Space.Draining,
		hits:           after.Cache.Hits - before.Cache.Hits,
		misses:         after.Cache.Misses - before.Cache.Misses,
		fromDisk:       after.Pages.FetchesCold - before.Pages.FetchesCold,
		evicted:        after.Cache.Evictions - before.Cache.Evictions,
		heap:           after.Cache.HeapResident,
		mapped:         after.Cache.MappedResident,
	}
}

// usage is the use of the processors by the whole process during the run of a group. The kernel does not measure
// goroutines.
type usage struct {
	userPercent, systemPercent     float64 // of the time of one processor
	switches, majFaults, minFaults int64   // context switches, page faults with and without I/O
}

// startUsage returns a function that returns the usage since the call of startUsage.
func startUsage(g *group) func() usage {
	var a unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &a) // cannot fail with these arguments
	return func() usage {
		var b unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &b)
		percent := func(from, to unix.Timeval) float64 {
			return float64(to.Nano()-from.Nano()) * 100 / float64(max(g.now(), 1))
		}
		return usage{userPercent: percent(a.Utime, b.Utime), systemPercent: percent(a.Stime, b.Stime),
			switches:  b.Nvcsw + b.Nivcsw - a.Nvcsw - a.Nivcsw,
			majFaults: b.Majflt - a.Majflt, minFaults: b.Minflt - a.Minflt}
	}
}

// share divides the usage by n jobs.
func (u usage) share(n int) usage {
	f, i := float64(n), int64(n)
	return usage{u.userPercent / f, u.systemPercent / f, u.switches / i, u.majFaults / i, u.minFaults / i}
}

// summary returns the error of the group with the name of the job, or nil.
func (r *result) summary() error {
	if r.err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", r.spec.Name, r.err)
}
