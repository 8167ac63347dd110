package iobuf

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"pagecache/internal/invariants"
	"pagecache/segments"
	"pagecache/segments/format"
)

// buffer is one io buffer: the memory image of one segment while it is being filled and written.
//
//	          open               overflow or sealTail           retire            clear
//	  Free ───────────▶ Active ───────────────────────▶ Sealed ─────────▶ Used ─────────▶ Free
//	base = NoLSN      not full                           full         base = NoLSN
//
// Free: all bytes are zero, and no other field is valid. Active: writers reserve places in it. Sealed: no writer
// reserves any more; the leader retires the buffer once the segment is durable. A segment that ends with an index
// (index.go) is completed by the leader before that. Used: it belongs to the goroutine that clears it; only mem and
// progress.hole are valid.
type buffer struct {
	mem     []byte // len(mem) is the segment size; outside the Go heap except under the race detector
	indexed bool   // its segments end with an index; set by newBuffer

	// tail is the tailWord of the segment. Written by every reserving goroutine (Add), by open (Store), and by padTail
	// and sealTail (CompareAndSwap). The store in open publishes base, slot, seed and the segment header to the
	// goroutines whose Add returns a place inside. While Active it only grows. A stale read costs a turn of a loop.
	tail atomic.Uint64
	_    [48]byte

	// base is the LSN of mem[0], NoLSN while Free. Written by open and retire, holding read; publishes which LSNs mem
	// holds. An uncommitted reservation keeps it fixed. Other readers hold read, or load base again after the bytes or
	// the tail, so a stale read costs another look.
	base atomic.Int64

	slot format.SegmentID // written by rotate and resume, before open publishes it
	// limit is the number of bytes of the slot that have disk space: len(mem), except in a short segment, which ends
	// with a pad whose header lies below it. Nothing is written from it on. It never changes: a writer that has added
	// to the tail of a full buffer compares its result with limit however much later, and must find the buffer full
	// even if it is open for another segment by then. So the buffer of a short segment is used once.
	limit int
	// later is the buffer of the same mem for later segments; nil: the buffer itself.
	later *buffer
	seed  format.Seed // written by rotate and resume, before open publishes it

	// least is the urgency below which writers have to ask for room, and the segment that this is for (see leastOf).
	// Written by rotate and resume before open; lowered by checkRoom (CompareAndSwap, so that the answer counts for the
	// segment that was asked about). Publishes nothing. A stale read costs a question.
	least atomic.Uint64

	// sealedAt is the offset behind the last message of a sealed segment that ends with an index; 0 until it is
	// sealed. Written once for each segment, by the goroutine that seals it, and set to 0 by openNext, before open;
	// publishes nothing. The leader completes the segment once everything below is committed. A stale 0 costs a turn
	// of its loop.
	sealedAt atomic.Int64

	// read is held shared to copy committed bytes out, exclusively to change base.
	read sync.RWMutex

	// progress belongs to the leader. rotate and resume set it before open publishes the buffer.
	progress progress
}

// progress is the place up to which the leader has walked a buffer, and that up to which it has written it.
type progress struct {
	walked    int // all messages below are committed; a message boundary, SegmentStart at first
	boundary  int // the last message boundary at or below the last block boundary at or below walked
	submitted int // the bytes below were given to the device; a block boundary
	covered   int // the message boundary that becomes durable with the bytes that were submitted
	// pages lists the pages of the messages below walked, if listed. A list that is longer than a listShare of the
	// segment, as small messages make it, is not worth its memory.
	pages  segments.PageList
	listed bool
	large  bool         // the newest write to blank space was not small
	blank  int          // from this offset on, nothing was written to the slot; at most len(mem)
	index  format.Index // of the messages below walked, if the segment ends with one
	known  bool         // index lists all of them
	hole   hole
}

// hole is the part of a segment's last pad that is not written: nobody reads it, so it costs bandwidth for nothing. It
// begins and ends with a block, and is valid once all of the segment was walked over. to is 0 if there is none.
type hole struct{ from, to int }

// A hole takes leastHole bytes at the least, or one over holeShare of a small segment: a shorter one saves less than
// the second write costs.
const leastHole, holeShare = 256 << 10, 32

// note notes the pad at [pos, end) of a segment of the given size, in blocks. The segment's last block is written in
// any case.
func (h *hole) note(pos, end, size, block int) {
	from := (pos + format.PadSummed + block - 1) &^ (block - 1)
	if to := min(end&^(block-1), size-block); to-from >= max(block, min(leastHole, size/holeShare)) {
		*h = hole{from, to}
	}
}

