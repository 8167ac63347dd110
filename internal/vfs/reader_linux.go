package vfs

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/iouring"
)

func (osFS) OpenReader(o iouring.Options) Reader { return &osReader{opts: o, open: iouring.OpenReader} }

// osReader is a Reader, and a mmapread.Fetcher, that opens an iouring.Reader when it is first used.
type osReader struct {
	opts iouring.Options
	open func(iouring.Options) (*iouring.Reader, error) // seam
	// r is set once, under mu, by whoever reads first. A stale nil costs the mutex.
	r atomic.Pointer[iouring.Reader]

	mu     sync.Mutex
	reason string // why not as the options want it
	closed bool
}

var errReaderClosed = fmt.Errorf("reader: %w", os.ErrClosed)

func (o *osReader) get() (*iouring.Reader, error) {
	if r := o.r.Load(); r != nil {
		return r, nil
	}
	return o.getSlow()
}

// getSlow opens the reader. Where that insists on what does not work it takes system calls: it is too late to refuse.
func (o *osReader) getSlow() (*iouring.Reader, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.r.Load(); r != nil {
		return r, nil
	}
	if o.closed {
		return nil, errReaderClosed
	}
	r, err := o.open(o.opts)
	if err != nil {
		o.reason = err.Error()
		var again error
		if r, again = o.open(iouring.Options{Ring: iouring.Off}); again != nil {
			return nil, errors.Join(err, again)
		}
	}
	o.r.Store(r)
	return r, nil
}

// Fetch is mmapread.Fetcher.Fetch.
func (o *osReader) Fetch(fd int, ranges []Range) error {
	r, err := o.get()
	if err != nil {
		return err
	}
	return r.Fetch(fd, ranges)
}

// Start is mmapread.Fetcher.Start.
func (o *osReader) Start(fd int, ranges []Range) int {
	r, err := o.get()
	if err != nil {
		return 0
	}
	return r.Start(fd, ranges)
}

// Settle is Reader.Settle.
func (o *osReader) Settle(limit time.Duration) error {
	if r := o.r.Load(); r != nil {
		return r.Settle(limit)
	}
	return nil
}

func (o *osReader) Report() (iouring.Report, iouring.ReaderCounts) {
	r := o.r.Load()
	if r == nil {
		return iouring.Report{}, iouring.ReaderCounts{}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	report := r.Report()
	if o.reason != "" {
		report.Reason = o.reason
	}
	return report, r.Counts()
}

func (o *osReader) Close() error {
	o.mu.Lock()
	o.closed = true
	r := o.r.Load()
	o.mu.Unlock()
	if r == nil {
		return nil
	}
	return r.Close()
}
