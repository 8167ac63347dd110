package engine

import (
	"errors"
	"math/bits"
	"unsafe"

	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/pagetable"
	"pagecache/internal/invariants"
	"pagecache/internal/vfs"
	"pagecache/lru"
	"pagecache/recovery"
)

// What is in memory of pages, how it is counted, and how it is paged out.
//
//	M1  Every byte that becomes resident is counted by whoever makes it so, when it does (trap 8): the winner of the swap that installs or
//	    removes entries counts the difference.
//	M2  Paging out is a swap like any other that leaves a page's state (rule 6): it keeps the places of its messages and drops its values. Nobody waits for it,
//	    and it waits for nobody.
//	M3  Where the bound is passed by more than a little, whoever passes it pages out as much himself (relieve), and keeps nothing where that
//	    does not suffice.

// weigh returns the bytes that a page keeps in memory whose head is h: in the heap, its entries and what the policy has to remember of it included, and as
// views of the disk.
func (pc *PageCache[P]) weigh(h *head) (heap, mapped int64) {
	for ; h != nil && h.Kind() == pagestack.KindDelta; h = h.Next() {
		heap += pc.weighDelta(h)
	}
	if h != nil && isWhole(h.Kind()) {
		size := int64(pc.m.Size(pagestack.EntryOf[P](h).Frag))
		switch ext := h.Ext(); {
		case ext == nil:
			heap += size
		case ext == pc.pulled && pc.raw != nil:
			mapped = size
		default:
			heap += size + int64(cap(ext.Refs))*refSize
		}
		heap += entrySize
	}
	if heap > 0 {
		heap += lru.PageOverhead
	}
	return heap, mapped
}

// What entries take beside the value: one for byte strings, and what one in several messages has for each.
const (
	entrySize = int64(unsafe.Sizeof(pagestack.Entry[[]byte]{}))
	refSize   = int64(unsafe.Sizeof(pagestack.Ref{}))
)

// weighDelta returns what a delta takes, the first of a run all of that.
func (pc *PageCache[P]) weighDelta(h *head) int64 {
	size := int64(pc.m.Size(pagestack.EntryOf[P](h).Frag))
	if h.FirstOfRun() {
		size += entrySize * pagestack.RunLen
	}
	return size
}

// swapped counts what has become resident, or is not any more, since e took h's place, which the caller has brought about. h may be nil.
func (pc *PageCache[P]) swapped(tx *Tx, pid PageID, h, e *head) {
	var heap, mapped int64
	if e.Kind() == pagestack.KindDelta {
		heap = pc.weighDelta(e)
		if h.Kind() == pagestack.KindOnDisk {
			pc.table.Mark(pid)
			heap += lru.PageOverhead
		}
	} else {
		heap, mapped = pc.weigh(e)
		oldHeap, oldMapped := pc.weigh(h)
		if heap+mapped > 0 && oldHeap+oldMapped == 0 {
			pc.table.Mark(pid)
		}
		heap, mapped = heap-oldHeap, mapped-oldMapped
	}
	if heap == 0 && mapped == 0 {
		return
	}
	tx.pressure = max(tx.pressure, pc.budget.Count(&tx.account, heap, mapped))
	pc.met(tx, pid)
}

// met tells the policy of a page that was used, or of which more or less is resident than before.
func (pc *PageCache[P]) met(tx *Tx, pid PageID) {
	tx.changes++
	if tx.hits.Add(uint64(pid)) {
		pc.handOver(tx)
	}
}

// handOver hands the policy what the Tx has recorded.
func (pc *PageCache[P]) handOver(tx *Tx) {
	pc.counts.hits.Add(int64(tx.hits.Len()) - tx.changes)
	tx.changes = 0
	pc.policy.Take(&tx.hits)
}

// keepRead makes what was read of a page resident, unless there is no room for it. Where another writer was first, what was read is still the page's
// state at that moment.
func (pc *PageCache[P]) keepRead(tx *Tx, pid PageID, s *slot, h *head, e *entry[P]) {
	if s.CompareAndSwap(h, &e.Head) {
		pc.swapped(tx, pid, h, &e.Head)
		pc.counts.misses.Add(1) // after the mark, and before the look: see sweep
		if pc.barren.Load() >= 0 {
			pc.barren.Store(-1)
		}
		pc.relieve(tx, pid)
	} else {
		pc.counts.misses.Add(1)
	}
}

// relieve sees to it that the bound on what is resident holds after a change of a page.
func (pc *PageCache[P]) relieve(tx *Tx, pid PageID) {
	if tx.pressure != lru.PressureNone {
		pc.relieveSlow(tx, pid)
	}
}

