package simdisk

import (
	"fmt"
	"time"

	"pagecache/internal/vfs"
)

// OpenMap is vfs.File.OpenMap.
func (h *file) OpenMap(vfs.Pattern, vfs.Reader) (vfs.Map, error) { return &view{h}, nil }

// Advise is vfs.File.Advise. It changes nothing.
func (h *file) Advise(vfs.Pattern) error { return nil }

// OpenBulk is vfs.File.OpenBulk. It reads the same as ReadAt.
func (h *file) OpenBulk() vfs.Bulk { return bulk{h} }

type bulk struct{ h *file }

func (b bulk) ReadAt(p []byte, off int64) (int, error) { return b.h.ReadAt(p, off) }

// Direct is vfs.Bulk.Direct. The disk's page cache is read through.
func (bulk) Direct() bool { return false }

func (bulk) Buffer(n int) ([]byte, func(), error) { return make([]byte, n), func() {}, nil }

func (bulk) Close() error { return nil }

// OpenReader is vfs.FS.OpenReader. Nothing is cold here.
func (d *Disk) OpenReader(vfs.Mode) vfs.Reader { return reader{} }

type reader struct{}

func (reader) Report() (r vfs.ReaderReport, c vfs.ReaderCounts) { return }

func (reader) Settle(time.Duration) error { return nil }

func (reader) Close() error { return nil }

// view is a map of a file.
type view struct{ h *file }

func (v *view) View(off int64, n int) ([]byte, error) {
	d, c := v.h.d, &v.h.f.now
	d.mu.Lock()
	defer d.mu.Unlock()
	if off < 0 || n < 0 || off+int64(n) > c.size {
		return nil, fmt.Errorf("view %d bytes at %d of %s, which has %d: %w", n, off, v.h.name, c.size, vfs.ErrBounds)
	}
	if v.h.f.readable(off, int64(n)) < int64(n) {
		return nil, fmt.Errorf("view %d bytes at %d of %s: %w", n, off, v.h.name, vfs.ErrFault)
	}
	i, at := int(off/chunkSize), int(off%chunkSize)
	if at+n <= chunkSize && i < len(c.chunks) && c.chunks[i] != nil {
		return c.chunks[i][at : at+n : at+n], nil
	}
	return c.read(make([]byte, n), off), nil
}

// Holds is vfs.Map.Holds. It does not look at the bytes.
func (v *view) Holds(int64, []byte) bool { return true }

// Drop is vfs.Map.Drop. It does nothing: views always show the latest writes.
func (v *view) Drop(int64, int64) error { return nil }

// Warm is vfs.Map.Warm. Nothing is cold.
func (v *view) Warm([]vfs.Range) (int, error) { return 0, nil }

// IsWarm is vfs.Map.IsWarm.
func (v *view) IsWarm(vfs.Range) bool { return true }

// Cached is vfs.Map.Cached: everything is.
func (v *view) Cached(dst []bool, r vfs.Range) []bool {
	for range (r.Len + 4095) / 4096 {
		dst = append(dst, true)
	}
	return dst
}

// ReadAhead is vfs.Map.ReadAhead.
func (v *view) ReadAhead([]vfs.Range) {}

// Protect is vfs.Map.Protect. It does nothing: the views are on the heap.
func (v *view) Protect(int64, int64) error { return nil }

// Unprotect is vfs.Map.Unprotect.
func (v *view) Unprotect(int64, int64) error { return nil }

// Counts is vfs.Map.Counts.
func (v *view) Counts() (c vfs.MapCounts) { return }

func (v *view) Close() error { return nil }
