// Package pagetable maps page ids to slots. It is a radix tree of three levels of fixed chunks that grows by
// compare-and-swap and never shrinks. (The mapping table of LLAMA: Levandoski, Lomet, Sengupta, VLDB 2013.)
//
//	bits 35…24 root   bits 23…12 middle   bits 11…0 leaf
//
// Guarantees:
//
//	T1  A page has one slot, which stays the same for ever.
//	T2  A lookup takes no lock, writes no shared memory and allocates nothing.
//	T3  The resident mark of a page with resident values is set, except for a moment: between the swap that makes the
//	    first value resident and the Mark that follows, and between the Unmark of an evicting goroutine and its swap.
//	    The evicting goroutine therefore unmarks before its swap, and marks the page again if the swap fails.
package pagetable

import (
	"sync/atomic"

	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

const (
	pidBits = 12
	fan     = 1 << pidBits
	mask    = fan - 1
)

// Table maps page ids to slots, each of which is an S. The zero Table is empty. Safe for concurrent use.
type Table[S any] struct {
	// root and the chunks below hold pointers that are written once, by the compare-and-swap of the first goroutine
	// that needs the chunk, and that publish a zeroed chunk. A stale nil costs the slow path.
	root [fan]atomic.Pointer[middle[S]]
}

// middle has the chunks of fan pages each. They are apart, since the allocator has room for exactly a leaf.
type middle[S any] struct {
	leaves [fan]atomic.Pointer[leaf[S]]
	marks  [fan]atomic.Pointer[marks] // there is one wherever there is a leaf; written before that
	reads  [fan]atomic.Pointer[reads] // allocated at the first use
}

// leaf has the slots. The engine writes them; package pagestack says what they publish.
type leaf[S any] [fan]S

// reads are read timestamps.
type reads [fan]atomic.Uint64

// Get returns the page's slot, or nil if its chunk does not exist: then the page was never written.
func (t *Table[S]) Get(pid format.PageID) *S {
	if m := t.find(pid); m != nil {
		if l := m.leaves[pid>>pidBits&mask].Load(); l != nil {
			return &l[pid&mask]
		}
	}
	return nil
}

// find returns the middle chunk of a page, or nil if there is none.
func (t *Table[S]) find(pid format.PageID) *middle[S] {
	if pid > format.MaxPageID {
		return nil
	}
	return t.root[pid>>(2*pidBits)].Load()
}

// Make returns the page's slot and allocates its chunk if necessary. pid is at most format.MaxPageID.
func (t *Table[S]) Make(pid format.PageID) *S {
	m, i := grow(&t.root[pid>>(2*pidBits)]), pid>>pidBits&mask
	grow(&m.marks[i]) // before the leaf: a page with a slot has marks
	return &grow(&m.leaves[i])[pid&mask]
}

// grow returns the chunk that p points to. The first goroutine that finds none allocates it.
func grow[C any](p *atomic.Pointer[C]) *C {
	if c := p.Load(); c != nil {
		return c
	}
	invariants.Jitter()
	won := p.CompareAndSwap(nil, new(C))
	invariants.Sometimes("pagetable: another goroutine makes the chunk first", !won)
	return p.Load()
}

// ReadTS returns the cell with the page's read timestamp, or nil if no cell near it was made yet.
func (t *Table[S]) ReadTS(pid format.PageID) *atomic.Uint64 {
	if m := t.find(pid); m != nil {
		if r := m.reads[pid>>pidBits&mask].Load(); r != nil {
			return &r[pid&mask]
		}
	}
	return nil
}

// MakeReadTS returns the cell with the page's read timestamp and allocates it if necessary. pid is at most
// format.MaxPageID.
func (t *Table[S]) MakeReadTS(pid format.PageID) *atomic.Uint64 {
	m := grow(&t.root[pid>>(2*pidBits)])
	return &grow(&m.reads[pid>>pidBits&mask])[pid&mask]
}
