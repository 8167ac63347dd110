package engine_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

// distrusted is a log file that counts how it is read before its cached pages are dropped, and drops them when the test
// says so.
type distrusted struct {
	vfs.File
	bulk    chan struct{} // closed by the first read past the page cache
	begun   sync.Once     // closes bulk
	err     error         // of dropping
	dropped *atomic.Bool
	early   *atomic.Int64 // reads through the page cache before the pages were dropped
}

func (f *distrusted) DropCache(off, n int64) error {
	<-f.bulk
	err := errors.Join(f.err, f.File.DropCache(off, n))
	f.dropped.Store(true)
	return err
}

func (f *distrusted) ReadAt(p []byte, off int64) (int, error) {
	if !f.dropped.Load() {
		f.early.Add(1)
	}
	return f.File.ReadAt(p, off)
}

func (f *distrusted) OpenBulk() vfs.Bulk { return directBulk{f.File.OpenBulk(), f} }

type directBulk struct {
	vfs.Bulk
	f *distrusted
}

func (directBulk) Direct() bool { return true }

func (b directBulk) ReadAt(p []byte, off int64) (int, error) {
	b.f.begun.Do(func() { close(b.f.bulk) }) // by the first header; several goroutines may read headers
	if off%vfs.BulkAlign != 0 || len(p)%vfs.BulkAlign != 0 {
		b.f.early.Add(1) // it would be read through the page cache
	}
	return b.Bulk.ReadAt(p, off)
}

// After a kill, the log is read past the page cache while its cached pages are dropped. Nothing is read through the
// page cache before that, in stores and in logs, and an opening fails if the pages cannot be dropped. Proves rule 11.
func TestNothingIsReadFromTheDistrustedCache(t *testing.T) {
	t.Parallel()
	refusal := errors.New("fadvise refuses")
	for _, dropError := range []error{nil, refusal} {
		for _, asLog := range []bool{false, true} {
			d := simdisk.New(1, simdisk.Options{})
			o := enginetest.SimOptions(d)
			o.SegmentSize = 1 << 20
			if asLog {
				l := enginetest.OpenLog(t, "/store", o)
				for range 3000 { // some sealed segments with indexes
					if _, _, err := l.Write(make([]byte, 1000)); err != nil {
						t.Fatal(err)
					}
				}
				enginetest.Flush(t, l)
			} else {
				pc := enginetest.OpenWith(t, "/store", engine.Bytes{}, o)
				enginetest.AllocateMany(t, pc, 300, 10_000)
				enginetest.Flush(t, pc)
			}
			killed := d.Crash(2)
			f := &distrusted{bulk: make(chan struct{}), err: dropError, dropped: new(atomic.Bool),
				early: new(atomic.Int64)}
			fs := &simdisk.Wrap{FS: killed, File: func(dir vfs.Dir, name string, flag vfs.Flag) (vfs.File, error) {
				inner, err := dir.Open(name, flag)
				if err != nil || name != enginetest.LogName {
					return inner, err
				}
				f.File = inner
				return f, nil
			}}
			again := enginetest.WithSeam(&engine.Options{SegmentSize: 1 << 20, FlushEvery: -1}, seam.Options{FS: fs})
			var err error
			var s interface{ Close() error }
			if asLog {
				s, err = engine.OpenLog("/store", again)
			} else {
				s, err = engine.Open("/store", engine.Bytes{}, again)
			}
			if !errors.Is(err, dropError) || dropError == nil && err != nil {
				t.Errorf("log %v: error %v, want %v", asLog, err, dropError)
			}
			if n := f.early.Load(); n != 0 {
				t.Errorf("log %v: %d reads through the page cache before it was dropped", asLog, n)
			}
			if err == nil {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}
