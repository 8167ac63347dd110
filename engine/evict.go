package engine

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"slices"
	"sync/atomic"

	"pagecache/engine/internal/pagemap"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/scope"
	"pagecache/engine/internal/values"
	"pagecache/internal/vfs"
	"pagecache/lru"
)

// evictor lets the policy evict pages: it implements lru.Pages. The policy's goroutine calls its methods.
type evictor[P any] struct{ pc *PageCache[P] }

// Cost returns the resident bytes of the page.
func (v evictor[P]) Cost(key uint64) int64 {
	s := v.pc.pages.Table.Get(PageID(key))
	if s == nil {
		return 0
	}
	tx := v.pc.txs.BeginOwn() // Size may look at a view
	defer tx.End()
	var heap, mapped int64
	_ = v.contain("measuring", key, func() { heap, mapped = v.pc.mem.weigh(v.pc.pages.Clock.Load(s)) })
	return heap + mapped
}

// contain calls f, which works on a page. After a panic of the Materializer it returns ErrPanic, which was reported.
func (v evictor[P]) contain(doing string, key uint64, f func()) error {
	return contain(v.pc.core.opts.report, doing, PageID(key), func() error {
		f()
		return nil
	})
}

// Evict drops the resident values of the page, except for a small part whose memory saves more than it costs.
func (v evictor[P]) Evict(key uint64) lru.Outcome {
	tx := v.pc.txs.BeginOwn() // what it looks at stays in place meanwhile
	defer v.end(tx)
	var wrote, dropped bool
	_ = v.contain("consolidating", key, func() { wrote = v.pc.consolidateFirst(tx, PageID(key)) })
	if wrote {
		return lru.OutcomeBusy // the message written just now is not stable
	}
	_ = v.contain("evicting", key, func() { dropped = v.pc.dropBase(tx, PageID(key)) })
	if dropped {
		return lru.OutcomeEvicted
	}
	_, out := v.pc.mem.evict(tx, PageID(key), false)
	return out
}

// Each visits the pages of which any part is resident.
func (v evictor[P]) Each(visit func(key uint64) bool) {
	v.pc.pages.Table.EachMarked(v.pc.pages.IDs.Next(), func(pid PageID) bool { return visit(uint64(pid)) })
}

// sweepMost is the most bytes that the policy evicts by the clock within one Tx.
const sweepMost = 8 << 20

// Sweep evicts the pages under the clock's hand.
func (v evictor[P]) Sweep(want int64, evicted func(key uint64)) (freed int64, more bool) {
	tx := v.pc.txs.BeginOwn()
	defer v.end(tx)
	want = min(want, sweepMost)
	freed = v.pc.mem.sweep(tx, want, false, func(pid PageID) { evicted(uint64(pid)) })
	return freed, freed >= want
}

// end settles the account of a Tx and ends it.
func (v evictor[P]) end(tx *scope.Scope) {
	v.pc.mem.budget.Settle(&tx.S().Account)
	tx.End()
}

// Touch lets the clock's hand pass the page once.
func (v evictor[P]) Touch(key uint64) { v.pc.pages.Table.Touch(PageID(key)) }

// seekBytes is the number of bytes that are written in the time of one read of a page that is not in the page cache.
const seekBytes = 16 << 10

// consolidateFirst writes a page of several messages as one, before it is evicted, if it is wholly resident, writing it
// costs less than the reads that this saves the next Get, and evictions have not written too much. It reports whether
// it did.
func (pc *PageCache[P]) consolidateFirst(tx *scope.Scope, pid PageID) bool {
	s := pc.pages.Table.Get(pid)
	if s == nil || pc.core.opts.ReadOnly || pc.core.opts.seam.Verbatim {
		return false
	}
	h := pc.pages.Clock.Load(s)
	if h == nil || h.Depth() == 1 || h.TailEntry().Kind() == pagestack.KindOnDisk ||
		h.LSN >= pc.core.store.Log.StableEnd() {
		return false
	}
	heap, mapped := pc.mem.weigh(h)
	fewer := h.Depth() - 1
	if heap+mapped > int64(fewer)*seekBytes || !pc.mem.allowance.Allow(heap+mapped, fewer, pc.activity) {
		return false
	}
	e, err := pc.consolidate(tx, pid, s, h)
	pc.core.opts.report.Background(notConsolidated, "", err) // the page is evicted as it is
	if err != nil || e == nil {
		return false
	}
	pc.mem.allowance.Wrote(int64(e.Ptr().Len))
	return true
}

