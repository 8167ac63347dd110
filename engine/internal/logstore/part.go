package logstore

import (
	"fmt"
	"io"
	"time"

	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

// A Part is the beginning of a segment.
type Part struct {
	Found bool // false: no slot holds the segment any more
	ID    format.SegmentID
	Seed  format.Seed
	Bytes []byte // of blocks that cannot be read: zeros
	Err   error  // why a block cannot be read; nil if all can
}

// readBlock is the number of bytes that are read at once around a place that cannot be read.
const readBlock = 4096

// ReadPart reads the beginning of the segment with the given base into buf. The bytes are stable ones. It reads around
// blocks that the disk cannot read; any other error is returned.
func (s *Store) ReadPart(base format.LSN, buf []byte) (Part, error) {
	id, found := s.Space.Find(base)
	if !found {
		return Part{}, nil
	}
	seg := s.Space.Segment(id)
	p := Part{Found: true, ID: id, Seed: seg.Seed(), Bytes: buf}
	const header = format.SegmentStart // no message begins there, and Read takes messages
	if seg.State() != segments.StateActive || len(buf) <= header || !s.Log.Read(buf[header:], base+header) {
		var err error
		if p.Err, err = s.readAround(buf, int64(id.Offset(s.Super.SegmentSize))); err != nil {
			return Part{}, fmt.Errorf("read segment of LSN %v in slot %v: %w", base, id, err)
		}
	}
	if seg.Base() != base { // it was recycled meanwhile
		return Part{}, nil
	}
	return p, nil
}

// readPatience is the time after which a range is not read block by block any further: a dying disk may take seconds
// for each error.
const readPatience = 10 * time.Second

// readAround fills buf from the file. Blocks that the disk cannot read, and bytes beyond the end of the file, are zero.
// unread is the error of the first such block. After readPatience, it is returned as err.
func (s *Store) readAround(buf []byte, off int64) (unread, err error) {
	n, err := s.file.ReadAt(buf, off)
	if err == nil || err == io.EOF {
		clear(buf[n:])
		return nil, nil
	}
	if !vfs.IsUnreadable(err) {
		return nil, err
	}
	start := time.Now()
	for at := 0; at < len(buf); at += readBlock {
		if unread != nil && time.Since(start) > readPatience {
			return nil, unread
		}
		b := buf[at:min(at+readBlock, len(buf))]
		n, err := s.file.ReadAt(b, off+int64(at))
		switch {
		case err == nil:
		case err == io.EOF:
			clear(b[n:])
		case vfs.IsUnreadable(err):
			clear(b)
			if unread == nil {
				unread = err
			}
		default:
			return nil, err
		}
	}
	return unread, nil
}

// Used returns the number of bytes, header included, of the segment with the given base that may hold messages.
func (s *Store) Used(base format.LSN) int { return s.Super.Ends.Used(base, s.Super.SegmentSize) }
