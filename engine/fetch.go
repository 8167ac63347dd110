package engine

import (
	"bytes"
	"fmt"
	"slices"

	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/scope"
	"pagecache/engine/internal/values"
	"pagecache/internal/invariants"
	"pagecache/mmapread"
)

// viewOf returns the Ext of a Base entry whose value may be a view. Unless views of this type are known to be nothing
// else, it holds the value's size, which is asked for here, where a fault is an error of the read, and never again.
func (pc *PageCache[P]) viewOf(pid PageID, value P) (*pagestack.Ext, error) {
	if pc.mem.viewsOnly {
		return pc.mem.mapped, nil
	}
	size, err := pc.sizeOf(pid, value)
	return &pagestack.Ext{Size: size}, err
}

// sizeOf returns the Ext.Size of a value.
func (pc *PageCache[P]) sizeOf(pid PageID, value P) (n int64, err error) {
	err = pc.values.Guard(pc.raw == nil, pid, func() error {
		n = pagestack.SizeOf(pc.m.Size(value))
		return nil
	})
	return n, err
}

// merged returns the page's merged value. view says that it may be a view of the disk. If roomy is not nil, and there
// are fragments to merge, it merges them, and makes the entry e that holds the value, unless it returns nil.
func (pc *PageCache[P]) merged(pid PageID, h *head, roomy func([]P) *entry[P]) (value P, e *entry[P], view bool,
	err error) {
	if h.Kind() == pagestack.KindOnDisk && h.Depth() == 1 {
		pc.values.FetchBlocks(h)
		value, view, err = pc.fetch(pid, pagestack.Ref{LSN: h.LSN, Ptr: h.Ptr()}, 0, false)
		return value, nil, view, err
	}
	buf, _ := pc.frags.Get().(*[]P)
	if buf == nil {
		buf = new([]P)
	}
	if n := h.Depth(); n > cap(*buf) {
		*buf = make([]P, 0, n)
	}
	defer func() {
		clear(*buf) // it must keep nothing alive
		if *buf = (*buf)[:0]; cap(*buf) <= maxFragsKept {
			pc.frags.Put(buf)
		}
	}()
	if *buf, view, err = pc.appendFragments(*buf, pid, h, together); err != nil {
		return value, nil, false, err
	}
	if len(*buf) == 1 {
		return (*buf)[0], nil, view, nil
	}
	slices.Reverse(*buf)
	pc.mem.counts.merges.Add(1)
	err = pc.values.Guard(view || pc.raw == nil, pid, func() error {
		if roomy != nil {
			e = roomy(*buf)
		}
		if e != nil {
			value = e.Frag
		} else {
			value = pc.m.Merge(*buf)
		}
		return nil
	})
	return value, e, false, err
}

// value returns the page's merged value, as merged does.
func (pc *PageCache[P]) value(pid PageID, h *head) (value P, view bool, err error) {
	value, _, view, err = pc.merged(pid, h, nil)
	return value, view, err
}

// maxFragsKept is the number of fragments of a page above which the memory for merging them is not kept.
const maxFragsKept = 64

// How appendFragments treats grown deltas.
const (
	together = false // the newest one stands for the rest of the page
	singly   = true  // each is a fragment
)

// appendFragments appends the values that make up the page, newest first, to dst, and fetches those that are not
// resident. view says that one of them may be a view. There may be fewer values than messages: a Merged entry has one
// for several.
func (pc *PageCache[P]) appendFragments(dst []P, pid PageID, h *head, each bool) (_ []P, view bool, err error) {
	checkUnmodified(pc.m, pid, h)
	for ; h.Kind() == pagestack.KindDelta && (each || !h.IsGrown()); h = h.Next() {
		dst = append(dst, pagestack.EntryOf[P](h).Fragment())
	}
	if h.Kind() != pagestack.KindOnDisk {
		e := pagestack.EntryOf[P](h)
		return append(dst, e.Frag), h.Kind() == pagestack.KindBase && e.Ext != nil && !h.HasRoom(), nil
	}
	pc.values.FetchBlocks(h)
	h.Links(func(r pagestack.Ref, older LSN) {
		if err != nil {
			return
		}
		var f P
		var v bool
		if f, v, err = pc.fetch(pid, r, older, false); err == nil {
			dst, view = append(dst, f), view || v
		}
	})
	return dst, view, err
}

// fragments appends the values that make up the page, newest first, to dst. If some of them are not resident, it makes
// them so.
func (pc *PageCache[P]) fragments(tx *scope.Scope, pg page, dst []P) ([]P, error) {
	h := pg.head
	if h.TailEntry().Kind() == pagestack.KindOnDisk {
		var err error
		if h, err = pc.unfold(pg.id, h); err != nil {
			return dst, err
		}
		pc.mem.keepAll(tx, pg, h)
	} else {
		pc.used(tx, pg.id)
	}
	dst, _, err := pc.appendFragments(dst, pg.id, h, singly)
	return dst, err
}

