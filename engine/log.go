package engine

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/recovery"
	"pagecache/segments"
	"pagecache/segments/format"
)

// Log is a standalone log: records in order, without pages. Nothing of it goes before DropBelow says so. All methods are safe for concurrent use.
type Log struct {
	*store
	// open counts reservations that have not ended, so that Close can say so.
	open atomic.Int64
	// first is the LSN below which everything was dropped, the base of a segment. Only DropBelow raises it, before it takes anything away.
	first atomic.Int64
}

// OpenLog opens the standalone log in dir, or makes one. SegmentMode is Linear whatever opts says. A disk must have room for three segments at least: one that is
// full, one to write to, so that the other can be dropped, and one that is kept for the next opening. Errors as for Open.
func OpenLog(dir string, opts *Options) (*Log, error) {
	s, _, err := openStore(dir, opts, true)
	if err != nil {
		return nil, err
	}
	l := &Log{store: s}
	l.first.Store(int64(s.space.First()))
	return l, nil
}

// Reservation is a place in the log. It ends in exactly one Complete or Abort, soon: until then nothing behind it becomes
// stable. It belongs to one goroutine.
type Reservation struct {
	l *Log
	r iobuf.Reservation
	// lsn and ptr are kept here since the place cannot be asked once the reservation has ended.
	lsn   LSN
	ptr   DiskPtr
	ended bool
}

// ErrReservationEnded is returned by Complete and Abort of a reservation that has ended.
var ErrReservationEnded = errors.New("reservation has ended")

// Reserve takes a place for a record of n bytes, to be written into Bytes. Errors: ErrNoSpace, ErrTooLarge, ErrFailed, ErrClosed;
// nothing was done then.
func (l *Log) Reserve(n int) (*Reservation, error) {
	call, err := l.enter()
	if err != nil {
		return nil, logError("reserve", err)
	}
	defer call.End()
	r, err := l.log.Reserve(format.KindData, 0, n)
	if err != nil {
		return nil, logError("reserve", err)
	}
	l.open.Add(1)
	return &Reservation{l: l, r: r, lsn: r.LSN(), ptr: r.Ptr()}, nil
}

// Bytes is where the record goes; nil once the reservation has ended.
func (r *Reservation) Bytes() []byte {
	if r.ended {
		return nil
	}
	return r.r.Body()
}

// LSN is the record's LSN.
func (r *Reservation) LSN() LSN { return r.lsn }

// Complete commits the record and returns where it is.
func (r *Reservation) Complete() (LSN, DiskPtr, error) {
	if r.ended {
		return 0, DiskPtr{}, ErrReservationEnded
	}
	r.ended = true
	r.r.Complete()
	r.l.open.Add(-1)
	return r.lsn, r.ptr, nil
}

// Abort gives the place up; readers of the log skip it.
func (r *Reservation) Abort() error {
	if r.ended {
		return ErrReservationEnded
	}
	r.ended = true
	r.r.Abort()
	r.l.open.Add(-1)
	return nil
}

// Write appends a record. It is in memory when Write returns; MakeStable makes it durable. Errors as for Reserve.
func (l *Log) Write(p []byte) (LSN, DiskPtr, error) {
	call, err := l.enter()
	if err != nil {
		return 0, DiskPtr{}, logError("write", err)
	}
	defer call.End()
	r, err := l.log.Reserve(format.KindData, 0, len(p))
	if err != nil {
		return 0, DiskPtr{}, logError("write", err)
	}
	copy(r.Body(), p)
	lsn, ptr := r.LSN(), r.Ptr()
	r.Complete()
	return lsn, ptr, nil
}

// WriteBatch appends records that are recovered all or none, and returns their LSNs. After an error what was written before it stays in the
// log as single records.
func (l *Log) WriteBatch(records [][]byte) ([]LSN, error) {
	if len(records) == 0 {
		return nil, nil
	}
	b, err := l.pinLog()
	if err != nil {
		return nil, err
	}
	lsns := make([]LSN, 0, len(records))
	for _, p := range records {
		lsn, _, err := l.Write(p)
		if err != nil {
			return lsns, errors.Join(err, b.Abort())
		}
		lsns = append(lsns, lsn)
	}
	return lsns, b.Seal()
}

// PinLog begins a batch; see Batch.
func (l *Log) PinLog() (*Batch, error) { return l.pinLog() }

