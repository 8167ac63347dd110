// Package pagestack is the chain of entries that the head of a page points to.
//
// The entries of a chain are immutable. A writer changes a page by swapping its head from one entry to another with a
// compare-and-swap.
//
//	Delta → Delta → … → the tail entry, one of      (a Delta may be grown: see K4)
//	    Base     the whole page in one message, its value resident
//	    Merged   the whole page in several messages, their merged value resident
//	    OnDisk   the whole page in one or more messages, nothing resident
//	Free | Root | Counter   always alone
//
// Guarantees:
//
//	K1  LSNs strictly fall from the head to the tail entry of a chain: a writer loads the head before it reserves its
//	    place in the log. Replaying the log in order therefore rebuilds the chain.
//	K2  The timestamp goes up by one on Link, Replace, Free and Allocate. It stays the same on consolidation, merging
//	    and eviction (rule 6). That of a chain's head counts: entries below it that were read from disk have made-up
//	    ones, lower by one each, modulo 2^46.
//	K3  A page with nothing resident takes 24 bytes, plus 16 for each message after the first. That memory holds no
//	    pointers, so the garbage collector does not scan it. A page in one message takes nothing beside its slot, if
//	    its numbers are small (Slot).
//	K4  A grown delta of byte strings holds the value of the whole page. Its memory is that of the value in the
//	    entry below, which is grown too, or the tail entry, a Base or Merged, that the memory was allocated for. No
//	    byte of a value is written after its entry was published: each byte behind a value has at most one owner at
//	    a time (Grow).
//	K5  Packed entries that are equal stand for the same state of the page in the same message. A goroutine that can
//	    see one keeps the segment of its message from being recycled (rule 4), so no later message has its place.
//
// Go's garbage collector keeps an entry alive while any goroutine refers to it, so the address of a head cannot come
// back as another entry (no ABA problem). A packed entry may be taken for an equal one, which is the same (K5).
package pagestack

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// Kind is the kind of an entry. Zero is no kind: a zero Head is the beginning of an intent (IsIntent).
type Kind uint8

// The kinds of entry. The package comment describes them.
const (
	KindBase Kind = iota + 1
	KindDelta
	KindMerged
	KindOnDisk
	KindFree
	KindRoot
	KindCounter
)

var kindNames = [...]string{
	KindBase: "base", KindDelta: "delta", KindMerged: "merged", KindOnDisk: "on disk", KindFree: "free",
	KindRoot: "root", KindCounter: "counter",
}

// String returns the name of the kind, or its number if it is unknown.
func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Ref names one message of the log.
type Ref struct {
	LSN format.LSN
	Ptr format.DiskPtr
}

// Head is the beginning of every entry. The other memory of an entry depends on its kind:
//
//	Free, or OnDisk in one message   none
//	Root                             the rest of a rootEntry
//	OnDisk in several messages       one packedRef for each older message
//	OnDisk and Listed                the rest of a chained
//	any other                        the rest of an Entry
//
// All fields are written before a page's slot publishes the entry, and never after that, except for what unstamped.go
// says. No field is a pointer, as packed words are not aligned (Slot).
type Head struct {
	LSN format.LSN
	// stamp is two bits that unstamped.go explains (bits 63 and 62), the write timestamp (bits 61…16) and the depth
	// (bits 15…0). Its writer is the goroutine that makes the entry; of an entry in a run, the first goroutine that
	// changes it from zero (NewDelta); of the two bits, every goroutine. Timestamp and depth change once, from zero,
	// and publish nothing: the slot publishes the entry. A stale zero costs NewDelta a failed compare-and-swap, a stale
	// bit another one.
	stamp atomic.Uint64
	place place
}

// chained is the part of an Entry that does not depend on the type of its value.
type chained struct {
	Head
	// Sum is the checksum of the value's encoding, if the value is not a view; only in builds with the invariants tag.
	Sum invariants.Sum
	// Next is the next older entry of a Delta; of an entry of another kind that is not settled, the one that it has
	// replaced, which is accessed atomically once the entry is published.
	Next *Head
	Ext  *Ext // of a grown delta, that of its tail entry
}

// Entry is an entry of any kind that is not Free, Root or OnDisk. For byte strings it takes 64 bytes, one cache line,
// since readers walk chains entry by entry from cold memory.
type Entry[P any] struct {
	chained
	Frag P // the resident value: the fragment of a Delta that is not grown, else the whole page
}

// Ext holds the fields that few entries need.
type Ext struct {
	Refs    []Ref // of Merged and Listed entries: the messages that make up the page, newest first
	Counter uint64
	// Size is the bytes of memory of the value of a Merged entry, and of a Base entry with room behind its value, or
	// whose value may be a view of the disk, at least 1. 0: it is the same at any time, and costs no look at the value.
	Size int64
	// used is the number of bytes in use of the memory that an entry of NewRoomy shares with the grown deltas on top of
	// it. Its writers are Grow and Discard. The goroutine that raises it owns the bytes between, until an entry with
	// them is published, or it lowers it again. It publishes nothing: the page's slot publishes the entries. A stale
	// value costs Grow a failed compare-and-swap, or a delta that is not grown.
	used     atomic.Uint32
	capacity uint32 // the length of that memory; 0: there is none
}

// SizeOf returns the Size of a value of n bytes.
func SizeOf(n int) int64 { return max(1, int64(n)) }

// rootEntry is an entry of kind Root: the whole page.
type rootEntry struct {
	Head
	root format.Root
}

