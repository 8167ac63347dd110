package stream

import (
	"errors"
	"fmt"

	"pagecache/engine/internal/logstore"
	"pagecache/mmapread"
	"pagecache/segments/format"
)

// A record that does not fit a segment is written in parts, without Set.mu, and then a message that makes them a record
// (format.LongRecord). Such a record has a run of its own. The segments of the parts must stay in the log as long as it
// does, and while it is written.

// partShare is the part of a segment, one over partShare, that the longest part of a record takes, and the longest list
// of parts.
const partShare = 4

// maxParts returns the largest number of parts of a record.
func (s *Set) maxParts() int {
	return (s.store.SegmentHolds()/partShare - format.GroupSize(format.LongRecordSize(0))) / 8
}

// appendLong is append for one record that does not fit a segment.
func (t *Stream) appendLong(q format.Seq, record []byte, notes []Note) (lsn format.LSN, opened bool, err error) {
	s := t.set
	most := s.store.SegmentHolds()/partShare - format.HeaderSize
	n := (len(record) + most - 1) / most
	if limit := s.maxParts(); n > limit {
		return 0, false, fmt.Errorf("%w: record of %d bytes, limit %d", logstore.ErrTooLarge, len(record), limit*most)
	}
	hold, err := t.hold(q, notes)
	if err != nil {
		return 0, false, err
	}
	defer s.letGo(hold)
	r := format.LongRecord{Seq: q, Len: uint64(len(record)), Parts: make([]format.LSN, 0, n)}
	for len(record) > 0 {
		part := record[:min(most, len(record))]
		record = record[len(part):]
		m, err := s.store.Log.Reserve(format.KindRecordPart, format.PageID(t.id), len(part))
		if err != nil {
			return 0, false, err
		}
		copy(m.Body(), part)
		r.Parts = append(r.Parts, m.LSN())
		m.Complete()
	}
	if s.copied != nil {
		s.copied(t.id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, last := t.Bounds(); q <= last {
		return 0, false, fmt.Errorf("%w: record %d after %d", ErrOrder, q, last)
	}
	return t.putLong(r, notes)
}

// putLong appends the message that makes parts a record, and notes. The caller holds Set.mu.
func (t *Stream) putLong(r format.LongRecord, notes []Note) (lsn format.LSN, opened bool, err error) {
	s, id := t.set, format.PageID(t.id)
	if err := t.checkNotes(notes); err != nil {
		return 0, false, err
	}
	size := format.GroupSize(format.LongRecordSize(len(r.Parts)))
	for _, n := range notes {
		size += noteRoom(n.encoded())
	}
	units := format.IndexUnits(format.KindLongRecord) + len(notes)*format.IndexUnits(format.KindNote)
	m, err := s.store.Log.ReserveMessages(format.KindLongRecord, size, units)
	if err != nil {
		return 0, false, err
	}
	g, opened, err := s.segmentAt(m.LSN(), m.Ptr().Off)
	if err != nil {
		m.Abort()
		return 0, false, err
	}
	body, at, _ := m.Add(format.KindLongRecord, id, format.LongRecordSize(len(r.Parts)))
	r.Put(body)
	lsn = at
	for _, n := range notes {
		x := n.encoded()
		body, lsn, _ = m.Add(format.KindNote, id, x.Size())
		x.Put(body)
	}
	m.Complete()
	t.addLong(g, at, r.Seq, r.Parts[0])
	for _, n := range notes {
		t.setNote(g, n.encoded())
	}
	return lsn, opened, nil
}

// addLong shows a long record at lsn, whose first part is at LSN part, to readers. The caller holds Set.mu.
func (t *Stream) addLong(g *segment, lsn format.LSN, q format.Seq, part format.LSN) {
	t.run = &run{seg: g, ordinal: len(g.runs), first: q, last: q, long: true, low: part - part%t.set.size}
	g.runs = append(g.runs, t.run)
	g.table.Load().add(t.run, int(lsn-g.base))
	t.publish(q, q)
	t.run, t.owed = nil, false
}

// hold makes Low return no more than the end of the stable log is now, until letGo is called. It fails as putLong of
// record q and the notes would, except for lack of room.
func (t *Stream) hold(q format.Seq, notes []Note) (*format.LSN, error) {
	s := t.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, last := t.Bounds(); q <= last || q > format.MaxSeq {
		return nil, fmt.Errorf("%w: record %d after %d", ErrOrder, q, last)
	}
	if err := t.checkNotes(notes); err != nil {
		return nil, err
	}
	end := s.store.Log.StableEnd()
	end -= end % s.size
	if s.held == nil {
		s.held = map[*format.LSN]bool{}
	}
	s.held[&end] = true
	return &end, nil
}

// letGo ends a hold.
func (s *Set) letGo(hold *format.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, hold)
}

// errPart reports a long record whose parts are not those that it was written with.
var errPart = errors.New("part of a record is not of the stream, or too long or short")

// whole returns the bytes of a long record, of which m is the message at lsn.
func (t *Stream) whole(m logstore.Message, lsn format.LSN) (format.Seq, logstore.Message, error) {
	store := t.set.store
	var r format.LongRecord
	err := mmapread.Guard(func() (err error) { r, err = format.DecodeLongRecord(m.Body, lsn); return err })
	if err != nil {
		return 0, m, err
	}
	var b []byte
	for _, part := range r.Parts {
		base := part - part%t.set.size
		slot, found := store.Space.Find(base)
		if !found {
			return 0, m, fmt.Errorf("%w: LSN %d", errPart, part)
		}
		at := At{LSN: part}
		at.Ptr.Off = slot.Offset(int(t.set.size)) + format.Offset(part-base)
		t.Warm(at)
		h, err := store.ReadHeader(at.LSN, at.Ptr.Off)
		if err != nil {
			return 0, m, err
		}
		at.Ptr.Len = uint32(h.Len)
		p, err := store.Read(at.LSN, at.Ptr)
		if err != nil {
			return 0, m, err
		}
		if p.Kind != format.KindRecordPart || format.StreamID(p.Page) != t.id {
			return 0, m, store.CorruptMessage(at.LSN, at.Ptr, errPart)
		}
		if b == nil { // the parts but for the last are of one length
			b = make([]byte, 0, min(r.Len, uint64(len(p.Body))*uint64(len(r.Parts))))
		}
		err = mmapread.Guard(func() error { b = append(b, p.Body...); return nil })
		if err != nil {
			return 0, m, store.CorruptMessage(at.LSN, at.Ptr, err)
		}
	}
	m.Body, m.View = b, false
	if uint64(len(b)) != r.Len {
		err = errPart
	}
	return r.Seq, m, err
}
