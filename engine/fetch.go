package engine

import (
	"errors"
	"fmt"
	"slices"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/internal/vfs"
	"pagecache/mmapread"
	"pagecache/segments/format"
)

// materialize returns an entry for the same state as the page's head, with the whole page's value in it: the head
// itself if it holds the value, else a new entry, unpublished.
func (pc *PageCache[P]) materialize(tx *Tx, pid PageID, h *head) (*entry[P], error) {
	if isWhole(h.Kind()) {
		return pagestack.EntryOf[P](h), nil
	}
	value, view, err := pc.merged(tx, pid, h)
	if err != nil {
		return nil, err
	}
	if h.Depth() > 1 {
		ext := &pagestack.Ext{Refs: make([]pagestack.Ref, 0, h.Depth())}
		h.Refs(func(r pagestack.Ref) { ext.Refs = append(ext.Refs, r) })
		if ext.Size, err = pc.sizeOf(pid, value); err != nil {
			return nil, err
		}
		e := pagestack.New[P](pagestack.KindMerged, h.TS(), h.Depth(), h.LSN, h.Ptr())
		e.Ext, e.Frag, e.Sum = ext, value, sumOf(pc.m, value)
		return e, nil
	}
	e := pagestack.New[P](pagestack.KindBase, h.TS(), h.Depth(), h.LSN, h.Ptr())
	e.Frag = value
	if view {
		e.Ext, err = pc.viewOf(pid, value)
	} else {
		e.Sum = sumOf(pc.m, value)
	}
	return e, err
}

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
	err = pc.values.guard(pc.raw == nil, pid, func() error {
		n = pagestack.SizeOf(int(pc.mem.size(value)))
		return nil
	})
	return n, err
}

