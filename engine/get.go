package engine

import (
	"context"
	"iter"
	"runtime/pprof"
	"sync/atomic"

	"pagecache/engine/internal/pagemap"
	"pagecache/engine/internal/pagestack"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// Get returns the page's state and value. A page that was never allocated is KindUnallocated, a freed one KindFree;
// neither is an error. Page 0 is KindMeta, with a zero Ptr, once there is a
// root, and each page that holds a root is KindRoot: Root and Meta say what they name. The
// value is valid until the Tx ends. It may block on a read from disk, and, like all calls on a
// page, until a page that a corrupt snapshot has lost was looked up in the log. Errors: ErrTxEnded, ErrClosed,
// ErrCorrupt if the page's bytes on disk are corrupt, and those of Decode. Safe for concurrent use.
func (pc *PageCache[P]) Get(tx *Tx, pid PageID) (Page[P], error) {
	if tx != nil && tx.owner == &pc.txs && tx.s().slot.Inside() && !tx.tracker.Ended() && !pc.core.closed.Load() {
		if s := pc.pages.Table.Get(pid); s != nil {
			if h := s.Load(); h != nil && isWhole(h.Kind()) {
				if tx.s().hits.Add(uint64(pid)) {
					pc.mem.handOver(tx)
				}
				checkUnmodified(pc.m, pid, h)
				return Page[P]{Kind: KindMaterialized, Value: pagestack.EntryOf[P](h).Frag, Ptr: ptrTo[P](pid, h)}, nil
			}
		}
	}
	return pc.getSlow(tx, pid)
}

// State returns the page's state and kind, as Get does, and never reads the page: nothing of it is fetched, decoded or
// merged, and neither Hits nor Misses count the call. So a Link that needs no value ("blind") costs no read, also if
// the page is evicted. Only the record of a page that was not accessed since Open is looked up in the snapshot. Errors:
// ErrTxEnded, ErrClosed, and ErrCorrupt if that record is corrupt and the log cannot replace it. It works for ever, as
// Begin does. Safe for concurrent use.
func (pc *PageCache[P]) State(tx *Tx, pid PageID) (PagePtr[P], PageKind, error) {
	pg, err := pc.finder.find(tx, "state of", pid)
	if err != nil {
		return PagePtr[P]{}, KindUnallocated, err
	}
	return ptrTo[P](pid, pg.head), pc.finder.kindOf(pid, pg.head), nil
}

// getSlow is Get for a page whose value is not resident, for reserved and missing pages, and for errors.
func (pc *PageCache[P]) getSlow(tx *Tx, pid PageID) (Page[P], error) {
	pg, err := pc.finder.find(tx, "get", pid)
	if err != nil {
		return Page[P]{}, err
	}
	kind := pc.finder.kindOf(pid, pg.head)
	if kind == KindUnallocated {
		return Page[P]{}, nil
	}
	if kind != KindMaterialized {
		return Page[P]{Kind: kind, Ptr: ptrTo[P](pid, pg.head)}, nil
	}
	e := pc.consolidateLong(tx, pg)
	if e == nil {
		if e, err = pc.materialize(pid, pg.head); err != nil {
			return Page[P]{}, err
		}
		if &e.Head != pg.head {
			pc.mem.keep(tx, pg, e)
		}
	}
	return Page[P]{Kind: KindMaterialized, Value: e.Frag, Ptr: ptrTo[P](pid, &e.Head)}, nil
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

// consolidateLong consolidates a page that has more fragments than the limit: the writer that should have done so could
// not. It returns nil if the page is not that long, if another goroutine is at it, or if the log cannot take it now;
// reading goes on then.
func (pc *PageCache[P]) consolidateLong(tx *Tx, pg page) *entry[P] {
	if pg.head.Depth() <= pc.limit || pc.core.opts.ReadOnly {
		return nil
	}
	g := pc.gates.of(pg.id)
	if !g.mu.TryLock() {
		return nil
	}
	e, err := pc.consolidate(tx, pg.id, pg.slot, pg.head)
	g.mu.Unlock()
	if err != nil || e == nil {
		pc.core.opts.report.Background(notConsolidated, "", err) // nil if another writer was first
		return nil
	}
	pc.mem.reclaim(tx, pg.id)
	return e
}

// Fragments returns the page's state and its fragments, unmerged, newest first: the deltas that are known singly, then
// the rest of the page as one value if it was merged before, else fragment by fragment. A page that does not exist has
// a zero PagePtr and no fragments. The values are valid until the Tx ends. Fragments that had to be read stay resident,
// until they are evicted. Errors are those of Get, and ErrReserved for pages 0 and 1. Safe for concurrent use.
func (pc *PageCache[P]) Fragments(tx *Tx, pid PageID) (PagePtr[P], []P, error) {
	return pc.AppendFragments(tx, pid, nil)
}

// AppendFragments is Fragments that appends the fragments to dst and returns the extended slice. With room in dst, it
// allocates nothing for a page that is resident. After an error, or if there is no page, it returns dst as it was.
func (pc *PageCache[P]) AppendFragments(tx *Tx, pid PageID, dst []P) (PagePtr[P], []P, error) {
	pg, err := pc.finder.find(tx, "fragments of", pid)
	if err == nil && pid < FirstUserPage {
		err = describePage("fragments of", pid, ErrReserved)
	}
	if err != nil || !pg.exists() {
		return PagePtr[P]{}, dst, err
	}
	if e := pc.consolidateLong(tx, pg); e != nil {
		return ptrTo[P](pid, &e.Head), append(dst, e.Frag), nil
	}
	all := dst
	if dst == nil {
		all = make([]P, 0, pg.head.Depth())
	}
	if all, err = pc.fragments(tx, pg, all); err != nil {
		return PagePtr[P]{}, dst, err
	}
	return ptrTo[P](pid, pg.head), all, nil
}

// Prefetch starts reading the given pages, blobs included, into the page cache and returns without waiting. Resident
// and missing pages are skipped, and so are those that are just being looked up in the log. It is a hint: when too many
// reads are in flight, the rest is ignored. Errors: ErrTxEnded, ErrClosed, and ErrCorrupt if the snapshot's record of a
// page is corrupt and the log cannot replace it. Safe for concurrent use.
func (pc *PageCache[P]) Prefetch(tx *Tx, pids ...PageID) error {
	var ranges []vfs.Range
	var inBlobs []PageID
	for _, pid := range pids {
		if err := pc.finder.check(tx, "prefetch", pid); err != nil {
			return err
		}
		_, h, err := pc.pages.FindNow(pid)
		if err != nil && !pagemap.IsPending(err) {
			return describePage("prefetch", pid, pc.core.opts.report.Corrupt(err))
		}
		if err != nil || h == nil {
			continue
		}
		if h = h.TailEntry(); h.Kind() == pagestack.KindOnDisk {
			ranges = appendSealed(ranges, pc.core.store, h)
			if hasBlob(h) && len(inBlobs) < maxBlobsAhead {
				inBlobs = append(inBlobs, pid)
			}
		}
	}
	pc.core.store.View.ReadAhead(ranges)
	if len(inBlobs) > 0 && pc.aheadInBlobs.CompareAndSwap(false, true) {
		go pc.finder.prefetchBlobs(&pc.values, inBlobs, &pc.aheadInBlobs)
	}
	return nil
}

// maxBlobsAhead is the most pages in blobs that a Prefetch reads. One goroutine at a time does that, since each page
// needs a wait for the name of its file.
const maxBlobsAhead = 64

func hasBlob(h *head) (yes bool) {
	h.Refs(func(r pagestack.Ref) { yes = yes || r.Ptr.Blob })
	return yes
}

// prefetcherLabels are the profiling labels of the prefetcher; it would have those of the goroutine that started it.
var prefetcherLabels = pprof.WithLabels(context.Background(), pprof.Labels("pagecache", "prefetcher"))

// prefetchBlobs starts reading the blobs of pages, and clears busy at the end. The log says the names of the blobs,
// which must be read first.
func (f *finder) prefetchBlobs(v *values, pids []PageID, busy *atomic.Bool) {
	pprof.SetGoroutineLabels(prefetcherLabels)
	defer busy.Store(false)
	for _, pid := range pids {
		if !f.prefetchBlob(v, pid) {
			return
		}
	}
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

// Pages returns all ids up to the highest that was ever handed out, in rising order, with the kind of each page at the
// moment that it is reached, pages 0 and 1 included. Use it within a Tx. It reads no values; a page whose state cannot
// be read is KindUnreadable. It stops early if the Tx ends or the store is closed. Safe for concurrent use.
func (pc *PageCache[P]) Pages(tx *Tx) iter.Seq2[PageID, PageKind] {
	return func(yield func(PageID, PageKind) bool) {
		for pid := PageID(0); pid < pc.pages.IDs.Next() && pc.finder.check(tx, "pages", pid) == nil; pid++ {
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
