package stream

import (
	"cmp"
	"slices"
	"sort"

	"pagecache/engine/internal/logstore"
	"pagecache/mmapread"
	"pagecache/segments/format"
)

// The few records of a stream that hold back many segments are carried forward: they are written again at the end of
// the log, in one group, behind a Cut that removes the old ones. So a crash leaves all of them in their old places, or
// all in their new ones.
//
// A pass looks at the streams from the one with the oldest segment on, up to the first that is too long to be carried:
// it holds back the segments behind, whatever is done with the others.
//
//	        idle        idle   too long         newest segment
//	─────────┼───────────┼───────┼────────────────────┼──▶ log
//	         └─ carried, if it is more than idleSegments below this
//
// A pass carries a carryShare of a segment at most, and there is one pass for each new segment. So at most that share
// of the log is copies. A stream of which more records are left is never carried: most of the space that it keeps is
// its own.
const (
	idleSegments = 8
	carryShare   = 4 // one over
)

// copied is records that were read, in order.
type copied struct {
	proofs []proof      // of the records
	seqs   []format.Seq // their numbers
	ends   []int        // of the bytes of each record in bytes
	bytes  []byte
	size   int // of their messages in bytes
	limit  int // of size
	exceed bool
}

// add adds a record, unless limit would be exceeded.
func (c *copied) add(p proof, m logstore.Message) error {
	c.size += format.AlignUp(format.HeaderSize + format.RecordHeadSize + len(m.Body))
	if c.exceed = c.size > c.limit; c.exceed {
		return nil
	}
	n := len(c.bytes)
	c.bytes = append(c.bytes, make([]byte, len(m.Body))...)
	c.seqs, c.proofs, c.ends = append(c.seqs, p.seq), append(c.proofs, p), append(c.ends, len(c.bytes))
	return mmapread.Guard(func() error { copy(c.bytes[n:], m.Body); return nil })
}

// record returns the bytes of the i-th record.
func (c *copied) record(i int) []byte {
	if i == 0 {
		return c.bytes[:c.ends[0]]
	}
	return c.bytes[c.ends[i-1]:c.ends[i]]
}

// proven returns state.kept and state.young for the copies, if end is the stable end. Those in young may become stable
// at any moment, in their old places: the copies need not be stable then.
func (c *copied) proven(end format.LSN) (kept format.Seq, young []proof) {
	n := sort.Search(len(c.proofs), func(i int) bool { return c.proofs[i].lsn >= end })
	if n > 0 {
		kept = c.proofs[n-1].seq
	}
	return kept, slices.Clone(c.proofs[n:])
}

// copyFrom adds the records of the present state from q on to c.
func (t *Stream) copyFrom(q format.Seq, c *copied) error {
	st := t.state.Load()
	if c.exceed = st.long; c.exceed {
		return nil
	}
	for {
		found, at, err := t.ceil(st, q)
		if err != nil || found.IsZero() {
			return err
		}
		t.Warm(at)
		m, _, err := t.Read(found, at)
		if err == nil {
			err = c.add(proof{found, at.Proof}, m)
		}
		if err != nil || c.exceed {
			return err
		}
		q = found + 1
	}
}

// atLeast returns a number of records that the state has at the least, without reading anything.
func (st *state) atLeast() (n uint64) {
	for i, p := range st.pieces {
		switch last := st.lastOf(i); {
		case !p.run.sparse.Load():
			n += uint64(last-p.first) + 1
		case i > 0 && i < len(st.pieces)-1:
			n += uint64(p.run.count.Load())
		default:
			n++
		}
	}
	return n
}

// CarryRecords carries the records of idle streams forward, unless their segments end above limit, or there was a pass
// since the newest segment was begun. One goroutine at a time calls it. Records that cannot be read stay where they
// are. Errors are those of the log's Reserve.
func (s *Set) CarryRecords(limit format.LSN) error {
	s.mu.Lock()
	newest := s.store.Log.Tail() // which may be in a segment without a message of a stream
	newest -= newest % s.size
	if len(s.segments) == 0 || newest == s.passed || s.broken != nil {
		s.mu.Unlock()
		return nil
	}
	for l := range s.writing { // its parts hold back the segments behind, whatever is done with the streams
		limit = min(limit, l.low)
	}
	s.mu.Unlock()
	idle, floor := s.idle(min(newest, limit))
	left := int(s.size) / carryShare
	for _, t := range idle {
		if t.base()+(idleSegments+1)*s.size > floor {
			break
		}
		done, err := t.carry(&left)
		if err != nil {
			return err
		}
		if !done {
			return s.pass(newest) // the next pass begins with it
		}
	}
	return s.pass(newest)
}

// pass notes that a pass has ended that began with this newest segment.
func (s *Set) pass(newest format.LSN) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passed = newest
	return nil
}

// base returns the base of the first segment that the stream has records in, or parts of them; NoLSN if it has none.
func (t *Stream) base() format.LSN {
	if st := t.state.Load(); len(st.pieces) > 0 {
		return st.low
	}
	return format.NoLSN
}

