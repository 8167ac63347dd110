package pagetable

import (
	"math/bits"
	"sync/atomic"

	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// marks are two bits for each page of a leaf.
type marks struct {
	// resident: some value of the page is in memory (T3). Written by Mark and Unmark; publishes nothing. A stale bit
	// costs a look at the page.
	resident [fan / wordPages]atomic.Uint64
	// touched: the page was used since the clock's hand last passed it. Set by Touch, cleared by Clock; publishes
	// nothing. A lost bit can cost a read from disk.
	touched [fan / wordPages]atomic.Uint64
}

// wordPages is the number of pages whose bits share a word.
const wordPages = 64

// mark returns the marks of the page's leaf with the index of its word and its bit, or nil if there are none.
func (t *Table[S]) mark(pid format.PageID) (m *marks, word int, bit uint64) {
	c := t.find(pid)
	if c == nil {
		return nil, 0, 0
	}
	return c.marks[pid>>pidBits&mask].Load(), int(pid & mask / wordPages), 1 << (pid % wordPages)
}

// Mark sets the page's resident mark. The page must have a slot.
func (t *Table[S]) Mark(pid format.PageID) {
	if m, i, bit := t.mark(pid); m != nil && m.resident[i].Load()&bit == 0 {
		m.resident[i].Or(bit)
	}
}

// Unmark clears the page's resident mark.
func (t *Table[S]) Unmark(pid format.PageID) {
	if m, i, bit := t.mark(pid); m != nil && m.resident[i].Load()&bit != 0 {
		invariants.Jitter()
		if !invariants.Enabled {
			m.resident[i].And(^bit) // one instruction, as long as nothing uses the old value
			return
		}
		old := m.resident[i].And(^bit)
		invariants.Sometimes("pagetable: two goroutines unmark a page", old&bit == 0)
	}
}

// Touch notes that the page was used.
func (t *Table[S]) Touch(pid format.PageID) {
	if m, i, bit := t.mark(pid); m != nil && m.touched[i].Load()&bit == 0 {
		m.touched[i].Or(bit)
	}
}

// ClockPages is the number of pages that the clock's hand passes in one step.
const ClockPages = wordPages

// Clock moves the clock's hand over the ClockPages pages from pid on, a multiple of ClockPages. It returns the pages
// with a resident mark that were not touched since its last call for them: bit i stands for page pid+i. (The clock
// algorithm: Corbató, A Paging Experiment with the Multics System, 1968.)
func (t *Table[S]) Clock(pid format.PageID) uint64 {
	m, i, _ := t.mark(pid)
	if m == nil {
		return 0
	}
	r := m.resident[i].Load()
	if r == 0 || m.touched[i].Load() == 0 {
		return r
	}
	invariants.Jitter()
	touched := m.touched[i].Swap(0)
	invariants.Sometimes("pagetable: two hands pass a page", touched == 0)
	return r &^ touched
}

// EachMarked calls visit with every page below end that has a resident mark, until visit returns false.
func (t *Table[S]) EachMarked(end format.PageID, visit func(pid format.PageID) bool) {
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
