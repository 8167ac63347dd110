package stream

import (
	"context"
	"fmt"

	"pagecache/segments/format"
)

// Append appends records with the numbers from q on, and sets notes; all of that is recovered or nothing. It returns
// the LSN of the last message. It waits for a free io buffer. Errors: ErrOrder, those of iobuf's Reserve, and
// ErrTooLarge of notes; after an error nothing was done. Long appends a record that is ErrTooLarge because it does not
// fit a segment.
func (t *Stream) Append(q format.Seq, records [][]byte, notes ...Note) (format.LSN, error) {
	lsn, opened, err := t.append(q, records, notes)
	if opened {
		t.set.Tidy()
	}
	return lsn, err
}

func (t *Stream) append(q format.Seq, records [][]byte, notes []Note) (lsn format.LSN, opened bool, err error) {
	s := t.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := t.checkNotes(notes); err != nil {
		return 0, false, err
	}
	if len(records) == 0 {
		if len(notes) == 1 {
			return t.appendNote(notes[0].encoded())
		}
		return t.appendGroup(q, nil, notes, 0)
	}
	if err := t.checkOrder(q, len(records)); err != nil {
		return 0, false, err
	}
	// The log has the last word on the segment. If it is another one, the record begins a run there all the same, and
	// the next one reserves the room for it in the index. If none follows, the index does not list the runs. That must
	// not happen often, so long messages reserve the room always.
	runs := 0
	if n := len(s.segments); t.run == nil || t.owed || n == 0 || t.run.seg != s.segments[n-1] ||
		lengthOf(records) > longMessage {
		runs = 1
	}
	if len(records) == 1 && len(notes) == 0 {
		lsn, opened, err = t.appendRecord(q, records[0], runs)
	} else {
		lsn, opened, err = t.appendGroup(q, records, notes, runs)
	}
	if err != nil {
		return 0, false, err
	}
	t.owed = runs == 0 && t.run.count.Load() == uint32(len(records))
	t.publish(q, q+format.Seq(len(records)-1))
	return lsn, opened, nil
}

// checkOrder returns ErrOrder unless n records, 1 or more, may follow the last one, with the numbers from q on. The
// caller holds Set.mu.
func (t *Stream) checkOrder(q format.Seq, n int) error {
	if _, last := t.Bounds(); q <= last || q > format.MaxSeq-format.Seq(n-1) {
		return fmt.Errorf("%w: record %d after %d", ErrOrder, q, last)
	}
	return nil
}

// appendRecord appends a record as a message of its own. The caller holds Set.mu, and publishes it.
func (t *Stream) appendRecord(q format.Seq, record []byte, runs int) (lsn format.LSN, opened bool, err error) {
	m, err := t.set.store.Log.ReserveRecord(t.id, format.RecordHeadSize+len(record), runs)
	if err != nil {
		return 0, false, err
	}
	lsn = m.LSN()
	g, opened, err := t.set.segmentAt(lsn, m.Ptr().Off)
	if err != nil {
		m.Abort()
		return 0, false, err
	}
	put(m.Body(), q, record)
	m.Complete()
	t.add(g, lsn, q)
	return lsn, opened, nil
}

// longMessage is the length in bytes from which on the room for a run is little.
const longMessage = 1 << 10

// lengthOf returns the length of records in bytes.
func lengthOf(records [][]byte) (n int) {
	for _, r := range records {
		n += len(r)
	}
	return n
}

// put writes a record to the body of its message.
func put(body []byte, q format.Seq, record []byte) {
	format.PutSeq(body, q)
	copy(body[format.RecordHeadSize:], record)
}

