package iobuf

import (
	"fmt"

	"pagecache/internal/invariants"
	"pagecache/segments"
	"pagecache/segments/format"
)

// Reservation is a place in the log that one goroutine owns. It ends in exactly one call of Complete or Abort, of one
// of its copies; until then nothing at or above it becomes stable. The zero Reservation owns nothing.
type Reservation struct {
	tracker invariants.Tracker // first: then it takes no memory in a normal build
	l       *Log
	b       *buffer // nil once it has ended
	off     int
	size    int // bytes, header included
	page    format.PageID
	kind    format.Kind
}

// Reserve takes a place for a message with a body of n bytes. It waits for a free io buffer if the active one is
// full. Errors: that of a log that has stopped, segments.ErrNoRoom (nothing has changed; it may work later),
// ErrTooLarge. Safe for concurrent use.
func (l *Log) Reserve(kind format.Kind, page format.PageID, n int) (Reservation, error) {
	return l.reserve(kind, page, n, format.IndexUnits(kind), urgencyOfKind(kind))
}

// urgencyOfKind returns the urgency of messages of a kind, unless the cleaner writes them.
func urgencyOfKind(kind format.Kind) segments.Urgency {
	switch kind {
	case format.KindFree, format.KindCounter, format.KindNote, format.KindTruncate:
		return segments.UrgencyFreeing
	case format.KindBatchEnd: // no segment can be recycled until the batch ends
		return segments.UrgencyCleaning
	}
	return segments.UrgencyOrdinary
}

// ReserveUrgent is Reserve for the cleaner: it may use all slots that are reserved for urgent writers. Reserve itself
// may use most of them for frees, notes and truncations, and all of them for ends of batches.
func (l *Log) ReserveUrgent(kind format.Kind, page format.PageID, n int) (Reservation, error) {
	return l.reserve(kind, page, n, format.IndexUnits(kind), segments.UrgencyCleaning)
}

// reserve is Reserve for a given urgency. An index of the segment needs room for the message in the given number of
// units. The loop ends because each turn gets a place, or finds the buffer full and opens the next segment (rotate),
// which waits for a free buffer or fails.
func (l *Log) reserve(kind format.Kind, page format.PageID, n, units int, u segments.Urgency) (Reservation, error) {
	if l.active.Load() == nil && l.stopped.Load() { // before the size: a read-only log has no segment size
		return Reservation{}, l.Err()
	}
	size := format.HeaderSize + n
	limit := l.maxBody
	if !l.indexed {
		units = 0
	} else { // an empty segment has room for the message and an index of it
		limit -= format.IndexRoom(units) - format.IndexRoom(format.IndexUnits(format.KindData))
	}
	if n < 0 || n > limit {
		return Reservation{}, fmt.Errorf("%w: body of %d bytes, limit %d", ErrTooLarge, n, limit)
	}
	need := makeTail(format.AlignUp(size), units)
	for {
		if l.stopped.Load() {
			return Reservation{}, l.Err()
		}
		invariants.Jitter()
		b := l.active.Load()
		if b != nil {
			if least := b.least.Load(); uint64(u) < urgencyOf(least) {
				if err := l.checkRoom(b, least, u); err != nil {
					return Reservation{}, err
				}
			}
		}
		if b != nil && !b.sealed() { // looking first bounds how far failed adds can push the tail
			invariants.Jitter()
			after := tailWord(b.tail.Add(uint64(need)))
			before := after - need
			if !b.full(after) {
				return Reservation{
					tracker: invariants.Track("iobuf.Reservation", &l.stopped),
					l:       l, b: b, off: before.off(), size: size, page: page, kind: kind,
				}, nil
			}
			crosses := !b.full(before)
			invariants.Sometimes("iobuf: a reservation begins beyond the end of its buffer", !crosses)
			if crosses {
				l.sealRest(b, before.off())
			}
		}
		if err := l.rotate(u); err != nil {
			return Reservation{}, err
		}
	}
}

// sealRest ends the segment in b, in which everything from off on is free. Only one goroutine crosses the end of a
// segment, or the place that its index needs, and owns the rest.
func (l *Log) sealRest(b *buffer, off int) {
	lsn := format.LSN(b.base.Load() + int64(off)) // before the end is committed
	switch {
	case b.indexed:
		b.sealedAt.Store(int64(off)) // the leader writes the rest, once everything before it is committed
	case len(b.mem)-off >= format.HeaderSize:
		b.pad(off, len(b.mem), l.known())
	default:
		return
	}
	l.filled(lsn)
	l.kickFlusher()
}

// Body returns the place of the message's body: n bytes, all zero.
func (r *Reservation) Body() []byte {
	return r.b.mem[r.off+format.HeaderSize : r.off+r.size : r.off+r.size]
}

// LSN returns the message's LSN.
func (r *Reservation) LSN() format.LSN { return format.LSN(r.b.base.Load() + int64(r.off)) }

// End returns the LSN of the first byte after the message.
func (r *Reservation) End() format.LSN { return r.LSN() + format.LSN(format.AlignUp(r.size)) }

// Ptr returns the place of the message in the file.
func (r *Reservation) Ptr() format.DiskPtr {
	off := r.b.slot.Offset(r.l.segmentSize) + format.Offset(r.off)
	return format.DiskPtr{Off: off, Len: uint32(r.size), Blob: r.kind.Blob()}
}

// Complete commits the message.
func (r *Reservation) Complete() { r.finish(r.kind) }

// Abort ends the reservation without a message. Readers of the log skip the place.
func (r *Reservation) Abort() { r.finish(format.KindFailed) }

func (r *Reservation) finish(k format.Kind) {
	b, l := r.b, r.l
	if b == nil {
		panic("iobuf: reservation ended twice")
	}
	r.tracker.Done()
	r.b = nil
	w := format.MakeWord(k, r.size)
	msg := b.mem[r.off : r.off+r.size]
	lsn := format.LSN(b.base.Load() + int64(r.off))
	format.PutHeader(msg, lsn, r.page, l.DurableEnd())
	format.PutCRC(msg, w, b.seed)
	b.commit(r.off, w)
	// After the commit the leader may retire the buffer at any time, so nothing below touches it.
	l.committed(lsn)
	if end := r.off + format.AlignUp(r.size); r.off/l.chunk != end/l.chunk {
		l.kickFlusher()
	}
}