// relieveSlow wakes the evictor. Where the bound is passed by more than a little it pages out itself: first what is stable; then, since all that
// is in the log can be read, what is not, and be it the page that was changed.
func (pc *PageCache[P]) relieveSlow(tx *Tx, pid PageID) {
	hard := tx.pressure == lru.PressureHard
	tx.pressure = lru.PressureNone
	pc.handOver(tx)
	pc.policy.Kick()
	force := pc.barren.Load() == int64(pc.log.StableEnd())
	for n := 0; hard && n < reclaimSteps; n++ {
		excess := pc.budget.Excess()
		if excess <= 0 {
			return
		}
		// In small steps: others do their part, and all of it together would empty the cache.
		freed := pc.sweep(tx, min(excess, reclaimStep), force, func(gone PageID) { pc.met(tx, gone) })
		pc.counts.reclaimed.Add(freed)
		if hard = pc.budget.Settle(&tx.account) == lru.PressureHard; freed == 0 && !force {
			hard, force = true, true
		} else if freed == 0 {
			break // there is nothing left but what is just being made resident
		}
	}
	if hard && pc.budget.Settle(&tx.account) == lru.PressureHard {
		if n, out := pc.pageOut(tx, pid, true); out == lru.OutcomeEvicted {
			pc.counts.reclaimed.Add(n)
			pc.met(tx, pid)
		}
		pc.budget.Settle(&tx.account)
	}
}

// reclaimStep is how many bytes are paged out at once by who has passed the bound, reclaimSteps how often: more than one call can make resident, but for the longest values.
const reclaimStep, reclaimSteps = 64 << 10, 64

// sweep pages out what the clock's hand finds, until so many bytes are freed or it has gone round twice, and says so of each page.
func (pc *PageCache[P]) sweep(tx *Tx, want int64, force bool, gone func(PageID)) (freed int64) {
	stable, misses, turn := int64(pc.log.StableEnd()), pc.counts.misses.Load(), pc.sweeps.Add(1)
	if want <= 0 || !force && pc.barren.Load() == stable {
		return 0
	}
	words := (pc.pages.next.Load() + pagetable.ClockPages - 1) / pagetable.ClockPages
	for n := uint64(0); n < 2*words && freed < want; n++ {
		at := PageID(pc.hand.Add(1) % words * pagetable.ClockPages)
		for m := pc.table.Clock(at); m != 0 && freed < want; m &= m - 1 {
			pid := at + PageID(bits.TrailingZeros64(m))
			if n, out := pc.pageOut(tx, pid, force); out == lru.OutcomeEvicted {
				freed += n
				gone(pid)
			}
		}
	}
	// Nobody has begun after it, so that the hand went round. One who began before may have left a few pages behind where it had enough, and the policy may have
	// had the hand pass over some: this is a hint. To ask for more, that no sweep overlaps, would have all who pass the bound go through the whole table for nothing.
	if !force && freed == 0 && pc.sweeps.Load() == turn {
		pc.barren.Store(stable)
		if pc.counts.misses.Load() != misses { // what was read meanwhile may have been missed; who reads from now on sees what was stored
			pc.barren.Store(-1)
		}
	}
	return freed
}

// pageOut drops what a page has in memory, and returns how many bytes that was. What is not stable is passed over (lru.OutcomeBusy), unless force.
func (pc *PageCache[P]) pageOut(tx *Tx, pid PageID, force bool) (freed int64, _ lru.Outcome) {
	s := pc.table.Get(pid)
	if s == nil {
		return 0, lru.OutcomeNotResident
	}
	for {
		h := s.Load()
		if h == nil {
			return 0, lru.OutcomeNotResident
		}
		heap, mapped := pc.weigh(h)
		if heap+mapped == 0 {
			pc.table.Unmark(pid)
			if s.Load() != h { // it may have become resident just now (pagetable, T3)
				pc.table.Mark(pid)
			}
			return 0, lru.OutcomeNotResident
		}
		if !force && h.LSN >= pc.log.StableEnd() {
			return 0, lru.OutcomeBusy
		}
		e := h.ToOnDisk()
		pc.table.Unmark(pid) // before the swap (pagetable, T3)
		invariants.Jitter()
		if s.CompareAndSwap(h, e) {
			pc.budget.Count(&tx.account, -heap, -mapped)
			pc.counts.evicted.Add(1)
			return heap + mapped, lru.OutcomeEvicted
		}
		pc.table.Mark(pid)
	}
}

// unreadable is the error for a value that could not be looked at.
func (s *store) unreadable(pid PageID, err error) error {
	if !errors.Is(err, vfs.ErrFault) {
		return err
	}
	return &CorruptError{File: s.file.Name(), Place: recovery.Place{}.WithPage(pid), Err: err}
}
