package recovery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"pagecache/segments/format"
)

const (
	// readPiece is the number of bytes that are read at once where a larger read has failed.
	readPiece = 4096
	// readPatience is the time after which a segment is not read piece by piece any further: a dying disk may take
	// seconds for each error.
	readPatience = 10 * time.Second
)

// A gap is a range of bytes in a segment that the disk does not return.
type gap struct {
	from, to int
	err      error
}

// canSkip reports whether err says that the disk did not return bytes, which the log may not need.
func (s *scanner) canSkip(err error) bool { return s.o.Unreadable != nil && s.o.Unreadable(err) }

// readSegment reads a segment at off into buf. Where the disk does not return it, buf has zeros, and gaps says so.
func (s *scanner) readSegment(buf []byte, off int64) (gaps []gap, err error) {
	if err = s.readAt(s.body(), buf, off); err == nil || !s.canSkip(err) {
		return nil, err
	}
	start := time.Now()
	for pos := 0; pos < len(buf); pos += readPiece {
		if time.Since(start) > readPatience {
			return nil, err
		}
		piece := buf[pos:min(pos+readPiece, len(buf))]
		if err := s.readAt(s.body(), piece, off+int64(pos)); err != nil {
			if !s.canSkip(err) {
				return nil, err
			}
			clear(piece)
			if n := len(gaps); n > 0 && gaps[n-1].to == pos {
				gaps[n-1].to += len(piece)
			} else {
				gaps = append(gaps, gap{pos, pos + len(piece), err})
			}
		}
	}
	return gaps, nil
}

// blame replaces the reason why no valid message begins at w.end by the gap that the message lies in, if there is one.
// seg is the segment, with zeros in the gaps.
func (w *walked) blame(seg []byte, gaps []gap) {
	if w.why == nil || len(gaps) == 0 {
		return
	}
	need := format.HeaderSize
	if errors.Is(w.why, format.ErrCRC) { // so the header is whole, as far as it was read
		need = format.Word(binary.LittleEndian.Uint32(seg[w.end:])).Len()
	}
	for _, g := range gaps {
		if g.from < w.end+need && g.to > w.end {
			w.why, w.unread, w.toEnd = g.err, true, g.to == len(seg)
			return
		}
	}
}

// skipHeader notes that the disk does not return the header of slot id. conclude decides whether the log needs the
// slot.
func (s *scanner) skipHeader(id format.SegmentID, err error) {
	r := s.res
	if len(r.Corrupt) == 0 {
		s.firstCorrupt = err
	}
	r.Corrupt, r.Unreadable = append(r.Corrupt, id), append(r.Unreadable, id)
	if !s.o.Clean {
		s.slots = append(s.slots, slot{id: id, invalid: err})
	}
}

// firstLSN returns the LSN in the header of the first message of a segment, or NoLSN if it lies in a gap.
func firstLSN(seg []byte, gaps []gap) format.LSN {
	const first = format.SegmentStart
	for _, g := range gaps {
		if g.from < first+format.HeaderSize && g.to > first {
			return format.NoLSN
		}
	}
	return format.LSN(binary.LittleEndian.Uint64(seg[first+8:]))
}

// unreadNext returns the slot without a readable header that may hold the segment with the given base, and the error of
// its header, which is nil if there is no such slot. A slot does not hold it if its first message was not written:
// nothing behind that message was acknowledged (rule 5).
func (s *scanner) unreadNext(base format.LSN) (format.SegmentID, error) {
	for i := range s.slots {
		t := &s.slots[i]
		w := &s.segments[i]
		begins := w.first == format.NoLSN || w.first == base+format.SegmentStart
		if s.unread[t.id] != nil && !t.valid && begins && (w.base == base || w.base == format.NoLSN) {
			return t.id, t.invalid
		}
	}
	return 0, nil
}

const unreadable = "the log may go on where it cannot be read"

// checkUnread returns an error if the valid messages end at bytes that cannot be read, so that acknowledged ones may
// follow. It is not a torn write: that leaves bytes that can be read.
func (s *scanner) checkUnread(at stop, atEnd bool) error {
	if s.o.Clean && atEnd {
		return nil // nothing follows
	}
	if int64(at.lsn)%int64(s.size) == 0 { // the next segment is missing
		if id, err := s.unreadNext(at.lsn); err != nil {
			at.unread, at.why, at.place = true, err, s.placeOf(id, 0)
		}
	}
	if !at.unread {
		return nil
	}
	return s.corrupt(at, fmt.Sprintf("%s from LSN %v on", unreadable, at.lsn))
}