// listShare is the part of a segment's length, one over listShare, that bounds the number of entries in its page list.
const listShare = 128

func newBuffer(mem []byte, indexed bool, limit int) *buffer {
	b := &buffer{mem: mem, indexed: indexed, limit: limit}
	b.base.Store(int64(format.NoLSN))
	b.tail.Store(uint64(makeTail(len(mem)+1, 0)))
	return b
}

// tailWord says which part of a segment is reserved.
//
//	bits 63…43  the room that the index needs for what was reserved, in units (see format.IndexUnits); 0 if there is
//	            no index
//	bits 42…0   offset of the next reservation, unless the buffer is full
//
// A writer that finds no place has added its length all the same. The offset has room for 2^19 such writers that hold
// the longest message; each of them has looked before.
type tailWord uint64

const tailUnitsShift = 43

// makeTail packs an offset and units.
func makeTail(off, units int) tailWord { return tailWord(units)<<tailUnitsShift | tailWord(off) }

// off returns the offset of the next reservation.
func (t tailWord) off() int { return int(t & (1<<tailUnitsShift - 1)) }

// units returns the units of the index.
func (t tailWord) units() int { return int(t >> tailUnitsShift) }

// full reports whether a buffer with this tail is sealed: its messages, and the index that they need, would end above
// its end.
func (b *buffer) full(t tailWord) bool {
	end := t.off()
	if b.indexed {
		end += format.IndexRoom(t.units())
	}
	if b.isShort() {
		end += 2 * format.HeaderSize // the part of the pad that its checksum covers fits
	}
	return end > b.limit
}

// isShort reports whether only a part of the slot has disk space.
func (b *buffer) isShort() bool { return b.limit < len(b.mem) }

// reserved returns the offset below which everything is reserved: all of a sealed segment.
func (b *buffer) reserved() int {
	if t := tailWord(b.tail.Load()); !b.full(t) {
		return t.off()
	}
	return len(b.mem)
}

const urgencyBits = 2

// leastOf packs an urgency and the base of a segment for buffer.least.
//
//	bits 63…2  the base; LSNs stay far below 2^62
//	bits 1…0   the urgency
func leastOf(base format.LSN, u segments.Urgency) uint64 {
	return uint64(base)<<urgencyBits | uint64(u)
}

// urgencyOf unpacks the urgency of a leastOf.
func urgencyOf(least uint64) uint64 { return least % (1 << urgencyBits) }

// withUrgency replaces the urgency of a leastOf.
func withUrgency(least uint64, u segments.Urgency) uint64 {
	return least&^(1<<urgencyBits-1) | uint64(u)
}

func (b *buffer) word(off int) *atomic.Uint32 {
	// Messages are aligned to 8 bytes and mem to a page, so the word is aligned for atomic access.
	return (*atomic.Uint32)(unsafe.Pointer(&b.mem[off]))
}

// commit publishes the message at off, with all bytes written to it before, to the goroutines that load a length word
// that is not zero (walk, Log.Read).
func (b *buffer) commit(off int, w format.Word) {
	invariants.Jitter()
	b.word(off).Store(uint32(w))
}

// walk moves progress over the messages that are committed and returns their number. Only the leader calls it.
func (b *buffer) walk(block int) (n int64) {
	p := &b.progress
	pos := p.walked
	for len(b.mem)-pos >= format.HeaderSize {
		w := format.Word(b.word(pos).Load())
		if w == 0 {
			break
		}
		end := pos + format.AlignUp(w.Len())
		if floor := end &^ (block - 1); pos <= floor {
			p.boundary = pos
			if end == floor {
				p.boundary = end
			}
		}
		p.list(b.mem, pos, w)
		if w.Kind() == format.KindPad && !b.isShort() {
			p.hole.note(pos, end, len(b.mem), block)
		}
		n++
		if w.Kind().IsGroup() {
			// The words of its messages were stored before that of the group.
			for at := pos + format.HeaderSize + w.Kind().GroupHeadSize(); at < end; n++ {
				w := format.Word(b.word(at).Load())
				p.list(b.mem, at, w)
				at += format.AlignUp(w.Len())
			}
		}
		pos = end
	}
	if len(b.mem)-pos < format.HeaderSize && pos != len(b.mem) {
		b.sealTail() // no message fits any more
		pos = len(b.mem)
	}
	if pos == len(b.mem) {
		p.boundary = pos
	}
	p.walked = pos
	return n
}