// merged returns the page's merged value. view says that it may be a view of the disk. If the head of a page has more
// than one value, the result is a new one, in slabs if tx is not nil.
func (pc *PageCache[P]) merged(tx *Tx, pid PageID, h *head) (value P, view bool, err error) {
	if h.Kind() == pagestack.KindOnDisk && h.Depth() == 1 {
		pc.values.fetchBlocks(h)
		return pc.fetch(pid, pagestack.Ref{LSN: h.LSN, Ptr: h.Ptr()}, 0, false)
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
	if *buf, view, err = pc.appendFragments(*buf, pid, h); err != nil {
		return value, false, err
	}
	if len(*buf) == 1 {
		return (*buf)[0], view, nil
	}
	slices.Reverse(*buf)
	pc.mem.counts.merges.Add(1)
	if pc.raw != nil && tx != nil {
		value, err = pc.joined(tx, pid, view, *buf...)
		return value, false, err
	}
	err = pc.values.guard(view || pc.raw == nil, pid, func() error {
		value = pc.m.Merge(*buf)
		return nil
	})
	return value, false, err
}

// maxFragsKept is the number of fragments of a page above which the memory for merging them is not kept.
const maxFragsKept = 64

// appendFragments appends the values that make up the page, newest first, to dst, and fetches those that are not
// resident. view says that one of them may be a view. There may be fewer values than messages: a Merged entry has one
// for several.
func (pc *PageCache[P]) appendFragments(dst []P, pid PageID, h *head) (_ []P, view bool, err error) {
	checkUnmodified(pc.m, pid, h)
	for ; h.Kind() == pagestack.KindDelta; h = h.Next() {
		dst = append(dst, pagestack.EntryOf[P](h).Frag)
	}
	if h.Kind() != pagestack.KindOnDisk {
		e := pagestack.EntryOf[P](h)
		return append(dst, e.Frag), h.Kind() == pagestack.KindBase && e.Ext != nil, nil
	}
	pc.values.fetchBlocks(h)
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
func (pc *PageCache[P]) fragments(tx *Tx, pg page, dst []P) ([]P, error) {
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
	dst, _, err := pc.appendFragments(dst, pg.id, h)
	return dst, err
}

// used records an access to a page that is resident.
func (pc *PageCache[P]) used(tx *Tx, pid PageID) {
	if tx.s().hits.Add(uint64(pid)) {
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
	pc.values.fetchBlocks(h)
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
func (y *memory[P]) keepAll(tx *Tx, pg page, e *head) {
	heap, mapped := y.weigh(e)
	oldHeap, oldMapped := y.weigh(pg.head)
	won := pg.slot.CompareAndSwap(pg.head, e)
	if won {
		if oldHeap+oldMapped == 0 {
			y.pages.Table.Mark(pg.id)
		}
		y.slabs.replaced(tx, pg.id, pg.head, e)
		p := y.budget.Count(&tx.s().account, heap-oldHeap, mapped-oldMapped)
		tx.s().pressure = max(tx.s().pressure, p)
		y.changed(tx, pg.id)
	}
	y.counts.misses.Add(1) // after the mark and before the load below: see sweep
	if won && y.exhausted.Load() >= 0 {
		y.exhausted.Store(-1)
	}
	y.reclaim(tx, pg.id)
}

// fetch reads and decodes one fragment; older is the LSN of the page's message before it, 0 if there is none. view says
// that it may be a view of the disk; with copied, it is none.
func (pc *PageCache[P]) fetch(pid PageID, r pagestack.Ref, older LSN, copied bool) (frag P, view bool, err error) {
	body, view, err := pc.values.encoded(pid, r, older)
	if err == nil && view && (copied || pc.core.opts.CopyOnRead) {
		view = false
		err = pc.values.guard(true, pid, func() error {
			body = slices.Clone(body)
			return nil
		})
	}
	if err != nil {
		return frag, false, fmt.Errorf("read page %d: %w", pid, pc.core.opts.report.Corrupt(err))
	}
	pc.mem.counts.fetches.Add(1)
	err = pc.values.guard(view && pc.raw == nil, pid, func() (err error) {
		frag, err = pc.m.Decode(clip(body))
		return err
	})
	if err != nil {
		err = pc.core.opts.report.Corrupt(err)
		return frag, false, fmt.Errorf("decode a fragment of page %d at LSN %d: %w", pid, r.LSN, err)
	}
	return frag, view, nil
}

// encoded returns the encoded fragment of a message: a view of the log or of a blob, or memory of its own if the
// fragment was compressed, lies in an io buffer, or cannot be mapped. older is that of fetch.
func (v *values) encoded(pid PageID, r pagestack.Ref, older LSN) (b []byte, view bool, err error) {
	m, err := v.store.Read(r.LSN, r.Ptr)
	if err == nil {
		err = v.store.CorruptMessage(r.LSN, r.Ptr, checkLink(&m, r.LSN, older))
	}
	if err != nil {
		return nil, false, logstore.InPage(pid, err)
	}
	switch {
	case m.Kind.Blob():
		ptr, err := format.DecodeBlobPtr(m.Body)
		if err != nil {
			return nil, false, logstore.InPage(pid, v.store.CorruptMessage(r.LSN, r.Ptr, err))
		}
		if b, view, err = v.blobs.Read(ptr); err != nil {
			return nil, false, inMessage(r.LSN, pid, err)
		}
		return b, view, nil
	case m.Kind.Zstd():
		err = mmapread.Guard(func() (err error) {
			b, err = v.unzip.Unpack(m.Body, v.store.SegmentSize())
			return err
		})
		return b, false, logstore.InPage(pid, v.store.CorruptMessage(r.LSN, r.Ptr, err))
	}
	return m.Body, m.View, nil
}

// checkLink returns an error if the message at lsn cannot be the one that follows the message at LSN older in its page,
// or the oldest one if older is 0 (rule 14).
func checkLink(m *logstore.Message, lsn, older LSN) error {
	switch {
	case older == 0 && m.Kind.Plain() != format.KindCompact:
		return fmt.Errorf("a message of kind %v, where the page has its base", m.Kind)
	case older != 0 && !m.Kind.Delta():
		return fmt.Errorf("a message of kind %v, where the page has a delta", m.Kind)
	case older != 0 && m.Prev != format.PrevOf(older):
		return errors.New(m.Prev.Mismatch(lsn))
	}
	return nil
}

// inMessage names the message and the page in an error of corruption.
func inMessage(lsn LSN, pid PageID, err error) error {
	if ce := (*CorruptError)(nil); errors.As(err, &ce) {
		ce.Place = ce.Place.WithLSN(lsn).WithPage(pid)
	}
	return err
}

// fetchBlocks reads all messages of a page without a resident base into the page cache in one batch, parking the
// goroutine: no page fault blocks a P. The error of a message that cannot be read shows
// when it is decoded.
func (v *values) fetchBlocks(h *head) {
	warm := true
	h.Refs(func(r pagestack.Ref) { warm = warm && v.store.View.IsWarm(rangeOf(r)) })
	if warm {
		return
	}
	if cold, _ := v.store.View.Warm(appendSealed(nil, v.store, h)); cold > 0 {
		v.cold.Add(int64(cold))
	}
}

func rangeOf(r pagestack.Ref) vfs.Range { return vfs.Range{Off: int64(r.Ptr.Off), Len: int(r.Ptr.Len)} }

// appendSealed appends the places of the page's messages that are read through the map.
func appendSealed(ranges []vfs.Range, s *logstore.Store, h *head) []vfs.Range {
	h.Refs(func(r pagestack.Ref) {
		if s.IsSealed(r.Ptr.Off) {
			ranges = append(ranges, rangeOf(r))
		}
	})
	return ranges
}

// prefetchBlob starts reading the blobs of one page, in a Tx of its own. It returns false if the store is being closed.
func (f *finder) prefetchBlob(v *values, pid PageID) bool {
	tx := f.txs.beginOwn()
	defer tx.End()
	if f.core.closed.Load() { // Close waits for the Txs that have not seen it
		return false
	}
	_, h, err := f.pages.FindNow(pid)
	if err != nil || h == nil {
		return true // Get reports the error
	}
	if h = h.TailEntry(); h.Kind() == pagestack.KindOnDisk {
		v.fetchBlocks(h)
		h.Refs(func(r pagestack.Ref) {
			if !r.Ptr.Blob {
				return
			}
			if ptr, err := v.store.Blob(r.LSN, r.Ptr); err == nil {
				v.blobs.ReadAhead(ptr)
			}
		})
	}
	return true
}
