package engine

import (
	"fmt"
	"slices"

	"pagecache/engine/internal/pagestack"
	"pagecache/mmapread"
)

// Get returns the page's state and value. A page that was never allocated is Unallocated, a freed one Free; neither is an
// error. The value is valid until the Tx ends. Errors: ErrTxEnded, ErrClosed, ErrCorrupt where the page's bytes on disk are
// damaged, and what Decode returns. Safe for concurrent use.
func (pc *PageCache[P]) Get(tx *Tx, pid PageID) (Page[P], error) {
	if tx != nil && tx.owner == &pc.txs && tx.slot.Inside() && !pc.closed.Load() {
		if s := pc.table.Get(pid); s != nil {
			if h := s.Load(); h != nil && isWhole(h.Kind()) {
				if tx.hits.Add(uint64(pid)) {
					pc.handOver(tx)
				}
				return Page[P]{Kind: Materialized, Value: pagestack.EntryOf[P](h).Frag, Ptr: ptrTo[P](pid, h)}, nil
			}
		}
	}
	return pc.getSlow(tx, pid)
}

// isWhole reports whether an entry of that kind has the value of the whole page in it.
func isWhole(k pagestack.Kind) bool { return k == pagestack.KindBase || k == pagestack.KindMerged }

func (pc *PageCache[P]) getSlow(tx *Tx, pid PageID) (Page[P], error) {
	if err := pc.check(tx, "get", pid); err != nil {
		return Page[P]{}, err
	}
	s, h, err := pc.head(pid)
	if err != nil {
		return Page[P]{}, fmt.Errorf("get page %d: %w", pid, err)
	}
	if h == nil {
		return Page[P]{}, nil
	}
	switch h.Kind() {
	case pagestack.KindFree:
		return Page[P]{Kind: Free, Ptr: ptrTo[P](pid, h)}, nil
	case pagestack.KindCounter:
		return Page[P]{Kind: Counter, Ptr: ptrTo[P](pid, h)}, nil
	case pagestack.KindMeta:
		return Page[P]{Kind: MetaPage, Ptr: ptrTo[P](pid, h)}, nil
	}
	if h.Depth() > pc.limit && !pc.opts.ReadOnly {
		// The writer who should have done it could not; the log may take it now, and if not, reading goes on.
		if e, err := pc.consolidate(tx, pid, s, h); err == nil && e != nil {
			pc.relieve(tx, pid)
			return Page[P]{Kind: Materialized, Value: e.Frag, Ptr: ptrTo[P](pid, &e.Head)}, nil
		}
	}
	e, err := pc.materialize(pid, h)
	if err != nil {
		return Page[P]{}, err
	}
	if &e.Head != h {
		pc.keepRead(tx, pid, s, h, e)
	}
	return Page[P]{Kind: Materialized, Value: e.Frag, Ptr: ptrTo[P](pid, &e.Head)}, nil
}

// materialize returns an entry that stands for the same state as h, with the whole page's value in it: h itself where
// it has it, else a new one.
func (pc *PageCache[P]) materialize(pid PageID, h *head) (*entry[P], error) {
	if isWhole(h.Kind()) {
		return pagestack.EntryOf[P](h), nil
	}
	whole, view, err := pc.whole(pid, h)
	if err != nil {
		return nil, err
	}
	e := pagestack.New[P](pagestack.KindBase, h.TS(), h.Depth(), h.LSN, h.Ptr())
	switch {
	case h.Depth() > 1:
		ext := &pagestack.Ext{Refs: make([]pagestack.Ref, 0, h.Depth())}
		h.Refs(func(r pagestack.Ref) { ext.Refs = append(ext.Refs, r) })
		e = pagestack.New[P](pagestack.KindMerged, h.TS(), h.Depth(), h.LSN, h.Ptr())
		e.Ext = ext
	case view:
		e.Ext = pc.pulled
	}
	e.Frag = whole
	return e, nil
}

