package engine

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"slices"
	"unsafe"

	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/slab"
	"pagecache/internal/invariants"
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
	tx := v.pc.txs.beginOwn() // Size may look at a view
	defer tx.End()
	var heap, mapped int64
	_ = v.contain("measuring", key, func() { heap, mapped = v.pc.mem.weigh(s.Load()) })
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
	tx := v.pc.txs.beginOwn() // what it looks at stays in place meanwhile
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
	tx := v.pc.txs.beginOwn()
	defer v.end(tx)
	want = min(want, sweepMost)
	freed = v.pc.mem.sweep(tx, want, false, func(pid PageID) { evicted(uint64(pid)) })
	return freed, freed >= want
}

// end settles the account of a Tx and ends it.
func (v evictor[P]) end(tx *Tx) {
	v.pc.mem.budget.Settle(&tx.s().account)
	tx.End()
}

// Touch lets the clock's hand pass the page once.
func (v evictor[P]) Touch(key uint64) { v.pc.pages.Table.Touch(PageID(key)) }

// seekBytes is the number of bytes that are written in the time of one read of a page that is not in the page cache.
const seekBytes = 16 << 10

// consolidateFirst writes a page of several messages as one, before it is evicted, if it is wholly resident, writing it
// costs less than the reads that this saves the next Get, and evictions have not written too much. It reports whether
// it did.
func (pc *PageCache[P]) consolidateFirst(tx *Tx, pid PageID) bool {
	s := pc.pages.Table.Get(pid)
	if s == nil || pc.core.opts.ReadOnly || pc.core.opts.seam.Verbatim {
		return false
	}
	h := s.Load()
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
	written := pc.txs.written() + y.counts.rewritten.Load() - y.allowance.Written()
	return lru.Activity{Written: written, Misses: y.counts.misses.Load()}
}

// baseRatio is the least ratio of the size of a base to that of its deltas at which the base is dropped alone.
const baseRatio = 4

// dropBase evicts a page's base and keeps its deltas, if they are small beside it: the next Get then reads one message
// instead of all. It reports whether it did. Pages that are cheaper to write anew were handled by consolidateFirst.
func (pc *PageCache[P]) dropBase(tx *Tx, pid PageID) bool {
	s := pc.pages.Table.Get(pid)
	if s == nil {
		return false
	}
	h := s.Load()
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
	if !pc.mem.replaceResident(tx, pid, h, e) {
		return false
	}
	pc.mem.evictions.pages.Add(1)
	pc.mem.changed(tx, pid)
	return true
}

// slabsLeast is the capacity in bytes from which on values lie in slabs: in smaller caches those that are partly free
// would take too much of it.
const slabsLeast = 32 << 20

// openSlabs makes the memory of values outside the Go heap, if the page type is Bytes.
func (pc *PageCache[P]) openSlabs() {
	o := &pc.core.opts
	if pc.raw == nil || o.ReadOnly || o.CacheCapacity < slabsLeast && !o.seam.Slabs && !invariants.Enabled {
		return
	}
	y := &pc.mem
	p := slab.New(&pc.txs.domain, o.CacheCapacity)
	y.slabs, pc.txs.slabs = slabs[P]{p, pc.raw}, p
	y.budget.CountBeside(func() int64 {
		st, capacity := p.Stats(), y.budget.Capacity()
		// A little is always free or about to be. If a Tx pins more than half of the capacity, nobody waits for it.
		return min(max(0, st.Resident-(st.Live-st.Pinned)-capacity/32), capacity/2)
	})
	p.OnSparse(func() {
		if pc.compacting.CompareAndSwap(false, true) {
			go pc.compact()
		}
	})
}

// compactorLabels are the profiling labels of the compactor; it would have those of the goroutine that started it.
var compactorLabels = pprof.WithLabels(context.Background(), pprof.Labels("pagecache", "compactor"))

// compact moves values out of slabs that are nearly empty, so that they become free.
func (pc *PageCache[P]) compact() {
	pprof.SetGoroutineLabels(compactorLabels)
	defer pc.compacting.Store(false)
	tx := pc.txs.beginOwn()
	defer tx.End()
	if pc.core.closed.Load() { // Close waits for the Txs that have not seen it
		return
	}
	pc.mem.slabs.pool.Evacuate(func(owner uint32, at uintptr) {
		for pid := PageID(owner); pid < pc.pages.IDs.Next(); pid += 1 << 32 {
			if pc.moveValue(tx, pid, at) {
				return
			}
		}
	})
}

// moveValue moves the value of a page at an address. It reports whether the page has it.
func (pc *PageCache[P]) moveValue(tx *Tx, pid PageID, at uintptr) bool {
	s := pc.pages.Table.Get(pid)
	if s == nil || s.Load() == nil {
		return false
	}
	h := s.Load()
	var above []*entry[P]
	x := h
	for ; ; x = x.Next() {
		if x.Kind() != pagestack.KindDelta && !isWhole(x.Kind()) {
			return false
		}
		b := pc.raw(pagestack.EntryOf[P](x).Frag)
		if uintptr(unsafe.Pointer(unsafe.SliceData(b))) == at {
			break
		}
		if x.Kind() != pagestack.KindDelta {
			return false
		}
		above = append(above, pagestack.EntryOf[P](x))
	}
	old := pagestack.EntryOf[P](x)
	frag, _ := pc.joined(tx, pid, false, old.Frag) // no view, so it does not fail
	var e *entry[P]
	if x.Kind() == pagestack.KindDelta {
		e = pagestack.NewDelta(x.Next(), frag, x.LSN, x.Ptr())
	} else {
		e = pagestack.New[P](x.Kind(), x.TS(), x.Depth(), x.LSN, x.Ptr())
		e.Ext, e.Frag = x.Ext(), frag
	}
	e.Sum = old.Sum
	for _, d := range slices.Backward(above) {
		kept := pagestack.NewDelta(&e.Head, d.Frag, d.LSN, d.Ptr())
		kept.Sum, e = d.Sum, kept
	}
	pc.mem.slabs.pool.Own(pc.raw(frag), uint32(pid))
	if !pc.mem.replaceResident(tx, pid, h, &e.Head) {
		pc.mem.slabs.free(frag)
	}
	return true
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
	if p := pc.mem.slabs.pool; p != nil {
		p.SetLimit(bytes)
	}
	pc.mem.policy.Resize(bytes)
	return nil
}
