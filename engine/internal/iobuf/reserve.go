package iobuf

import (
	"errors"
	"fmt"

	"pagecache/internal/invariants"
	"pagecache/segments"
	"pagecache/segments/format"
)

// Reservation is a place in the log that one goroutine owns. It ends in exactly one call of Complete or Abort; until then
// nothing at or above it becomes stable. The zero Reservation owns nothing.
type Reservation struct {
	l    *Log
	b    *buffer
	off  int
	size int // header included
	page format.PageID
	kind format.Kind
}

// Reserve takes a place for a message with a body of n bytes. It fails with the sticky error of a log that has stopped, with
// segments.ErrNoRoom (nothing is half done; it may work later), with ErrTooLarge or ErrClosed. Safe for
// concurrent use.
//
// The loop ends because each turn either gets a place, or finds the buffer full and turns to the next segment
// (rotate), which waits for a free buffer or fails.
func (l *Log) Reserve(kind format.Kind, page format.PageID, n int) (Reservation, error) {
	u := segments.Ordinary
	switch kind {
	case format.KindFree, format.KindCounter:
		u = segments.Freeing
	case format.KindBatchEnd: // until then nothing can be recycled
		u = segments.Cleaning
	}
	return l.reserve(kind, page, n, u)
}

// ReserveUrgent is Reserve for the cleaner: it may take any place that is kept for making room. Frees and notes of ids may take most of them always, ends of batches all.
func (l *Log) ReserveUrgent(kind format.Kind, page format.PageID, n int) (Reservation, error) {
	return l.reserve(kind, page, n, segments.Cleaning)
}

func (l *Log) reserve(kind format.Kind, page format.PageID, n int, u segments.Urgency) (Reservation, error) {
	if l.active.Load() == nil && l.stopped.Load() { // nor has one that is for reading only any segments
		return Reservation{}, l.Err()
	}
	size := format.HeaderSize + n
	if n < 0 || size > l.segmentSize-format.SegmentHeaderSize {
		return Reservation{}, fmt.Errorf("%w: %d bytes, at most %d fit a segment", ErrTooLarge, n, format.MaxBody(l.segmentSize))
	}
	need := uint64(format.AlignUp(size))
	end := uint64(l.segmentSize)
	for {
		if l.stopped.Load() {
			return Reservation{}, l.Err()
		}
		invariants.Jitter()
		b := l.active.Load()
		if b != nil {
			if least := b.least.Load(); uint64(u) < least%(1<<urgencyBits) {
				if err := l.room(b, least, u); err != nil {
					return Reservation{}, err
				}
			}
		}
		if b != nil && b.tail.Load() <= end { // looking first bounds how far failed adds can push the tail
			off := b.tail.Add(need) - need
			if off+need <= end {
				return Reservation{l: l, b: b, off: int(off), size: size, page: page, kind: kind}, nil
			}
			if off <= end && end-off >= format.HeaderSize {
				// Only one goroutine crosses the end: it owns the rest of the segment.
				b.pad(int(off), int(end), l.StableLSN())
				l.kickFlusher()
			}
		}
		if err := l.rotate(u); err != nil {
			return Reservation{}, err
		}
	}
}

// Body is where the message's body goes: n bytes, all zero.
func (r *Reservation) Body() []byte {
	return r.b.mem[r.off+format.HeaderSize : r.off+r.size : r.off+r.size]
}

// LSN is the message's LSN.
func (r *Reservation) LSN() format.LSN { return format.LSN(r.b.base.Load() + int64(r.off)) }

// End is the LSN of the first byte after the message.
func (r *Reservation) End() format.LSN { return r.LSN() + format.LSN(format.AlignUp(r.size)) }

// Ptr says where the message will lie in the file.
func (r *Reservation) Ptr() format.DiskPtr {
	return format.DiskPtr{Off: r.b.slot.Offset(r.l.segmentSize) + format.Offset(r.off), Len: uint32(r.size), Blob: r.kind.Blob()}
}

// Complete commits the message.
func (r *Reservation) Complete() { r.finish(r.kind) }

