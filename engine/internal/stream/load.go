package stream

import (
	"errors"
	"fmt"

	"pagecache/engine/internal/logstore"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// errShape reports a message that no log has in that place.
var errShape = errors.New("record number does not follow the last one")

// load reads the messages of streams in the segments with these bases, in order. It returns the first error. The
// segments behind the place are read all the same, since Low must know whether the log has any message of a stream.
func (s *Set) load(bases []format.LSN) (first error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, base := range bases {
		err := s.loadSegment(base)
		if first == nil {
			first = err
		}
	}
	return first
}

// loadSegment reads the messages of streams in the segment with this base.
func (s *Set) loadSegment(base format.LSN) error {
	slot, found := s.store.Space.Find(base)
	if !found {
		return s.store.CorruptLog(recovery.Place{}.WithLSN(base), "no segment holds this LSN")
	}
	g := &segment{base: base, slot: slot}
	if s.store.IsSealed(g.slot.Offset(int(s.size))) && g.base+s.size <= s.store.Log.StableEnd() {
		if v, off, err := s.readIndex(g); err == nil {
			return s.loadIndex(g, v, off)
		}
	}
	return s.walk(g)
}

// loadIndex reads the index of a segment.
func (s *Set) loadIndex(g *segment, v format.IndexView, off int64) error {
	if v.Runs() == 0 {
		return nil
	}
	s.segments = append(s.segments, g)
	for i := range v.Runs() {
		l := v.Run(i)
		if l.Type == format.RunCut || l.Type == format.RunNote {
			g.runs = append(g.runs, nil)
			continue
		}
		r := &run{seg: g, ordinal: i, first: l.First, last: l.Last, low: g.base}
		if l.Type == format.RunLong {
			part := format.LSN(l.Last)
			l.Last = l.First
			r.last, r.long, r.low = l.First, true, min(g.base, part-part%s.size)
		}
		r.count.Store(uint32(l.Count))
		r.sparse.Store(uint64(l.Last-l.First) != uint64(l.Count-1))
		g.runs = append(g.runs, r)
	}
	runs := g.runs
	if !g.adopt(v, off) {
		return s.corrupt(g, int(s.size)-format.HeaderSize, errIndex)
	}
	for i, r := range runs {
		l := v.Run(i)
		t := s.stream(l.Stream)
		switch l.Type {
		case format.RunCut:
			if err := t.loadCut(format.Cut{First: l.First, Last: l.Last}); err != nil {
				return err
			}
			continue
		case format.RunNote:
			if err := t.loadNoteAt(g, int(l.First)); err != nil {
				return err
			}
			continue
		}
		if _, last := t.Bounds(); l.First <= last {
			return s.corrupt(g, format.SegmentStart, fmt.Errorf("%w: %d after %d", errShape, l.First, last))
		}
		t.run = r
		t.publish(l.First, r.last)
	}
	for _, t := range s.all() {
		t.run = nil // the next record is in another segment
	}
	return nil
}

// loadCut applies a cut that was read.
func (t *Stream) loadCut(c format.Cut) error {
	k := t.keep(c)
	if k.err == nil {
		t.run = nil // as in the index: a cut ends a run
		t.state.Store(k.st.clipped(k.first, k.last))
	}
	return k.err
}

// walk reads the messages of a segment one after another.
func (s *Set) walk(g *segment) error {
	end := min(g.base+s.size, s.store.Log.StableEnd())
	for pos := g.base + format.SegmentStart; pos < end; {
		m, lsn, ptr, next, err := s.store.Next(pos)
		if err != nil {
			return err
		}
		pos = next
		if !m.Kind.OfStream() || m.Kind == format.KindRecordPart {
			continue
		}
		if g.table.Load() == nil {
			if _, _, err := s.segmentAt(lsn, ptr.Off); err != nil {
				return err
			}
			g = s.segments[len(s.segments)-1]
		}
		if err := s.walked(g, m, lsn); err != nil {
			return s.corrupt(g, int(lsn-g.base), err)
		}
	}
	return nil
}

// walked applies a message that was read.
func (s *Set) walked(g *segment, m logstore.Message, lsn format.LSN) error {
	t := s.stream(format.StreamID(m.Page))
	if m.Kind == format.KindNote {
		return t.loadNote(g, m.Body)
	}
	if m.Kind == format.KindTruncate {
		c, err := format.DecodeCut(m.Body)
		if err != nil {
			return err
		}
		g.runs = append(g.runs, nil)
		return t.loadCut(c)
	}
	q, _, err := format.CutSeq(m.Body)
	var r format.LongRecord
	if err == nil && m.Kind == format.KindLongRecord {
		r, err = format.DecodeLongRecord(m.Body, lsn)
	}
	if err != nil {
		return err
	}
	if _, last := t.Bounds(); q <= last {
		return fmt.Errorf("%w: %d after %d", errShape, q, last)
	}
	if m.Kind == format.KindLongRecord {
		t.addLong(g, lsn, q, r.Parts[0])
		return nil
	}
	t.add(g, lsn, q)
	t.publish(q, q)
	return nil
}
