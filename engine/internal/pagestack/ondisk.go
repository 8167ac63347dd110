package pagestack

import (
	"unsafe"

	"pagecache/segments/format"
)

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

// NewOnDisk returns the unpublished entry of a page with nothing resident. refs are the messages that make up the page,
// newest first. It returns nil if there are none: there is no such page.
func NewOnDisk(ts uint64, refs []Ref) *Head {
	h := NewUnfilled(ts, len(refs))
	for i, r := range refs {
		h.Fill(i, r)
	}
	return h
}

// NewUnfilled is NewOnDisk for a page in n messages, which the caller then sets with Fill, in any order. It returns nil
// if n is less than one: there is no such page.
func NewUnfilled(ts uint64, n int) *Head {
	var h *Head
	switch {
	case n < 1:
		return nil
	case n == 1:
		h = new(Head)
	case n < MaxDepth:
		words := make([]uint64, headWords+refWords*(n-1)) // a type without pointers (K3)
		h = (*Head)(unsafe.Pointer(&words[0]))
	default:
		h = &(&chained{Ext: &Ext{Refs: make([]Ref, n)}}).Head
	}
	return h.init(KindOnDisk, ts, n, Ref{})
}

// Fill sets a message of an entry that NewUnfilled returned: i is the number of newer ones.
func (h *Head) Fill(i int, r Ref) {
	if h.Listed() {
		h.Ext().Refs[i] = r
	} else if i > 0 {
		*h.older(i - 1) = packedRef{r.LSN, makePlace(KindOnDisk, 0, r.Ptr)}
	}
	if i == 0 {
		h.LSN, h.place = r.LSN, makePlace(KindOnDisk, 0, r.Ptr)
	}
}

// newOnDiskSingle is NewOnDisk for a page in one message. It allocates the head alone.
func newOnDiskSingle(ts uint64, r Ref) *Head { return new(Head).init(KindOnDisk, ts, 1, r) }

// older returns the i-th reference after the head of an OnDisk entry that is not Listed. The entry must have more than
// i+1 messages, so that the sum stays inside its memory.
func (h *Head) older(i int) *packedRef {
	return (*packedRef)(unsafe.Add(unsafe.Pointer(h), wordSize*(headWords+refWords*i)))
}

// Listed reports whether an OnDisk entry has its messages in Ext. It does if there are MaxDepth messages or more.
func (h *Head) Listed() bool { return h.Kind() == KindOnDisk && h.Depth() == MaxDepth }

// ToOnDisk returns an unpublished OnDisk entry of the same page in the same state.
func (h *Head) ToOnDisk() *Head {
	if h.Depth() == 1 {
		return newOnDiskSingle(h.TS(), Ref{LSN: h.LSN, Ptr: h.Ptr()})
	}
	refs := make([]Ref, 0, h.Depth())
	h.Refs(func(r Ref) { refs = append(refs, r) })
	return NewOnDisk(h.TS(), refs)
}