// appendGroup appends records and notes as one group. The caller holds Set.mu, and publishes the records.
func (t *Stream) appendGroup(q format.Seq, records [][]byte, notes []Note, runs int) (
	lsn format.LSN, opened bool, err error,
) {
	s, kind := t.set, format.KindNote
	size := format.GroupSize()
	for _, p := range records {
		size += format.AlignUp(format.HeaderSize + format.RecordHeadSize + len(p))
		kind = format.KindRecord
	}
	for _, n := range notes {
		size += noteRoom(n.encoded())
	}
	units := len(records)*format.IndexUnits(format.KindRecord) + runs*format.RunUnits +
		len(notes)*format.IndexUnits(format.KindNote)
	m, err := s.store.Log.ReserveMessages(kind, size, units)
	if err != nil {
		return 0, false, err
	}
	g, opened, err := s.segmentAt(m.LSN(), m.Ptr().Off)
	if err != nil {
		m.Abort()
		return 0, false, err
	}
	lsns := make([]format.LSN, len(records))
	for i, p := range records {
		var body []byte
		body, lsns[i], _ = m.Add(format.KindRecord, format.PageID(t.id), format.RecordHeadSize+len(p))
		put(body, q+format.Seq(i), p)
		m.Seal()
		lsn = lsns[i]
	}
	for _, n := range notes {
		var body []byte
		x := n.encoded()
		body, lsn, _ = m.Add(format.KindNote, format.PageID(t.id), x.Size())
		x.Put(body)
	}
	m.Complete()
	for i, lsn := range lsns {
		t.add(g, lsn, q+format.Seq(i))
	}
	for _, n := range notes {
		t.setNote(g, n.encoded())
	}
	return lsn, opened, nil
}

// add adds the record at lsn to a run of g, which it begins if the stream's run cannot go on there. The caller holds
// Set.mu, and publishes the record.
func (t *Stream) add(g *segment, lsn format.LSN, q format.Seq) {
	if t.run == nil || t.run.seg != g {
		t.run = &run{seg: g, ordinal: len(g.runs), first: q, last: q - 1, low: g.base}
		g.runs = append(g.runs, t.run)
	}
	if q != t.run.last+1 {
		t.run.sparse.Store(true)
	}
	t.run.last = q
	g.table.Load().add(t.run, int(lsn-g.base))
}

// publish shows the records from first to last, which were added to t.run, to readers. The caller holds Set.mu.
func (t *Stream) publish(first, last format.Seq) {
	st := t.state.Load()
	if n := len(st.pieces); n > 0 && st.pieces[n-1].run == t.run {
		st.last.Store(uint64(last))
	} else {
		c := st.with(t.run, first)
		if n := len(c.young); n > 0 && c.young[n-1].lsn < t.set.store.Log.StableEnd() {
			c.kept, c.young = c.young[n-1].seq, nil
		}
		c.last.Store(uint64(last))
		t.replace(c, first < st.dropped, first-1)
	}
	t.wake()
}

// replace makes c the state of the stream. shrinks says that numbers above last may be used again: readers that have
// seen records of them learn that these are truncated. The caller holds Set.mu.
func (t *Stream) replace(c *state, shrinks bool, last format.Seq) {
	if shrinks {
		t.mark(t.cuts.Add(1)+1, last)
	}
	t.state.Store(c)
	if shrinks {
		t.cuts.Add(1)
	}
}

// CutAfter removes the records above q, and returns the LSN that must be stable for that to be durable; 0 if there are
// none, and never were. Errors are those of Append and of reading; after an error nothing was done.
func (t *Stream) CutAfter(q format.Seq) (format.LSN, error) {
	return t.cut(format.Cut{Last: q})
}

// CutBelow removes the records below q, as CutAfter does.
func (t *Stream) CutBelow(q format.Seq) (format.LSN, error) {
	return t.cut(format.Cut{First: q, Last: ^format.Seq(0)})
}

// cut looks up what is left without a lock, since that may read records. It does so again if the state was changed
// meanwhile, and the last time under the lock.
func (t *Stream) cut(c format.Cut) (format.LSN, error) {
	for range 3 {
		k := t.keep(c)
		lsn, done, err := t.cutTo(c, k)
		if done || err != nil {
			return lsn, err
		}
	}
	t.set.mu.Lock()
	defer t.set.mu.Unlock()
	lsn, _, err := t.cutLocked(c, t.keep(c))
	return lsn, err
}

// kept is what a cut leaves of a state.
type kept struct {
	st          *state
	newest      format.Seq // of the state when it was looked at
	first, last format.Seq // of the records that are kept; 0 and 0 if none are
	err         error
}

