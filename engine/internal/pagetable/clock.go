package pagetable

import (
	"math/bits"
	"sync/atomic"

	"pagecache/segments/format"
)

// marks are two bits for each page of a leaf, by 64 pages.
//
//	T3  Of a page whose entry keeps something in memory the first is set, but for the moment in which whoever made it so sets it, or whoever pages it
//	    out has cleared it. So who pages out clears it before the swap, and sets it again where that fails.
type marks struct {
	// resident: something of the page is in memory. A stale one costs a look at the page.
	resident [fan / wordPages]atomic.Uint64
	// touched: the page was used since the clock's hand last came by. A lost one costs a pull.
	touched [fan / wordPages]atomic.Uint64
}

// wordPages is how many pages a word of marks is for.
const wordPages = 64

func (t *Table[T]) mark(pid format.PageID) (*marks, int, uint64) {
	l := t.leafOf(pid)
	if l == nil {
		return nil, 0, 0
	}
	return &l.marks, int(pid & mask / wordPages), 1 << (pid % wordPages)
}

// Mark says that something of the page, which has a slot, is in memory.
func (t *Table[T]) Mark(pid format.PageID) {
	if m, i, bit := t.mark(pid); m != nil && m.resident[i].Load()&bit == 0 {
		m.resident[i].Or(bit)
	}
}

// Unmark says that nothing of the page is in memory any more.
func (t *Table[T]) Unmark(pid format.PageID) {
	if m, i, bit := t.mark(pid); m != nil && m.resident[i].Load()&bit != 0 {
		m.resident[i].And(^bit)
	}
}

// Touch says that the page was used.
func (t *Table[T]) Touch(pid format.PageID) {
	if m, i, bit := t.mark(pid); m != nil && m.touched[i].Load()&bit == 0 {
		m.touched[i].Or(bit)
	}
}

// ClockPages is how many pages a step of the clock's hand passes.
const ClockPages = wordPages

// Clock returns which of the pages from pid on, a multiple of ClockPages, are marked and were not touched since it was last called for them: bit i is page pid+i.
// (The clock algorithm: Corbató, A Paging Experiment with the Multics System, 1968.)
func (t *Table[T]) Clock(pid format.PageID) uint64 {
	m, i, _ := t.mark(pid)
	if m == nil {
		return 0
	}
	r := m.resident[i].Load()
	if r == 0 || m.touched[i].Load() == 0 {
		return r
	}
	return r &^ m.touched[i].Swap(0)
}

// EachMarked calls visit with every page below end that is marked, until that returns false.
func (t *Table[T]) EachMarked(end format.PageID, visit func(pid format.PageID) bool) {
	for pid := format.PageID(0); pid < end; pid += wordPages {
		m, i, _ := t.mark(pid)
		if m == nil {
			pid |= mask &^ (wordPages - 1) // the rest of the leaf
			continue
		}
		for r := m.resident[i].Load(); r != 0; r &= r - 1 {
			if !visit(pid + format.PageID(bits.TrailingZeros64(r))) {
				return
			}
		}
	}
}
