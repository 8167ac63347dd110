package logstore

import (
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// The declarations below are for tests of the engine. No other code uses them.

// File returns the log file.
func (s *Store) File() vfs.File { return s.file }

// Reserved returns the number of slots that are kept for making room, and the number of slots of the file for each of
// which one more is kept.
func (s *Store) Reserved() (n, per int) { return s.reserved() }

// Written returns the superblock as it was written last, by Close for example.
func (s *Store) Written() format.Superblock { return s.super.current() }

// Beside calls write with the side device.
func (s *Store) Beside(write func(dev vfs.Device, zeros []byte) error) error { return s.beside(write) }

// MarkSlots durably writes the headers of slots that hold nothing.
func (s *Store) MarkSlots(dev vfs.Device, buf []byte, slots []format.SegmentID, h format.SegmentHeader) error {
	return s.markSlots(dev, buf, slots, h)
}

// SetMemoryDir replaces the file system in memory of temporary stores by a directory with that many free bytes;
// negative: as many as it has.
func SetMemoryDir(dir string, free int64) (restore func()) {
	oldDir, oldRoom := memoryDir, memoryRoom
	if memoryDir = dir; free >= 0 {
		memoryRoom = func(string) int64 { return free }
	}
	return func() { memoryDir, memoryRoom = oldDir, oldRoom }
}

// SideDepth is the number of writes in flight beside the log; BulkSegment the segment size from which on segments are
// read past the page cache; LockPatience how long an opening waits for the lock.
const (
	SideDepth    = sideDepth
	BulkSegment  = bulkSegment
	LockPatience = lockPatience
)
