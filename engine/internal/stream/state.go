package stream

import (
	"cmp"
	"errors"
	"slices"
	"sort"
	"sync/atomic"

	"pagecache/segments/format"
)

// state is what a stream holds at one moment. All but last is never changed.
type state struct {
	pieces []piece
	// low is the lowest run.low of the pieces; it means nothing without pieces. long says that one of them is a long
	// record.
	low  format.LSN
	long bool
	// dropped is a number below which records were dropped in this opening, and no newer record has a number; 0 if
	// there is none. It tells what was in the stream if there are no pieces.
	dropped format.Seq
	// kept and young are about records that were carried forward. Those up to kept were stable before: a crash leaves
	// them in their old places or in their new ones. young are the others: each is stable once its old message is. The
	// numbers in young rise and are above kept.
	kept  format.Seq
	young []proof
	// last is the number of the newest record, 0 if there is none. It rises as records join the newest piece. Written
	// under Set.mu; publishes the record's offset in the table, and its bytes.
	last atomic.Uint64
}

// piece is the records of a run with numbers from first to last, both of which exist.
type piece struct {
	run         *run
	first, last format.Seq // last is 0 in the newest piece: it is state.last
}

// proof is the LSN of the message with which a record becomes stable.
type proof struct {
	seq format.Seq
	lsn format.LSN
}

// At is the place of a record.
type At struct {
	LSN format.LSN
	Ptr format.DiskPtr // its length is not set
	// Proof is an LSN: the record is stable once this is. It is LSN unless the record was carried forward. Only Find
	// and Ceil set it.
	Proof format.LSN
}

// lastOf returns the last number of the i-th piece.
func (st *state) lastOf(i int) format.Seq {
	if i == len(st.pieces)-1 {
		return format.Seq(st.last.Load())
	}
	return st.pieces[i].last
}

// pieceAt returns the first piece that ends at or above q, len(pieces) if there is none.
func (st *state) pieceAt(q format.Seq) int {
	return sort.Search(len(st.pieces), func(i int) bool { return st.lastOf(i) >= q })
}

// Bounds returns the numbers of the first and the last record, 0 and 0 if there is none.
func (t *Stream) Bounds() (first, last format.Seq) { return t.state.Load().bounds() }

func (st *state) bounds() (first, last format.Seq) {
	if len(st.pieces) == 0 {
		return 0, 0
	}
	return st.pieces[0].first, format.Seq(st.last.Load())
}

// Find returns the place of the record with number q. Errors: ErrNoRecord, ErrDropped, and those of reading.
func (t *Stream) Find(q format.Seq) (At, error) {
	st := t.state.Load()
	found, at, err := t.ceil(st, q)
	switch {
	case err != nil:
		return At{}, err
	case st.isDropped(q):
		return At{}, ErrDropped
	case found != q || q.IsZero():
		return At{}, ErrNoRecord
	}
	return at, nil
}

// Ceil returns the number and place of the first record at or above q; the number is 0 if there is none. Errors:
// ErrDropped if q is not 0 and records at or above q were dropped, and those of reading.
func (t *Stream) Ceil(q format.Seq) (format.Seq, At, error) {
	st := t.state.Load() // once: between two looks, the records at q could be dropped
	if !q.IsZero() && st.isDropped(q) {
		return 0, At{}, ErrDropped
	}
	return t.ceil(st, q)
}

// isDropped reports whether the record q counts as dropped.
func (st *state) isDropped(q format.Seq) bool {
	first, _ := st.bounds()
	return q < max(first, st.dropped)
}

func (t *Stream) ceil(st *state, q format.Seq) (format.Seq, At, error) {
	r, i, err := t.ceilIn(st, q)
	if r == nil || err != nil {
		return 0, At{}, err
	}
	found, at, err := t.record(r, i)
	at.Proof = st.proofOf(found, at.LSN)
	return found, at, err
}

// proofOf returns the LSN with which the record q, whose message is at lsn, becomes stable.
func (st *state) proofOf(q format.Seq, lsn format.LSN) format.LSN {
	if q <= st.kept {
		return 0 // the log has a stable message, so this is stable
	}
	i, found := slices.BinarySearchFunc(st.young, q, func(p proof, q format.Seq) int { return cmp.Compare(p.seq, q) })
	if found {
		return st.young[i].lsn
	}
	return lsn
}

// provenBelow returns the last of the records that were carried forward that is stable if end is the stable end.
func (st *state) provenBelow(end format.LSN) format.Seq {
	n := sort.Search(len(st.young), func(i int) bool { return st.young[i].lsn >= end })
	if n == 0 {
		return st.kept
	}
	return st.young[n-1].seq
}

// ceilIn returns the run of the first record at or above q, nil if there is none, and its place in it.
func (t *Stream) ceilIn(st *state, q format.Seq) (*run, int, error) {
	i := st.pieceAt(q)
	if i == len(st.pieces) {
		return nil, 0, nil
	}
	p := &st.pieces[i]
	n, err := t.search(p.run, max(q, p.first))
	return p.run, n, err
}

