package engine

import (
	"bytes"
	"fmt"
	"slices"

	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/scope"
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
	return lru.Activity{Written: written, Misses: y.counts.misses.Load()}
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
		frag := d.Frag
		if pc.raw != nil { // it may share memory with d, which keeps the base in memory
			frag, _ = pc.m.Decode(clip(bytes.Clone(pc.raw(frag)))) // of Bytes: it does not fail
		}
		// Its timestamp is one above its predecessor's, as before.
		kept := pagestack.NewDelta(e, frag, d.LSN, d.Ptr())
		kept.Sum, e = d.Sum, &kept.Head
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