// list adds the message at offset pos of mem, with word w, to the lists of progress.
func (p *progress) list(mem []byte, pos int, w format.Word) {
	if p.listed && w.Kind().OfPage() {
		p.pages = p.pages.Append(format.MessagePage(mem[pos:]))
		p.listed = len(p.pages) <= len(mem)/listShare
	}
	if p.known {
		p.index.Add(w.Kind(), pos, mem[pos:])
	}
}

// sealTail seals a buffer in which fewer than HeaderSize bytes are left. Only the leader calls it, for a buffer in the
// queue: one that is retired might be open for another segment by the time it is sealed. The loop ends because the tail
// only grows while the buffer is in the queue, and one step makes it full.
func (b *buffer) sealTail() {
	for {
		t := tailWord(b.tail.Load())
		full := b.full(t)
		invariants.Sometimes("iobuf: the rest of a segment has no room for a header", !full)
		if full || b.tail.CompareAndSwap(uint64(t), uint64(makeTail(len(b.mem)+1, t.units()))) {
			return
		}
	}
}

// sealed reports whether no goroutine can reserve in the buffer any more.
func (b *buffer) sealed() bool { return b.full(tailWord(b.tail.Load())) }

// padTail brings the tail to a block boundary with a pad message, so that everything reserved so far can be flushed. It
// returns the length of the pad in bytes. The loop ends because each failed compare-and-swap means that a writer moved
// the tail on by at least HeaderSize: padTail gives up once the tail has left the block that contains from, since the
// messages before it then need no pad.
func (b *buffer) padTail(from, block int, k format.Known) int {
	for {
		t := tailWord(b.tail.Load())
		if off := t.off(); b.full(t) || off%block == 0 || off&^(block-1) > from {
			return 0
		}
		if _, n, swapped := b.tryPad(t, block, k); swapped {
			return n
		}
	}
}

// mark is padTail that pads a whole block if the tail is on a boundary, and returns the pad's LSN. If the segment has
// no room for the pad, mark seals the buffer and returns a length of 0. Nothing keeps the buffer in the queue
// meanwhile: it may be retired and opened for another segment at any time, so mark changes no tail but one that it has
// looked at (sealTail would). The loop ends because each failed compare-and-swap brings the tail nearer to the end.
func (b *buffer) mark(block int, k format.Known) (lsn format.LSN, n int) {
	for {
		t := tailWord(b.tail.Load())
		if b.full(t) {
			return 0, 0
		}
		if t.off() == len(b.mem) { // nothing is left to be reserved, and the buffer is not sealed
			invariants.Jitter()
			if b.tail.CompareAndSwap(uint64(t), uint64(makeTail(len(b.mem)+1, t.units()))) {
				return 0, 0
			}
			continue
		}
		if lsn, n, swapped := b.tryPad(t, block, k); swapped {
			return lsn, n
		}
	}
}

// tryPad moves the tail from t, inside the segment, to a block boundary above it and commits a pad message in between.
// It seals the buffer instead, and returns a length of 0, if fewer than HeaderSize bytes are left in the segment, or
// the pad would leave no room for the index. The pad of a short segment without room for another one is its last
// message. swapped is false if the tail is not at t any more.
func (b *buffer) tryPad(t tailWord, block int, k format.Known) (lsn format.LSN, n int, swapped bool) {
	off := t.off()
	end := off&^(block-1) + block
	if end-off < format.HeaderSize {
		end += block
	}
	next := makeTail(end, t.units())
	full := b.full(next)
	if full {
		next = makeTail(len(b.mem)+1, t.units())
	}
	invariants.Jitter()
	swapped = b.tail.CompareAndSwap(uint64(t), uint64(next))
	invariants.Sometimes("iobuf: a writer moves the tail before the pad", !swapped)
	if swapped && full && b.indexed {
		b.sealedAt.Store(int64(off))
	}
	if swapped && full && b.isShort() {
		lsn = format.LSN(b.base.Load() + int64(off))
		b.pad(off, len(b.mem), k)
		return lsn, b.limit - off, true
	}
	if !swapped || full {
		return 0, 0, swapped
	}
	lsn = format.LSN(b.base.Load() + int64(off)) // before the commit, after which the buffer may be retired
	b.pad(off, end, k)
	return lsn, end - off, true
}

// pad commits a pad message over [off, end), which the caller has reserved.
func (b *buffer) pad(off, end int, k format.Known) {
	w := format.PutPad(b.mem[off:], format.LSN(b.base.Load()+int64(off)), k, end-off, b.seed)
	b.commit(off, w)
}