// whole returns the page's merged value, and whether it may be a view.
func (pc *PageCache[P]) whole(pid PageID, h *head) (whole P, view bool, err error) {
	if h.Kind() == pagestack.KindOnDisk && h.Depth() == 1 {
		pc.bringIn(h)
		return pc.pull(pid, pagestack.Ref{LSN: h.LSN, Ptr: h.Ptr()})
	}
	buf, _ := pc.frags.Get().(*[]P)
	if buf == nil {
		buf = new([]P)
	}
	defer func() {
		clear(*buf) // keeps nothing alive
		*buf = (*buf)[:0]
		pc.frags.Put(buf)
	}()
	if *buf, view, err = pc.fragments(*buf, pid, h); err != nil {
		return whole, false, err
	}
	if len(*buf) == 1 {
		return (*buf)[0], view, nil
	}
	slices.Reverse(*buf)
	pc.counts.merges.Add(1)
	err = pc.looking(view, pid, func() error {
		whole = pc.m.Merge(*buf)
		return nil
	})
	return whole, false, err
}

// looking calls f, which looks at values of a page. Where they may be views a fault becomes an error: the file was cut short, or the disk fails.
func (pc *PageCache[P]) looking(views bool, pid PageID, f func() error) error {
	if !views {
		return f()
	}
	if err := mmapread.Guard(f); err != nil {
		return pc.unreadable(pid, err)
	}
	return nil
}

// fragments appends the values that make up the page, newest first, to dst, with what is not resident pulled from disk; view says whether
// any of them may be a view. They may be fewer than the messages: a Merged entry has one for several.
func (pc *PageCache[P]) fragments(dst []P, pid PageID, h *head) (_ []P, view bool, err error) {
	for ; h.Kind() == pagestack.KindDelta; h = h.Next() {
		dst = append(dst, pagestack.EntryOf[P](h).Frag)
	}
	if h.Kind() != pagestack.KindOnDisk {
		e := pagestack.EntryOf[P](h)
		return append(dst, e.Frag), e.Ext == pc.pulled, nil
	}
	pc.bringIn(h)
	h.Refs(func(r pagestack.Ref) {
		if err != nil {
			return
		}
		var f P
		var v bool
		if f, v, err = pc.pull(pid, r); err == nil {
			dst, view = append(dst, f), view || v
		}
	})
	return dst, view, err
}

// pull reads one fragment from the log; view says whether it may be a view.
func (pc *PageCache[P]) pull(pid PageID, r pagestack.Ref) (f P, view bool, err error) {
	body, view, err := pc.value(pid, r.LSN, r.Ptr)
	if err == nil && view && pc.opts.CopyOnRead {
		view = false
		err = pc.looking(true, pid, func() error {
			body = slices.Clone(body)
			return nil
		})
	}
	if err != nil {
		return f, false, fmt.Errorf("pull page %d: %w", pid, err)
	}
	pc.counts.pulls.Add(1)
	err = pc.looking(view && pc.raw == nil, pid, func() (err error) {
		f, err = pc.m.Decode(body)
		return err
	})
	if err != nil {
		return f, false, fmt.Errorf("decode a fragment of page %d at LSN %d: %w", pid, r.LSN, err)
	}
	return f, view, nil
}

// Fragments returns the page's state and its fragments, unmerged, newest first: the deltas that are known singly, then the
// rest of the page as one value if it was merged before, else fragment by fragment. A page that does not exist has a zero PagePtr and
// no fragments. Pages 0 and 1 are ErrUnsupported. The values are valid until the Tx ends.
func (pc *PageCache[P]) Fragments(tx *Tx, pid PageID) (PagePtr[P], []P, error) {
	if err := pc.check(tx, "fragments of", pid); err != nil {
		return PagePtr[P]{}, nil, err
	}
	if pid < FirstUserPage {
		return PagePtr[P]{}, nil, fmt.Errorf("fragments of page %d: %w: it is the store's own", pid, ErrUnsupported)
	}
	s, h, err := pc.head(pid)
	if err != nil {
		return PagePtr[P]{}, nil, fmt.Errorf("fragments of page %d: %w", pid, err)
	}
	if h == nil || h.Kind() == pagestack.KindFree {
		return PagePtr[P]{}, nil, nil
	}
	if h.Depth() > pc.limit && !pc.opts.ReadOnly {
		if e, err := pc.consolidate(tx, pid, s, h); err == nil && e != nil {
			pc.relieve(tx, pid)
			return ptrTo[P](pid, &e.Head), []P{e.Frag}, nil
		}
	}
	frags, _, err := pc.fragments(make([]P, 0, h.Depth()), pid, h)
	if err != nil {
		return PagePtr[P]{}, nil, err
	}
	return ptrTo[P](pid, h), frags, nil
}
