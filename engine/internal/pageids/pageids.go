// Package pageids knows which page ids can be handed out.
//
//   - An id has one owner at a time. It can be handed out again only after the swap that freed its page was won, and
//     after every reader that could have seen the page has left (trap 2).
//   - Ids are dense. Free ids are used again before a new one is made, the highest first. (Recently freed ids are
//     looked at when the other free ids are used up, so they may come after lower ones.)
//   - An id in a corrupt block of the snapshot is not handed out before the block is rebuilt: nothing is known of its
//     page (snapshot, N5).
//   - Opening a store costs nothing for the free ids that only its snapshot knows: they are looked up there one after
//     another, as they are needed. The log overrides the snapshot.
package pageids

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"pagecache/engine/internal/epoch"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// ErrExhausted reports that every page id up to format.MaxPageID is in use.
var ErrExhausted = fmt.Errorf("page ids are exhausted: the highest is %d", uint64(format.MaxPageID))

// An Allocator hands out page ids. While a store is being opened one goroutine fills it, with UseSnapshot, Touched
// and AddFree; after Ready the other methods are safe for concurrent use. It must not be copied.
type Allocator struct {
	// next is the lowest id that was never handed out. Written by Take (Add) and RaiseNext. It falls only when Take
	// has gone beyond the highest id.
	next atomic.Uint64
	// spare counts the free ids: those in free, in limbo, and those that only the snapshot knows. Written under mu. A
	// stale value makes Take look for nothing, or make a new id while an old one is just being freed.
	spare atomic.Int64

	mu    sync.Mutex
	free  []format.PageID // sorted; the last is handed out first
	limbo []freed         // by epoch, the oldest first
	// snap is the snapshot that knows more free ids, nil if there is none. Its free ids count if they are below the
	// field below and not in overridden. Those at or above below were handed out by this Allocator, or are in skipped.
	snap       *recovery.Snapshot
	below      format.PageID
	overridden map[format.PageID]bool
	// skipped are the parts of corrupt blocks whose ids this Allocator has not handed out. Their free ids count in
	// spare.
	skipped []idRange
	corrupt func(*recovery.BlockError) // set before Ready; may be nil
}

// idRange is the ids from first up to, but not including, end.
type idRange struct{ first, end format.PageID }

// freed is an id that can be handed out once every reader that entered before epoch has left.
type freed struct {
	pid   format.PageID
	epoch uint64
}

// UseSnapshot makes the free ids of snap available, if snap is not nil.
func (a *Allocator) UseSnapshot(snap *recovery.Snapshot) {
	if snap != nil {
		a.snap, a.below, a.overridden = snap, snap.NextPage, map[format.PageID]bool{}
		a.spare.Store(snap.Free)
	}
}

// OnCorrupt makes the Allocator call f for each corrupt block that it comes to in the snapshot. f must not block, or
// call the Allocator. To be called before Ready.
func (a *Allocator) OnCorrupt(f func(*recovery.BlockError)) { a.corrupt = f }

// Touched overrides what the snapshot says about a page, because the log after it has newer messages of that page. k
// is the page's kind in the snapshot. To be called once for such a page, after UseSnapshot; AddFree follows if the
// page is free now.
func (a *Allocator) Touched(pid format.PageID, k format.SnapshotKind) {
	if pid >= format.FirstUserPage && (k == format.SnapshotKindNone || k == format.SnapshotKindFree) {
		a.overridden[pid] = true
		a.spare.Add(-1)
	}
}

// AddFree adds an id that is free and that the snapshot does not provide.
func (a *Allocator) AddFree(pid format.PageID) { a.free = append(a.free, pid) }

// Ready ends the opening. next is the lowest id that was never handed out.
func (a *Allocator) Ready(next format.PageID) {
	a.next.Store(uint64(next))
	slices.Sort(a.free)
	a.spare.Add(int64(len(a.free)))
}

// Next returns the lowest id that was never handed out.
func (a *Allocator) Next() format.PageID { return format.PageID(a.next.Load()) }

// RaiseNext makes Next at least pid. Ids that are left out are not free: their pages are written by the caller.
func (a *Allocator) RaiseNext(pid format.PageID) {
	for { // ends: every failed swap means that next has changed, almost always to a higher one
		old := a.next.Load()
		if old >= uint64(pid) || a.next.CompareAndSwap(old, uint64(pid)) {
			return
		}
	}
}