// idle returns the streams that may be carried, the one with the oldest segment first, and the base of the oldest
// segment that must stay; it is end at most.
func (s *Set) idle(end format.LSN) (idle []*Stream, floor format.LSN) {
	all := slices.DeleteFunc(s.all(), func(t *Stream) bool { return t.base() == format.NoLSN })
	slices.SortFunc(all, func(a, b *Stream) int { return cmp.Compare(a.base(), b.base()) })
	for _, t := range all {
		base := t.base()
		if base >= end {
			break
		}
		if t.isLong() {
			return idle, base
		}
		idle = append(idle, t)
	}
	return idle, end
}

// isLong reports whether it is known that the stream has too many records to be carried.
func (t *Stream) isLong() bool {
	const least = format.HeaderSize + format.RecordHeadSize
	st := t.state.Load()
	first, _ := st.bounds()
	return st.long || st.atLeast() > uint64(t.set.size)/carryShare/least ||
		t.long == longState{first, t.Cuts()} && first > 0
}

// longState is a state of a stream that was too long to be carried. Records that were added since have made it longer.
type longState struct {
	first format.Seq
	cuts  uint64
}

// carry carries the records of the stream forward if they take no more than left bytes, which it lowers. done is false
// if they would take more: then the pass ends. If the stream is cut meanwhile, or a record cannot be read, it stays as
// it is.
func (t *Stream) carry(left *int) (done bool, err error) {
	s := t.set
	s.mu.Lock()
	seen, cuts := t.lastCut, t.Cuts()
	first, _ := t.Bounds()
	s.mu.Unlock()
	c := copied{limit: int(s.size) / carryShare}
	if t.copyFrom(first, &c) != nil || len(c.seqs) == 0 && !c.exceed {
		return true, nil
	}
	if s.copied != nil {
		s.copied(t.id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.lastCut != seen {
		return true, nil
	}
	if !c.exceed && t.copyFrom(c.seqs[len(c.seqs)-1]+1, &c) != nil { // those that were appended meanwhile
		return true, nil
	}
	if c.exceed {
		t.long = longState{first, cuts}
		return false, nil
	}
	if c.size > *left {
		return false, nil
	}
	*left -= c.size
	return true, t.putCopies(&c)
}

// putCopies writes records of the stream that were copied, and removes the old ones. The caller holds Set.mu.
func (t *Stream) putCopies(c *copied) error {
	s := t.set
	size := format.GroupSize(format.CutSize) + c.size
	units := format.IndexUnits(format.KindTruncate) + format.RunUnits +
		len(c.seqs)*format.IndexUnits(format.KindRecord)
	m, err := s.store.Log.ReserveCarried(size, units)
	if err != nil {
		return err
	}
	g, _, err := s.segmentAt(m.LSN(), m.Ptr().Off)
	if err != nil {
		m.Abort()
		return err
	}
	id := format.PageID(t.id)
	body, _, _ := m.Add(format.KindTruncate, id, format.CutSize)
	format.Cut{}.Put(body)
	lsns := make([]format.LSN, len(c.seqs))
	for i, q := range c.seqs {
		b := c.record(i)
		body, lsns[i], _ = m.Add(format.KindRecord, id, format.RecordHeadSize+len(b))
		put(body, q, b)
	}
	m.Complete()
	g.runs = append(g.runs, nil)
	t.run, t.owed = nil, false
	for i, q := range c.seqs {
		t.add(g, lsns[i], q)
	}
	old := &state{dropped: t.state.Load().dropped}
	old.kept, old.young = c.proven(s.store.Log.StableEnd())
	st := old.with(t.run, c.seqs[0])
	st.last.Store(uint64(c.seqs[len(c.seqs)-1]))
	t.state.Store(st)
	return nil
}

// marked is a change of state that has removed records at the end of a stream.
type marked struct {
	cuts uint64     // what Cuts is after it
	last format.Seq // records above it were removed
}

// maxMarks is the number of changes that a stream remembers. It forgets older ones by counting them as the next.
const maxMarks = 256

// mark remembers that the records above last are removed by the change after which Cuts is cuts.
func (t *Stream) mark(cuts uint64, last format.Seq) {
	t.wait.Lock()
	defer t.wait.Unlock()
	n := len(t.marks)
	for n > 0 && t.marks[n-1].last >= last { // a reader of that change need not know of it beside this one
		n--
	}
	t.marks = append(t.marks[:n], marked{cuts, last})
	if len(t.marks) > maxMarks {
		t.marks[1].last = t.marks[0].last
		t.marks = slices.Delete(t.marks, 0, 1)
	}
}

// Truncated reports whether the record q was removed at the end of the stream since Cuts was cuts.
func (t *Stream) Truncated(cuts uint64, q format.Seq) bool {
	t.wait.Lock()
	defer t.wait.Unlock()
	// The numbers in marks rise, so the first change since then has removed most.
	i := slices.IndexFunc(t.marks, func(m marked) bool { return m.cuts > cuts })
	return i >= 0 && t.marks[i].last < q
}
