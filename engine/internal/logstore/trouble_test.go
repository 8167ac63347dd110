package logstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// A message that the disk does not return, or that is not as it was written, is ErrCorrupt with the cause. A refusal of
// the operating system is not.
func TestCorruptMessageTellsRefusals(t *testing.T) {
	s := &Store{Dir: "/store", Super: format.Superblock{SegmentSize: format.MinSegmentSize}}
	for _, c := range []struct {
		err     error
		corrupt bool
	}{
		{syscall.EIO, true}, {fmt.Errorf("%w: %w", vfs.ErrFault, syscall.EIO), true}, {vfs.ErrFault, true},
		{format.ErrCRC, true}, {vfs.ErrBounds, true}, {errPointer, true},
		{syscall.EPERM, false}, {syscall.EINVAL, false}, {syscall.ENOMEM, false}, {syscall.EAGAIN, false},
		{fs.ErrClosed, false}, {os.ErrDeadlineExceeded, false},
	} {
		err := s.CorruptMessage(4096, format.DiskPtr{Off: 4096, Len: 24}, fmt.Errorf("madvise: %w", c.err))
		if errors.Is(err, recovery.ErrCorrupt) != c.corrupt || !errors.Is(err, c.err) {
			t.Errorf("%v: %v, want corruption %v", c.err, err, c.corrupt)
		}
	}
	if err := s.CorruptMessage(1, format.DiskPtr{}, nil); err != nil {
		t.Error(err)
	}
}

// A limit of our own on waiting for the disk says nothing about a sector.
func TestBadSectorIsNoTimeout(t *testing.T) {
	if !isBadSector(fmt.Errorf("write: %w", syscall.EIO)) {
		t.Error("EIO is no bad sector")
	}
	if isBadSector(fmt.Errorf("%w: settle: %w", ErrLater, os.ErrDeadlineExceeded)) {
		t.Error("a wait that ended is a bad sector")
	}
}
