package engine

import (
	"math/bits"
	"sync/atomic"
	"unsafe"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagemap"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/pagetable"
	"pagecache/engine/internal/scope"
	"pagecache/engine/internal/txn"
	"pagecache/internal/invariants"
	"pagecache/lru"
)

// memory counts the pages' bytes in memory and keeps them within the capacity.
//
//	M1  Every byte that becomes resident is counted by the goroutine that makes it so, when it does (trap 8): the
//	    winner of the swap that installs or removes entries counts the difference.
//	M2  Eviction is a swap like any other that does not change a page's state (rule 6): it keeps the places of the
//	    page's messages and drops its values. It waits for nobody, and nobody waits for it.
//	M3  A goroutine that exceeds the capacity by more than a little evicts the excess itself (reclaim), and keeps
//	    nothing resident if that does not suffice.
type memory[P any] struct {
	m      callerCode[P]
	pages  *pagemap.Map
	store  *logstore.Store
	budget *lru.Budget
	policy *lru.Policy
	// allowance limits what evictions write.
	allowance *lru.Allowance
	// viewsOnly says that a value that may be a view of the mapped file always is one (Bytes). mapped is the Ext of all
	// Base entries with such a value. For other types a part of it may be on the heap, and each entry has an Ext of its
	// own.
	mapped    *pagestack.Ext
	viewsOnly bool
	// Goroutines that fetch pages write counts, those that evict write evictions, and all read the fields around them.
	_         [64]byte
	counts    counts
	_         [64]byte
	evictions evictions
	_         [64]byte
	// exhausted is the stable end of the log when a sweep found nothing evictable; −1 since a page was read. Until the
	// log is stable further, there is next to nothing to evict. It is written by sweep and keep; a stale value costs a
	// sweep, or saves one.
	exhausted atomic.Int64
}

// counts are the page store's own counts. They lie apart, so that one goroutine's writes do not slow another's reads.
type counts struct {
	fetches        atomic.Int64
	merges         atomic.Int64
	consolidations atomic.Int64
	hits           atomic.Int64 // counted in steps of lru.HitsLen
	rewritten      atomic.Int64 // bytes of messages written by consolidations
	read           atomic.Int64 // values made resident that were read
	merged         atomic.Int64 // values made resident of fragments that were, and only had to be merged
	cold           atomic.Int64 // fetches that read from disk
}

// made returns how many values were made resident.
func (c *counts) made() int64 { return c.read.Load() + c.merged.Load() }

// evictions are the clock of the sweeps and the counts of what was evicted.
type evictions struct {
	hand      atomic.Uint64 // of the clock
	sweeps    atomic.Uint64 // number of sweeps begun
	pages     atomic.Int64
	reclaimed atomic.Int64 // bytes evicted by foreground calls that exceeded the capacity
}

// The memory that an entry takes beside its value, for byte strings, and that a page in several messages takes for
// each.
const (
	entrySize = int64(unsafe.Sizeof(pagestack.Entry[[]byte]{}))
	refSize   = int64(unsafe.Sizeof(pagestack.Ref{}))
)

// weigh returns the resident bytes of the page with head h: on the heap, including its entries and the policy's own,
// and as views of the disk.
func (y *memory[P]) weigh(h *head) (heap, mapped int64) {
	for ; h != nil && h.Kind() == pagestack.KindDelta; h = h.Next() {
		heap += weighDelta(h, y.size(pagestack.EntryOf[P](h).Frag))
	}
	if h != nil && h.IsWhole() {
		whole, views := y.weighWhole(h, y.sizeOf(h))
		heap, mapped = heap+whole, views
	}
	if heap > 0 {
		heap += lru.PageOverhead
	}
	return heap, mapped
}

// size returns Materializer.Size.
func (y *memory[P]) size(frag P) int64 { return int64(y.m.Size(frag)) }

// sizeOf returns the size of the value of a whole page with head h. One that may be a view was measured when it became
// resident, where a fault is an error of the read (trap 42).
func (y *memory[P]) sizeOf(h *head) int64 {
	if ext := h.Ext(); ext != nil && ext.Size > 0 {
		return ext.Size
	}
	return y.size(pagestack.EntryOf[P](h).Frag)
}

// weighWhole returns the bytes of an entry with the value of a whole page, which has the given size, without its
// deltas.
func (y *memory[P]) weighWhole(h *head, size int64) (heap, mapped int64) {
	switch ext := h.Ext(); {
	case ext == nil:
		heap = size
	case ext == y.mapped: // of Bytes
		mapped = size
	default:
		heap = size + int64(cap(ext.Refs))*refSize
	}
	return heap + entrySize, mapped
}

