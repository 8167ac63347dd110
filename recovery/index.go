package recovery

import (
	"slices"

	"pagecache/segments/format"
)

// A sealed segment of a standalone log ends with an index. Recovery reads the index instead of the segment, and leaves
// it to readers to verify the records (V10). That an index is valid proves only that its own blocks were written, since
// several writes are in flight at once: other blocks of the segment may be missing. So an index is relied on only in a
// segment that ends at or below an end of the log that is known to be durable from another place: the superblock, or a
// later segment. Later segments are read first, and a few of them are enough, because each message carries the
// durable end that was known when it was committed.

// readLog is readBodies for a standalone log. While the newest segments are read, the other readers probe the slots
// without a valid header, and read indexes, of which few will turn out to be of no use.
func (s *scanner) readLog(readers []reader) {
	s.indexes = make([]walked, len(s.slots))
	ahead := func(r *reader, i int) {
		switch t := &s.slots[i]; {
		case !t.valid:
			r.read(i)
		case !t.void:
			r.indexOf(i)
		}
	}
	s.inParallel(readers[1:], ahead, func() { s.readNewest(&readers[0]) })
	s.inParallel(readers, func(r *reader, i int) {
		if !s.segments[i].read {
			r.read(i)
		}
	}, func() {})
}

// readNewest reads the newest segments of a standalone log, until those before are proven to be durable as a whole.
func (s *scanner) readNewest(r *reader) {
	s.proven = s.known()
	if s.o.Clean {
		s.proven = max(s.proven, s.o.End)
	}
	for _, i := range slices.Backward(s.chain) {
		if s.provenWhole(&s.slots[i]) {
			return // and so are all before it
		}
		r.read(i)
		s.proven = max(s.proven, s.segments[i].durable, s.segments[i].stable+1)
	}
}

// provenWhole reports whether a slot holds a segment of a standalone log that is proven to have been durable as a
// whole.
func (s *scanner) provenWhole(t *slot) bool {
	return s.o.Log && t.valid && !t.void && t.base+format.LSN(s.size) <= s.proven
}

// outlineShare is the number of bytes of a segment for each run of its index that the result keeps at most.
const outlineShare = 4096

// indexPiece is the number of bytes at the end of a segment that are read to find its index.
const indexPiece = 4096

// indexOf returns what the index of slot i of s.slots says, or nil if there is none, or it is not valid or cannot be
// read: then the segment has to be walked.
func (r *reader) indexOf(i int) *walked {
	x := &r.s.indexes[i]
	if !x.read {
		x.read, x.indexed = true, r.readIndex(&r.s.slots[i], x)
	}
	if !x.indexed {
		return nil
	}
	return x
}

// readIndex reads the index of a segment into w.
func (r *reader) readIndex(t *slot, w *walked) bool {
	s := r.s
	seed := format.MakeSeed(s.o.Store, t.gen, t.id)
	b, ok := r.readEnd(t, min(indexPiece, s.size))
	if !ok {
		return false
	}
	trailer, err := format.DecodeIndexTrailer(b[len(b)-format.IndexTrailerSize:], t.base, s.size, seed)
	if err != nil {
		return false
	}
	if trailer.Len > len(b) {
		if b, ok = r.readEnd(t, trailer.Len); !ok {
			return false
		}
	}
	lsn := t.base + format.LSN(s.size-trailer.Len)
	h, body, err := format.DecodeMessage(b[len(b)-trailer.Len:], lsn, seed)
	if err != nil || h.Kind != format.KindIndex {
		return false
	}
	v, err := format.DecodeIndex(body, h, s.size, seed)
	if err != nil {
		return false
	}
	used := s.o.Ends.Used(t.base, s.size) // what the index lists behind that does not count
	if used == s.size && v.Listed() && v.Runs() <= s.size/outlineShare {
		x := v.Outline()
		w.outline = &x
	}
	for lsn, begin := range v.Markers() {
		if lsn < t.base+format.LSN(used) {
			w.marks = append(w.marks, mark{lsn, begin})
		}
	}
	w.base, w.end, w.durable, w.stable = t.base, s.size, h.Durable(), v.Stable
	for off := range v.Leaves() {
		if off < used {
			r.readLeave(t, w, off) // if that fails, checkSet refuses the log, should it need to know
		}
	}
	return true
}

// readLeave reads the message at an offset of a segment, by which segments leave, if it is intact.
func (r *reader) readLeave(t *slot, w *walked, off int) {
	s, lsn := r.s, t.base+format.LSN(off)
	b := make([]byte, min(format.HeaderSize+format.LeaveSize(format.MaxLeave), s.size-off))
	if err := r.small.readAt(s, b, int64(t.id.Offset(s.size))+int64(off)); err != nil {
		return
	}
	h, body, err := format.DecodeMessage(b, lsn, format.MakeSeed(s.o.Store, t.gen, t.id))
	if err != nil || h.Kind != format.KindLeave {
		return
	}
	if l, err := format.DecodeLeave(body, lsn); err == nil {
		w.leaves, w.stable = append(w.leaves, leave{lsn, l}), max(w.stable, l.Stable)
	}
}

// readEnd reads the last n bytes of a segment, or a few more.
func (r *reader) readEnd(t *slot, n int) ([]byte, bool) {
	n = min((n+indexPiece-1)&^(indexPiece-1), r.s.size)
	if r.s.o.Bulk == nil {
		r.index = slices.Grow(r.index[:0], n)[:n]
	} else if buf, err := r.buffer(); err == nil {
		r.index = buf[:n]
	} else {
		return nil, false
	}
	off := int64(t.id.Offset(r.s.size)) + int64(r.s.size-n)
	return r.index, r.s.readAt(r.s.body(), r.index, off) == nil
}

// forgiveIndexes lets the log go on where nothing but the index of a segment is corrupt, and notes it in the result. It
// does the same where the disk does not return the end of a segment with the index in it: records there are errors when
// they are read. A segment that is not proven to have been durable as a whole was torn there, and ends there.
func (s *scanner) forgiveIndexes() {
	s.proven = max(s.proven, s.known())
	for _, i := range s.chain {
		t, w := &s.slots[i], &s.segments[i]
		if w.indexed {
			s.res.Indexed++
		}
		reason := "index of the segment is corrupt"
		switch {
		case !s.provenWhole(t):
			continue
		case w.badIndex:
		case w.toEnd && t.base+format.LSN(s.size) <= s.stable+1:
			// Batch markers may lie there. But no batch that has begun there is open, since all of it was stable.
			reason = "the end of the segment, with its index, cannot be read"
			s.lostBelow = t.base + format.LSN(s.size)
		default:
			continue
		}
		at := s.placeOf(t.id, w.end).WithLSN(t.base + format.LSN(w.end))
		bad := &CorruptError{File: s.o.File, Place: at, Err: w.why, Reason: reason}
		s.res.BadIndexes = append(s.res.BadIndexes, bad)
		w.end, w.why, w.unread = s.size, nil, false
	}
}
