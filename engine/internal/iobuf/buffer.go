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
//	          rotate              overflow or sealTail           retire
//	  Free ───────────▶ Active ───────────────────────▶ Sealed ─────────▶ Free
//	base = NoLSN      tail ≤ cap                        tail > cap       base = NoLSN
//
// Free: nothing in it may be trusted, all bytes are zero. Active: reservations are handed out. Sealed: nobody
// reserves any more; it goes once every byte is durable.
type buffer struct {
	mem []byte // len(mem) is the segment size; outside the Go heap except under the race detector

	// tail is the offset of the next reservation; above len(mem) the buffer is not open for any.
	// Written: by every reserving goroutine (Add), by rotate (Store, publishes base, slot, seed and the segment
	// header to whoever's Add returns a place inside) and by padTail (CompareAndSwap). It only grows while Active. A stale read
	// costs a turn of the caller's loop.
	tail atomic.Uint64
	_    [48]byte

	// base is the LSN of mem[0], NoLSN while Free. Written by rotate and retire. Whoever holds an uncommitted
	// reservation keeps it fixed; readers take read and look again.
	base atomic.Int64

	slot format.SegmentID // written by rotate before tail opens
	seed format.Seed      // likewise

	// least is the segments.Urgency below which writers have to ask for room, in its low bits, and which segment that is for (leastOf). Written by rotate and
	// resume before tail opens, lowered by whoever got room (CompareAndSwap, so that it is for the segment that was asked about); a stale one costs a question.
	least atomic.Uint64

	// read is held shared to copy committed bytes out, exclusively to take the buffer away (retire).
	read sync.RWMutex

	// What follows belongs to the leader (see flush.go).
	walked    int // all messages below are committed; a message boundary
	boundary  int // the last message boundary at or below the last block boundary at or below walked
	submitted int // bytes below were given to the device; a block boundary
	covered   int // the message boundary that becomes durable with what was submitted
	// pages are those of the messages below walked, if listed. Long lists, of small messages, are not worth their memory.
	pages  segments.PageList
	listed bool
}

// listShare is the share of a segment's length that the list of its pages may have.
const listShare = 128

const urgencyBits = 2

// leastOf packs what buffer.least says of the segment that begins at base.
func leastOf(base format.LSN, u segments.Urgency) uint64 {
	return uint64(base)<<urgencyBits | uint64(u) // no log is so long that anything is lost
}

func (b *buffer) word(off int) *atomic.Uint32 {
	// Messages are aligned to 8 bytes and mem to a page, so the word is aligned for atomic access.
	return (*atomic.Uint32)(unsafe.Pointer(&b.mem[off]))
}

// commit publishes the message at off to the leader: everything written to its bytes before is seen by whoever
// loads a word that is not zero (walk).
func (b *buffer) commit(off int, w format.Word) {
	invariants.Jitter()
	b.word(off).Store(uint32(w))
}

// walk moves walked over the messages that are committed and keeps boundary with it.
func (b *buffer) walk(block int) (n int64) {
	pos := b.walked
	for len(b.mem)-pos >= format.HeaderSize {
		w := format.Word(b.word(pos).Load())
		if w == 0 {
			break
		}
		end := pos + format.AlignUp(w.Len())
		if floor := end &^ (block - 1); pos <= floor {
			b.boundary = pos
			if end == floor {
				b.boundary = end
			}
		}
		if b.listed && w.Kind().OfPage() {
			b.pages = b.pages.Append(format.MessagePage(b.mem[pos:]))
			b.listed = len(b.pages) <= len(b.mem)/listShare
		}
		pos = end
		n++
	}
	if len(b.mem)-pos < format.HeaderSize && pos != len(b.mem) {
		// No message fits any more; nobody may think otherwise.
		b.sealTail()
		pos = len(b.mem)
	}
	if pos == len(b.mem) {
		b.boundary = pos
	}
	b.walked = pos
	return n
}

// sealTail closes a buffer in which fewer than HeaderSize bytes are left. It ends because tail, once above
// len(mem), never comes back while the buffer is in the queue, and below it only grows.
func (b *buffer) sealTail() {
	for {
		t := b.tail.Load()
		if t > uint64(len(b.mem)) || b.tail.CompareAndSwap(t, uint64(len(b.mem))+1) {
			return
		}
	}
}

// sealed reports whether nobody can reserve in the buffer any more.
func (b *buffer) sealed() bool { return b.tail.Load() > uint64(len(b.mem)) }

// padTail brings the tail to a block boundary with a pad message, so that all that is reserved now can be flushed.
// Every failed compare-and-swap means that a writer moved the tail on by at least HeaderSize; padTail gives up once
// the tail has left the block in which from lies, since no pad is needed then for what is below it. It returns the
// length of the pad in bytes.
func (b *buffer) padTail(from, block int, stable format.LSN) int {
	for {
		invariants.Jitter()
		t := b.tail.Load()
		off := int(t)
		if t > uint64(len(b.mem)) || off%block == 0 || off&^(block-1) > from {
			return 0
		}
		end := (off + block - 1) &^ (block - 1)
		if end-off < format.HeaderSize {
			end += block
		}
		if end > len(b.mem) {
			// Fewer than HeaderSize bytes are left in the segment: it is full.
			if b.tail.CompareAndSwap(t, uint64(len(b.mem))+1) {
				return 0
			}
			continue
		}
		if b.tail.CompareAndSwap(t, uint64(end)) {
			b.pad(off, end, stable)
			return end - off
		}
	}
}

// pad commits a pad message over [off, end), which the caller has reserved.
func (b *buffer) pad(off, end int, stable format.LSN) {
	w := format.PutPad(b.mem[off:], format.LSN(b.base.Load()+int64(off)), stable, end-off, b.seed)
	b.commit(off, w)
}
