package pagestack

import (
	"unsafe"

	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// RunLen is the number of deltas that are allocated at once: four cache lines. It is a power of two below inRun.
const RunLen = 4

// run is room for consecutive deltas of one page. A chain is walked from cold memory, where each step to another place
// costs a cache miss and often a TLB miss too. A run also saves allocations.
type run[P any] [RunLen]Entry[P]

// FirstOfRun reports whether a delta is the one for which its run was allocated. A grown delta is not in a run.
func (h *Head) FirstOfRun() bool { return h.place.index() == 0 }

// after returns the entry that follows a delta in its run, or nil if the delta is the last one there.
func after[P any](h *Head) *Entry[P] {
	if i := h.place.index(); i+1 < RunLen {
		// h is element i of a run, so the run begins i entries before h and the sum stays inside it.
		r := (*run[P])(unsafe.Add(unsafe.Pointer(h), -i*int(unsafe.Sizeof(Entry[P]{}))))
		return &r[i+1]
	}
	return nil
}

// NewDelta returns an unpublished delta on top of head, in head's run if there is room.
//
// Several goroutines may want the entry that follows head's. The goroutine that changes the entry's stamp from zero
// owns the entry; the others begin new runs. The stamp publishes nothing else. If a goroutine then loses the
// compare-and-swap of the page's head, its entry stays unused.
func NewDelta[P any](head *Head, frag P, lsn format.LSN, ptr format.DiskPtr) *Entry[P] {
	stamp := makeStamp(head.TS()+1, head.Depth()+1)
	e, i := (*Entry[P])(nil), 0
	if head.Kind() == KindDelta {
		e, i = after[P](head), head.place.index()+1
	}
	invariants.Jitter()
	if e == nil || !e.stamp.CompareAndSwap(0, stamp) {
		invariants.Sometimes("pagestack: the next entry of the run is taken", e != nil)
		e, i = &new(run[P])[0], 0
		e.setStamp(stamp)
	}
	e.Next, e.Frag, e.LSN, e.place = head, frag, lsn, makePlace(KindDelta, i, ptr)
	return e
}

// Discard drops the references of a delta that lost its compare-and-swap, so that it keeps nothing alive. A grown one
// gives its room back. Of several deltas that were made on top of each other, the newest is discarded first.
func (e *Entry[P]) Discard() {
	if e.IsGrown() && e.Ext != nil {
		e.giveBack()
		e.Ext = nil
	}
	var zero P
	e.Next, e.Frag = nil, zero
}
