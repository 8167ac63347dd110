package segments

import (
	"sync/atomic"

	"pagecache/segments/format"
)

const (
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

	// chunks is filled on demand, by the goroutine whose compare-and-swap succeeds. Each pointer is written once and
	// publishes a zeroed chunk. A stale nil costs the loser of the swap an allocation.
	chunks [maxChunks]atomic.Pointer[[chunkSize]Segment]

	slots    int                             // slots that the file holds
	used     int                             // slots that are not Free
	index    map[format.LSN]format.SegmentID // slots that are not Free, by base
	newest   format.LSN                      // base of the segment that was opened last, NoLSN if there is none
	recycled uint64                          // segments recycled over the life of the store
}

// segment returns the description of a slot.
func (t *slotTable) segment(id format.SegmentID) *Segment {
	p := &t.chunks[id>>chunkBits]
	c := p.Load()
	if c == nil {
		p.CompareAndSwap(nil, new([chunkSize]Segment))
		c = p.Load()
	}
	return &c[id&(chunkSize-1)]
}

// at returns the description of the slot in which a file offset lies.
func (t *slotTable) at(off format.Offset) *Segment {
	return t.segment(format.SegmentID(int64(off) / int64(t.segmentSize)))
}

// enter adds a slot that has left StateFree to the index.
func (t *slotTable) enter(id format.SegmentID, base format.LSN) {
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
	t.recycled += uint64(len(ids))
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

// census returns the bases of all segments, and the number of segments recycled over the life of the store except those
// with a base at or above the segment of from.
func (t *slotTable) census(from format.LSN) (bases []format.LSN, recycled uint64) {
	size := format.LSN(t.segmentSize)
	first := from - from%size
	later := format.LSN(0) // segments in the table with a base of at least first
	for base := range t.index {
		bases = append(bases, base)
		if base >= first {
			later++
		}
	}
	if t.newest < first {
		return bases, t.recycled
	}
	// Bases are consecutive, so the segments from first on that are not in the table were recycled.
	return bases, t.recycled - uint64((t.newest-first)/size+1-later)
}
