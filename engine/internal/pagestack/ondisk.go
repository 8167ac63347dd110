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
// newest first, at least one.
func NewOnDisk(ts uint64, refs []Ref) *Head {
	first, n := refs[0], len(refs)
	switch {
	case n == 1:
		return newOnDiskSingle(ts, first)
	case n >= MaxDepth:
		return NewListed(ts, first, refs)
	}
	words := make([]uint64, headWords+refWords*(n-1)) // a type without pointers (K3)
	h := (*Head)(unsafe.Pointer(&words[0])).init(KindOnDisk, ts, n, first)
	for i, r := range refs[1:] {
		*h.older(i) = packedRef{r.LSN, makePlace(KindOnDisk, 0, r.Ptr)}
	}
	return h
}

// newOnDiskSingle is NewOnDisk for a page in one message. It allocates the head alone.
func newOnDiskSingle(ts uint64, r Ref) *Head { return new(Head).init(KindOnDisk, ts, 1, r) }

// older returns the i-th reference after the head of an OnDisk entry that is not Listed. The entry must have more than
// i+1 messages, so that the sum stays inside its memory.
func (h *Head) older(i int) *packedRef {
	return (*packedRef)(unsafe.Add(unsafe.Pointer(h), wordSize*(headWords+refWords*i)))
}

// NewListed is NewOnDisk for a page whose list of messages is kept as it is. While a table is being rebuilt, the list
// may be in another order, and a zero Ref stands for a message that is missing.
func NewListed(ts uint64, newest Ref, refs []Ref) *Head {
	c := &chained{Ext: &Ext{Refs: refs}}
	return c.init(KindOnDisk, ts, MaxDepth, newest)
}

// Listed reports whether an OnDisk entry has its messages in Ext. It does while a table is being rebuilt, and if there
// are MaxDepth messages or more.
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
