package logstore

import (
	"fmt"

	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments"
)

// bulkSegment is the segment size in bytes from which on segments are read past the page cache. That is twice as fast
// for 8 MiB, as fast for 1 MiB, and slower for less, since nothing is read ahead.
const bulkSegment = 1 << 20

// distrust is the state of a log that is read past the page cache while its cached pages are dropped. It belongs to the
// goroutine that opens the store.
type distrust struct {
	bulk    vfs.Bulk     // nil if the log is read through the page cache
	dropped <-chan error // not nil while a goroutine drops the cached pages
}

// Distrust is the first step of recovery. Rule 11: after anything but a clean close, the page cache is not trusted. The
// file is synced and its cached pages are dropped, and Start writes the tail anew before anything is shown. Dropping
// takes some 80 ms for each gigabyte that is cached; if the log can be read without it, that goes on until Recover has
// read the log, and, for a standalone log whose tail Recover leaves in memory, until Start writes. If dropping fails,
// that refuses the opening, in the latter case after Prepare has reserved disk space for a slot.
func (s *Store) Distrust() error {
	size, err := s.file.Size()
	if err != nil {
		return err
	}
	s.beginDevice()
	if !s.Super.Clean && size > 0 {
		if err := s.file.Sync(); err != nil {
			return fmt.Errorf("sync log before reading it: %w", err)
		}
		if err := s.beginDrop(size); err != nil {
			return err
		}
	}
	const _ = uint(recovery.MaxSegments - segments.MaxSlots) // at least 0: the scan has an index for every slot
	if slots := (size-1)/int64(s.Super.SegmentSize) + 1; slots > segments.MaxSlots {
		reason := fmt.Sprintf("file too large: its %d bytes exceed the limit of %d segments", size, segments.MaxSlots)
		return CorruptFile(s.LogFile(), reason, nil)
	}
	return nil
}

// beginDrop drops the cached pages of the log, or begins to. The log is read past them if that is faster. Then it reads
// what the disk holds even before they are dropped, except for the last part of a file that ends inside a block.
func (s *Store) beginDrop(size int64) error {
	drop := func() error {
		if err := s.file.DropCache(0, size); err != nil {
			return fmt.Errorf("drop cached pages of the log: %w", err)
		}
		return nil
	}
	d := &s.distrust
	if s.Super.SegmentSize >= bulkSegment { // after a clean close the page cache is worth something
		d.bulk = s.file.OpenBulk()
	}
	const _ = uint(recovery.BulkAlign - vfs.BulkAlign) // at least 0: what the scan reads is aligned as Bulk needs it
	if d.bulk == nil || !d.bulk.Direct() || size%vfs.BulkAlign != 0 {
		return drop()
	}
	dropped := make(chan error, 1)
	d.dropped = dropped
	go func() { dropped <- drop() }()
	return nil
}

// awaitDrop returns once the cached pages of the log are dropped, or could not be. Until then nothing is read through
// the page cache, and nothing is written: Prepare may reserve disk space for a slot, no more. Only the goroutine that
// opens the store calls it.
func (d *distrust) awaitDrop() error {
	if d.dropped == nil {
		return nil
	}
	dropped := d.dropped
	d.dropped = nil
	return <-dropped
}

// closeBulk ends the reading past the page cache. It returns why the log was not read past it, if that was tried in
// vain.
func (d *distrust) closeBulk() (reason string) {
	if d.bulk == nil {
		return ""
	}
	if b, ok := d.bulk.(interface{ Reason() string }); ok {
		reason = b.Reason()
	}
	_ = d.bulk.Close()
	d.bulk = nil
	return reason
}

// close ends what Distrust has begun.
func (d *distrust) close() {
	_ = d.awaitDrop() // an opening that fails has another reason already
	_ = d.closeBulk()
}
