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

import (
	"sync/atomic"
	"unsafe"

	"pagecache/segments/format"
)

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

// Entry is one link of a chain. All fields are written before the entry is published by a head and never after. For byte
// strings it is 64 bytes, one cache line: a chain is read entry by entry from cold memory.
type Entry[P any] struct {
	Next *Entry[P] // the next older, of a Delta only
	Ext  *Ext[P]
	Frag P // the resident value: a delta's own, or the whole page's
	LSN  format.LSN
	// stamp is the write timestamp (bits 63…16) and the depth (bits 15…0). In a run it is also the claim on the entry, see NewDelta.
	stamp atomic.Uint64
	place place
}

// New returns an entry for the message at lsn and ptr, unpublished.
func New[P any](k Kind, ts uint64, depth int, lsn format.LSN, ptr format.DiskPtr) *Entry[P] {
	e := &Entry[P]{LSN: lsn, place: makePlace(k, 0, ptr)}
	e.stamp.Store(makeStamp(ts, depth))
	return e
}

// Kind says what the entry is.
func (e *Entry[P]) Kind() Kind { return e.place.kind() }

// TS is the write timestamp.
func (e *Entry[P]) TS() uint64 { return e.stamp.Load() >> depthBits }

// Depth is how many messages make up the page from here down, at most MaxDepth.
func (e *Entry[P]) Depth() int { return int(e.stamp.Load() & MaxDepth) }

// Ptr is the newest message in the entry.
func (e *Entry[P]) Ptr() format.DiskPtr { return e.place.ptr(e.LSN) }

const (
	depthBits = 16
	// MaxDepth is where Depth stops counting.
	MaxDepth = 1<<depthBits - 1
)

func makeStamp(ts uint64, depth int) uint64 {
	return ts<<depthBits | uint64(min(depth, MaxDepth))
}

// place is what the entry is and where its message lies.
//
//	bits 63…60  kind; of a delta, inRun and its index in its run
//	bits 59…36  length of the message in bytes
//	bit  35     the message points to a blob
//	bits 34…0   file offset / 4096; the rest of the offset is the LSN's, as segments are multiples of 4096 bytes
type place uint64

const (
	grainBits = 12
	grain     = 1 << grainBits
	kindShift = 60
	lenShift  = 36
	lenMask   = 1<<24 - 1
	blobBit   = 1 << 35
	offMask   = blobBit - 1
	inRun     = 8 // above every Kind
)

func makePlace(k Kind, i int, ptr format.DiskPtr) place {
	if k == Delta {
		k = Kind(inRun | i)
	}
	p := place(uint64(k)<<kindShift | uint64(ptr.Len)<<lenShift | uint64(ptr.Off)>>grainBits)
	if ptr.Blob {
		p |= blobBit
	}
	return p
}

func (p place) kind() Kind {
	if p&(inRun<<kindShift) != 0 {
		return Delta
	}
	return Kind(p >> kindShift)
}

// index is a delta's place in its run.
func (p place) index() int { return int(p >> kindShift & (runLen - 1)) }

func (p place) ptr(lsn format.LSN) format.DiskPtr {
	return format.DiskPtr{Off: format.Offset(uint64(p)&offMask<<grainBits | uint64(lsn)%grain), Len: uint32(p >> lenShift & lenMask), Blob: p&blobBit != 0}
}

// Ext is what few entries need.
type Ext[P any] struct {
	Refs    []Ref // Merged and OnDisk: the messages that make up the page, newest first
	Meta    map[string]format.PageID
	Counter uint64
}

// runLen is how many deltas are allocated at once: four cache lines. A power of two below inRun.
const runLen = 4

// run is room for deltas of one page that follow each other. A chain is walked from cold memory, where each step to another
// place costs a cache miss and often a miss of the address translation too; and one allocation serves several links.
type run[P any] [runLen]Entry[P]

// after returns the entry that lies behind e in e's run, nil if e is the last.
func (e *Entry[P]) after() *Entry[P] {
	if i := e.place.index(); i+1 < runLen {
		// e is element i of a run, so that the run begins i entries before it and the sum stays inside.
		r := (*run[P])(unsafe.Add(unsafe.Pointer(e), -i*int(unsafe.Sizeof(*e))))
		return &r[i+1]
	}
	return nil
}

// NewDelta returns an unpublished delta on top of head, in head's run if there is room.
//
// Several may want the entry behind head's; the one who changes its stamp from zero owns it. The stamp publishes nothing else.
// A loser of the compare-and-swap of the head leaves its entry unused for ever.
func NewDelta[P any](head *Entry[P], frag P, lsn format.LSN, ptr format.DiskPtr) *Entry[P] {
	stamp := makeStamp(head.TS()+1, head.Depth()+1)
	e, i := (*Entry[P])(nil), 0
	if head.Kind() == Delta {
		e, i = head.after(), head.place.index()+1
	}
	if e == nil || !e.stamp.CompareAndSwap(0, stamp) {
		e, i = &new(run[P])[0], 0
		e.stamp.Store(stamp)
	}
	e.Next, e.Frag, e.LSN, e.place = head, frag, lsn, makePlace(Delta, i, ptr)
	return e
}

// Discard forgets a delta that lost its compare-and-swap, so that it keeps nothing alive.
func (e *Entry[P]) Discard() {
	var zero P
	e.Next, e.Frag = nil, zero
}

// Refs calls visit with every message that makes up the page whose head is e, newest first.
func (e *Entry[P]) Refs(visit func(Ref)) {
	for ; e != nil; e = e.Next {
		if e.Kind() != Delta && e.Ext != nil && e.Ext.Refs != nil {
			for _, r := range e.Ext.Refs {
				visit(r)
			}
			continue
		}
		visit(Ref{LSN: e.LSN, Ptr: e.Ptr()})
	}
}