// weighDelta returns the bytes of a delta whose value has the given size. The first delta of a run counts the whole
// run's entries. The memory of a grown delta's value counts with the tail entry.
func weighDelta(h *head, size int64) int64 {
	if h.IsGrown() {
		return entrySize
	}
	if h.FirstOfRun() {
		size += entrySize * pagestack.RunLen
	}
	return size
}

// measured is what Materializer.Size says of a change of a page. It is measured before the change, so that no code of
// the caller runs while the change holds anything or is not counted: that code may panic.
type measured struct {
	size        int64 // of the value in the new entry
	heap, views int64 // weigh of the old head, unless the new entry is a delta
}

// swapped counts the difference after the caller replaced head h, which may be nil, by the new entry e.
func (y *memory[P]) swapped(tx *scope.Scope, pid PageID, h, e *head, w measured) {
	var heap, mapped int64
	if e.Kind() == pagestack.KindDelta {
		heap = weighDelta(e, w.size)
		if h.Kind() == pagestack.KindOnDisk {
			y.pages.Table.Mark(pid)
			heap += lru.PageOverhead
		}
	} else {
		if e.IsWhole() {
			heap, mapped = y.weighWhole(e, w.size)
			heap += lru.PageOverhead
		}
		if heap+mapped > 0 && w.heap+w.views == 0 {
			y.pages.Table.Mark(pid)
		}
		heap, mapped = heap-w.heap, mapped-w.views
	}
	if heap == 0 && mapped == 0 {
		return
	}
	tx.S().Pressure = max(tx.S().Pressure, y.budget.Count(&tx.S().Account, heap, mapped))
	y.changed(tx, pid)
}

// changed notifies the policy of a page of which more or less is resident than before.
func (y *memory[P]) changed(tx *scope.Scope, pid PageID) {
	tx.S().Changes++
	if tx.S().Hits.Add(uint64(pid)) {
		y.handOver(tx)
	}
}

// handOver gives the policy the accesses that the Tx recorded.
func (y *memory[P]) handOver(tx *scope.Scope) {
	y.counts.hits.Add(int64(tx.S().Hits.Len()) - tx.S().Changes)
	tx.S().Changes = 0
	y.policy.Take(&tx.S().Hits)
}

// keep makes a value that was read from disk, or merged, resident if the page's head is still that of pg. If another
// writer was first, the value is still the page's state at that moment.
func (y *memory[P]) keep(tx *scope.Scope, pg page, e *entry[P]) {
	w := measured{size: y.sizeOf(&e.Head)}
	w.heap, w.views = y.weigh(pg.head)
	fetched := pg.head.TailEntry().Kind() == pagestack.KindOnDisk
	won := pg.slot.CompareAndSwap(pg.head, &e.Head)
	if won {
		y.swapped(tx, pg.id, pg.head, &e.Head, w)
	}
	if fetched { // after the mark and before the load below: see sweep
		y.counts.read.Add(1)
	} else {
		y.counts.merged.Add(1)
	}
	if !won {
		return
	}
	if y.exhausted.Load() >= 0 {
		y.exhausted.Store(-1)
	}
	y.reclaim(tx, pg.id)
}

// reclaim keeps the capacity after the page was changed.
func (y *memory[P]) reclaim(tx *scope.Scope, pid PageID) {
	if tx.S().Pressure != lru.PressureNone {
		y.reclaimSlow(tx, pid)
	}
}

// reclaimStep is the number of bytes that reclaimSlow evicts at once, and reclaimSteps the most steps of a call:
// together more than one call can make resident, except for the longest values.
const reclaimStep, reclaimSteps = 64 << 10, 64

// fewHits is the number of hits below which reclaimSlow leaves them with the Tx. In a small cache each fetch calls
// reclaimSlow, and handing over costs about as much as fetching a page that lies in the page cache.
const fewHits = lru.HitsLen / 4

// reclaimSlow wakes the policy. If the capacity is exceeded by more than a little, it evicts: stable pages first, then,
// since everything in the log can be read, pages that are not stable, even the one that was changed.
func (y *memory[P]) reclaimSlow(tx *scope.Scope, pid PageID) {
	hard := tx.S().Pressure == lru.PressureHard
	tx.S().Pressure = lru.PressureNone
	if tx.S().Hits.Len() >= fewHits {
		y.handOver(tx)
	}
	y.policy.Kick()
	unstable := y.exhausted.Load() == int64(y.store.Log.StableEnd())
	for n := 0; hard && n < reclaimSteps; n++ {
		excess := y.budget.Excess()
		if excess <= 0 {
			return
		}
		// In small steps: other goroutines evict too, and together they would empty the cache.
		freed := y.sweep(tx, min(excess, reclaimStep), unstable, func(evicted PageID) { y.changed(tx, evicted) })
		y.evictions.reclaimed.Add(freed)
		if hard = y.budget.Settle(&tx.S().Account) == lru.PressureHard; freed == 0 && !unstable {
			hard, unstable = true, true
		} else if freed == 0 {
			break // only pages that are just becoming resident are left
		}
	}
	if hard && y.budget.Settle(&tx.S().Account) == lru.PressureHard {
		if n, out := y.evict(tx, pid, true); out == lru.OutcomeEvicted {
			y.evictions.reclaimed.Add(n)
			y.changed(tx, pid)
		}
		y.budget.Settle(&tx.S().Account)
	}
}

