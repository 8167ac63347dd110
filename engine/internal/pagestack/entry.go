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
//	K2  TS goes up by one on Link, Replace, Free and Allocate, and stays on consolidation, merging and paging out (rule 6).
//	K3  A page of which nothing is resident takes 24 bytes, and 16 for each message after the first, in which there is no pointer: the collector
//	    does not look into it.
//
// Go's collector keeps entries alive while anybody looks at them, so a head cannot come back as another page's.
package pagestack

import (
	"sync/atomic"
	"unsafe"

	"pagecache/internal/invariants"
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

// Head is what every entry begins with, and all there is of a Free one, or of one that is OnDisk in one message. Behind the Head of one that is OnDisk in
// several stand the older ones, a packedRef each; where there are too many of them (Listed) it is a chained. All fields are written before the entry
// is published by a page's slot and never after.
type Head struct {
	LSN format.LSN
	// stamp is the write timestamp (bits 63…16) and the depth (bits 15…0). In a run it is also the claim on the entry, see NewDelta.
	stamp atomic.Uint64
	place place
}

// chained is a whole entry but for its value: what of it does not depend on the type of that.
type chained struct {
	Head
	Next *Head // the next older, of a Delta only
	Ext  *Ext
}

// Entry is a whole entry: that of every kind but those named at Head. For byte strings it is 64 bytes, one cache line: a chain is read entry by
// entry from cold memory.
type Entry[P any] struct {
	chained
	Frag P // the resident value: a delta's own, or the whole page's
}

// Whole returns the entry that h is the head of: neither a Free nor an OnDisk one.
func Whole[P any](h *Head) *Entry[P] {
	if k := h.Kind(); invariants.Enabled && (k == Free || k == OnDisk) {
		panic("pagestack: an entry of which there is the head alone")
	}
	return (*Entry[P])(unsafe.Pointer(h)) // allocated as an Entry[P], of which the Head is the beginning
}

// chain is Whole for what does not depend on the value.
func (h *Head) chain() *chained { return (*chained)(unsafe.Pointer(h)) }

// Ext returns what few entries need, nil for those without.
func (h *Head) Ext() *Ext {
	if k := h.Kind(); k == Free || k == OnDisk && !h.Listed() {
		return nil
	}
	return h.chain().Ext
}

// Next returns the next older entry of a Delta.
func (h *Head) Next() *Head { return h.chain().Next }

// New returns an entry for the message at lsn and ptr, unpublished.
func New[P any](k Kind, ts uint64, depth int, lsn format.LSN, ptr format.DiskPtr) *Entry[P] {
	e := &Entry[P]{}
	e.LSN, e.place = lsn, makePlace(k, 0, ptr)
	e.stamp.Store(makeStamp(ts, depth))
	return e
}

// NewFree returns the entry of a page that was freed by the message at lsn and ptr, unpublished.
func NewFree(ts uint64, lsn format.LSN, ptr format.DiskPtr) *Head {
	return newHead(new(Head), Free, ts, 1, lsn, ptr)
}

func newHead(h *Head, k Kind, ts uint64, depth int, lsn format.LSN, ptr format.DiskPtr) *Head {
	h.LSN, h.place = lsn, makePlace(k, 0, ptr)
	h.stamp.Store(makeStamp(ts, depth))
	return h
}

// packedRef is a Ref in 16 bytes.
type packedRef struct {
	lsn   format.LSN
	place place
}

const (
	wordSize  = 8
	headWords = int(unsafe.Sizeof(Head{})) / wordSize
	refWords  = int(unsafe.Sizeof(packedRef{})) / wordSize
)

// NewOnDisk1 is NewOnDisk for a page in one message.
func NewOnDisk1(ts uint64, r Ref) *Head { return newHead(new(Head), OnDisk, ts, 1, r.LSN, r.Ptr) }

// NewOnDisk returns the entry of a page that the messages refs, at least one, make up, newest first, and of which nothing is resident; unpublished.
func NewOnDisk(ts uint64, refs []Ref) *Head {
	first, n := refs[0], len(refs)
	switch {
	case n == 1:
		return NewOnDisk1(ts, first)
	case n >= MaxDepth:
		return NewListed(ts, first, refs)
	}
	words := make([]uint64, headWords+refWords*(n-1)) // no pointers in it
	h := newHead((*Head)(unsafe.Pointer(&words[0])), OnDisk, ts, n, first.LSN, first.Ptr)
	for i, r := range refs[1:] {
		*h.older(i) = packedRef{r.LSN, makePlace(OnDisk, 0, r.Ptr)}
	}
	return h
}

// older is the i-th reference behind the head of a packed entry, which has more than i+1 messages, so that the sum stays inside its memory.
func (h *Head) older(i int) *packedRef {
	return (*packedRef)(unsafe.Add(unsafe.Pointer(h), wordSize*(headWords+refWords*i)))
}

// NewListed is NewOnDisk for a page whose list of messages is kept as it is. While a table is rebuilt that is in another order, and refers to nothing
// where a message is missing.
func NewListed(ts uint64, newest Ref, refs []Ref) *Head {
	c := &chained{Ext: &Ext{Refs: refs}}
	return newHead(&c.Head, OnDisk, ts, MaxDepth, newest.LSN, newest.Ptr)
}

// Listed reports whether an OnDisk entry has its messages in Ext: while a table is rebuilt, and where they are too many to be counted.
func (h *Head) Listed() bool { return h.Kind() == OnDisk && h.Depth() == MaxDepth }

// Ground is the last entry of a chain, which is no Delta.
func (h *Head) Ground() *Head {
	for h.Kind() == Delta {
		h = h.Next()
	}
	return h
}

// Bare returns the entry of the same page, with nothing of it resident; unpublished.
func (h *Head) Bare() *Head {
	if h.Depth() == 1 {
		return NewOnDisk1(h.TS(), Ref{LSN: h.LSN, Ptr: h.Ptr()})
	}
	refs := make([]Ref, 0, h.Depth())
	h.Refs(func(r Ref) { refs = append(refs, r) })
	return NewOnDisk(h.TS(), refs)
}

// Kind says what the entry is.
func (h *Head) Kind() Kind { return h.place.kind() }

// TS is the write timestamp.
func (h *Head) TS() uint64 { return h.stamp.Load() >> depthBits }

// Depth is how many messages make up the page from here down, at most MaxDepth.
func (h *Head) Depth() int { return int(h.stamp.Load() & MaxDepth) }

// Ptr is the newest message in the entry.
func (h *Head) Ptr() format.DiskPtr { return h.place.ptr(h.LSN) }

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
	p := place(uint64(k)<<kindShift | uint64(ptr.Len&lenMask)<<lenShift | uint64(ptr.Off)>>grainBits)
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
func (p place) index() int { return int(p >> kindShift & (RunLen - 1)) }

func (p place) ptr(lsn format.LSN) format.DiskPtr {
	return format.DiskPtr{Off: format.Offset(uint64(p)&offMask<<grainBits | uint64(lsn)%grain), Len: uint32(p >> lenShift & lenMask), Blob: p&blobBit != 0}
}

// Ext is what few entries need.
type Ext struct {
	Refs    []Ref // of Merged and Listed ones: the messages that make up the page, newest first
	Meta    map[string]format.PageID
	Counter uint64
}

// RunLen is how many deltas are allocated at once: four cache lines. A power of two below inRun.
const RunLen = 4

// FirstOfRun reports whether a delta is the one that its run was allocated for.
func (h *Head) FirstOfRun() bool { return h.place.index() == 0 }

// run is room for deltas of one page that follow each other. A chain is walked from cold memory, where each step to another
// place costs a cache miss and often a miss of the address translation too; and one allocation serves several links.
type run[P any] [RunLen]Entry[P]

// after returns the entry that lies behind a delta in its run, nil if it is the last.
func after[P any](h *Head) *Entry[P] {
	if i := h.place.index(); i+1 < RunLen {
		// h is element i of a run, so that the run begins i entries before it and the sum stays inside.
		r := (*run[P])(unsafe.Add(unsafe.Pointer(h), -i*int(unsafe.Sizeof(Entry[P]{}))))
		return &r[i+1]
	}
	return nil
}

// NewDelta returns an unpublished delta on top of head, in head's run if there is room.
//
// Several may want the entry behind head's; the one who changes its stamp from zero owns it. The stamp publishes nothing else.
// A loser of the compare-and-swap of the head leaves its entry unused for ever.
func NewDelta[P any](head *Head, frag P, lsn format.LSN, ptr format.DiskPtr) *Entry[P] {
	stamp := makeStamp(head.TS()+1, head.Depth()+1)
	e, i := (*Entry[P])(nil), 0
	if head.Kind() == Delta {
		e, i = after[P](head), head.place.index()+1
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

// Refs calls visit with every message that makes up the page whose head is h, newest first.
func (h *Head) Refs(visit func(Ref)) {
	for h != nil {
		k := h.Kind()
		if k == Delta {
			visit(Ref{LSN: h.LSN, Ptr: h.Ptr()})
			h = h.Next()
			continue
		}
		if ext := h.Ext(); ext != nil && ext.Refs != nil {
			for _, r := range ext.Refs {
				visit(r)
			}
			return
		}
		visit(Ref{LSN: h.LSN, Ptr: h.Ptr()})
		if k == OnDisk {
			for i := range h.Depth() - 1 {
				r := h.older(i)
				visit(Ref{LSN: r.lsn, Ptr: r.place.ptr(r.lsn)})
			}
		}
		return
	}
}
