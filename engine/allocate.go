package engine

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"pagecache/engine/internal/pagestack"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// pages knows which page ids can be handed out.
type pages struct {
	// next is the lowest id that was never handed out. Written by Allocate (Add).
	next atomic.Uint64
	// spare is how many ids are in free and limbo, so that Allocate looks only where there is something. Written under mu.
	spare atomic.Int64
	mu    sync.Mutex
	free  []PageID // sorted, the highest handed out first
	limbo []freed  // by epoch
	// snap knows of free ids too, which are taken from it one after another: those below below that are not in taken.
	snap  *recovery.Snapshot
	below PageID
	taken map[PageID]bool
}

// freed is an id that may be handed out once every Tx that could have seen the page has ended: trap 2.
type freed struct {
	pid   PageID
	epoch uint64
}

// begin says which snapshot knows of free ids; nil: none.
func (p *pages) begin(snap *recovery.Snapshot) {
	if snap != nil {
		p.snap, p.below, p.taken = snap, snap.NextPage, map[PageID]bool{}
		p.spare.Store(snap.Free)
	}
}

// touched says that what the snapshot says of a page does not count.
func (p *pages) touched(pid PageID, k format.SnapshotKind) {
	if pid >= FirstUserPage && (k == format.SnapshotKindNone || k == format.SnapshotKindFree) {
		p.taken[pid] = true
		p.spare.Add(-1)
	}
}

func (p *pages) ready() {
	slices.Sort(p.free)
	p.spare.Add(int64(len(p.free)))
}

// fromSnapshot finds the highest id that the snapshot alone knows to be free, and leaves it just below p.below. mu is held.
func (p *pages) fromSnapshot() (PageID, bool) {
	for p.snap != nil {
		pid, ok := p.snap.FreeBelow(p.below)
		if !ok {
			p.snap = nil
			break
		}
		p.below = pid + 1
		if !p.taken[pid] {
			return pid, true
		}
		p.below = pid
	}
	return 0, false
}

// take returns an id for a new page.
func (p *pages) take(t *txs) (PageID, error) {
	if p.spare.Load() > 0 {
		if pid, ok := p.takeFree(t); ok {
			return pid, nil
		}
	}
	pid := PageID(p.next.Add(1) - 1)
	if pid > format.MaxPageID {
		p.next.Add(^uint64(0))
		return 0, fmt.Errorf("%w: more than %d pages", ErrUnsupported, uint64(format.MaxPageID))
	}
	return pid, nil
}

func (p *pages) takeFree(t *txs) (PageID, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) == 0 && len(p.limbo) > 0 {
		oldest, n := t.domain.Oldest(), 0
		for n < len(p.limbo) && p.limbo[n].epoch <= oldest {
			p.free = append(p.free, p.limbo[n].pid)
			n++
		}
		p.limbo = slices.Delete(p.limbo, 0, n)
		slices.Sort(p.free)
	}
	pid, ok := p.fromSnapshot()
	n := len(p.free)
	switch {
	case n > 0 && (!ok || p.free[n-1] > pid):
		pid, p.free = p.free[n-1], p.free[:n-1]
	case ok:
		p.below = pid
	default:
		return 0, false
	}
	p.spare.Add(-1)
	return pid, true
}

// give queues an id whose page was freed by a swap that was won.
func (p *pages) give(t *txs, pid PageID) {
	p.mu.Lock()
	p.limbo = append(p.limbo, freed{pid, t.domain.Retire()}) // under mu, so that limbo is in order
	p.spare.Add(1)
	p.mu.Unlock()
}

// giveBack returns an id that take gave and nothing was written for.
func (p *pages) giveBack(pid PageID) {
	p.mu.Lock()
	i, _ := slices.BinarySearch(p.free, pid)
	p.free = slices.Insert(p.free, i, pid)
	p.spare.Add(1)
	p.mu.Unlock()
}

// Allocate makes a new page with frag as its value and returns its id and state. Ids of freed pages are used again, the
// highest first, once no Tx that could have seen them is open; else ids are dense from 2. An error means that nothing was done;
// see Link. Safe for concurrent use.
func (pc *PageCache[P]) Allocate(tx *Tx, frag P) (PageID, PagePtr[P], error) {
	if err := pc.check(tx, "allocate", 0); err != nil {
		return 0, PagePtr[P]{}, err
	}
	if pc.opts.ReadOnly {
		return 0, PagePtr[P]{}, logError("allocate", ErrReadOnly)
	}
	frag, err := pc.own(0, frag)
	if err != nil {
		return 0, PagePtr[P]{}, fmt.Errorf("allocate: %w", err)
	}
	p, err := pc.encode(tx, frag)
	if err != nil {
		return 0, PagePtr[P]{}, logError("allocate", err)
	}
	pc.pace(tx, len(p.body))
	pid, err := pc.pages.take(&pc.txs)
	if err != nil {
		pc.discard(&p)
		return 0, PagePtr[P]{}, fmt.Errorf("allocate: %w", err)
	}
	s, _, err := pc.head(pid)
	if err != nil {
		pc.discard(&p)
		pc.pages.giveBack(pid)
		return 0, PagePtr[P]{}, logError("allocate", err)
	}
	if s == nil {
		s = pc.table.Make(pid)
	}
	for {
		h := s.Load() // nil or Free: the id is ours alone
		e, err := pc.rewrite(tx, pid, s, h, &p, frag, nextTS(h))
		if err != nil {
			pc.discard(&p)
			pc.pages.giveBack(pid)
			return 0, PagePtr[P]{}, logError("allocate", err)
		}
		if e != nil {
			pc.relieve(tx, pid)
			return pid, ptrTo[P](pid, &e.Head), nil
		}
	}
}

// Free frees the page, if it is still in the state old. Results as for Link; the new state's LastLSN makes the freeing durable. Freeing
// a page that is free already is (zero, false, nil).
func (pc *PageCache[P]) Free(tx *Tx, pid PageID, old PagePtr[P]) (PagePtr[P], bool, error) {
	s, err := pc.writable(tx, "free", pid)
	if err != nil || s == nil {
		return PagePtr[P]{}, false, err
	}
	tx.wrote(0)
	for {
		h, same := current(s, pid, old)
		if !same {
			return ptrTo[P](pid, h), false, nil
		}
		r, err := pc.log.Reserve(format.KindFree, pid, 0)
		if err != nil {
			return PagePtr[P]{}, false, logError(fmt.Sprintf("free page %d", pid), err)
		}
		e := pagestack.NewFree(h.TS()+1, r.LSN(), r.Ptr())
		if pc.install(tx, pid, s, h, e, &r, 0) {
			pc.pages.give(&pc.txs, pid)
			return ptrTo[P](pid, e), true, nil
		}
	}
}
