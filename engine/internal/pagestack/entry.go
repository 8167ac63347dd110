// Package pagestack is the chain of entries that a page's head points to.
//
// A chain is immutable: to change a page is to swing its head from one entry to another by compare-and-swap.
//
//	Delta → Delta → … → one of
//	    Base     the whole page in one message, its value resident
//	    Merged   the whole page in several messages, their merged value resident
//	    OnDisk   the whole page in one or more messages, nothing resident
//	Free | Meta | Counter   alone
//
//	K1  LSNs strictly fall from the head to the end of a chain: an entry is made only after its predecessor was seen
//	    as the head, and its place in the log is reserved only then. So the log replayed in order gives the chain.
//	K2  TS goes up by one on Link, Replace, Free and Allocate, and stays on consolidation and merging (rule 6).
//
// Go's collector keeps entries alive while anybody looks at them, so a head cannot come back as another page's.
package pagestack

import "pagecache/segments/format"

// Kind says what an entry is.
type Kind uint8

// The kinds of entry.
const (
	Base Kind = iota + 1
	Delta
	Merged
	OnDisk
	Free
	Meta
	Counter
)

// Ref names one message of the log.
type Ref struct {
	LSN format.LSN
	Ptr format.DiskPtr
}

// Entry is one link of a chain. All fields are written before the entry is published by a head and never after.
type Entry[P any] struct {
	Next  *Entry[P] // the next older, of a Delta only
	Frag  P         // the resident value: a delta's own, or the whole page's
	TS    uint64    // write timestamp
	LSN   format.LSN
	Ptr   format.DiskPtr // of the newest message in the entry
	Depth uint16         // messages from here down, as far as they count (MaxDepth)
	Kind  Kind
	Ext   *Ext
}

// MaxDepth is where Depth stops counting.
const MaxDepth = 1<<16 - 1

// Ext is what few entries need.
type Ext struct {
	Refs    []Ref // Merged and OnDisk: the messages that make up the page, newest first
	Meta    map[string]format.PageID
	Counter uint64
}

// Refs calls visit with every message that makes up the page whose head is e, newest first.
func (e *Entry[P]) Refs(visit func(Ref)) {
	for ; e != nil; e = e.Next {
		if e.Ext != nil && e.Ext.Refs != nil {
			for _, r := range e.Ext.Refs {
				visit(r)
			}
			continue
		}
		visit(Ref{LSN: e.LSN, Ptr: e.Ptr})
	}
}

// End returns the oldest entry of the chain and how many entries lie above it.
func (e *Entry[P]) End() (end *Entry[P], above int) {
	for e.Next != nil {
		e = e.Next
		above++
	}
	return e, above
}
