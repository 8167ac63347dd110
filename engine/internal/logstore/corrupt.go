package logstore

import (
	"errors"
	"fmt"

	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// CorruptFile returns the error for a file that is corrupt, at a place that is not known. reason may be empty if err
// says it.
func CorruptFile(name, reason string, err error) error {
	return &recovery.CorruptError{File: name, Reason: reason, Err: err}
}

// CorruptLog returns the error for a part of the log that is missing or corrupt.
func (s *Store) CorruptLog(at recovery.Place, reason string) error {
	return &recovery.CorruptError{File: s.LogFile(), Place: at, Reason: reason}
}

// CorruptMessage returns the error for the message at lsn and ptr, which err describes; nil if err is nil. If the
// operating system refused to show the message, the error is not one of corruption: it says nothing about the message.
func (s *Store) CorruptMessage(lsn format.LSN, ptr format.DiskPtr, err error) error {
	if err == nil {
		return nil
	}
	if vfs.Classify(err) == vfs.TroubleRefused {
		return fmt.Errorf("read LSN %d at %v: %w", lsn, ptr, err)
	}
	return &recovery.CorruptError{File: s.LogFile(), Place: s.place(lsn, ptr), Err: err}
}

// Misplaced returns the error for a message that is intact but cannot be where it is.
func (s *Store) Misplaced(m recovery.Message, reason string) error {
	return s.CorruptLog(s.place(m.LSN, m.Ptr).WithPage(m.Page), reason)
}

// InPage names the page in an error of corruption: the corrupt message itself cannot be trusted to say it.
func InPage(pid format.PageID, err error) error {
	if ce := (*recovery.CorruptError)(nil); errors.As(err, &ce) {
		ce.Place = ce.Place.WithPage(pid)
	}
	return err
}

func (s *Store) place(lsn format.LSN, ptr format.DiskPtr) recovery.Place {
	off := s.onDisk(ptr.Off)
	return recovery.Place{}.WithSlot(s.SlotOf(off)).WithOffset(off).WithLSN(lsn)
}

// SlotOf returns the slot in which a file offset lies.
func (s *Store) SlotOf(off format.Offset) format.SegmentID {
	return format.SegmentID(int64(off) / int64(s.Super.SegmentSize))
}
