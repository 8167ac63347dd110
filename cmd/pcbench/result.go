package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/engine"
)

// result is what a group of jobs has done.
type result struct {
	spec    *spec
	started time.Time
	elapsed time.Duration
	flushed int64 // when the final Flush ended, ns after started; 0 without one
	err     error // the first error of a worker, or that of the final Flush
	jobs    []*job
	usage   usage
	store   storeUse
}

// job is what one job has done, or all of them together.
type job struct {
	name        string
	jobs        int // how many it stands for
	err         error
	runtime     int64 // ns measured, without --ramp_time
	read, write direction
	sync        latencies
	usage       usage
}

// direction is all reads of a job, or all writes.
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

// newJob returns a job that has done nothing.
func newJob(name string, jobs int) *job {
	j := &job{name: name, jobs: jobs}
	j.read.init()
	j.write.init()
	j.sync.init()
	return j
}

// collect merges what the workers have noted into jobs, or into one with --group_reporting.
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
		j.read.bw.of, j.write.bw.of = r.total(true).bytesPerSecond(), r.total(false).bytesPerSecond()
	}
}

// spreads sums the samples of several jobs, interval by interval.
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
		rb, wb, r, w = append(rb, sum.readBytes), append(wb, sum.writeBytes), append(r, sum.reads), append(w, sum.writes)
	}
	if j.read.n > 0 {
		j.read.bw, j.read.iops = newSpread(rb), newSpread(r)
	}
	if j.write.n > 0 {
		j.write.bw, j.write.iops = newSpread(wb), newSpread(w)
	}
}

func (j *job) direction(read bool) *direction {
	if read {
		return &j.read
	}
	return &j.write
}

// total is one direction over all jobs: bytes and time only.
func (r *result) total(read bool) *direction {
	d := &direction{}
	for _, j := range r.jobs {
		from := j.direction(read)
		d.bytes += from.bytes
		d.n += from.n
		d.runtime = max(d.runtime, from.runtime)
	}
	return d
}

// errno is the number that stands for an error in the report.
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

// storeUse is what the store itself has done during a group.
type storeUse struct {
	device                   string
	written, padded          int64 // bytes
	flushes, waits           int64
	merges, consolidations   int64
	segments, segmentsInUse  int
	recycled, cleaned, moved int64
	draining                 int
	hits, misses, cold       int64 // Gets; and pulls from the disk itself
	evicted                  int64 // pages
	heap, mapped             int64 // bytes resident at the end
}

func storeStats(before, after engine.Stats) storeUse {
	return storeUse{device: after.Device, written: after.BytesWritten - before.BytesWritten, padded: after.BytesPadded - before.BytesPadded,
		flushes: after.Flushes - before.Flushes, waits: after.BufferWaits - before.BufferWaits, merges: after.Merges - before.Merges,
		consolidations: after.Consolidations - before.Consolidations, segments: after.Segments, segmentsInUse: after.SegmentsInUse,
		recycled: after.Recycled - before.Recycled, cleaned: after.Cleaned - before.Cleaned, moved: after.BytesMoved - before.BytesMoved,
		draining: after.Draining, hits: after.Hits - before.Hits, misses: after.Misses - before.Misses, cold: after.PullsCold - before.PullsCold,
		evicted: after.Evictions - before.Evictions, heap: after.HeapResident, mapped: after.MappedResident}
}

// usage is the processor time of the whole process while a group ran: goroutines have none of their own.
type usage struct {
	userPercent, systemPercent    float64 // of the measured time, of one processor
	switches, majFaults, minFault int64
}

// startUsage returns a function that tells what was used since.
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
			switches: b.Nvcsw + b.Nivcsw - a.Nvcsw - a.Nivcsw, majFaults: b.Majflt - a.Majflt, minFault: b.Minflt - a.Minflt}
	}
}

// share divides the usage by n jobs.
func (u usage) share(n int) usage {
	k := int64(n)
	return usage{u.userPercent / float64(n), u.systemPercent / float64(n), u.switches / k, u.majFaults / k, u.minFault / k}
}

// summary is the error as one line.
func (r *result) summary() error {
	if r.err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", r.spec.Name, r.err)
}
