package osfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/trace"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/internal/vfs"
	"pagecache/iouring"
)

// maxLanes is the limit on the rings that a store reads through. Two were 4 % faster than one for 64 readers on two
// processors, and three no better.
const maxLanes = 4

func (osFS) OpenReader(ring vfs.Mode) vfs.Reader {
	r := &osReader{opts: iouring.ReaderOptions{Ring: mode(ring)}, open: iouring.OpenReader}
	r.usable.Store(int32(min(maxLanes, runtime.GOMAXPROCS(0))))
	return r
}

// osReader is a vfs.Reader and a mmapread.Fetcher over up to maxLanes iouring.Readers, its lanes. Submitting is most of
// the work of a read, and in each lane one caller at a time does it. The first read opens the first lane; a caller that
// finds all open lanes submitting opens another one.
type osReader struct {
	opts    iouring.ReaderOptions
	fetched func(took time.Duration)                             // nil, or see OnFetch
	open    func(iouring.ReaderOptions) (*iouring.Reader, error) // seam for tests
	// lanes are set once each, in order, under mu. A stale nil costs a try of the mutex.
	lanes [maxLanes]atomic.Pointer[iouring.Reader]
	// usable is the number of lanes that there may be. It is lowered under mu, never below 1, when no further ring can
	// be opened.
	usable atomic.Int32

	mu     sync.Mutex
	reason string // why the first lane is not what the options require
	closed bool
}

var errReaderClosed = fmt.Errorf("reader: %w", os.ErrClosed)

// OnDegraded makes f be called with the reason, at most once for each lane, if reading goes on with system calls
// because io_uring does not work. It is called before the first read.
func (o *osReader) OnDegraded(f func(reason string)) { o.opts.Degraded = f }

// OnFetch makes f be called after each Fetch that did not fail, by its caller, with the time that it took. It is called
// before the first read.
func (o *osReader) OnFetch(f func(took time.Duration)) { o.fetched = f }

// get returns the first lane in which nobody is submitting, or the last lane if there is none.
func (o *osReader) get() (*iouring.Reader, error) {
	var before *iouring.Reader
	for i := range int(o.usable.Load()) {
		r := o.lanes[i].Load()
		if r == nil {
			return o.getSlow(i, before)
		}
		if !r.Submitting() {
			return r, nil
		}
		before = r
	}
	return before, nil
}

// getSlow opens lane i. It returns the lane before it if lane i cannot be opened, or another caller is opening it.
func (o *osReader) getSlow(i int, before *iouring.Reader) (*iouring.Reader, error) {
	if i == 0 {
		o.mu.Lock()
	} else if !o.mu.TryLock() { // another caller is opening a lane
		return before, nil
	}
	defer o.mu.Unlock()
	if r := o.lanes[i].Load(); r != nil {
		return r, nil
	}
	if o.closed {
		return nil, errReaderClosed
	}
	if i >= int(o.usable.Load()) { // another caller has just found that it cannot be opened
		return before, nil
	}
	var r *iouring.Reader
	var err error
	if i == 0 {
		r, err = o.first()
	} else {
		r = o.another()
	}
	if r == nil {
		o.usable.Store(int32(max(1, i)))
		return before, err
	}
	o.lanes[i].Store(r)
	return r, nil
}

// first opens the first lane. If the options insist on a ring and it does not work, the lane uses system calls: it is
// too late to fail.
func (o *osReader) first() (*iouring.Reader, error) {
	r, err := o.open(o.opts)
	if err == nil {
		return r, nil
	}
	o.reason = err.Error()
	if o.opts.Degraded != nil {
		o.opts.Degraded(o.reason)
	}
	r, again := o.open(iouring.ReaderOptions{Ring: iouring.ModeOff})
	if again != nil {
		return nil, errors.Join(err, again)
	}
	return r, nil
}

// another opens a further lane; it returns nil if that would have no ring. No caller reads alone there, so all park at
// once.
func (o *osReader) another() *iouring.Reader {
	opts := o.opts
	opts.Ring, opts.Park = iouring.ModeOn, true
	r, err := o.open(opts)
	if err != nil {
		return nil
	}
	return r
}

// Fetch is mmapread.Fetcher.Fetch. Execution traces show it as a region of the caller's goroutine. Only here, where
// somebody waits for the disk, a read costs two looks at the clock.
func (o *osReader) Fetch(fd int, ranges []vfs.Range) error {
	r, err := o.get()
	if err != nil {
		return err
	}
	region, start := trace.StartRegion(context.Background(), "pagecache: read from disk"), time.Now()
	err = r.Fetch(fd, ranges)
	if region.End(); err == nil && o.fetched != nil {
		o.fetched(time.Since(start))
	}
	return err
}

// ReadAhead is mmapread.Fetcher.ReadAhead.
func (o *osReader) ReadAhead(fd int, ranges []vfs.Range) int {
	r, err := o.get()
	if err != nil {
		return 0
	}
	return r.ReadAhead(fd, ranges)
}

// Settle is vfs.Reader.Settle. It settles the lanes in turn.
func (o *osReader) Settle(limit time.Duration) (err error) {
	end := time.Now().Add(limit)
	for _, r := range o.opened() {
		err = errors.Join(err, r.Settle(max(0, time.Until(end))))
	}
	return err
}

// opened returns the lanes that are open.
func (o *osReader) opened() (all []*iouring.Reader) {
	for i := range o.lanes {
		if r := o.lanes[i].Load(); r != nil {
			all = append(all, r)
		}
	}
	return all
}

// Report is vfs.Reader.Report: the report of the first lane, and the sums of the counts of all lanes.
func (o *osReader) Report() (report vfs.ReaderReport, sum vfs.ReaderCounts) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, r := range o.opened() {
		if i == 0 {
			report = vfs.ReaderReport(r.Report())
		}
		c := r.Counts()
		sum.Reads += c.Reads
		sum.Started += c.Started
		sum.Calls += c.Calls
		sum.Submissions += c.Submissions
		sum.Bytes += c.Bytes
	}
	if o.reason != "" {
		report.Reason = o.reason
	}
	return report, sum
}

// Close is vfs.Reader.Close.
func (o *osReader) Close() (err error) {
	o.mu.Lock()
	o.closed = true
	all := o.opened()
	o.mu.Unlock()
	for _, r := range all {
		err = errors.Join(err, r.Close())
	}
	return err
}