// atCut returns the head of a page for Get in a View, if its value is resident, and was the same at the cut; else nil.
func (tx *Tx[P]) atCut(pid PageID) *head {
	if tx == nil || tx.t.view == nil || pid < FirstUserPage || tx.pc.core.closed.Load() || invariants.Enabled {
		return nil
	}
	h := tx.t.view.Whole(tx.pc.pages.Table.Get(pid))
	if h != nil && tx.scope.S().Hits.Add(uint64(pid)) { // as used does, which is not inlined
		tx.pc.mem.handOver(&tx.scope)
	}
	return h
}

// used records an access to a page that is resident.
func (pc *PageCache[P]) used(tx *scope.Scope, pid PageID) {
	if tx.S().Hits.Add(uint64(pid)) {
		pc.mem.handOver(tx)
	}
}

// unfold returns a chain for the same state as h, the head of a page whose tail entry is OnDisk: with a resident entry
// for each message, none of which is published. Deltas are no views: they are small, and count as heap.
//
// Only the head of a chain has the timestamp of the page's state. Those of the older entries are lower by one each, and
// may wrap, since no timestamps are known of the states before.
func (pc *PageCache[P]) unfold(pid PageID, h *head) (*head, error) {
	type link struct {
		ref   pagestack.Ref
		older LSN
	}
	var top []*entry[P] // deltas that are resident
	for ; h.Kind() == pagestack.KindDelta; h = h.Next() {
		top = append(top, pagestack.EntryOf[P](h))
	}
	links := make([]link, 0, h.Depth())
	h.Links(func(r pagestack.Ref, older LSN) { links = append(links, link{r, older}) })
	pc.values.FetchBlocks(h)
	var e *entry[P]
	for i, l := range slices.Backward(links) {
		frag, view, err := pc.fetch(pid, l.ref, l.older, e != nil)
		if err != nil {
			return nil, err
		}
		if e != nil {
			e = pagestack.NewDelta(&e.Head, frag, l.ref.LSN, l.ref.Ptr)
		} else {
			e = pagestack.New[P](pagestack.KindBase, h.TS()-uint64(i), 1, l.ref.LSN, l.ref.Ptr)
			e.Frag = frag
		}
		if !view {
			e.Sum = sumOf(pc.m, frag)
		} else if e.Ext, err = pc.viewOf(pid, frag); err != nil {
			return nil, err
		}
	}
	for _, d := range slices.Backward(top) {
		kept := pagestack.NewDelta(&e.Head, d.Frag, d.LSN, d.Ptr())
		kept.Sum, e = d.Sum, kept
	}
	return &e.Head, nil
}

// keepAll makes the chain e of unfold resident, as keep does with an entry.
func (y *memory[P]) keepAll(tx *scope.Scope, pg page, e *head) {
	heap, mapped := y.weigh(e)
	oldHeap, oldMapped := y.weigh(pg.head)
	won := pg.slot.CompareAndSwap(pg.head, e)
	if won {
		if oldHeap+oldMapped == 0 {
			y.pages.Table.Mark(pg.id)
		}
		tx.S().Pressure = max(tx.S().Pressure, y.budget.Count(&tx.S().Account, heap-oldHeap, mapped-oldMapped))
		y.changed(tx, pg.id)
	}
	y.counts.read.Add(1) // after the mark and before the load below: see sweep
	if won && y.exhausted.Load() >= 0 {
		y.exhausted.Store(-1)
	}
	y.reclaim(tx, pg.id)
}

// fetch reads and decodes one fragment; older is the LSN of the page's message before it, 0 if there is none. view says
// that it may be a view of the disk; with copied, it is none.
func (pc *PageCache[P]) fetch(pid PageID, r pagestack.Ref, older LSN, copied bool) (frag P, view bool, err error) {
	body, view, err := pc.values.Encoded(pid, r, older)
	if err == nil && view && (copied || pc.core.opts.CopyOnRead) {
		view = false
		err = pc.values.Guard(true, pid, func() error {
			body = slices.Clone(body)
			return nil
		})
	}
	if err != nil {
		return frag, false, fmt.Errorf("read page %d: %w", pid, pc.core.opts.report.Corrupt(err))
	}
	pc.mem.counts.fetches.Add(1)
	err = pc.values.Guard(view && pc.raw == nil, pid, func() (err error) {
		frag, err = pc.m.Decode(clip(body))
		return err
	})
	if err != nil {
		err = pc.core.opts.report.Corrupt(err)
		return frag, false, fmt.Errorf("decode a fragment of page %d at LSN %d: %w", pid, r.LSN, err)
	}
	return frag, view, nil
}

// useBytes sets the functions for values that lie in memory as they are encoded, if m is Bytes.
func (pc *PageCache[P]) useBytes(m Materializer[P]) {
	if _, ok := any(m).(Bytes); ok {
		pc.raw, _ = any(func(b []byte) []byte { return b }).(func(P) []byte)
		pc.inlineBase.make, _ = any(pagestack.NewInline).(func([]byte) *entry[P])
		pc.inlineDelta.make, _ = any(pagestack.NewInlineDelta).(func([]byte) *entry[P])
		pc.inlineBase.most, pc.inlineDelta.most = pagestack.MaxInline, pagestack.MaxInlineDelta
		pc.grow, _ = any(pagestack.Grow).(func(*head, P, pagestack.Ref) *entry[P])
		pc.newRoomy, _ = any(pagestack.NewRoomy).(func([]P) *entry[P])
		pc.copyRoomy, _ = any(pagestack.CopyRoomy).(func(*head) *entry[P])
	}
}

