package segments

import (
	"cmp"
	"slices"

	"pagecache/segments/format"
)

// freeList holds the slots that the next segments use. Their space on the disk is reserved (G1). It is guarded by
// Space.mu.
//
//	        add, put                take, for a segment
//	outside ──────────▶ in the list ────────────────────▶ outside
//	                      │    ▲    take, for the zeroer
//	                      └────┘    and put, after it
type freeList struct {
	ids []format.SegmentID // the highest first: the next segment takes the last, so that the end of the file stays free
	// written has the slots of ids that need no zeroing ahead: all their blocks were written before, or they hold a
	// header that must stay.
	written map[format.SegmentID]bool
}

func byIDDescending(a, b format.SegmentID) int { return cmp.Compare(b, a) }

func (f *freeList) len() int { return len(f.ids) }

// next returns the slot that take returns next. The list is not empty.
func (f *freeList) next() format.SegmentID { return f.ids[len(f.ids)-1] }

// take removes the next slot from the list and returns it. The list is not empty.
func (f *freeList) take() format.SegmentID {
	id := f.next()
	f.ids = f.ids[:len(f.ids)-1]
	delete(f.written, id)
	return id
}

// put adds a slot.
func (f *freeList) put(id format.SegmentID, written bool) {
	i, _ := slices.BinarySearchFunc(f.ids, id, byIDDescending)
	f.ids = slices.Insert(f.ids, i, id)
	if written {
		f.written[id] = true
	}
}

// add adds many slots; those that are in fresh were never written.
func (f *freeList) add(ids, fresh []format.SegmentID) {
	f.ids = append(f.ids, ids...)
	slices.SortFunc(f.ids, byIDDescending)
	for _, id := range ids {
		f.written[id] = true
	}
	for _, id := range fresh {
		delete(f.written, id)
	}
}

// atEnd returns the number of free slots, without a gap, at the end of a file of the given length in slots.
func (f *freeList) atEnd(slots int) int {
	n := 0
	for n < len(f.ids) && int(f.ids[n]) == slots-1-n {
		n++
	}
	return n
}

// dropHighest removes the n highest slots.
func (f *freeList) dropHighest(n int) {
	for _, id := range f.ids[:n] {
		delete(f.written, id)
	}
	f.ids = slices.Delete(f.ids, 0, n)
}
