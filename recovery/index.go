package recovery

import (
	"slices"

	"pagecache/segments/format"
)

// A sealed segment of a standalone log ends with an index. Recovery reads the index instead of the segment, and leaves
// it to readers to verify the records (V10). That an index is valid proves only that its own blocks were written, since
// several writes are in flight at once: other blocks of the segment may be missing. So an index is relied on only in a
// segment that ends at or below an end of the log that is known to be durable from elsewhere: from the superblock, or
// from a later segment. Later segments are read first, and a few of them are enough, because each message carries the
// durable end that was known when it was committed.

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

// provenWhole reports whether a slot holds a segment of a standalone log that is proven to have been durable as a whole.
func (s *scanner) provenWhole(t *slot) bool {
	return s.o.Log && t.valid && !t.void && t.base+format.LSN(s.size) <= s.proven
}

// indexPiece is the number of bytes at the end of a segment that are read to find its index.
const indexPiece = 4096

// readIndex reads the index of a segment into w. It returns false if there is none, or it is not valid or cannot be
// read: then the segment has to be walked.
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
	for lsn, begin := range v.Markers() {
		w.marks = append(w.marks, mark{lsn, begin})
	}
	w.base, w.end, w.durable, w.stable, w.indexed = t.base, s.size, h.Durable(), v.Stable, true
	for off := range v.Leaves() {
		if !r.readLeave(t, w, off) {
			w.marks, w.leaves, w.indexed = nil, nil, false
			return false
		}
	}
	return true
}

// readLeave reads the message at an offset of a segment, by which segments leave.
func (r *reader) readLeave(t *slot, w *walked, off int) bool {
	s, lsn := r.s, t.base+format.LSN(off)
	b := make([]byte, min(format.HeaderSize+format.LeaveSize(format.MaxLeave), s.size-off))
	if err := s.readAt(s.src, b, int64(t.id.Offset(s.size))+int64(off)); err != nil {
		return false
	}
	h, body, err := format.DecodeMessage(b, lsn, format.MakeSeed(s.o.Store, t.gen, t.id))
	if err != nil || h.Kind != format.KindLeave {
		return false
	}
	l, err := format.DecodeLeave(body, lsn)
	if err != nil {
		return false
	}
	w.leaves, w.stable = append(w.leaves, leave{lsn, l}), max(w.stable, l.Stable)
	return true
}

// readEnd reads the last n bytes of a segment.
func (r *reader) readEnd(t *slot, n int) ([]byte, bool) {
	r.index = slices.Grow(r.index[:0], n)[:n]
	off := int64(t.id.Offset(r.s.size)) + int64(r.s.size-n)
	return r.index, r.s.readAt(r.s.src, r.index, off) == nil
}

// forgiveIndexes lets the log go on where nothing but the index of a segment is corrupt, and notes it in the result. A
// segment that is not proven to have been durable as a whole was torn there, and ends there.
func (s *scanner) forgiveIndexes() {
	s.proven = max(s.proven, s.known())
	for _, i := range s.chain {
		t, w := &s.slots[i], &s.segments[i]
		if w.indexed {
			s.res.Indexed++
		}
		if !w.badIndex || !s.provenWhole(t) {
			continue
		}
		s.res.BadIndexes = append(s.res.BadIndexes, &CorruptError{File: s.o.File, Err: w.why,
			Place: s.placeOf(t.id, w.end).WithLSN(t.base + format.LSN(w.end)), Reason: "index of the segment is corrupt"})
		w.end, w.why, w.unread = s.size, nil, false
	}
}
