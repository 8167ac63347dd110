package engine

import (
	"pagecache/engine/internal/pagemap"
	"pagecache/engine/internal/pagestack"
)

type (
	entry[P any] = pagestack.Entry[P]
	head         = pagestack.Head
	slot         = pagemap.Slot
)

// page is a page that a call works on: its id, its slot in the table, and the head that the slot held when it was looked up.
type page struct {
	id   PageID
	slot *slot
	head *head
}

// isWhole reports whether an entry of that kind holds the value of the whole page.
func isWhole(k pagestack.Kind) bool { return k == pagestack.KindBase || k == pagestack.KindMerged }

// exists reports whether the page was allocated and not freed.
func (pg page) exists() bool { return pg.head != nil && pg.head.Kind() != pagestack.KindFree }

// check is the beginning of every call on a page: it reports a Tx that cannot be used and a closed store.
func (pc *PageCache[P]) check(tx *Tx, doing string, pid PageID) error {
	err := pc.txs.check(tx)
	if err == nil && pc.core.closed.Load() {
		err = ErrClosed
	}
	return describePage(doing, pid, err)
}

// find looks a page up for a call that names it. The slot is nil if the page was never allocated.
func (pc *PageCache[P]) find(tx *Tx, doing string, pid PageID) (page, error) {
	if err := pc.check(tx, doing, pid); err != nil {
		return page{}, err
	}
	return pc.lookup(doing, pid)
}

// lookup is find without the check.
func (pc *PageCache[P]) lookup(doing string, pid PageID) (page, error) {
	s, h, err := pc.pages.Find(pid)
	return page{id: pid, slot: s, head: h}, describePage(doing, pid, err)
}

// writable looks up a page that a caller wants to change. Its head is nil if there never was such a page.
func (pc *PageCache[P]) writable(tx *Tx, doing string, pid PageID) (page, error) {
	if err := pc.check(tx, doing, pid); err != nil {
		return page{}, err
	}
	if pc.core.opts.ReadOnly {
		return page{}, describePage(doing, pid, ErrReadOnly)
	}
	if pid < FirstUserPage {
		return page{}, describePage(doing, pid, ErrReserved)
	}
	return pc.lookup(doing, pid)
}
