package engine

import (
	"fmt"
	"slices"

	"pagecache/engine/internal/pagestack"
	"pagecache/lru"
)

// evictor is what the policy drives: see lru.Pages. Its methods are called by the policy's goroutine.
type evictor[P any] struct{ pc *PageCache[P] }

// Cost returns how many bytes of the page are resident.
func (v evictor[P]) Cost(key uint64) int64 {
	s := v.pc.table.Get(PageID(key))
	if s == nil {
		return 0
	}
	tx := v.pc.txs.begin() // Size may look at a view
	defer tx.End()
	heap, mapped := v.pc.weigh(s.Load())
	return heap + mapped
}

// Evict drops what the page has in memory, but for a small part that is worth more than it takes.
func (v evictor[P]) Evict(key uint64) lru.Outcome {
	tx := v.pc.txs.begin() // what is looked at stays there meanwhile
	defer v.end(tx)
	if v.pc.shorten(tx, PageID(key)) {
		return lru.OutcomeBusy // as what was written just now is not stable
	}
	if v.pc.thin(tx, PageID(key)) {
		return lru.OutcomeEvicted
	}
	_, out := v.pc.pageOut(tx, PageID(key), false)
	return out
}

// Each visits the pages of which anything is resident.
func (v evictor[P]) Each(visit func(key uint64) bool) {
	v.pc.table.EachMarked(PageID(v.pc.pages.next.Load()), func(pid PageID) bool { return visit(uint64(pid)) })
}

// Sweep pages out what the clock's hand finds.
func (v evictor[P]) Sweep(want int64, out func(key uint64)) (freed int64, more bool) {
	tx := v.pc.txs.begin()
	defer v.end(tx)
	want = min(want, sweepMost)
	freed = v.pc.sweep(tx, want, false, func(pid PageID) { out(uint64(pid)) })
	return freed, freed >= want
}

// sweepMost is how many bytes the policy sweeps out in one Tx, and before it looks up.
const sweepMost = 8 << 20

// end ends a Tx with all told that was freed in it.
func (v evictor[P]) end(tx *Tx) {
	v.pc.budget.Settle(&tx.account)
	tx.End()
}

// Touch has the clock's hand pass over the page once.
func (v evictor[P]) Touch(key uint64) { v.pc.table.Touch(PageID(key)) }

// seekBytes is how many bytes are written in the time of one read of a page that is not in the page cache.
const seekBytes = 16 << 10

// shorten writes a page that consists of several messages as one, before it is paged out, if it is all in memory and writing it costs less than the reads that
// the next Get is spared. It reports whether it did.
func (pc *PageCache[P]) shorten(tx *Tx, pid PageID) bool {
	s := pc.table.Get(pid)
	if s == nil || pc.opts.ReadOnly || pc.opts.verbatim {
		return false
	}
	h := s.Load()
	if h == nil || h.Depth() == 1 || h.TailEntry().Kind() == pagestack.KindOnDisk || h.LSN >= pc.log.StableEnd() {
		return false
	}
	heap, mapped := pc.weigh(h)
	if heap+mapped > int64(h.Depth()-1)*seekBytes {
		return false
	}
	e, err := pc.consolidate(tx, pid, s, h)
	return err == nil && e != nil
}

// SetCacheCapacity changes Options.CacheCapacity while the store is open. What is above a lower bound is paged out soon. Bad values are an error. Safe for
// concurrent use.
func (pc *PageCache[P]) SetCacheCapacity(bytes int64) error {
	if bytes <= 0 {
		return fmt.Errorf("CacheCapacity %d: want a positive number of bytes", bytes)
	}
	if pc.closed.Load() {
		return fmt.Errorf("set the cache's capacity: %w", ErrClosed)
	}
	pc.barren.Store(-1)
	pc.policy.Resize(bytes)
	return nil
}

// thinShare: a base is dropped alone if it is so many times as large as the deltas on it.
const thinShare = 4

// thin drops a page's base and keeps the deltas on it, if they are small beside it: the next Get reads one message instead of all. It reports whether it did.
// Pages for which writing is cheaper than that were dealt with by shorten.
func (pc *PageCache[P]) thin(tx *Tx, pid PageID) bool {
	s := pc.table.Get(pid)
	if s == nil {
		return false
	}
	h := s.Load()
	if h == nil || h.Kind() != pagestack.KindDelta || h.LSN >= pc.log.StableEnd() {
		return false
	}
	base := h.TailEntry()
	heap, mapped := pc.weigh(h)
	baseHeap, baseMapped := pc.weigh(base)
	if base.Kind() == pagestack.KindOnDisk || (heap-baseHeap)*thinShare > baseHeap+baseMapped {
		return false
	}
	var deltas []*entry[P]
	for e := h; e != base; e = e.Next() {
		deltas = append(deltas, pagestack.EntryOf[P](e))
	}
	thinned := base.ToOnDisk()
	for _, d := range slices.Backward(deltas) {
		thinned = &pagestack.NewDelta(thinned, d.Frag, d.LSN, d.Ptr()).Head // with the same timestamp, one above its predecessor's
	}
	thinHeap, thinMapped := pc.weigh(thinned)
	if !s.CompareAndSwap(h, thinned) {
		return false
	}
	pc.budget.Count(&tx.account, thinHeap-heap, thinMapped-mapped)
	pc.counts.evicted.Add(1)
	pc.met(tx, pid)
	return true
}
