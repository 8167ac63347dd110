package stream

import (
	"errors"
	"slices"

	"pagecache/mmapread"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// A record that does not fit a segment is written in parts, without Set.mu, and then a message that makes them a record
// (format.LongRecord). It has a run of its own. The segments of the parts must stay in the log as long as the record
// does, and while it is written.
//
//	part      part        part  part   long-record
//	──┴─────────┴────╫──────┴─────┴──╫──────┴──────▶ log
//	  ▲
//	  run.low is the base of this segment, until then Long.low
//
// A writer that fails, or a crash, leaves parts that are no record. They take space until their segments leave the log.

// partShare is the part of a segment, one over partShare, that the longest part of a record takes, and the longest list
// of parts.
const partShare = 4

// Long is a record that does not fit a segment, while it is written. It belongs to one goroutine, which ends it by End.
type Long struct {
	t     *Stream
	rest  []byte // of the record: what is in no part yet
	notes []Note
	made  format.LongRecord
	low   format.LSN // Low must not exceed it. Never changed
}

// longestPart returns the largest number of bytes of a record in one part.
func (s *Set) longestPart() int { return s.store.SegmentHolds()/partShare - format.HeaderSize }

// maxParts returns the largest number of parts of a record.
func (s *Set) maxParts() int {
	return (s.store.SegmentHolds()/partShare - format.GroupSize(format.LongRecordSize(0))) / 8
}

// IsLong reports whether a record of n bytes takes more than one part.
func (s *Set) IsLong(n int) bool { return n > s.longestPart() }

// Long begins to append a record that IsLong, with the number q, and notes. Errors are those of Append, except that of
// lack of room.
func (t *Stream) Long(q format.Seq, record []byte, notes []Note) (*Long, error) {
	s, most := t.set, t.set.longestPart()
	n := (len(record) + most - 1) / most
	if limit := s.maxParts(); n > limit {
		return nil, tooLarge("record of %d bytes, limit %d", len(record), limit*most)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := t.checkLong(q, notes); err != nil {
		return nil, err
	}
	l := &Long{t: t, rest: record, notes: notes, low: s.store.Log.StableEnd()}
	l.low -= l.low % s.size
	l.made = format.LongRecord{Seq: q, Len: uint64(len(record)), Parts: make([]format.LSN, 0, n)}
	if s.writing == nil {
		s.writing = map[*Long]bool{}
	}
	s.writing[l] = true
	return l, nil
}

// checkLong returns the error that Append would return for a record of this number and notes, except for lack of room.
// The caller holds Set.mu.
func (t *Stream) checkLong(q format.Seq, notes []Note) error {
	if err := t.checkOrder(q, 1); err != nil {
		return err
	}
	return t.checkNotes(notes)
}

// Next writes a part of the record, or, once all are written, the message that makes them one: then done is true, and
// lsn is what Append returns. It waits for a free io buffer. Errors are those of Append; after an error there is no
// record.
func (l *Long) Next() (lsn format.LSN, done bool, err error) {
	s := l.t.set
	if len(l.rest) > 0 {
		return 0, false, l.part()
	}
	lsn, opened, err := l.finish()
	if opened {
		s.Tidy()
	}
	return lsn, err == nil, err
}

// End ends l. If Next has not reported that it is done, there is no record.
func (l *Long) End() {
	s := l.t.set
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writing, l)
}

// part writes the next part.
func (l *Long) part() error {
	s := l.t.set
	b := l.rest[:min(s.longestPart(), len(l.rest))]
	m, err := s.store.Log.Reserve(format.KindRecordPart, format.PageID(l.t.id), len(b))
	if err != nil {
		return err
	}
	copy(m.Body(), b)
	l.rest = l.rest[len(b):]
	l.made.Parts = append(l.made.Parts, m.LSN())
	m.Complete()
	return nil
}

// finish appends the message that makes the parts a record, and the notes. It checks again what Long has checked, since
// the stream may have changed.
func (l *Long) finish() (lsn format.LSN, opened bool, err error) {
	t, s, id := l.t, l.t.set, format.PageID(l.t.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := t.checkLong(l.made.Seq, l.notes); err != nil {
		return 0, false, err
	}
	n := format.LongRecordSize(len(l.made.Parts))
	size := format.GroupSize(n)
	for _, x := range l.notes {
		size += noteRoom(x.encoded())
	}
	units := format.IndexUnits(format.KindLongRecord) + len(l.notes)*format.IndexUnits(format.KindNote)
	m, err := s.store.Log.ReserveMessages(format.KindLongRecord, size, units)
	if err != nil {
		return 0, false, err
	}
	g, opened, err := s.segmentAt(m.LSN(), m.Ptr().Off)
	if err != nil {
		m.Abort()
		return 0, false, err
	}
	body, at, _ := m.Add(format.KindLongRecord, id, n)
	l.made.Put(body)
	lsn = at
	for _, n := range l.notes {
		x := n.encoded()
		body, lsn, _ = m.Add(format.KindNote, id, x.Size())
		x.Put(body)
	}
	m.Complete()
	t.addLong(g, at, l.made.Seq, l.made.Parts[0])
	for _, n := range l.notes {
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

// errPart reports a long record whose parts are not those that it was written with.
var errPart = errors.New("part of a record is not of the stream, or too long or short")

// appendParts appends the bytes of the long record at a place to dst; body is that of its message. After an error it
// returns dst as it was.
func (t *Stream) appendParts(dst, body []byte, at At) ([]byte, error) {
	var r format.LongRecord
	err := mmapread.Guard(func() (err error) { r, err = format.DecodeLongRecord(body, at.LSN); return err })
	if err != nil {
		return dst, t.set.store.CorruptMessage(at.LSN, at.Ptr, err)
	}
	all := dst
	for i, lsn := range r.Parts {
		p, at, err := t.readPart(lsn)
		if err != nil {
			return dst, err
		}
		if i == 0 { // the parts but for the last are of one length
			all = slices.Grow(all, int(min(r.Len, uint64(len(p))*uint64(len(r.Parts)))))
		}
		if uint64(len(all)-len(dst)+len(p)) > r.Len {
			err = errPart
		} else {
			err = mmapread.Guard(func() error { all = append(all, p...); return nil })
		}
		if err != nil {
			return dst, t.set.store.CorruptMessage(at.LSN, at.Ptr, err)
		}
	}
	if uint64(len(all)-len(dst)) != r.Len {
		return dst, t.set.store.CorruptMessage(at.LSN, at.Ptr, errPart)
	}
	return all, nil
}

// readPart returns the body of the part of a record at lsn, and its place.
func (t *Stream) readPart(lsn format.LSN) (body []byte, at At, err error) {
	store, base := t.set.store, lsn-lsn%t.set.size
	at.LSN = lsn
	slot, found := store.Space.Find(base)
	if !found {
		return nil, at, store.CorruptLog(recovery.Place{}.WithLSN(lsn), "no segment holds this part of a record")
	}
	at.Ptr.Off = slot.Offset(int(t.set.size)) + format.Offset(lsn-base)
	t.Warm(at)
	h, err := store.ReadHeader(lsn, at.Ptr.Off)
	if err != nil {
		return nil, at, err
	}
	at.Ptr.Len = uint32(h.Len)
	t.Warm(at)
	m, err := store.Read(lsn, at.Ptr)
	if err == nil && (m.Kind != format.KindRecordPart || format.StreamID(m.Page) != t.id) {
		err = store.CorruptMessage(lsn, at.Ptr, errPart)
	}
	return m.Body, at, err
}
