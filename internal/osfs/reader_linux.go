package osfs

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/internal/vfs"
	"pagecache/iouring"
)

// maxLanes bounds through how many rings a store reads. Two were 4 % faster than one for 64 readers on two processors, and three no better.
const maxLanes = 4

func (osFS) OpenReader(ring vfs.Mode) vfs.Reader {
	r := &osReader{opts: iouring.Options{Ring: mode(ring)}, open: iouring.OpenReader}
	r.usable.Store(int32(min(maxLanes, runtime.GOMAXPROCS(0))))
	return r
}

// osReader is a vfs.Reader, and a mmapread.Fetcher, of a few iouring.Readers: the first is opened when it is first used, each other by whoever finds
// those before it submitting, which is most of the work of a read and done by one caller at a time in each.
type osReader struct {
	opts iouring.Options
	open func(iouring.Options) (*iouring.Reader, error) // seam
	// lanes are set once each, in order, under mu. A stale nil costs the mutex.
	lanes [maxLanes]atomic.Pointer[iouring.Reader]
	// usable is how many lanes there may be. Lowered, never below 1, under mu, where no more rings can be had.
	usable atomic.Int32

	mu     sync.Mutex
	reason string // why not as the options want it
	closed bool
}

var errReaderClosed = fmt.Errorf("reader: %w", os.ErrClosed)

// get returns the first lane that nobody is submitting to, else the last.
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

// getSlow opens lane i, or returns the one before it where it cannot be had.
func (o *osReader) getSlow(i int, before *iouring.Reader) (*iouring.Reader, error) {
	if i == 0 {
		o.mu.Lock()
	} else if !o.mu.TryLock() { // while it is being opened there is another
		return before, nil
	}
	defer o.mu.Unlock()
	if r := o.lanes[i].Load(); r != nil {
		return r, nil
	}
	if o.closed {
		return nil, errReaderClosed
	}
	if i >= int(o.usable.Load()) { // somebody else has just found out
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

// first opens the reader that all callers may come to. Where that insists on what does not work it takes system calls: it is too late to refuse.
func (o *osReader) first() (*iouring.Reader, error) {
	r, err := o.open(o.opts)
	if err == nil {
		return r, nil
	}
	o.reason = err.Error()
	r, again := o.open(iouring.Options{Ring: iouring.ModeOff})
	if again != nil {
		return nil, errors.Join(err, again)
	}
	return r, nil
}

// another opens a reader beside others, nil if it would have no ring. Nobody who comes there reads alone.
func (o *osReader) another() *iouring.Reader {
	opts := o.opts
	opts.Ring, opts.Park = iouring.ModeOn, true
	r, err := o.open(opts)
	if err != nil {
		return nil
	}
	return r
}

// Fetch is mmapread.Fetcher.Fetch.
func (o *osReader) Fetch(fd int, ranges []vfs.Range) error {
	r, err := o.get()
	if err != nil {
		return err
	}
	return r.Fetch(fd, ranges)
}

// ReadAhead is mmapread.Fetcher.ReadAhead.
func (o *osReader) ReadAhead(fd int, ranges []vfs.Range) int {
	r, err := o.get()
	if err != nil {
		return 0
	}
	return r.ReadAhead(fd, ranges)
}

// Settle is Reader.Settle. Each lane in turn is seen to have ended what it had begun before.
func (o *osReader) Settle(limit time.Duration) (err error) {
	end := time.Now().Add(limit)
	for _, r := range o.opened() {
		err = errors.Join(err, r.Settle(max(0, time.Until(end))))
	}
	return err
}

// opened returns the lanes there are.
func (o *osReader) opened() (all []*iouring.Reader) {
	for i := range o.lanes {
		if r := o.lanes[i].Load(); r != nil {
			all = append(all, r)
		}
	}
	return all
}

// Report is Reader.Report: of the first lane, and the sums of all.
func (o *osReader) Report() (report vfs.ReaderReport, sum vfs.ReaderCounts) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, r := range o.opened() {
		if i == 0 {
			rep := r.Report()
			report = vfs.ReaderReport{Ring: rep.Ring, Reason: rep.Reason}
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

// Close is Reader.Close.
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