// activity returns what callers have written and read.
func (pc *PageCache[P]) activity() lru.Activity {
	y := &pc.mem
	written := pc.txs.Written() + y.counts.rewritten.Load() - y.allowance.Written()
	return lru.Activity{Written: written, Misses: y.counts.made()}
}

// baseRatio is the least ratio of the size of a base to that of its deltas at which the base is dropped alone.
const baseRatio = 4

// dropBase evicts a page's base and keeps its deltas, if they are small beside it: the next Get then reads one message
// instead of all. It reports whether it did. Pages that are cheaper to write anew were handled by consolidateFirst.
func (pc *PageCache[P]) dropBase(tx *scope.Scope, pid PageID) bool {
	s := pc.pages.Table.Get(pid)
	if s == nil {
		return false
	}
	h := pc.pages.Clock.Load(s)
	if h == nil || h.Kind() != pagestack.KindDelta || h.LSN >= pc.core.store.Log.StableEnd() {
		return false
	}
	base := h.TailEntry()
	heap, _ := pc.mem.weigh(h)
	baseHeap, baseMapped := pc.mem.weigh(base)
	if base.Kind() == pagestack.KindOnDisk || (heap-baseHeap)*baseRatio > baseHeap+baseMapped {
		return false
	}
	var deltas []*entry[P]
	for e := h; e != base; e = e.Next() {
		deltas = append(deltas, pagestack.EntryOf[P](e))
	}
	e := base.ToOnDisk()
	for _, d := range slices.Backward(deltas) {
		frag := d.Fragment()
		if pc.raw != nil { // it may share memory with d, which keeps the base in memory
			frag, _ = pc.m.Decode(clip(bytes.Clone(pc.raw(frag)))) // of Bytes: it does not fail
		}
		// Its timestamp is one above its predecessor's, as before.
		kept := pagestack.NewDelta(e, frag, d.LSN, d.Ptr())
		if kept.Sum = d.Sum; d.IsGrown() { // d's is that of the whole page
			kept.Sum = sumOf(pc.m, frag)
		}
		e = &kept.Head
	}
	return pc.mem.replaceResident(tx, pid, h, e)
}

// SetCacheCapacity changes Options.CacheCapacity, in bytes, while the store is open. Pages above a lower capacity are
// evicted soon. Errors: a capacity that is not positive, ErrClosed. Safe for concurrent use.
func (pc *PageCache[P]) SetCacheCapacity(bytes int64) error {
	if bytes <= 0 {
		return fmt.Errorf("set cache capacity to %d bytes: want a positive number", bytes)
	}
	if pc.core.closed.Load() {
		return fmt.Errorf("set cache capacity: %w", ErrClosed)
	}
	pc.mem.exhausted.Store(-1)
	pc.mem.policy.Resize(bytes)
	return nil
}

// Prefetch starts reading the given pages, blobs included, into the page cache and returns without waiting. Resident
// and missing pages are skipped, and so are those that are just being looked up in the log. It is a hint: when too many
// reads are in flight, the rest is ignored. Errors: ErrTxEnded, ErrClosed, and ErrCorrupt if the snapshot's record of a
// page is corrupt and the log cannot replace it. Safe for concurrent use.
func (pc *PageCache[P]) Prefetch(tx *Tx[P], pids ...PageID) error {
	var ranges []vfs.Range
	var inBlobs []PageID
	for _, pid := range pids {
		if err := pc.finder.check(tx.base(), "prefetch", pid); err != nil {
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
			ranges = values.AppendSealed(ranges, pc.core.store, h)
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
func (f *finder) prefetchBlobs(v *values.IO, pids []PageID, busy *atomic.Bool) {
	pprof.SetGoroutineLabels(prefetcherLabels)
	defer busy.Store(false)
	for _, pid := range pids {
		if !f.prefetchBlob(v, pid) {
			return
		}
	}
}

// prefetchBlob starts reading the blobs of one page, in a Tx of its own. It returns false if the store is being closed.
func (f *finder) prefetchBlob(v *values.IO, pid PageID) bool {
	tx := f.txs.BeginOwn()
	defer tx.End()
	if f.core.closed.Load() { // Close waits for the Txs that have not seen it
		return false
	}
	_, h, err := f.pages.FindNow(pid)
	if err != nil || h == nil {
		return true // Get reports the error
	}
	if h = h.TailEntry(); h.Kind() == pagestack.KindOnDisk {
		v.FetchBlocks(h)
		h.Refs(func(r pagestack.Ref) {
			if !r.Ptr.Blob {
				return
			}
			if ptr, err := v.Store.Blob(r.LSN, r.Ptr); err == nil {
				v.Blobs.ReadAhead(ptr)
			}
		})
	}
	return true
}