// Abort gives the place up: what lies there is skipped by whoever reads the log.
func (r *Reservation) Abort() { r.finish(format.KindFailed) }

func (r *Reservation) finish(k format.Kind) {
	b, l := r.b, r.l
	if b == nil {
		panic("iobuf: reservation ended twice")
	}
	r.b = nil
	w := format.MakeWord(k, r.size)
	msg := b.mem[r.off : r.off+r.size]
	format.PutHeader(msg, format.LSN(b.base.Load()+int64(r.off)), r.page)
	format.PutCRC(msg, w, b.seed)
	b.commit(r.off, w)
	// After the commit the buffer may go at any time: nothing of it is touched below.
	if end := r.off + format.AlignUp(r.size); r.off/l.chunk != end/l.chunk || l.starved.Load() > 0 {
		l.kickFlusher()
	}
}

// room asks whether b, the active buffer, whose segment was opened in a slot that was kept for what is more urgent, may be used after all. Who looked at least before
// the buffer was opened again gets a place in what is kept, and no second one.
func (l *Log) room(b *buffer, least uint64, u segments.Urgency) error {
	if err := l.space.Room(u); err != nil {
		return l.noRoom(err)
	}
	b.least.CompareAndSwap(least, least&^(1<<urgencyBits-1)|uint64(u))
	return nil
}

// noRoom tells lack of room, which fails one reservation, from what stops the log.
func (l *Log) noRoom(err error) error {
	if !errors.Is(err, segments.ErrNoRoom) {
		l.fail(err)
		return l.Err()
	}
	return err
}

// rotate opens the next segment if the active one is full. It waits for a free buffer.
func (l *Log) rotate(u segments.Urgency) error {
	l.rotateMu.Lock()
	defer l.rotateMu.Unlock()
	if b := l.active.Load(); b != nil && !b.sealed() {
		return nil // somebody else did
	}
	b, err := l.takeFree()
	if err != nil {
		return err
	}
	base := l.nextBase
	slot, least, err := l.space.OpenSegment(base, u)
	if err != nil {
		l.giveFree(b)
		return l.noRoom(err)
	}
	b.least.Store(leastOf(base, least))
	b.slot, b.seed = slot, format.MakeSeed(l.store, l.generation, slot)
	format.SegmentHeader{State: format.SegmentInUse, SegmentSize: l.segmentSize, BlockSize: l.block,
		Generation: l.generation, Base: base, Stable: l.StableLSN(), Recycled: l.space.Recycled(), Slot: slot}.Put(b.mem)
	b.walked, b.boundary, b.submitted, b.covered = format.SegmentHeaderSize, 0, 0, 0
	b.pages, b.listed = b.pages[:0], l.listPages
	l.nextBase += format.LSN(l.segmentSize)
	l.open(b, base, format.SegmentHeaderSize)
	l.kickFlusher()
	return nil
}

// open makes b the active buffer, from offset used on. All under mu: b may be the active buffer already, emptied, and whoever saw its
// new base with its old tail would take the whole segment for reserved (Tail).
func (l *Log) open(b *buffer, base format.LSN, used int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.read.Lock()
	b.base.Store(int64(base))
	b.read.Unlock()
	l.queue = append(l.queue, b)
	invariants.Jitter()
	b.tail.Store(uint64(used)) // after the base, which those who reserve from then on use
	l.active.Store(b)
}

// takeFree waits for a free buffer.
func (l *Log) takeFree() (*buffer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.free) == 0 {
		l.stats.BufferWaits++
		l.starved.Add(1) // before the flusher looks: who commits later kicks it again
		defer l.starved.Add(-1)
	}
	for len(l.free) == 0 && l.err == nil {
		l.kickFlusher()
		l.freed.Wait()
	}
	if l.err != nil {
		return nil, l.err
	}
	b := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	return b, nil
}

func (l *Log) giveFree(b *buffer) {
	l.mu.Lock()
	l.free = append(l.free, b)
	l.mu.Unlock()
	l.freed.Broadcast()
}