// Read returns the record at lsn and ptr, as Write or Complete returned them. It is valid until Close, or until it is dropped, and must not be changed. A
// damaged record is ErrCorrupt, one that was dropped ErrDropped. In a log that is opened ReadOnly there is nothing beyond its stable end: what a crash cut off is no record.
func (l *Log) Read(lsn LSN, ptr DiskPtr) ([]byte, error) {
	call, err := l.enter()
	if err != nil {
		return nil, logError("read", err)
	}
	defer call.End()
	if lsn < l.FirstLSN() {
		return nil, fmt.Errorf("read LSN %d: %w", lsn, ErrDropped)
	}
	if end := l.log.StableEnd(); l.opts.ReadOnly && lsn >= end {
		return nil, fmt.Errorf("read LSN %d: the log ends at LSN %d", lsn, end)
	}
	kind, body, _, err := l.read(lsn, ptr)
	if err != nil {
		return nil, err
	}
	if kind != format.KindData {
		return nil, fmt.Errorf("read LSN %d: a %v message, not a record", lsn, kind)
	}
	return body, nil
}

// ErrDropped is returned for a record that DropBelow has dropped.
var ErrDropped = errors.New("record was dropped")

// FirstLSN is the LSN below which everything was dropped.
func (l *Log) FirstLSN() LSN { return LSN(l.first.Load()) }

// DropBelow gives up the records below lsn, as far as whole segments hold nothing else and are stable, and their space: it is used again, and the file becomes
// shorter when its end is free. LSNs go on as before, and FirstLSN says how far was dropped. What Read and iterators returned of the records is not valid any more. An
// lsn beyond the end stands for that. After an error, or a crash, FirstLSN may be lower in the next opening, by what was not given up yet. Errors: ErrReadOnly,
// ErrClosed, ErrFailed, and those of writing: such a one is returned by all later calls, while the log itself goes on. Safe for concurrent use.
func (l *Log) DropBelow(lsn LSN) error {
	if l.opts.ReadOnly {
		return logError("drop", ErrReadOnly)
	}
	c := &l.cleaner
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := l.drop(lsn); err != nil || len(c.drained) == 0 {
		return logError("drop", err)
	}
	// Who began to read before first was raised may still be at it. The calls are short, and this one is none of them.
	for epoch := l.calls.domain.Retire(); l.calls.domain.Oldest() < epoch; {
		time.Sleep(50 * time.Microsecond)
	}
	call, err := l.enter()
	if err != nil {
		return logError("drop", err)
	}
	defer call.End()
	var ids []format.SegmentID
	for _, d := range c.drained {
		ids = append(ids, d.id)
	}
	for some := range slices.Chunk(ids, recycleAtOnce) {
		if err := l.recycleSlots(some, l.log.StableLSN()); err != nil {
			if !errors.Is(err, errLater) {
				c.failed = err
			}
			return logError("drop", err)
		}
		c.drained = c.drained[len(some):]
	}
	_, err = l.shrink()
	return err
}

// drop has the segments wholly below lsn wait to be recycled, beside those that an earlier call left waiting, and raises first above them.
func (l *Log) drop(lsn LSN) error {
	call, err := l.enter()
	if err != nil {
		return err
	}
	defer call.End()
	if err := cmp.Or(l.log.Err(), l.cleaner.failed); err != nil {
		return err
	}
	size := LSN(l.super.SegmentSize)
	first, stable := l.FirstLSN(), l.log.StableEnd()
	var found []segments.Candidate
	l.space.Inactive(func(v segments.Candidate) {
		// The beginning of the next is stable too, so that a scan finds where the log goes on. What lies below first was left by a crash inside DropBelow.
		if end := v.Base + size; v.Base < first || end <= lsn && stable > end+format.SegmentHeaderSize {
			found = append(found, v)
		}
	})
	slices.SortFunc(found, func(a, b segments.Candidate) int { return cmp.Compare(a.Base, b.Base) })
	for _, v := range found { // without a gap from the first
		if v.Base == first {
			first += size
		}
	}
	l.first.Store(int64(first))
	for _, v := range found {
		if v.Base < first && l.space.Drain(v.ID) {
			l.cleaner.drained = append(l.cleaner.drained, drained{id: v.ID, base: v.Base})
		}
	}
	return nil
}

