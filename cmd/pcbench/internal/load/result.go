// Package load applies the loads of package job to stores and measures them.
//
// runner.go opens the stores, in directories that place.go makes, and runs sections of jobs on them, one stage after
// another. section.go runs the jobs of one section; worker.go is the hot loop. pace.go computes intended starts,
// target.go and steady.go decide when a job ends by itself. values.go and verify.go make and check the contents of
// pages. timeline.go records the work over time, and result.go has the outcome.
package load

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/stats"
	"pagecache/engine"
)

// Result is the outcome of a run.
type Result struct {
	Started     time.Time
	Jobs        []*Job // those that are reported, in the order of their groups
	Groups      int
	Interrupted bool
	Disks       []Disk
	Err         error // the first error of all jobs
	Timelines   []*Timeline
	// Written are the bytes that the process gave to devices since the first section began, and Space those that the
	// stores take on disk, after a flush; with Runner.Settle.
	Written, Space int64
}

// Whole returns the outcome of all jobs as one.
func (r *Result) Whole() *Job { return together(r.Jobs) }

// Job is the outcome of one job, or of several together.
type Job struct {
	Spec    *job.Spec
	Group   int
	Jobs    int // number of jobs that it sums up
	Started time.Time
	Elapsed time.Duration // with the ramp
	Err     error
	// Errors is the number of errors after which the job went on, and First is the first of them.
	Errors   int64
	First    error
	Runtime  int64 // measured time in ns, without the ramp
	Dirs     [3]Direction
	Sync     stats.Latencies
	Usage    Usage
	Store    *StoreUse   // of the section, shared by its jobs
	Depth    int         // queue depth that latency_target has found, or iodepth
	Verified int64       // pages that were read again and checked
	NotBegun int64       // operations, in an open loop, that were due before the end and did not begin
	Steady   *Steadiness // of steadystate
}

// Direction sums up all operations of a job in one direction.
type Direction struct {
	Clat, Lat stats.Latencies // time of the call; time since the intended start
	Bytes     int64
	Runtime   int64 // ns
	BW, IOPS  stats.Spread
}

// N returns the number of operations.
func (d *Direction) N() int64 { return d.Clat.N }

// BytesPerSecond returns the speed in bytes.
func (d *Direction) BytesPerSecond() float64 { return perSecond(d.Bytes, d.Runtime) }

// PerSecond returns the speed in operations.
func (d *Direction) PerSecond() float64 { return perSecond(d.Clat.N, d.Runtime) }

func perSecond(n, ns int64) float64 {
	if ns <= 0 {
		return 0
	}
	return float64(n) * 1e9 / float64(ns)
}

// Total returns the operations, bytes and time of one direction over the jobs of a group.
func (r *Result) Total(group int, dir job.Dir) *Direction {
	d := &Direction{}
	for _, j := range r.Jobs {
		if j.Group != group {
			continue
		}
		from := &j.Dirs[dir]
		d.Bytes += from.Bytes
		d.Clat.N += from.Clat.N
		d.Runtime = max(d.Runtime, from.Runtime)
	}
	return d
}

// finish merges the jobs that are reported as one, and computes the shares of the jobs in their groups.
func (r *Result) finish(all []*Job) {
	for _, j := range all {
		if r.Err == nil && j.Err != nil {
			r.Err = &jobError{j.Spec.Name, j.Err}
		}
		if !j.Spec.Stats {
			continue
		}
		last := len(r.Jobs) - 1
		if j.Spec.GroupReporting && last >= 0 && r.Jobs[last].Group == j.Group && r.Jobs[last].Spec.GroupReporting {
			r.Jobs[last].merge(j)
		} else {
			r.Jobs = append(r.Jobs, j)
		}
		r.Groups = max(r.Groups, j.Group+1)
	}
	for _, j := range r.Jobs {
		for _, d := range job.Dirs {
			j.Dirs[d].BW.Of = r.Total(j.Group, d).BytesPerSecond()
		}
	}
}

// jobError is an error with the name of its job.
type jobError struct {
	name string
	err  error
}

func (e *jobError) Error() string { return e.name + ": " + e.err.Error() }
func (e *jobError) Unwrap() error { return e.err }

// merge adds another job, as fio does: counts are added, and the runtime is the longest. The means of the speeds of
// jobs that run side by side are added.
func (j *Job) merge(k *Job) {
	j.Jobs += k.Jobs
	j.Runtime = max(j.Runtime, k.Runtime)
	j.Elapsed = max(j.Elapsed, k.Elapsed)
	j.Errors += k.Errors
	j.Verified += k.Verified
	j.NotBegun += k.NotBegun
	if j.First == nil {
		j.First = k.First
	}
	if j.Err == nil {
		j.Err = k.Err
	}
	for d := range j.Dirs {
		a, b := &j.Dirs[d], &k.Dirs[d]
		a.Clat.Merge(&b.Clat)
		a.Lat.Merge(&b.Lat)
		a.Bytes += b.Bytes
		a.Runtime = max(a.Runtime, b.Runtime)
		a.BW, a.IOPS = addSpreads(a.BW, b.BW), addSpreads(a.IOPS, b.IOPS)
	}
	j.Sync.Merge(&k.Sync)
	j.Usage = j.Usage.plus(k.Usage)
}

