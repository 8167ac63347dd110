package pagestack

import (
	"unsafe"

	"pagecache/segments/format"
)

// MaxInline and MaxInlineDelta are the lengths in bytes of the longest values that NewInline and NewInlineDelta take:
// with their entries they fill the longest piece of memory in which Go's allocator needs no header for an object with
// pointers.
const (
	MaxInline      = 512 - 64
	MaxInlineDelta = 512 - 64*RunLen
)

// inline is an E, which begins with an entry, with the memory of that entry's value behind it: one object for the
// allocator and the collector. A reference to the value keeps all of it in memory, and what the entry refers to.
type inline[E, M any] struct {
	entries E
	memory  M
}

// NewInline returns an entry that is not initialized, and whose Frag is a copy of b in the same piece of memory. b has
// at most MaxInline bytes. The pieces have sizes that Go's allocator hands out; a value wastes about what it would in a
// piece of its own. InitBase initializes the entry; it refers to no other then.
func NewInline(b []byte) *Entry[[]byte] {
	type one = Entry[[]byte]
	switch n := len(b); {
	case n <= 16:
		return copied[one, [16]byte](b)
	case n <= 32:
		return copied[one, [32]byte](b)
	case n <= 48:
		return copied[one, [48]byte](b)
	case n <= 64:
		return copied[one, [64]byte](b)
	case n <= 80:
		return copied[one, [80]byte](b)
	case n <= 96:
		return copied[one, [96]byte](b)
	case n <= 112:
		return copied[one, [112]byte](b)
	case n <= 128:
		return copied[one, [128]byte](b)
	case n <= 160:
		return copied[one, [160]byte](b)
	case n <= 192:
		return copied[one, [192]byte](b)
	case n <= 256:
		return copied[one, [256]byte](b)
	case n <= 320:
		return copied[one, [320]byte](b)
	default:
		return copied[one, [MaxInline]byte](b)
	}
}

// NewInlineDelta is NewInline for the first delta of a run, of at most MaxInlineDelta bytes. InitDelta initializes it.
func NewInlineDelta(b []byte) *Entry[[]byte] {
	type all = run[[]byte]
	switch n := len(b); {
	case n <= 32:
		return copied[all, [32]byte](b)
	case n <= 64:
		return copied[all, [64]byte](b)
	case n <= 96:
		return copied[all, [96]byte](b)
	case n <= 128:
		return copied[all, [128]byte](b)
	case n <= 160:
		return copied[all, [160]byte](b)
	case n <= 192:
		return copied[all, [192]byte](b)
	default:
		return copied[all, [MaxInlineDelta]byte](b)
	}
}

// copied returns the first entry of a new E, with a copy of b in an M as its Frag.
func copied[E, M any](b []byte) *Entry[[]byte] {
	x := new(inline[E, M])
	memory := unsafe.Slice((*byte)(unsafe.Pointer(&x.memory)), unsafe.Sizeof(x.memory)) // all of x.memory, no more
	e := (*Entry[[]byte])(unsafe.Pointer(&x.entries))                                   // an entry, or a run of them
	e.Frag = memory[:copy(memory, b):len(b)]
	return e
}

// BeginsRun reports whether a delta on top of head, which may be nil, is the first one of a run.
func BeginsRun(head *Head) bool {
	return head == nil || head.Kind() != KindDelta || head.place.index()+1 == RunLen
}

// InitBase makes a Base of an entry of NewInline that is not published, for the message msg.
func (e *Entry[P]) InitBase(ts uint64, msg Ref) { e.init(KindBase, ts, 1, msg) }

// InitDelta makes a delta of an entry of NewInlineDelta that is not published, on top of head. frag is its value, which
// Discard may have dropped.
func (e *Entry[P]) InitDelta(head *Head, frag P, lsn format.LSN, ptr format.DiskPtr) {
	e.setStamp(makeStamp(head.TS()+1, head.Depth()+1))
	e.Next, e.Frag, e.LSN, e.place = head, frag, lsn, makePlace(KindDelta, 0, ptr)
}
