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

// Table maps page ids to slots with heads of type *T. The zero Table is empty. Safe for concurrent use.
type Table[T any] struct {
	// root and the chunks below hold pointers that are written once, by the compare-and-swap of the first goroutine
	// that needs the chunk, and that publish a zeroed chunk. A stale nil costs the slow path.
	root [fan]atomic.Pointer[middle[T]]
}

type middle[T any] [fan]atomic.Pointer[leaf[T]]

type leaf[T any] struct {
	// heads are the slots. The engine writes them and documents the entries that they publish.
	heads [fan]atomic.Pointer[T]
	// reads are the read timestamps, allocated at the first use. Written once, like root.
	reads atomic.Pointer[[fan]atomic.Uint64]
	marks marks
}

// Slot is the head of one page. It publishes the page's chain of entries (see package pagestack).
type Slot[T any] = atomic.Pointer[T]

// Get returns the page's slot, or nil if its chunk does not exist: then the page was never written.
func (t *Table[T]) Get(pid format.PageID) *Slot[T] {
	if l := t.find(pid); l != nil {
		return &l.heads[pid&mask]
	}
	return nil
}

// find returns the leaf of a page, or nil if there is none.
func (t *Table[T]) find(pid format.PageID) *leaf[T] {
	if pid > format.MaxPageID {
		return nil
	}
	if m := t.root[pid>>(2*pidBits)].Load(); m != nil {
		return m[pid>>pidBits&mask].Load()
	}
	return nil
}

// Make returns the page's slot and allocates its chunk if necessary. pid is at most format.MaxPageID.
func (t *Table[T]) Make(pid format.PageID) *Slot[T] { return &t.make(pid).heads[pid&mask] }

// make returns the leaf of a page and allocates it if necessary.
func (t *Table[T]) make(pid format.PageID) *leaf[T] {
	m := grow(&t.root[pid>>(2*pidBits)])
	return grow(&m[pid>>pidBits&mask])
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

// Each calls visit, in the order of page ids, with every slot that is not nil.
func (t *Table[T]) Each(visit func(pid format.PageID, s *Slot[T])) {
	for i := range t.root {
		m := t.root[i].Load()
		if m == nil {
			continue
		}
		for j := range m {
			l := m[j].Load()
			if l == nil {
				continue
			}
			for k := range l.heads {
				if l.heads[k].Load() != nil {
					visit(format.PageID(i)<<(2*pidBits)|format.PageID(j)<<pidBits|format.PageID(k), &l.heads[k])
				}
			}
		}
	}
}

// ReadTS returns the cell with the page's read timestamp, or nil if no cell near it was made yet.
func (t *Table[T]) ReadTS(pid format.PageID) *atomic.Uint64 {
	l := t.find(pid)
	if l == nil {
		return nil
	}
	if r := l.reads.Load(); r != nil {
		return &r[pid&mask]
	}
	return nil
}

// MakeReadTS returns the cell with the page's read timestamp and allocates it if necessary. pid is at most
// format.MaxPageID.
func (t *Table[T]) MakeReadTS(pid format.PageID) *atomic.Uint64 {
	return &grow(&t.make(pid).reads)[pid&mask]
}
