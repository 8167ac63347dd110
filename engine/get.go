package engine

import (
	"cmp"
	"errors"
	"iter"
	"slices"

	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/scope"
	"pagecache/engine/internal/values"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// Get returns the page's state and value. A page that was never allocated is KindUnallocated, a freed one KindFree;
// neither is an error. Page 0 is KindMeta, with a zero Ptr, once there is a root, and each page that holds a root is
// KindRoot: Root and Meta say what they name. The value is valid until the Tx ends. It may block on a read from disk,
// and, like all calls on a page, until a page that a corrupt snapshot has lost was looked up in the log. Errors:
// ErrTxEnded, ErrClosed, ErrCorrupt if the page's bytes on disk are corrupt, and those of Decode. Safe for concurrent
// use.
func (pc *PageCache[P]) Get(tx *Tx[P], pid PageID) (p Page[P], err error) {
	p.Value, p.Ptr, p.Kind, err = pc.get(tx.base(), pid)
	return // any other form costs more than the compiler inlines
}

// get is Get in a form that leaves the results in registers. Get is inlined, so that no large result is passed on. Each
// condition has a statement of its own: the compiler makes a branch of it, and no value.
func (pc *PageCache[P]) get(tx *scope.Scope, pid PageID) (value P, ptr PagePtr[P], kind PageKind, err error) {
	if tx == nil || !tx.IsOf(&pc.txs) {
		return pc.getSlow(tx, pid)
	}
	if !tx.S().Slot.Inside() {
		return pc.getSlow(tx, pid)
	}
	if pc.core.closed.Load() || tx.IsDone() {
		return pc.getSlow(tx, pid)
	}
	s := pc.pages.Table.Get(pid)
	if s == nil {
		return pc.getSlow(tx, pid)
	}
	h := s.Word()
	if !pagestack.IsEntry(h) || !h.IsWhole() { // such as the intent of a transaction (package txn)
		return pc.getSlow(tx, pid)
	}
	ts, settled := h.SettledTS()
	if !settled || pc.pages.HasRecent() { // which Effect looks for
		return pc.getSlow(tx, pid)
	}
	checkUnmodified(pc.m, pid, h)
	if tx.S().Hits.Add(uint64(pid)) { // as used does, which is not inlined
		pc.mem.handOver(tx)
	}
	return pagestack.EntryOf[P](h).Frag, PagePtr[P]{pid, ts, h.LSN}, KindMaterialized, nil
}

// GetMany appends to dst, for each of pids, in the same order, what Get returns, and returns the extended slice. The
// pages are looked up side by side: resident ones faster than with Get if they are not in the processor's caches, and
// those on disk with one submission of reads for all of them. Each page is as it was at some moment of the call; they
// make no snapshot. If some pages cannot be read, their Kind is KindUnreadable, all others are as they are, and the
// error joins those that Get would return. If the call cannot begin (ErrTxEnded, ErrClosed), it returns dst as it was.
// With room in dst it allocates nothing for resident pages. Safe for concurrent use.
func (pc *PageCache[P]) GetMany(tx *Tx[P], pids []PageID, dst []Page[P]) ([]Page[P], error) {
	sc := tx.base()
	if err := pc.finder.admit(sc); err != nil {
		return dst, describe("get pages", err)
	}
	n := len(dst)
	dst = slices.Grow(dst, len(pids))[:n+len(pids)]
	pages, missing := dst[n:], []int(nil)
	for i := 0; i < len(pids); i += sideBySide {
		end := min(i+sideBySide, len(pids))
		missing = pc.getResident(sc, pids[i:end], pages[i:end], i, missing)
	}
	if len(missing) == 0 {
		return dst, nil
	}
	return dst, pc.getMissing(sc, pids, pages, missing)
}

// sideBySide is the number of pages that GetMany looks up at the same time: a processor can wait for about this number
// of cache misses at once.
const sideBySide = 16

// getResident sets those of pages that are resident, sideBySide at most, and appends the indices of the others, plus
// first, to missing. It goes through the pages in stages. The loads of a stage do not depend on each other, so the
// processor waits for all of them at once: for the slots, then the entries, then the first lines of the values.
func (pc *PageCache[P]) getResident(tx *scope.Scope, pids []PageID, pages []Page[P], first int, missing []int) []int {
	var heads [sideBySide]*head
	for i, pid := range pids {
		if s := pc.pages.Table.Get(pid); s != nil {
			heads[i%sideBySide] = s.Entry()
		}
	}
	for i := range pids {
		if h := heads[i%sideBySide]; h != nil && (!h.IsWhole() || h.IsUnstamped()) { // as in get
			heads[i%sideBySide] = nil
		}
	}
	if pc.raw != nil {
		sum := byte(0)
		for i := range pids {
			h := heads[i%sideBySide]
			if h == nil || pagestack.EntryOf[P](h).Ext == pc.mem.mapped { // a view may not be in memory, and may fault
				continue
			}
			if v, ok := any(&pagestack.EntryOf[P](h).Frag).(*[]byte); ok && len(*v) > 0 {
				sum += (*v)[0]
			}
		}
		tx.S().Touched = sum // so that the compiler keeps the loads
	}
	for i, pid := range pids {
		h, p := heads[i%sideBySide], &pages[i]
		if h == nil {
			missing = append(missing, first+i)
			continue
		}
		checkUnmodified(pc.m, pid, h)
		p.Kind, p.Value = KindMaterialized, pagestack.EntryOf[P](h).Frag
		p.Ptr.pid, p.Ptr.ts, p.Ptr.lsn = pid, h.TS(), pc.pages.Effect(h.LSN)
		if tx.S().Hits.Add(uint64(pid)) {
			pc.mem.handOver(tx)
		}
	}
	return missing
}

// getMissing sets the pages with the indices of missing, and reads those on disk at once. A page that two ids name is
// read once.
func (pc *PageCache[P]) getMissing(tx *scope.Scope, pids []PageID, pages []Page[P], missing []int) (err error) {
	var cold []vfs.Range
	for _, i := range missing {
		if _, h, err := pc.pages.FindNow(pids[i]); err == nil && h != nil { // Get reports the error
			if h = h.TailEntry(); h.Kind() == pagestack.KindOnDisk {
				cold = values.AppendSealed(cold, pc.core.store, h)
			}
		}
	}
	slices.SortFunc(cold, func(a, b vfs.Range) int { return cmp.Compare(a.Off, b.Off) })
	cold = slices.Compact(cold)                       // a page may be asked for twice
	if n, _ := pc.core.store.View.Warm(cold); n > 0 { // Get reports blocks that cannot be read
		pc.mem.counts.cold.Add(int64(n))
	}
	var errs []error
	for _, i := range missing {
		p := &pages[i]
		*p = Page[P]{}
		if p.Value, p.Ptr, p.Kind, err = pc.get(tx, pids[i]); err != nil {
			*p = Page[P]{Kind: KindUnreadable}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// State returns the page's state and kind, as Get does, and never reads the page: nothing of it is fetched, decoded or
// merged, and neither Hits nor Misses count the call. So a Link that needs no value ("blind") costs no read. Only the
// record of a page not accessed since Open is looked up in the snapshot. Errors: ErrTxEnded, ErrClosed, and ErrCorrupt
// if that record is corrupt and the log cannot replace it. It works for ever, as Begin does. Safe for concurrent use.
func (pc *PageCache[P]) State(tx *Tx[P], pid PageID) (PagePtr[P], PageKind, error) {
	err := pc.finder.check(tx.base(), "state of", pid)
	if ts, lsn, ok := pc.pages.Packed(pid); ok && err == nil { // most often, if the page is evicted
		return PagePtr[P]{pid, ts, lsn}.in(&pc.pages), KindMaterialized, nil
	}
	pg, err := pc.finder.find(tx.base(), "state of", pid)
	if err != nil {
		return PagePtr[P]{}, KindUnallocated, err
	}
	return ptrTo[P](pid, pg.head).in(&pc.pages), pc.finder.kindOf(pid, pg.head), nil
}

// getSlow is Get for a page whose value is not resident, for reserved and missing pages, and for errors.
func (pc *PageCache[P]) getSlow(tx *scope.Scope, pid PageID) (value P, ptr PagePtr[P], kind PageKind, err error) {
	pg, err := pc.finder.find(tx, "get", pid)
	if err != nil {
		return value, ptr, kind, err
	}
	if kind = pc.finder.kindOf(pid, pg.head); kind != KindMaterialized {
		return value, ptrTo[P](pid, pg.head).in(&pc.pages), kind, nil
	}
	e, err := pc.materialize(tx, pg)
	if err != nil {
		return value, ptr, KindUnallocated, err
	}
	return e.Frag, ptrTo[P](pid, &e.Head).in(&pc.pages), kind, nil
}

// kindOf returns the kind of the page with head h, which may be nil.
func (f *finder) kindOf(pid PageID, h *head) PageKind {
	if pid == format.MetaPage && f.pages.Roots.Len() > 0 {
		return KindMeta
	}
	if h == nil {
		return KindUnallocated
	}
	switch h.Kind() {
	case pagestack.KindFree:
		return KindFree
	case pagestack.KindCounter:
		return KindCounter
	case pagestack.KindRoot:
		return KindRoot
	}
	return KindMaterialized
}

// materialize returns an entry for the same state as the page's head, with the whole page's value in it: the head
// itself if it holds the value, else one that it makes resident unless another writer is first.
func (pc *PageCache[P]) materialize(tx *scope.Scope, pg page) (*entry[P], error) {
	pid, h := pg.id, pg.head
	if h.IsWhole() {
		return pagestack.EntryOf[P](h), nil
	}
	value, e, view, err := pc.merged(pid, h, pc.newRoomy)
	if err != nil {
		return nil, err
	}
	if h.Depth() > 1 {
		refs := make([]pagestack.Ref, 0, h.Depth())
		h.Refs(func(r pagestack.Ref) { refs = append(refs, r) })
		if e == nil {
			size, err := pc.sizeOf(pid, value)
			if err != nil {
				return nil, err
			}
			e = pagestack.NewMerged(value, size)
		}
		e.InitMerged(h.TS(), refs)
		e.Sum = sumOf(pc.m, value)
	} else {
		e = pagestack.New[P](pagestack.KindBase, h.TS(), h.Depth(), h.LSN, h.Ptr())
		if e.Frag = value; !view {
			e.Sum = sumOf(pc.m, value)
		} else if e.Ext, err = pc.viewOf(pid, value); err != nil {
			return nil, err
		}
	}
	pc.mem.keep(tx, pg, e)
	return e, nil
}

// valueOf returns the value of a page that was read.
func (tx *Tx[P]) valueOf(pg page) (value P, err error) {
	if tx.scope.Hold() { // of a View, which keeps what the value lies in
		defer tx.scope.S().Slot.Loosen()
	}
	if pg.slot == nil { // the page has changed since the cut of the View
		value, _, err = tx.pc.value(pg.id, pg.head)
		return value, err
	}
	if pg.head.IsWhole() {
		checkUnmodified(tx.pc.m, pg.id, pg.head)
		tx.pc.used(&tx.scope, pg.id)
		return pagestack.EntryOf[P](pg.head).Frag, nil
	}
	e, err := tx.pc.materialize(&tx.scope, pg)
	if err != nil {
		return value, err
	}
	return e.Frag, nil
}

// Fragments returns the page's state and its fragments, unmerged, newest first: the deltas that are known singly, then
// the rest of the page as one value if it was merged before, else fragment by fragment. A page that does not exist has
// a zero PagePtr and no fragments. The values are valid until the Tx ends. Fragments that had to be read stay resident,
// until they are evicted. Errors are those of Get, and ErrReserved for pages 0 and 1. Safe for concurrent use.
func (pc *PageCache[P]) Fragments(tx *Tx[P], pid PageID) (PagePtr[P], []P, error) {
	return pc.AppendFragments(tx, pid, nil)
}

// AppendFragments is Fragments that appends the fragments to dst and returns the extended slice. With room in dst, it
// allocates nothing for a page that is resident. After an error, or if there is no page, it returns dst as it was.
func (pc *PageCache[P]) AppendFragments(tx *Tx[P], pid PageID, dst []P) (PagePtr[P], []P, error) {
	sc := tx.base()
	pg, err := pc.finder.find(sc, "fragments of", pid)
	if err == nil && pid < FirstUserPage {
		err = describePage("fragments of", pid, ErrReserved)
	}
	if err != nil || !pg.exists() {
		return PagePtr[P]{}, dst, err
	}
	all := dst
	if dst == nil {
		all = make([]P, 0, pg.head.Depth())
	}
	if all, err = pc.fragments(sc, pg, all); err != nil {
		return PagePtr[P]{}, dst, err
	}
	return ptrTo[P](pid, pg.head).in(&pc.pages), all, nil
}

// Pages returns all ids up to the highest that was ever handed out, in rising order, with the kind of each page at the
// moment that it is reached, pages 0 and 1 included. Use it within a Tx. It reads no values; a page whose state cannot
// be read is KindUnreadable. It stops early if the Tx ends or the store is closed. Safe for concurrent use.
func (pc *PageCache[P]) Pages(tx *Tx[P]) iter.Seq2[PageID, PageKind] {
	return func(yield func(PageID, PageKind) bool) {
		for pid := PageID(0); pid < pc.pages.IDs.Next() && pc.finder.check(tx.base(), "pages", pid) == nil; pid++ {
			_, h, err := pc.pages.Find(pid)
			kind := pc.finder.kindOf(pid, h)
			if err != nil && pc.core.closed.Load() {
				return
			}
			if err != nil {
				kind = KindUnreadable
				_ = pc.core.opts.report.Corrupt(err)
			}
			if !yield(pid, kind) {
				return
			}
		}
	}
}
