package engine

import (
	"fmt"
	"slices"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/pagestack"
	"pagecache/internal/invariants"
	"pagecache/lru"
	"pagecache/segments/format"
)

// inside reports whether any message of the page lies in [from, to).
func inside(h *head, from, to format.Offset) (yes bool) {
	h.Refs(func(r pagestack.Ref) { yes = yes || r.Ptr.Off >= from && r.Ptr.Off < to })
	return yes
}

// move writes the page anew if any of it lies in [from, to). Its state stays, and so does what it has in memory, unless that may be a view of
// the old place. It ends because each turn that fails means that somebody else has changed the page.
func (pc *PageCache[P]) move(tx *Tx, pid PageID, s *slot, from, to format.Offset) error {
	for {
		invariants.Jitter()
		h := s.Load()
		if h == nil || !inside(h, from, to) {
			return nil
		}
		kind, p, whole, err := pc.rewritten(tx, pid, h)
		if err != nil {
			return err
		}
		r, err := pc.put(kind, pid, &p, true)
		if err != nil {
			pc.discard(&p)
			return err
		}
		if pc.install(tx, pid, s, h, pc.movedTo(h, &r, whole, p.kept), &r, p.blob) {
			n := int64(format.AlignUp(format.HeaderSize + len(p.body)))
			pc.cleaner.moved.Add(n)
			pc.cleaner.budget -= n
			if tx.pressure != lru.PressureNone { // copies of views; those who use the store page out
				tx.pressure = lru.PressureNone
				pc.policy.Kick()
			}
			return nil
		}
		pc.discard(&p)
	}
}

// movedTo is the entry of the page whose head is h, at its new place. kept: the page is a blob, and stays the same.
func (pc *PageCache[P]) movedTo(h *head, r *iobuf.Reservation, whole P, kept bool) *head {
	switch h.TailEntry().Kind() { // of a page whose base is not in memory, nothing is to be from now on
	case pagestack.KindFree:
		return pagestack.NewFree(h.TS(), r.LSN(), r.Ptr())
	case pagestack.KindOnDisk:
		return pagestack.NewOnDisk(h.TS(), []pagestack.Ref{{LSN: r.LSN(), Ptr: r.Ptr()}})
	case pagestack.KindMeta, pagestack.KindCounter:
		e := pagestack.New[P](h.Kind(), h.TS(), 1, r.LSN(), r.Ptr())
		e.Ext = h.Ext()
		return &e.Head
	}
	e := pagestack.New[P](pagestack.KindBase, h.TS(), 1, r.LSN(), r.Ptr())
	e.Frag = whole
	if kept {
		e.Ext = h.Ext()
	}
	return &e.Head
}

// rewritten returns the page whose head is given as one message, and what of it stays in memory, which has nothing of the old place in it (rule 3). A page that
// is a blob stays that.
func (pc *PageCache[P]) rewritten(tx *Tx, pid PageID, h *head) (kind format.Kind, p payload, whole P, err error) {
	switch h.Kind() {
	case pagestack.KindFree:
		return format.KindFree, p, whole, nil
	case pagestack.KindMeta:
		return format.KindMeta, payload{body: format.AppendMeta(nil, h.Ext().Meta)}, whole, nil
	case pagestack.KindCounter:
		return format.KindCounter, payload{body: format.AppendCounter(nil, h.Ext().Counter)}, whole, nil
	}
	if h.Depth() == 1 && h.Ptr().Blob {
		ptr, err := pc.blobAt(pagestack.Ref{LSN: h.LSN, Ptr: h.Ptr()})
		if h.Kind() != pagestack.KindOnDisk {
			whole = pagestack.EntryOf[P](h).Frag // in the blob, which stays where it is, or in the heap
		}
		return format.KindCompact, payload{body: ptr.Append(nil), form: inBlob, blob: ptr.ID, kept: true}, whole, err
	}
	whole, view, err := pc.whole(pid, h)
	switch {
	case err != nil:
	case !view:
		p, err = pc.encode(tx, whole)
	default:
		var encoded []byte
		if p, encoded, err = pc.encodeView(tx, pid, whole); err == nil && h.Kind() != pagestack.KindOnDisk {
			if whole, err = pc.m.Decode(slices.Clone(encoded)); err != nil {
				pc.discard(&p)
				err = fmt.Errorf("decode page %d, to move it: %w", pid, err)
			}
		}
	}
	return format.KindCompact, p, whole, err
}

// encodeView is encode for a value that may be a view of the disk, which is copied to the Tx's scratch memory first: encoded.
func (pc *PageCache[P]) encodeView(tx *Tx, pid PageID, v P) (p payload, encoded []byte, err error) {
	err = pc.looking(true, pid, func() error {
		encoded = pc.appended(tx, v)
		return nil
	})
	if err == nil {
		p, err = pc.pack(tx, encoded)
	}
	return p, encoded, err
}