// Stats returns the log's counts.
func (l *Log) Stats() Stats { return l.stats() }

// Close makes everything durable, marks the log closed cleanly and releases it. Calls under way are waited for. It fails, and closes
// nothing, while reservations are open.
func (l *Log) Close() error {
	if l.closed.Swap(true) {
		return logError("close", iobuf.ErrClosed)
	}
	l.calls.wait() // those that wait for the log itself end when it is closed
	if n := l.open.Load(); n != 0 {
		l.closed.Store(false)
		return fmt.Errorf("close: %d reservations have not ended", n)
	}
	end, err := l.log.Close()
	return logError("close", l.finish(end, err, 0, 0))
}

// Iterator walks the records of a log in order. It belongs to one goroutine.
type Iterator struct {
	l    *Log
	pos  LSN // of the next message
	end  LSN // the stable end when the iterator was made
	lsn  LSN
	ptr  DiskPtr
	body []byte
	err  error
}

// Iter returns an iterator over the stable records at or above from, as far as the log is stable now. from need not be a
// record's LSN; 0 is the beginning, or FirstLSN.
func (l *Log) Iter(from LSN) *Iterator {
	it := &Iterator{l: l, end: l.log.StableEnd(), pos: from}
	call, err := l.enter()
	if err != nil {
		return it // Next says why
	}
	defer call.End()
	size := LSN(l.super.SegmentSize)
	// A message boundary is only known at the beginning of a segment.
	it.pos = max(from, l.FirstLSN()) / size * size
	for it.pos < it.end {
		if it.pos%size == 0 {
			it.pos += format.SegmentHeaderSize
		}
		if it.pos >= from {
			break
		}
		if _, _, ok := it.step(); !ok {
			break
		}
	}
	return it
}

// Next moves to the next record; false at the end, or at an error (Err).
func (it *Iterator) Next() bool {
	it.body = nil
	call, err := it.l.enter()
	if err != nil {
		it.err = logError("iterate", err)
		return false
	}
	defer call.End()
	for it.err == nil && it.pos < it.end {
		kind, body, ok := it.step()
		if ok && kind == format.KindData {
			it.body = body
			return true
		}
	}
	return false
}

// step reads the message at pos, of whatever kind, and moves pos behind it. False: there was none to read in this segment, or an error.
func (it *Iterator) step() (format.Kind, []byte, bool) {
	size := LSN(it.l.super.SegmentSize)
	if it.pos%size == 0 {
		it.pos += format.SegmentHeaderSize
	}
	if size-it.pos%size < format.HeaderSize {
		it.pos += size - it.pos%size
		return 0, nil, false
	}
	base := it.pos - it.pos%size
	if base < it.l.FirstLSN() {
		it.err = fmt.Errorf("iterate at LSN %d: %w", it.pos, ErrDropped)
		return 0, nil, false
	}
	seg, ok := it.l.space.Find(base)
	if !ok {
		it.err = &CorruptError{File: filepath.Join(it.l.dir, logName), Place: recovery.Place{}.WithLSN(it.pos),
			Reason: "no segment holds this LSN"}
		return 0, nil, false
	}
	off := seg.Offset(int(size)) + format.Offset(it.pos-base)
	it.lsn = it.pos
	h, err := it.l.header(it.pos, off)
	if err == nil {
		it.ptr = DiskPtr{Off: off, Len: uint32(h.Len)}
		if h.Kind == format.KindPad {
			it.pos += LSN(format.AlignUp(h.Len))
			return h.Kind, nil, true
		}
		var body []byte
		var kind format.Kind
		if kind, body, _, err = it.l.read(it.pos, it.ptr); err == nil {
			it.pos += LSN(format.AlignUp(h.Len))
			return kind, body, true
		}
	}
	it.err = fmt.Errorf("iterate at LSN %d: %w", it.pos, err)
	return 0, nil, false
}

// LSN is the current record's.
func (it *Iterator) LSN() LSN { return it.lsn }

// Ptr says where the current record lies.
func (it *Iterator) Ptr() DiskPtr { return it.ptr }

// Bytes is the current record, valid until Close, not to be changed.
func (it *Iterator) Bytes() []byte { return it.body }

// Err is why Next returned false before the end; nil at the end.
func (it *Iterator) Err() error { return it.err }