// floor returns the number of the last record at or below q; 0 if there is none.
func (t *Stream) floor(st *state, q format.Seq) (format.Seq, error) {
	i := st.pieceAt(q)
	if i == len(st.pieces) {
		_, last := st.bounds()
		return last, nil
	}
	p := &st.pieces[i]
	if q < p.first {
		if i == 0 {
			return 0, nil
		}
		return st.lastOf(i - 1), nil
	}
	n, err := t.search(p.run, q+1)
	if err != nil || n == 0 {
		return 0, err
	}
	return t.number(p.run, n-1)
}

// search returns the place in a run of its first record at or above q, or the number of its records if there is none.
func (t *Stream) search(r *run, q format.Seq) (int, error) {
	n := int(r.count.Load())
	if q <= r.first {
		return 0, nil
	}
	if !r.sparse.Load() {
		return int(min(uint64(q-r.first), uint64(n))), nil
	}
	var failed error
	i := sort.Search(n, func(i int) bool {
		if failed != nil {
			return true
		}
		found, _, err := t.numberAt(r, i)
		failed = err
		return found >= q
	})
	return i, failed
}

// record returns the number and place of the i-th record of a run.
func (t *Stream) record(r *run, i int) (format.Seq, At, error) {
	if !r.sparse.Load() {
		at, err := t.placeOf(r, i)
		return r.first + format.Seq(i), at, err
	}
	return t.numberAt(r, i)
}

// number returns the number of the i-th record of a run. It reads nothing if no number is missing in the run.
func (t *Stream) number(r *run, i int) (format.Seq, error) {
	if !r.sparse.Load() {
		return r.first + format.Seq(i), nil
	}
	q, _, err := t.numberAt(r, i)
	return q, err
}

// placeOf returns the place of the i-th record of a run.
func (t *Stream) placeOf(r *run, i int) (At, error) {
	off, err := t.set.offset(r, i)
	if err != nil {
		return At{}, err
	}
	ptr := format.DiskPtr{Off: r.seg.slot.Offset(int(t.set.size)) + format.Offset(off)}
	return At{LSN: r.seg.base + format.LSN(off), Ptr: ptr}, nil
}

// numberAt reads the number of the i-th record of a run.
func (t *Stream) numberAt(r *run, i int) (format.Seq, At, error) {
	at, err := t.placeOf(r, i)
	if err != nil {
		return 0, At{}, err
	}
	q, _, at, err := t.read(at)
	return q, at, err
}

// Below returns the number of the last record that is stable if end is the stable end; 0 if there is none.
func (t *Stream) Below(end format.LSN) (format.Seq, error) {
	st := t.state.Load()
	q, err := t.below(st, end)
	return max(q, st.provenBelow(end)), err
}

// below returns the number of the last record whose message lies below an LSN; 0 if there is none.
func (t *Stream) below(st *state, end format.LSN) (format.Seq, error) {
	for i := len(st.pieces) - 1; i >= 0; i-- {
		p, last := &st.pieces[i], st.lastOf(i)
		if p.run.seg.base >= end {
			continue
		}
		if p.run.seg.base+t.set.size <= end {
			return last, nil
		}
		from, err := t.search(p.run, p.first)
		to := from
		if err == nil {
			to, err = t.search(p.run, last+1)
		}
		n := sort.Search(to-from, func(i int) bool {
			at, failed := t.placeOf(p.run, from+i)
			err = errors.Join(err, failed)
			return failed != nil || at.LSN >= end
		})
		if err != nil {
			return 0, err
		}
		if n > 0 {
			q, _, err := t.record(p.run, from+n-1)
			return q, err
		}
	}
	return 0, nil
}

// clipped returns st with the records from first to last, both of which exist, or without any if first is 0. dropped is
// state.dropped of the result.
func (st *state) clipped(first, last, dropped format.Seq) *state {
	c := &state{dropped: dropped}
	if first.IsZero() {
		return c
	}
	i, j := st.pieceAt(first), st.pieceAt(last)
	c.pieces = slices.Clone(st.pieces[i : j+1])
	c.pieces[0].first = max(c.pieces[0].first, first)
	c.pieces[len(c.pieces)-1].last = 0
	c.last.Store(uint64(last))
	if st.kept >= first {
		c.kept = min(st.kept, last)
	}
	for _, p := range st.young {
		if p.seq >= first && p.seq <= last {
			c.young = append(c.young, p)
		}
	}
	c.low = c.pieces[0].run.low // those of other runs are higher, except for long records
	for i := 0; st.long && i < len(c.pieces); i++ {
		r := c.pieces[i].run
		c.low, c.long = min(c.low, r.low), c.long || r.long
	}
	return c
}

// with returns st with a record q behind the others, in run r.
func (st *state) with(r *run, q format.Seq) *state {
	c := &state{pieces: make([]piece, len(st.pieces), len(st.pieces)+1), low: r.low, long: st.long || r.long}
	c.dropped, c.kept, c.young = min(st.dropped, q), st.kept, st.young
	copy(c.pieces, st.pieces)
	if n := len(c.pieces); n > 0 {
		c.pieces[n-1].last = format.Seq(st.last.Load())
		c.low = min(c.low, st.low)
	}
	c.pieces = append(c.pieces, piece{run: r, first: q})
	c.last.Store(uint64(q))
	return c
}