// keep returns what a cut leaves of the present state.
func (t *Stream) keep(c format.Cut) (k kept) {
	k.st = t.state.Load()
	oldest, newest := k.st.bounds()
	k.first, k.last, k.newest = oldest, newest, newest
	if c.Last < newest {
		k.last, k.err = t.floor(k.st, c.Last)
	}
	if k.err == nil && c.First > oldest {
		var r *run
		i := 0
		if r, i, k.err = t.ceilIn(k.st, c.First); r == nil {
			k.first = 0
		} else if k.err == nil {
			k.first, k.err = t.number(r, i)
		}
	}
	if k.first.IsZero() || k.last.IsZero() || k.first > k.last {
		k.first, k.last = 0, 0
	}
	return k
}

// cutTo appends the message of a cut, unless k does not hold any more.
func (t *Stream) cutTo(c format.Cut, k kept) (lsn format.LSN, done bool, err error) {
	t.set.mu.Lock()
	defer t.set.mu.Unlock()
	return t.cutLocked(c, k)
}

// cutLocked is cutTo for a caller that holds Set.mu.
func (t *Stream) cutLocked(c format.Cut, k kept) (lsn format.LSN, done bool, err error) {
	s, st := t.set, t.state.Load()
	oldest, newest := st.bounds()
	// Records that joined the newest piece meanwhile change nothing if all of them are kept, or none.
	if k.st != st || (c.Last < newest) != (c.Last < k.newest) || (c.First > newest) != (c.First > k.newest) {
		return 0, false, nil
	}
	if k.err != nil {
		return 0, true, k.err
	}
	if c.Last >= newest && !k.first.IsZero() {
		k.last = newest
	}
	dropped := st.droppedBy(c, k.first)
	if k.first == oldest && k.last == newest {
		if dropped != st.dropped { // there are no records
			t.replace(st.clipped(0, 0, dropped), true, c.Last)
		}
		return t.lastCut, true, nil
	}
	reserve := s.store.Log.Reserve
	if c.First > 0 { // it makes room
		reserve = s.store.Log.ReserveUrgent
	}
	m, err := reserve(format.KindTruncate, format.PageID(t.id), format.CutSize)
	if err != nil {
		return 0, true, err
	}
	lsn = m.LSN()
	g, _, err := s.segmentAt(lsn, m.Ptr().Off)
	if err != nil {
		m.Abort()
		return 0, true, err
	}
	c.Put(m.Body())
	m.Complete()
	g.runs = append(g.runs, nil)
	t.run, t.owed, t.lastCut = nil, false, lsn
	t.replace(st.clipped(k.first, k.last, dropped), c.Last < newest, c.Last)
	t.wake()
	return lsn, true, nil
}

// droppedBy returns state.dropped after a cut of st that keeps the records from first on; 0 if it keeps none.
func (st *state) droppedBy(c format.Cut, first format.Seq) format.Seq {
	oldest, newest := st.bounds()
	switch {
	case c.Last < newest || c.Last < st.dropped: // the numbers above may be used again
		return min(st.dropped, c.Last+1)
	case newest.IsZero() || c.First <= oldest:
		return st.dropped
	case first.IsZero():
		return newest + 1
	}
	return first
}

// Cuts returns a number that changes before and after records are removed at the end of the stream.
func (t *Stream) Cuts() uint64 { return t.cuts.Load() }

// wake ends all waits for a change.
func (t *Stream) wake() {
	if t.waiters.Load() == 0 {
		return
	}
	t.wait.Lock()
	defer t.wait.Unlock()
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// Wake ends all waits for a change of any stream.
func (s *Set) Wake() {
	for _, t := range s.all() {
		t.wake()
	}
}

// Wait waits until done returns true or an error, which it returns, or ctx ends. It calls done at the beginning and
// after each change of the stream.
func (t *Stream) Wait(ctx context.Context, done func() (bool, error)) error {
	t.waiters.Add(1)
	defer t.waiters.Add(-1)
	for {
		t.wait.Lock()
		if t.changed == nil {
			t.changed = make(chan struct{})
		}
		changed := t.changed // before done: a change from here on closes it
		t.wait.Unlock()
		if is, err := done(); is || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
