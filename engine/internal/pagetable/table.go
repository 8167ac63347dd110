// Package pagetable maps page ids to slots: a radix tree of three levels of fixed chunks that grows by
// compare-and-swap and never shrinks. (The mapping table of LLAMA: Levandoski, Lomet, Sengupta, VLDB 2013.)
//
//	bits 35…24 root   bits 23…12 middle   bits 11…0 leaf
//
//	T1  A slot, once returned, is the one slot of its page for ever.
//	T2  Looking up takes no lock, writes nothing shared and allocates nothing.
package pagetable

import (
	"sync/atomic"

	"pagecache/segments/format"
)

const (
	pidBits = 12
	fan     = 1 << pidBits
	mask    = fan - 1
)

// Table maps page ids to slots whose heads point to T. The zero Table is empty. Safe for concurrent use.
type Table[T any] struct {
	// Each pointer is written once, by the compare-and-swap of whoever needs the chunk first, and publishes a zeroed
	// chunk. A stale nil costs the slow path.
	root [fan]atomic.Pointer[middle[T]]
}

type middle[T any] [fan]atomic.Pointer[leaf[T]]

type leaf[T any] struct {
	heads [fan]atomic.Pointer[T]
	reads atomic.Pointer[[fan]atomic.Uint64] // read timestamps, made at the first use
	marks marks
}

// Slot is a page's head. What it publishes is the page's chain of entries; see the engine.
type Slot[T any] = atomic.Pointer[T]

// Get returns the page's slot, or nil if its chunk does not exist, in which case the page was never written.
func (t *Table[T]) Get(pid format.PageID) *Slot[T] {
	if l := t.leafOf(pid); l != nil {
		return &l.heads[pid&mask]
	}
	return nil
}

// leafOf returns the leaf of a page, nil if there is none.
func (t *Table[T]) leafOf(pid format.PageID) *leaf[T] {
	if pid > format.MaxPageID {
		return nil
	}
	if m := t.root[pid>>(2*pidBits)].Load(); m != nil {
		return m[pid>>pidBits&mask].Load()
	}
	return nil
}

// Make returns the page's slot and makes its chunk if need be. pid is at most format.MaxPageID.
func (t *Table[T]) Make(pid format.PageID) *Slot[T] { return &t.leaf(pid).heads[pid&mask] }

func (t *Table[T]) leaf(pid format.PageID) *leaf[T] {
	m := grow(&t.root[pid>>(2*pidBits)])
	return grow(&m[pid>>pidBits&mask])
}

// grow returns what p points to, made by whoever comes first.
func grow[C any](p *atomic.Pointer[C]) *C {
	if c := p.Load(); c != nil {
		return c
	}
	p.CompareAndSwap(nil, new(C))
	return p.Load()
}

// Each calls visit with every slot in which there is something, by page id.
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

// ReadTS returns the page's read timestamp cell, made if make is true, else nil where there is none.
func (t *Table[T]) ReadTS(pid format.PageID, make bool) *atomic.Uint64 {
	if !make && t.Get(pid) == nil {
		return nil
	}
	l := t.leaf(pid)
	if make {
		return &grow(&l.reads)[pid&mask]
	}
	if r := l.reads.Load(); r != nil {
		return &r[pid&mask]
	}
	return nil
}