// together returns the outcome of jobs as one, with the use of the store by the first.
func together(jobs []*Job) *Job {
	sum := &Job{Spec: jobs[0].Spec, Group: jobs[0].Group, Started: jobs[0].Started, Store: jobs[0].Store,
		Depth: jobs[0].Depth, Steady: jobs[0].Steady}
	for _, j := range jobs {
		sum.merge(j)
	}
	return sum
}

// addSpreads adds the speeds of two jobs. The deviation is that of independent jobs.
func addSpreads(a, b stats.Spread) stats.Spread {
	if a.N == 0 || b.N == 0 {
		if a.N == 0 {
			return b
		}
		return a
	}
	s := stats.Spread{N: a.N + b.N, Least: min(a.Least, b.Least), Most: max(a.Most, b.Most), Mean: a.Mean + b.Mean}
	s.Dev = max(a.Dev, b.Dev)
	return s
}

// Errno returns the error number of err for the report, or 0 if err is nil.
func Errno(err error) int {
	var e unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return int(e)
	case errors.Is(err, engine.ErrNoSpace):
		return int(unix.ENOSPC)
	case errors.Is(err, errVerify):
		return int(unix.EILSEQ)
	}
	return int(unix.EIO)
}

// StoreUse is the use of the store over the measured time of a section.
type StoreUse struct {
	Device                   string
	Given                    int64 // bytes that the jobs of the section wrote
	Written, Padded          int64 // bytes that were given to the device
	InFlight                 int64 // bytes of the log that were not stable when the jobs ended, before any flush
	Flushes, Waits           int64
	Merges, Consolidations   int64
	Segments, SegmentsInUse  int
	Recycled, Cleaned, Moved int64
	Draining                 int
	Reads                    int64 // Gets of the load
	Hits, Misses             int64 // of Reads
	FromDevice, FromCache    int64 // of Misses: from the device, from the kernel's page cache or an io buffer
	Evicted                  int64 // pages
	Heap, Mapped             int64 // bytes resident at the end
	SpaceAmplification       float64
	Snapshots                int64
	OldestTx                 uint64 // timestamp of the oldest open Tx at the end; 0 if none is open
	OpenTxs                  int
}

// WriteAmplification returns the bytes written for each byte given, or 0 if nothing was given.
func (u *StoreUse) WriteAmplification() float64 {
	if u.Given <= 0 {
		return 0
	}
	return float64(u.Written) / float64(u.Given)
}

// Served returns the percentages of the reads that were served from resident pages, from the kernel's page cache or an
// io buffer, and from the device.
func (u *StoreUse) Served() (resident, cache, device float64) {
	if u.Reads == 0 {
		return 0, 0, 0
	}
	n := float64(u.Reads) / 100
	return float64(u.Hits) / n, float64(u.FromCache) / n, float64(u.FromDevice) / n
}

// storeUse returns the difference between two Stats. The load counted its reads and the bytes
// that it gave itself: the store counts hits in steps, and also the bytes of calls that lose a race.
func storeUse(before, after engine.Stats, reads, given int64) *StoreUse {
	u := &StoreUse{
		Device:             after.Log.Device,
		Given:              given,
		Written:            after.Log.BytesWritten - before.Log.BytesWritten,
		Padded:             after.Log.BytesPadded - before.Log.BytesPadded,
		Flushes:            after.Log.Flushes - before.Log.Flushes,
		Waits:              after.Log.BufferWaits - before.Log.BufferWaits,
		Merges:             after.Pages.Merges - before.Pages.Merges,
		Consolidations:     after.Pages.Consolidations - before.Pages.Consolidations,
		Segments:           after.Space.Segments,
		SegmentsInUse:      after.Space.SegmentsInUse,
		Recycled:           after.Space.Recycled - before.Space.Recycled,
		Cleaned:            after.Space.Cleaned - before.Space.Cleaned,
		Moved:              after.Space.BytesMoved - before.Space.BytesMoved,
		Draining:           after.Space.Draining,
		Reads:              reads,
		Misses:             min(reads, after.Cache.Misses-before.Cache.Misses),
		Evicted:            after.Cache.Evictions - before.Cache.Evictions,
		Heap:               after.Cache.HeapResident,
		Mapped:             after.Cache.MappedResident,
		SpaceAmplification: after.Space.Amplification,
		Snapshots:          after.Snapshots - before.Snapshots,
		OldestTx:           after.Txs.Oldest,
		OpenTxs:            after.Txs.Open,
	}
	u.Hits = u.Reads - u.Misses
	cold, all := after.Pages.FetchesCold-before.Pages.FetchesCold, after.Pages.Fetches-before.Pages.Fetches
	if all > 0 { // a page of several fragments counts by their shares
		u.FromDevice = (u.Misses*cold + all/2) / all
	}
	u.FromCache = u.Misses - u.FromDevice
	return u
}
