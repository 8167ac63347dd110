package engine

import (
	"fmt"
	"slices"

	"pagecache/engine/internal/pagestack"
)

// Get returns the page's state and value. A page that was never allocated is Unallocated, a freed one Free; neither is an
// error. The value is valid until the Tx ends. Errors: ErrTxEnded, ErrClosed, ErrCorrupt where the page's bytes on disk are
// damaged, and what Decode returns. Safe for concurrent use.
func (pc *PageCache[P]) Get(tx *Tx, pid PageID) (Page[P], error) {
	if tx != nil && tx.owner == &pc.txs && tx.slot.Inside() && !pc.closed.Load() {
		if s := pc.table.Get(pid); s != nil {
			if e := s.Load(); e != nil && (e.Kind() == pagestack.Base || e.Kind() == pagestack.Merged) {
				return Page[P]{Kind: Materialized, Value: e.Frag, Ptr: PagePtr[P]{e}}, nil
			}
		}
	}
	return pc.getSlow(tx, pid)
}

func (pc *PageCache[P]) getSlow(tx *Tx, pid PageID) (Page[P], error) {
	if err := pc.check(tx, "get", pid); err != nil {
		return Page[P]{}, err
	}
	s, head, err := pc.head(pid)
	if err != nil {
		return Page[P]{}, fmt.Errorf("get page %d: %w", pid, err)
	}
	if head == nil {
		return Page[P]{}, nil
	}
	switch head.Kind() {
	case pagestack.Free:
		return Page[P]{Kind: Free, Ptr: PagePtr[P]{head}}, nil
	case pagestack.Counter:
		return Page[P]{Kind: Counter, Ptr: PagePtr[P]{head}}, nil
	case pagestack.Meta:
		return Page[P]{Kind: MetaPage, Ptr: PagePtr[P]{head}}, nil
	}
	if head.Depth() > pc.limit && !pc.opts.ReadOnly {
		// The writer who should have done it could not; the log may take it now, and if not, reading goes on.
		if e, err := pc.consolidate(tx, pid, s, head); err == nil && e != nil {
			return Page[P]{Kind: Materialized, Value: e.Frag, Ptr: PagePtr[P]{e}}, nil
		}
	}
	e, err := pc.materialize(pid, head)
	if err != nil {
		return Page[P]{}, err
	}
	if e != head {
		// Housekeeping: where another writer was first, what was read is still the page's state at that moment.
		s.CompareAndSwap(head, e)
	}
	return Page[P]{Kind: Materialized, Value: e.Frag, Ptr: PagePtr[P]{e}}, nil
}

// materialize returns an entry that stands for the same state as head, with the whole page's value in it: head itself where
// it has it, else a new one.
func (pc *PageCache[P]) materialize(pid PageID, head *entry[P]) (*entry[P], error) {
	if head.Kind() == pagestack.Base || head.Kind() == pagestack.Merged {
		return head, nil
	}
	whole, err := pc.whole(pid, head)
	if err != nil {
		return nil, err
	}
	kind, ext := pagestack.Base, pc.pulled
	if head.Depth() > 1 {
		kind, ext = pagestack.Merged, &pagestack.Ext[P]{Refs: make([]pagestack.Ref, 0, head.Depth())}
		head.Refs(func(r pagestack.Ref) { ext.Refs = append(ext.Refs, r) })
	}
	e := pagestack.New[P](kind, head.TS(), head.Depth(), head.LSN, head.Ptr())
	e.Frag, e.Ext = whole, ext
	return e, nil
}

// whole returns the page's merged value.
func (pc *PageCache[P]) whole(pid PageID, head *entry[P]) (P, error) {
	buf, _ := pc.frags.Get().(*[]P)
	if buf == nil {
		buf = new([]P)
	}
	defer func() {
		clear(*buf) // keeps nothing alive
		*buf = (*buf)[:0]
		pc.frags.Put(buf)
	}()
	var err error
	if *buf, err = pc.fragments(*buf, pid, head); err != nil {
		var zero P
		return zero, err
	}
	if len(*buf) == 1 {
		return (*buf)[0], nil
	}
	slices.Reverse(*buf)
	pc.counts.merges.Add(1)
	return pc.m.Merge(*buf), nil
}

// fragments appends the values that make up the page, newest first, to dst, with what is not resident pulled from disk. They
// may be fewer than the messages: a Merged entry has one for several.
func (pc *PageCache[P]) fragments(dst []P, pid PageID, head *entry[P]) ([]P, error) {
	e := head
	for ; e.Kind() == pagestack.Delta; e = e.Next {
		dst = append(dst, e.Frag)
	}
	if e.Kind() != pagestack.OnDisk {
		return append(dst, e.Frag), nil
	}
	for _, r := range e.Ext.Refs {
		f, err := pc.pull(pid, r)
		if err != nil {
			return dst, err
		}
		dst = append(dst, f)
	}
	return dst, nil
}

// pull reads one fragment from the log.
func (pc *PageCache[P]) pull(pid PageID, r pagestack.Ref) (P, error) {
	var zero P
	body, err := pc.value(pid, r.LSN, r.Ptr)
	if err != nil {
		return zero, fmt.Errorf("pull page %d: %w", pid, err)
	}
	pc.counts.pulls.Add(1)
	f, err := pc.m.Decode(body)
	if err != nil {
		return zero, fmt.Errorf("decode a fragment of page %d at LSN %d: %w", pid, r.LSN, err)
	}
	return f, nil
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
	s, head, err := pc.head(pid)
	if err != nil {
		return PagePtr[P]{}, nil, fmt.Errorf("fragments of page %d: %w", pid, err)
	}
	if head == nil || head.Kind() == pagestack.Free {
		return PagePtr[P]{}, nil, nil
	}
	if head.Depth() > pc.limit && !pc.opts.ReadOnly {
		if e, err := pc.consolidate(tx, pid, s, head); err == nil && e != nil {
			return PagePtr[P]{e}, []P{e.Frag}, nil
		}
	}
	frags, err := pc.fragments(make([]P, 0, head.Depth()), pid, head)
	if err != nil {
		return PagePtr[P]{}, nil, err
	}
	return PagePtr[P]{head}, frags, nil
}