// copyIn makes the payload of a fragment that a caller has given, and a copy of the fragment, which the store keeps
// (rule 20). The caller may change its own as soon as the call returns, and a part of a page that goes into another one
// is copied, too: no page keeps memory of another, or a view of the disk behind which the place is used again (rule 3).
// in makes an entry with a short fragment in it.
//
// Memory for a copy is taken once, for a short fragment of Bytes together with that of its entry. What Append has
// written is decoded; so a type that aliases what it decodes aliases memory that belongs to this fragment alone. A
// fragment that Decode refuses could never be read: nothing is written. Size is called before a blob may be written: it
// may panic, as Append and Decode may.
func (pc *PageCache[P]) copyIn(tx *scope.Scope, pid PageID, frag P, in inlined[P]) (c owned[P], err error) {
	var encoded []byte
	if pc.raw != nil {
		if c.frag, c.entry, err = pc.copyRaw(pid, frag, in); in.short != nil {
			c.grow = pc.grow
		}
		encoded = pc.raw(c.frag)
	} else if encoded, err = pc.appended(tx, pid, frag); err == nil {
		if c.frag = frag; !pc.flat {
			c.frag, err = pc.m.Decode(clip(bytes.Clone(encoded)))
		}
		if err != nil {
			err = fmt.Errorf("decode the fragment, to keep it: %w", err)
		}
	}
	if err != nil {
		return c, err
	}
	c.size, c.sum = int64(pc.m.Size(c.frag)), sumOf(pc.m, c.frag)
	c.payload, err = pc.values.Pack(tx, encoded)
	return c, err
}

// grows reports whether a delta that is linked to the page with head h will be grown (pagestack, K4).
func (pc *PageCache[P]) grows(h *head, delta P) bool {
	return pc.grow != nil && pagestack.CanGrow(h, len(pc.raw(delta)))
}

// lend is copyIn for a delta that will be grown before the call of the caller returns, and that is no view: its copy is
// in scratch memory. A delta that cannot be read panics here, and not while the log waits for its message.
func (pc *PageCache[P]) lend(tx *scope.Scope, delta P) (c owned[P], err error) {
	buf := tx.Buffer()
	buf.Encoded = append(buf.Encoded[:0], pc.raw(delta)...)
	c.frag, _ = pc.m.Decode(clip(buf.Encoded)) // of Bytes: it does not fail
	c.grow, c.size, c.sum = pc.grow, int64(pc.m.Size(c.frag)), sumOf(pc.m, c.frag)
	c.payload, err = pc.values.Pack(tx, buf.Encoded)
	return c, err
}

// copyRaw copies a fragment of Bytes, with its entry if it is short. The fragment may be a view of the disk.
func (pc *PageCache[P]) copyRaw(pid PageID, frag P, in inlined[P]) (c P, e *entry[P], err error) {
	b := pc.raw(frag)
	err = pc.values.Guard(mmapread.MayView(b), pid, func() (err error) {
		switch n := len(b); {
		case in.make != nil && n <= in.most:
			e = in.make(b)
			c = e.Frag
		case n <= len(in.short):
			c, err = pc.m.Decode(clip(in.short[:copy(in.short, b)]))
		default:
			c, err = pc.m.Decode(clip(bytes.Clone(b)))
		}
		return err
	})
	return c, e, err
}

// clip returns b without the room behind it, so that appending to a value that the store has handed out copies it.
func clip(b []byte) []byte { return b[:len(b):len(b)] }

// encode makes the payload of a fragment that the store owns and that is no view: in the Tx's scratch memory unless the
// fragment is its own encoding, or in a blob, durably, if it is long. A payload that is not installed must be
// discarded. It is valid until the call of the Tx releases the scratch memory.
func (pc *PageCache[P]) encode(tx *scope.Scope, pid PageID, frag P) (values.Payload, error) {
	if pc.raw != nil {
		return pc.values.Pack(tx, pc.raw(frag))
	}
	encoded, err := pc.appended(tx, pid, frag)
	if err != nil {
		return values.Payload{}, err
	}
	return pc.values.Pack(tx, encoded)
}

// appended returns the encoded fragment, which may be a view, in the Tx's scratch memory.
func (pc *PageCache[P]) appended(tx *scope.Scope, pid PageID, frag P) (encoded []byte, err error) {
	buf := tx.Buffer()
	err = pc.values.Guard(true, pid, func() error {
		encoded = pc.m.Append(buf.Encoded[:0], frag)
		return nil
	})
	if err == nil {
		buf.Encoded = encoded
	}
	return encoded, err
}
