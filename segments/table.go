package segments

import (
	"sync/atomic"

	"pagecache/segments/format"
)

const (
	headSlots = 64 // those of a small file
	chunkBits = 10
	chunkSize = 1 << chunkBits
	maxChunks = 1 << 12
)

// MaxSlots is the largest number of slots that a file can have.
const MaxSlots = chunkSize * maxChunks

// slotTable holds all slots of the file, and finds segments by their base LSN.
//
// A slot's description is looked up without a lock and never moves. The fields below chunks are guarded by Space.mu,
// except while the store is opened, when one goroutine has the table to itself.
type slotTable struct {
	segmentSize int // bytes; constant

	head [headSlots]Segment // the first slots
	// chunks has all other slots. It and its elements are filled on demand, by the goroutine whose compare-and-swap
	// succeeds. Each pointer is written once and publishes zeroed memory. A stale nil costs the loser of the swap an
	// allocation.
	chunks atomic.Pointer[[maxChunks]atomic.Pointer[[chunkSize]Segment]]

	slots int // slots that the file holds
	used  int // slots that are not Free
	// outOfUse is the number of Free slots that are never used.
	outOfUse int
	index    map[format.LSN]format.SegmentID // slots that are not Free, by base
	newest   format.LSN                      // base of the segment that was opened last, NoLSN if there is none
	ledger   format.Ledger                   // of the slots that are not Free, less those that leave
	// leaving is the LSN of the message by which segments leave whose slots are not marked as free yet; 0 if there is
	// none.
	leaving format.LSN
}

// segment returns the description of a slot.
func (t *slotTable) segment(id format.SegmentID) *Segment {
	if id < headSlots {
		return &t.head[id]
	}
	all := filled(&t.chunks)
	return &filled(&all[id>>chunkBits])[id&(chunkSize-1)]
}

// filled returns the target of p, and makes one if there is none.
func filled[T any](p *atomic.Pointer[T]) *T {
	c := p.Load()
	if c == nil {
		p.CompareAndSwap(nil, new(T))
		c = p.Load()
	}
	return c
}

// at returns the description of the slot in which a file offset lies.
func (t *slotTable) at(off format.Offset) *Segment {
	return t.segment(format.SegmentID(int64(off) / int64(t.segmentSize)))
}

// enter adds a slot that has left StateFree to the index and to the ledger.
func (t *slotTable) enter(id format.SegmentID, base format.LSN, identity format.Identity) {
	t.segment(id).identity = identity
	t.ledger.Joined += identity
	t.index[base] = id
	t.used++
	t.newest = max(t.newest, base)
}

// recycle makes Draining slots Free and removes them from the index.
func (t *slotTable) recycle(ids []format.SegmentID) {
	for _, id := range ids {
		g := t.segment(id)
		delete(t.index, g.Base())
		g.recycle()
	}
	t.used -= len(ids)
}

// first returns the lowest base from which on segments follow one another without a gap up to the newest, 0 if there is
// no segment.
func (t *slotTable) first() format.LSN {
	size := format.LSN(t.segmentSize)
	first := max(t.newest, 0)
	for {
		if _, ok := t.index[first-size]; !ok {
			return first
		}
		first -= size
	}
}
