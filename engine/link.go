package engine

import (
	"fmt"

	"pagecache/engine/internal/pagestack"
	"pagecache/segments/format"
)

// Link appends a delta to the page if the page is still in the state old. It returns the new state and true. If another
// writer got there first, it returns the current state and false; that state is zero if the page does not exist. The
// write is in memory when Link returns; MakeStable(ptr.LastLSN()) makes it durable. The store copies delta,
// which may be, or share memory with, a value that Get returned; the caller may change it when Link has returned. After
// an error nothing was done. Errors: ErrNoSpace, ErrFailed, ErrTooLarge, ErrClosed, ErrReadOnly, ErrTxEnded,
// ErrReserved, ErrCorrupt, and that of Decode if it refuses what Append has written. Safe for concurrent use.
func (pc *PageCache[P]) Link(tx *Tx, pid PageID, old PagePtr[P], delta P) (PagePtr[P], bool, error) {
	return pc.write(tx, pid, delta, change[P]{kind: format.KindAppend, old: old})
}

// Replace replaces the whole page by frag if the page is still in the state old. Results and errors are those of Link.
func (pc *PageCache[P]) Replace(tx *Tx, pid PageID, old PagePtr[P], frag P) (PagePtr[P], bool, error) {
	return pc.write(tx, pid, frag, change[P]{kind: format.KindCompact, old: old})
}

// verb returns the name of the call that makes a change of that kind, for errors.
func verb(k format.Kind) string {
	if k == format.KindAppend {
		return "link"
	}
	return "replace"
}

// write encodes a fragment and applies a change with it to an existing page.
func (pc *PageCache[P]) write(tx *Tx, pid PageID, frag P, c change[P]) (PagePtr[P], bool, error) {
	pg, err := pc.finder.writable(tx, verb(c.kind), pid)
	if err != nil || pg.head == nil {
		return PagePtr[P]{}, false, err
	}
	defer tx.release()
	in := pc.inlineBase
	if c.kind == format.KindAppend {
		in = inlined[P]{}
		if pagestack.BeginsRun(pg.head) {
			in = pc.inlineDelta
		}
	}
	v, err := pc.copyIn(tx, pid, frag, in)
	if err != nil {
		return PagePtr[P]{}, false, describePage(verb(c.kind), pid, err)
	}
	c.take(v)
	pc.cleaner.Pace() // it delays the caller while the cleaner is behind
	h, won, err := pc.apply(tx, pg, &c)
	if !won {
		pc.mem.slabs.free(c.frag)
	}
	if err != nil {
		return PagePtr[P]{}, false, describePage(verb(c.kind), pid, err)
	}
	if !won {
		return livePtr[P](pid, h), false, nil
	}
	ptr := ptrTo[P](pid, h)
	if h.Depth() > pc.limit {
		pc.shorten(tx, pg)
	}
	pc.mem.reclaim(tx, pid)
	return ptr, true, nil
}

// livePtr identifies the state of the page with head h; zero if the page does not exist.
func livePtr[P any](pid PageID, h *head) PagePtr[P] {
	if !isPage(h) {
		return PagePtr[P]{}
	}
	return ptrTo[P](pid, h)
}

// Free frees the page if it is still in the state old. Results and errors are those of Link; LastLSN of the new state
// makes the freeing durable. For a page that is already free it returns zero and false.
func (pc *PageCache[P]) Free(tx *Tx, pid PageID, old PagePtr[P]) (PagePtr[P], bool, error) {
	pg, err := pc.finder.writable(tx, "free", pid)
	if err != nil || pg.head == nil {
		return PagePtr[P]{}, false, err
	}
	h, won, err := pc.apply(tx, pg, &change[P]{kind: format.KindFree, old: old})
	if err != nil {
		return PagePtr[P]{}, false, describePage("free", pid, err)
	}
	if !won {
		return livePtr[P](pid, h), false, nil
	}
	pc.pages.IDs.Give(&pc.txs.domain, pid)
	return ptrTo[P](pid, h), true, nil
}

// Allocate makes a new page with the value frag and returns its id and state. It uses the ids of freed pages again, the
// highest first, once no Tx that could have seen them is open; otherwise ids are dense from 2. Roots take ids, too
// (CASRoot). After an error nothing was done. Errors are those of Link, and ErrTooManyPages. Safe for concurrent use.
func (pc *PageCache[P]) Allocate(tx *Tx, frag P) (PageID, PagePtr[P], error) {
	err := pc.txs.check(tx)
	switch {
	case err != nil:
	case pc.core.closed.Load():
		err = ErrClosed
	case pc.core.opts.ReadOnly:
		err = ErrReadOnly
	}
	if err != nil {
		return 0, PagePtr[P]{}, fmt.Errorf("allocate: %w", err)
	}
	c := change[P]{kind: format.KindCompact, on: ifOwned}
	defer tx.release()
	v, err := pc.copyIn(tx, 0, frag, pc.inlineBase)
	if err != nil {
		return 0, PagePtr[P]{}, describe("allocate", err)
	}
	c.take(v)
	pc.cleaner.Pace() // it delays the caller while the cleaner is behind
	pg, err := pc.finder.take()
	if err != nil {
		pc.values.discard(&c.payload)
		pc.mem.slabs.free(c.frag)
		return 0, PagePtr[P]{}, describe("allocate", err)
	}
	h, _, err := pc.apply(tx, pg, &c)
	if err != nil {
		pc.pages.IDs.GiveBack(pg.id)
		pc.mem.slabs.free(c.frag)
		return 0, PagePtr[P]{}, describe("allocate", err)
	}
	pc.mem.reclaim(tx, pg.id)
	return pg.id, ptrTo[P](pg.id, h), nil
}