// Spare returns how many ids below Next are free. Those that readers can still see are included.
func (a *Allocator) Spare() int64 { return a.spare.Load() }

// Take returns an id for a new page. The id is the caller's alone. d is the domain of the readers. The error is
// ErrExhausted.
func (a *Allocator) Take(d *epoch.Domain) (format.PageID, error) {
	if a.spare.Load() > 0 {
		if pid, ok := a.takeFree(d); ok {
			return pid, nil
		}
	}
	pid := format.PageID(a.next.Add(1) - 1)
	if pid > format.MaxPageID {
		a.next.Add(^uint64(0))
		return 0, ErrExhausted
	}
	return pid, nil
}

// takeFree returns the highest of the ids in free and in the snapshot, false if there is none. Ids that no reader can
// see any more move from limbo to free only when free is empty, so that the readers are not looked at for every id.
func (a *Allocator) takeFree(d *epoch.Domain) (format.PageID, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.free) == 0 && len(a.limbo) > 0 {
		oldest, n := d.Oldest(), 0
		for n < len(a.limbo) && a.limbo[n].epoch <= oldest {
			a.free = append(a.free, a.limbo[n].pid)
			n++
		}
		a.limbo = a.limbo[n:] // the others are not moved: there may be many
		slices.Sort(a.free)
	}
	pid, ok := a.highestInSnapshot()
	n := len(a.free)
	switch {
	case n > 0 && (!ok || a.free[n-1] > pid):
		pid, a.free = a.free[n-1], a.free[:n-1]
	case ok:
		a.below = pid
	default:
		return 0, false
	}
	a.spare.Add(-1)
	return pid, true
}

// highestInSnapshot finds the highest id that the snapshot alone knows to be free, and moves below to just above it.
// The caller holds mu, and takes the id by setting below to it.
func (a *Allocator) highestInSnapshot() (format.PageID, bool) {
	for a.snap != nil { // ends: below falls with each turn
		pid, ok, err := a.snap.FreeBelow(a.below)
		if err != nil {
			a.skip(pid, err)
			continue
		}
		if !ok {
			a.below = 0
			break
		}
		if !a.overridden[pid] {
			a.below = pid + 1
			return pid, true
		}
		a.below = pid
	}
	return 0, false
}

// skip moves below to the first id of a corrupt block. The caller holds mu.
func (a *Allocator) skip(first format.PageID, err error) {
	a.skipped = append(a.skipped, idRange{first, min(a.below, first+format.EntriesPerBlock)})
	a.below = first
	if block := (*recovery.BlockError)(nil); a.corrupt != nil && errors.As(err, &block) {
		a.corrupt(block)
	}
}

// Resupply makes the free ids of blocks available that were corrupt and have been replaced.
func (a *Allocator) Resupply() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.skipped = slices.DeleteFunc(a.skipped, func(r idRange) bool {
		if !a.snap.IsReplaced(recovery.RecordBlock(r.first)) {
			return false
		}
		for at := r.end; ; { // ends: at falls with each turn
			pid, ok, err := a.snap.FreeBelow(at)
			if err != nil || !ok || pid < r.first {
				return true
			}
			if at = pid; !a.overridden[pid] {
				a.free = append(a.free, pid)
			}
		}
	})
	slices.Sort(a.free)
}

// Give frees an id after the swap that freed its page was won. Only the goroutine that won that swap calls it.
func (a *Allocator) Give(d *epoch.Domain, pid format.PageID) {
	a.mu.Lock()
	a.limbo = append(a.limbo, freed{pid, d.Retire()}) // Retire under mu keeps limbo in the order of epochs
	a.spare.Add(1)
	a.mu.Unlock()
}

// GiveBack returns an id that Take returned and for which nothing was written. No reader has seen it.
func (a *Allocator) GiveBack(pid format.PageID) {
	a.mu.Lock()
	i, _ := slices.BinarySearch(a.free, pid)
	a.free = slices.Insert(a.free, i, pid)
	a.spare.Add(1)
	a.mu.Unlock()
}
