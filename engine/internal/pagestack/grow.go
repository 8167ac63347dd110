package pagestack

import (
	"bytes"
	"strings"
	"unsafe"

	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

const (
	// MaxRoomy is the most bytes of a value of NewRoomy and of the room behind it.
	MaxRoomy = 8 << 10
	// moreDeltas is the number of deltas of the last one's length that the room is made for.
	moreDeltas = 8
)

// roomy is a Merged or Base entry with its Ext.
type roomy struct {
	entry Entry[[]byte]
	ext   Ext
}

// NewRoomy returns an entry that is not initialized, and whose Frag is the concatenation of frags, oldest first, in new
// memory with room behind it for some more deltas like the last one, but at most for half of its length. So a page that
// grows is copied once in several changes. It returns nil if that is longer than MaxRoomy, or if there is no byte.
// InitMerged or InitBase initializes the entry. frags may be views of the disk.
func NewRoomy(frags [][]byte) *Entry[[]byte] {
	n := 0
	for _, f := range frags {
		n += len(f)
	}
	size := n + roomFor(n, len(frags[len(frags)-1]))
	if n == 0 || size > MaxRoomy {
		return nil
	}
	e, memory := newRoomy(size)
	at := 0
	for _, f := range frags {
		at += copy(memory[at:], f)
	}
	keep(e, memory, n)
	return e
}

// keep makes the first n bytes of memory the value of a new entry, and the rest the room behind it.
func keep(e *Entry[[]byte], memory []byte, n int) {
	e.Frag = memory[:n:n]
	e.Ext.used.Store(uint32(n))
	e.Ext.capacity = uint32(len(memory))
	e.Ext.Size = int64(unsafe.Sizeof(Ext{})) + int64(len(memory))
}

// roomFor returns the bytes of room for a value of n bytes, of which the last delta is the given number.
func roomFor(n, delta int) int { return min(n/2, moreDeltas*delta) }

// CopyRoomy is NewRoomy of the value of head, which HasRoom: the new entry keeps nothing of the old one in memory. If
// it would be longer than MaxRoomy, it has less room.
func CopyRoomy(head *Head) *Entry[[]byte] {
	old := EntryOf[[]byte](head)
	n, delta := len(old.Frag), 0
	if head.IsGrown() {
		delta = n - len(EntryOf[[]byte](old.Next).Frag)
	}
	e, memory := newRoomy(n + min(roomFor(n, delta), max(0, MaxRoomy-n)))
	keep(e, memory, copy(memory, old.Frag))
	return e
}

// newRoomy returns an entry with an Ext, and memory of at least n bytes, in the same piece of memory if it is short.
// The pieces have sizes that Go's allocator hands out.
func newRoomy(n int) (*Entry[[]byte], []byte) {
	switch {
	case n <= 64:
		return roomyWith[[64]byte]()
	case n <= 96:
		return roomyWith[[96]byte]()
	case n <= 128:
		return roomyWith[[128]byte]()
	case n <= 176:
		return roomyWith[[176]byte]()
	case n <= 240:
		return roomyWith[[240]byte]()
	case n <= 304:
		return roomyWith[[304]byte]()
	case n <= 400:
		return roomyWith[[400]byte]()
	}
	x := new(roomy)
	x.entry.Ext = &x.ext
	// A Builder does not zero its memory first, and hands out all of it.
	var b strings.Builder
	b.Grow(n)
	b.WriteByte(0)
	return &x.entry, unsafe.Slice(unsafe.StringData(b.String()), b.Cap())
}

// roomyWith returns an entry with an M as its memory.
func roomyWith[M any]() (*Entry[[]byte], []byte) {
	x := new(inline[roomy, M])
	e := &x.entries.entry
	e.Ext = &x.entries.ext
	return e, unsafe.Slice((*byte)(unsafe.Pointer(&x.memory)), unsafe.Sizeof(x.memory)) // all of x.memory, no more
}

// InitMerged makes a Merged entry of one of NewRoomy that is not published. refs are its messages, newest first.
func (e *Entry[P]) InitMerged(ts uint64, refs []Ref) {
	e.Ext.Refs = refs
	e.init(KindMerged, ts, len(refs), refs[0])
}

// HasRoom reports whether the entry, which may be nil, holds the value of a whole page with memory of NewRoomy, which
// is longer than the value.
func (h *Head) HasRoom() bool {
	if h == nil || !h.IsWhole() {
		return false
	}
	ext := h.chain().Ext
	return ext != nil && ext.capacity > 0
}

// Lowest returns an LSN such that no message of the page with head h has a lower one: the first one that there is,
// unless it takes a walk to find that.
func (h *Head) Lowest() format.LSN {
	if !h.IsGrown() {
		return 0
	}
	ext := h.chain().Ext
	if ext.Refs != nil {
		return ext.Refs[len(ext.Refs)-1].LSN
	}
	// The memory of grown deltas is part of a roomy. Its entry is the tail entry, or one that the tail entry has
	// replaced, whose message is older.
	tail := (*roomy)(unsafe.Add(unsafe.Pointer(ext), -int(unsafe.Offsetof(roomy{}.ext))))
	return tail.entry.LSN
}

// CanGrow reports whether a delta of n bytes on top of head, which may be nil, can be grown. It is a hint: another
// goroutine may take the room.
func CanGrow(head *Head, n int) bool {
	if !head.HasRoom() {
		return false
	}
	e := EntryOf[[]byte](head)
	return int(e.Ext.used.Load()) == len(e.Frag) && len(e.Frag)+n <= int(e.Ext.capacity)
}

// Grow returns an unpublished delta on top of head. If head holds the value of the whole page, and the room behind it
// is free and long enough, the delta is grown: it is copied there, and the entry holds the value of the whole page.
// Otherwise the entry holds a copy of the delta alone.
//
// Several goroutines may want the room behind head's value. The one that raises used from the end of that value owns
// the bytes up to the new end. Any other goroutine finds another number there: used never falls below the end of a
// value that was published, and the value of an entry that is not published has no successor, but of its own goroutine.
// So nobody else writes the bytes, and nobody reads them before the slot publishes the entry. If the goroutine loses
// the compare-and-swap of the page's head, Discard gives the bytes back.
func Grow(head *Head, delta []byte, msg Ref) *Entry[[]byte] {
	if CanGrow(head, len(delta)) {
		below := EntryOf[[]byte](head)
		begin, end := len(below.Frag), len(below.Frag)+len(delta)
		invariants.Jitter()
		if below.Ext.used.CompareAndSwap(uint32(begin), uint32(end)) {
			memory := unsafe.Slice(&below.Frag[0], int(below.Ext.capacity)) // it begins with the value
			copy(memory[begin:end], delta)
			e := new(Entry[[]byte])
			e.setStamp(makeStamp(head.TS()+1, head.Depth()+1))
			e.LSN, e.place = msg.LSN, makePlace(grown, 0, msg.Ptr)
			e.Next, e.Ext, e.Frag = head, below.Ext, memory[:end:end]
			if invariants.Enabled {
				e.Sum = invariants.SumOf(e.Frag)
			}
			return e
		}
		invariants.Sometimes("pagestack: another goroutine takes the room", true)
	}
	return NewDelta(head, bytes.Clone(delta), msg.LSN, msg.Ptr)
}

// giveBack gives the room of a grown delta that was not published back. Nobody else has raised used meanwhile: the
// value that ends there was in no other goroutine's hands.
func (e *Entry[P]) giveBack() {
	begin, end := len(EntryOf[[]byte](e.Next).Frag), len(EntryOf[[]byte](&e.Head).Frag)
	e.Ext.used.CompareAndSwap(uint32(end), uint32(begin))
}

// Fragment returns the fragment of a delta: of a grown one, the part of its value that the entry below lacks.
func (e *Entry[P]) Fragment() P {
	if !e.IsGrown() {
		return e.Frag
	}
	own := EntryOf[[]byte](&e.Head).Frag[len(EntryOf[[]byte](e.Next).Frag):] // a P is a []byte
	return *(*P)(unsafe.Pointer(&own))
}

// NewMerged returns an entry for InitMerged, whose Frag is the value, of the given size in bytes.
func NewMerged[P any](value P, size int64) *Entry[P] {
	e := &Entry[P]{Frag: value}
	e.Ext = &Ext{Size: size}
	return e
}