// sweep evicts the pages under the clock's hand until want bytes are freed or the hand went round twice, and calls
// evicted for each. With unstable it also evicts pages that are not stable.
func (y *memory[P]) sweep(tx *scope.Scope, want int64, unstable bool, evicted func(PageID)) (freed int64) {
	stable, misses, turn := int64(y.store.Log.StableEnd()), y.counts.made(), y.evictions.sweeps.Add(1)
	if want <= 0 || !unstable && y.exhausted.Load() == stable {
		return 0
	}
	words := (uint64(y.pages.IDs.Next()) + pagetable.ClockPages - 1) / pagetable.ClockPages
	for n := uint64(0); n < 2*words && freed < want; n++ {
		at := PageID(y.evictions.hand.Add(1) % words * pagetable.ClockPages)
		for m := y.pages.Table.Clock(at); m != 0 && freed < want; m &= m - 1 {
			pid := at + PageID(bits.TrailingZeros64(m))
			if n, out := y.evict(tx, pid, unstable); out == lru.OutcomeEvicted {
				freed += n
				evicted(pid)
			}
		}
	}
	// exhausted is a hint: no sweep began after this one, so the hand went all the way round, but a sweep that began
	// earlier may have left a few pages behind when it had enough, and the policy may have let the hand pass some. To
	// require that no sweep overlaps would send every goroutine above the capacity through the whole table for nothing.
	if !unstable && freed == 0 && y.evictions.sweeps.Load() == turn {
		y.exhausted.Store(stable)
		// Pages read meanwhile may have been missed; later reads see the store above.
		if y.counts.made() != misses {
			y.exhausted.Store(-1)
		}
	}
	return freed
}

// evict drops the resident values of a page, and returns how many bytes that was. A page that is not stable is busy,
// unless unstable is set, and so is one that a transaction is about to change. If the Materializer panics, the page
// stays as it is: it is seldom the page of the call that evicts.
func (y *memory[P]) evict(tx *scope.Scope, pid PageID, unstable bool) (freed int64, out lru.Outcome) {
	if y.viewsOnly { // Bytes does not panic
		return y.evictNow(tx, pid, unstable)
	}
	out = lru.OutcomeNotResident
	_ = contain(y.store.Reporter(), "evicting", pid, func() error {
		freed, out = y.evictNow(tx, pid, unstable)
		return nil
	})
	return freed, out
}

func (y *memory[P]) evictNow(tx *scope.Scope, pid PageID, unstable bool) (freed int64, _ lru.Outcome) {
	s := y.pages.Table.Get(pid)
	if s == nil {
		return 0, lru.OutcomeNotResident
	}
	for {
		h := y.pages.Clock.Load(s)
		if h == nil {
			return 0, lru.OutcomeNotResident
		}
		heap, mapped := y.weigh(h)
		if heap+mapped == 0 {
			y.pages.Table.Unmark(pid)
			if !s.Holds(h) { // it may have become resident just now (pagetable, T3)
				y.pages.Table.Mark(pid)
			}
			return 0, lru.OutcomeNotResident
		}
		if !unstable && h.LSN >= y.store.Log.StableEnd() {
			return 0, lru.OutcomeBusy
		}
		checkUnmodified(y.m, pid, h)
		e := h.ToOnDisk()
		y.pages.Table.Unmark(pid) // before the swap (pagetable, T3)
		invariants.Jitter()
		if s.CompareAndSwap(h, e) {
			y.budget.Count(&tx.S().Account, -heap, -mapped)
			y.evictions.pages.Add(1)
			return heap + mapped, lru.OutcomeEvicted
		}
		y.pages.Table.Mark(pid)
		if txn.IsClaimed(s) {
			return 0, lru.OutcomeBusy
		}
	}
}

// replaceResident swaps head h for e, an entry for the same state with less resident, and counts the difference. It
// reports whether the swap won.
func (y *memory[P]) replaceResident(tx *scope.Scope, pid PageID, h, e *head) bool {
	heap, mapped := y.weigh(h)
	newHeap, newMapped := y.weigh(e)
	if !y.pages.Table.Get(pid).CompareAndSwap(h, e) {
		return false
	}
	y.budget.Count(&tx.S().Account, newHeap-heap, newMapped-mapped)
	y.evictions.pages.Add(1)
	y.changed(tx, pid)
	return true
}
