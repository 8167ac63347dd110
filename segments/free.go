package segments

import (
	"cmp"
	"maps"
	"slices"

	"pagecache/segments/format"
)

// freeList holds the free slots. The next segments use those whose space on the disk is reserved (G1); the others are
// hollow. It is guarded by Space.mu.
//
//	        add, put                take, for a segment
//	outside ──────────▶ in the list ────────────────────▶ outside
//	 │  ▲                 │    ▲    take, for the zeroer
//	 │  │                 └────┘    and put, after it
//	 │  │
//	 │  │ put, once its    takeHighest, and putHollow
//	 │  │ space is there   once its space was given back
//	 │  └─────────────── hollow ◀──────────────────────── in the list
//	 │                     ▲
//	 └─────────────────────┘ addHollow, while the store is opened
type freeList struct {
	ids []format.SegmentID // the highest first: the next segment takes the last, so that the end of the file stays free
	// blank has, for slots of ids, the offset in the slot from which on no block was written since its space was
	// reserved: zeroing ahead begins there. A header that must stay lies below.
	blank map[format.SegmentID]int
	// low is the smallest number of ids since giveBack looked last.
	low int

	hollow []format.SegmentID // the highest first: the next one to be filled is the last
	// unsure has those of hollow that may have space: Open does not know, and a short segment leaves some. It is tried
	// if the disk is full.
	unsure map[format.SegmentID]bool

	// partial has the slots that have space for a short segment only: those in use become hollow, and those that are
	// hollow stay here until they get space for a whole one.
	partial map[format.SegmentID]bool
}

func byIDDescending(a, b format.SegmentID) int { return cmp.Compare(b, a) }

// insert adds id to a list that has the highest first.
func insert(ids []format.SegmentID, id format.SegmentID) []format.SegmentID {
	i, _ := slices.BinarySearchFunc(ids, id, byIDDescending)
	return slices.Insert(ids, i, id)
}

// len returns the number of slots that segments can use at once.
func (f *freeList) len() int { return len(f.ids) }

// next returns the slot that take returns next. The list is not empty.
func (f *freeList) next() format.SegmentID { return f.ids[len(f.ids)-1] }

// take removes the next slot from the list and returns it. The list is not empty.
func (f *freeList) take() format.SegmentID {
	id := f.next()
	f.ids = f.ids[:len(f.ids)-1]
	f.low = min(f.low, len(f.ids))
	delete(f.blank, id)
	return id
}

// put adds a slot of which all blocks were written.
func (f *freeList) put(id format.SegmentID) { f.ids = insert(f.ids, id) }

// putBlank adds a slot of which no block was written from offset from on.
func (f *freeList) putBlank(id format.SegmentID, from int) {
	f.put(id)
	f.blank[id] = from
}

// add adds many slots; those that are in fresh were never written.
func (f *freeList) add(ids, fresh []format.SegmentID) {
	f.ids = append(f.ids, ids...)
	slices.SortFunc(f.ids, byIDDescending)
	for _, id := range fresh {
		if slices.Contains(ids, id) {
			f.blank[id] = 0
		}
	}
}

// takeHighest removes the n highest slots from the list and returns them. It keeps their blank.
func (f *freeList) takeHighest(n int) []format.SegmentID {
	ids := slices.Clone(f.ids[:n])
	f.ids = slices.Delete(f.ids, 0, n)
	return ids
}

// putHollow adds a slot whose space was given back.
func (f *freeList) putHollow(id format.SegmentID) { f.hollow = insert(f.hollow, id) }

// putPartial adds a slot that has space for a short segment only.
func (f *freeList) putPartial(id format.SegmentID) {
	f.putHollow(id)
	f.unsure[id] = true
}

// complete notes that a slot, outside of the lists, has space for a whole segment. It reports whether some of it may
// have been written before.
func (f *freeList) complete(id format.SegmentID) (used bool) {
	used = f.unsure[id] && !f.partial[id]
	delete(f.unsure, id)
	delete(f.partial, id)
	return used
}

// addHollow adds many slots of which it is not known whether they have space.
func (f *freeList) addHollow(ids []format.SegmentID) {
	f.hollow = append(f.hollow, ids...)
	slices.SortFunc(f.hollow, byIDDescending)
	for _, id := range ids {
		f.unsure[id] = true
	}
}

// takeHollow removes the lowest n hollow slots, or all if there are fewer, and returns them, the lowest first.
func (f *freeList) takeHollow(n int) []format.SegmentID {
	at := max(0, len(f.hollow)-n)
	ids := slices.Clone(f.hollow[at:])
	slices.Reverse(ids)
	f.hollow = f.hollow[:at]
	return ids
}

// takeUnsure removes at most n hollow slots that may have space, and returns them. They stay unsure.
func (f *freeList) takeUnsure(n int) (ids []format.SegmentID) {
	if len(f.unsure) == 0 {
		return nil
	}
	f.hollow = slices.DeleteFunc(f.hollow, func(id format.SegmentID) bool {
		take := f.unsure[id] && len(ids) < n
		if take {
			ids = append(ids, id)
		}
		return take
	})
	if len(ids) == 0 {
		clear(f.unsure)
	}
	return ids
}

// atEnd returns the number of free slots, without a gap, at the end of a file of the given length in slots, of which
// all but spare of the slots in ids can be given up.
func (f *freeList) atEnd(slots, spare int) int {
	n, solid, hollow := 0, 0, 0
	for last := format.SegmentID(slots - 1); ; last-- {
		switch {
		case hollow < len(f.hollow) && f.hollow[hollow] == last:
			hollow++
		case solid < len(f.ids)-spare && f.ids[solid] == last:
			solid++
		default:
			return n
		}
		n++
	}
}

// dropFrom removes the slots from end on.
func (f *freeList) dropFrom(end format.SegmentID) {
	gone := func(id format.SegmentID) bool { return id >= end }
	f.ids = slices.DeleteFunc(f.ids, gone)
	f.hollow = slices.DeleteFunc(f.hollow, gone)
	maps.DeleteFunc(f.blank, func(id format.SegmentID, _ int) bool { return gone(id) })
	maps.DeleteFunc(f.unsure, func(id format.SegmentID, _ bool) bool { return gone(id) })
	maps.DeleteFunc(f.partial, func(id format.SegmentID, _ bool) bool { return gone(id) })
}