// EntryOf returns the entry that h is the head of. h must not be Free, Root or OnDisk.
func EntryOf[P any](h *Head) *Entry[P] {
	if k := h.Kind(); invariants.Enabled && (k == KindFree || k == KindRoot || k == KindOnDisk) {
		panic(fmt.Sprintf("pagestack: a head of kind %v has no entry", k))
	}
	return (*Entry[P])(unsafe.Pointer(h)) // allocated as an Entry[P], of which the Head is the beginning
}

// chain is EntryOf for callers that do not need the value. It also serves Listed entries.
func (h *Head) chain() *chained { return (*chained)(unsafe.Pointer(h)) }

// Ext returns the entry's Ext, or nil if it has none.
func (h *Head) Ext() *Ext {
	if k := h.Kind(); k == KindFree || k == KindRoot || k == KindOnDisk && !h.Listed() {
		return nil
	}
	return h.chain().Ext
}

// Next returns the next older entry of a Delta.
func (h *Head) Next() *Head { return h.chain().Next }

// New returns an unpublished entry for the message at lsn and ptr. k must not be Delta, Free, Root or OnDisk.
func New[P any](k Kind, ts uint64, depth int, lsn format.LSN, ptr format.DiskPtr) *Entry[P] {
	e := &Entry[P]{}
	e.init(k, ts, depth, Ref{LSN: lsn, Ptr: ptr})
	return e
}

// NewFree returns the unpublished entry of a page that was freed by the message at lsn and ptr.
func NewFree(ts uint64, lsn format.LSN, ptr format.DiskPtr) *Head {
	return new(Head).init(KindFree, ts, 1, Ref{LSN: lsn, Ptr: ptr})
}

// NewRoot returns the unpublished entry of a page that is the root r, by the message msg.
func NewRoot(ts uint64, r format.Root, msg Ref) *Head {
	e := &rootEntry{root: r}
	return e.init(KindRoot, ts, 1, msg)
}

// Root returns the root that the page with head h is. It returns the zero Root, which names no page, if the page is
// none; h may be nil.
func (h *Head) Root() format.Root {
	if h == nil || h.Kind() != KindRoot {
		return format.Root{}
	}
	return (*rootEntry)(unsafe.Pointer(h)).root // allocated as a rootEntry, of which the Head is the beginning
}

// init sets the fields of an unpublished head and returns it.
func (h *Head) init(k Kind, ts uint64, depth int, r Ref) *Head {
	h.LSN, h.place = r.LSN, makePlace(k, 0, r.Ptr)
	h.setStamp(makeStamp(ts, depth))
	return h
}

// setStamp sets the stamp of a head that only the caller's goroutine knows. It is a plain store, which costs a tenth of
// an atomic one: others read the stamp after they have found the head in a slot, which publishes it with everything in
// it. It must not be called for an entry that other goroutines may find in a run (after).
func (h *Head) setStamp(stamp uint64) { *(*uint64)(unsafe.Pointer(&h.stamp)) = stamp }

// Kind returns the kind of the entry.
func (h *Head) Kind() Kind { return h.place.kind() }

// IsIntent reports whether h is no entry, but the beginning of an intent of a transaction (package txn). Nothing else
// that a slot holds begins with a zero Head.
func (h *Head) IsIntent() bool { return h.place == 0 }

// IsWhole reports whether the entry holds the value of the whole page: whether it is a Base, Merged, or a grown Delta.
func (h *Head) IsWhole() bool { return h.place.isWhole() }

// IsGrown reports whether the entry is a grown delta.
func (h *Head) IsGrown() bool { return h.place.isGrown() }

// TS returns the write timestamp.
func (h *Head) TS() uint64 { return h.stamp.Load() >> depthBits & (1<<tsBits - 1) }

// Depth returns the number of messages that make up the page from this entry down, at most MaxDepth.
func (h *Head) Depth() int { return int(h.stamp.Load() & MaxDepth) }

// Ptr returns the place of the newest message of the entry.
func (h *Head) Ptr() format.DiskPtr { return h.place.ptr(h.LSN) }

// TailEntry returns the last entry of the chain that h begins. It is never a Delta.
func (h *Head) TailEntry() *Head {
	for h.Kind() == KindDelta {
		h = h.Next()
	}
	return h
}

// Links calls visit with every message that makes up the page with the head h, newest first, and with the LSN of the
// next older one; 0 for the oldest.
func (h *Head) Links(visit func(r Ref, older format.LSN)) {
	var newer Ref
	h.Refs(func(r Ref) {
		if newer.LSN > 0 {
			visit(newer, r.LSN)
		}
		newer = r
	})
	if newer.LSN > 0 {
		visit(newer, 0)
	}
}

// Refs calls visit with every message that makes up the page with the head h, newest first. A nil head has none.
func (h *Head) Refs(visit func(Ref)) {
	for ; h != nil && h.Kind() == KindDelta; h = h.Next() {
		visit(Ref{LSN: h.LSN, Ptr: h.Ptr()})
	}
	if h == nil {
		return
	}
	if ext := h.Ext(); ext != nil && ext.Refs != nil {
		for _, r := range ext.Refs {
			visit(r)
		}
		return
	}
	visit(Ref{LSN: h.LSN, Ptr: h.Ptr()})
	if h.Kind() == KindOnDisk {
		for i := range h.Depth() - 1 {
			r := h.older(i)
			visit(Ref{LSN: r.lsn, Ptr: r.place.ptr(r.lsn)})
		}
	}
}
