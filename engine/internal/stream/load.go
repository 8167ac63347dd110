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

// load reads the messages of streams in the segments, in order. It returns the first error. The segments behind the
// place are read all the same, since Low must know whether the log has any message of a stream.
func (s *Set) load(found []recovery.Segment, end format.LSN) (first error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range found {
		err := s.loadSegment(&found[i], end)
		if first == nil {
			first = err
		}
	}
	return first
}

// loadSegment reads the messages of streams in a segment of a log that goes on at end.
func (s *Set) loadSegment(f *recovery.Segment, end format.LSN) error {
	slot, found := s.store.Space.Find(f.Base)
	if !found {
		return s.store.CorruptLog(recovery.Place{}.WithLSN(f.Base), "no segment holds this LSN")
	}
	g := &segment{base: f.Base, slot: slot}
	if mem := s.store.Resumed(g.base); mem != nil {
		return s.walkMemory(g, mem)
	}
	if s.store.IsSealed(g.slot.Offset(int(s.size))) && g.base+s.size <= end {
		if f.Outline != nil {
			return s.loadIndex(g, *f.Outline)
		}
		if v, err := s.readIndex(g); err == nil {
			return s.loadIndex(g, v)
		}
	}
	return s.walk(g, min(g.base+s.size, end))
}

// loadIndex takes over the index of a segment, or its outline.
func (s *Set) loadIndex(g *segment, v format.IndexView) error {
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
	if !s.adopt(g, v) {
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
		t.state.Store(k.st.clipped(k.first, k.last, 0))
	}
	return k.err
}

// walk reads the messages of a segment one after another, up to end.
func (s *Set) walk(g *segment, end format.LSN) error {
	for pos := g.base + format.SegmentStart; pos < end; {
		m, lsn, ptr, next, err := s.store.Next(pos)
		if err != nil {
			return err
		}
		pos = next
		if g, err = s.apply(g, m, lsn, ptr.Off); err != nil {
			return err
		}
	}
	return nil
}

// walkMemory is walk for a segment whose messages are in memory, where they were verified.
func (s *Set) walkMemory(g *segment, mem []byte) error {
	for pos := format.SegmentStart; len(mem)-pos >= format.HeaderSize; {
		lsn := g.base + format.LSN(pos)
		h, err := format.DecodeHeader(mem[pos:], len(mem)-pos, lsn)
		if err != nil {
			return s.corrupt(g, pos, err)
		}
		m := logstore.Message{Kind: h.Kind, Page: h.Page, Body: mem[pos+format.HeaderSize : pos+h.Len]}
		if g, err = s.apply(g, m, lsn, g.slot.Offset(int(s.size))+format.Offset(pos)); err != nil {
			return err
		}
		pos += h.Step()
	}
	return nil
}

// apply applies a message at lsn and off, if it is one of a stream, and returns its segment: g, or the one that Set
// knows for it.
func (s *Set) apply(g *segment, m logstore.Message, lsn format.LSN, off format.Offset) (*segment, error) {
	if !m.Kind.OfStream() || m.Kind == format.KindRecordPart {
		return g, nil
	}
	if g.table.Load() == nil {
		if _, _, err := s.segmentAt(lsn, off); err != nil {
			return g, err
		}
		g = s.segments[len(s.segments)-1]
	}
	return g, s.corrupt(g, int(lsn-g.base), s.walked(g, m, lsn))
}

// walked applies a message that was read.
func (s *Set) walked(g *segment, m logstore.Message, lsn format.LSN) error {
	t := s.loading
	if id := format.StreamID(m.Page); t == nil || t.id != id { // a lookup takes longer than the rest
		t = s.stream(id)
		s.loading = t
	}
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
