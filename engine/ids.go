package engine

import (
	"cmp"
	"errors"
	"fmt"
	"sync/atomic"

	"pagecache/engine/internal/pagemap"
	"pagecache/engine/internal/roots"
	"pagecache/engine/internal/scope"
	"pagecache/segments/format"
)

const (
	// MaxRootName is the length of the longest name of a root, in bytes.
	MaxRootName = format.MaxRootName
	// MaxRoots is the largest number of roots of a store.
	MaxRoots = roots.Max
)

// Free frees the page if it is still in the state old. Results and errors are those of Link; LastLSN of the new state
// makes the freeing durable. For a page that is already free it returns zero and false.
func (pc *PageCache[P]) Free(tx *Tx[P], pid PageID, old PagePtr[P]) (PagePtr[P], bool, error) {
	sc := tx.base()
	pg, err := pc.finder.writable(sc, "free", pid)
	if err != nil || pg.head == nil {
		return PagePtr[P]{}, false, err
	}
	h, won, err := pc.apply(sc, pg, &change[P]{kind: format.KindFree, old: old})
	if err != nil {
		return PagePtr[P]{}, false, describePage("free", pid, err)
	}
	if !won {
		return livePtr[P](pid, h), false, nil
	}
	pc.pages.IDs.Give(&pc.txs.Domain, pid)
	return ptrTo[P](pid, h), true, nil
}

// Allocate makes a new page with the value frag and returns its id and state. It uses the ids of freed pages again, the
// highest first, once no Tx that could have seen them is open; otherwise ids are dense from 2. Roots take ids, too
// (CASRoot). After an error nothing was done. Errors are those of Link, and ErrTooManyPages. Safe for concurrent use.
func (pc *PageCache[P]) Allocate(tx *Tx[P], frag P) (PageID, PagePtr[P], error) {
	sc := tx.base()
	err := pc.txs.Check(sc)
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
	defer sc.Release()
	v, err := pc.copyIn(sc, 0, frag, pc.inlineBase)
	if err != nil {
		return 0, PagePtr[P]{}, describe("allocate", err)
	}
	c.take(v)
	pc.cleaner.Pace() // it delays the caller while the cleaner is behind
	pg, err := pc.finder.take()
	if err != nil {
		pc.values.Discard(&c.payload)
		return 0, PagePtr[P]{}, describe("allocate", err)
	}
	h, _, err := pc.apply(sc, pg, &c)
	if err != nil {
		pc.pages.IDs.GiveBack(pg.id)
		return 0, PagePtr[P]{}, describe("allocate", err)
	}
	pc.mem.reclaim(sc, pg.id)
	return pg.id, ptrTo[P](pg.id, h), nil
}

// Allocate makes a new page when the transaction commits, and returns its id. If the transaction does not commit, the
// id is used for other pages. Errors are those of PageCache.Allocate, and ErrConflict.
func (tx *Tx[P]) Allocate(frag P) (PageID, error) {
	pid, err := PageID(0), tx.enter()
	if err == nil {
		defer tx.leave()
		pid, err = tx.allocate(frag)
	}
	return pid, describe("allocate", err)
}

// Meta is the map from names to root pages. It is the caller's copy.
type Meta map[string]PageID

// Meta returns all names and root pages, each as it is at some moment of the call. It takes time and memory for all of
// them: Root finds one of them faster. Errors: ErrTxEnded, ErrClosed, ErrCorrupt. Safe for concurrent use.
func (pc *PageCache[P]) Meta(tx *Tx[P]) (Meta, error) {
	if err := pc.finder.check(tx.base(), "read roots on", format.MetaPage); err != nil {
		return nil, err
	}
	m := make(Meta, pc.pages.Roots.Len())
	for name, pid := range pc.pages.Roots.All() {
		pg, err := pc.finder.lookup("read root on", pid)
		if err != nil {
			return nil, err
		}
		if root := pg.head.Root(); root.Name == name && root.Target != 0 {
			m[name] = root.Target
		}
	}
	return m, nil
}

// Root returns the root page of that name. It takes the time of a lookup, and blocks only as other calls on a page do.
// Errors: ErrRootNotFound, ErrTxEnded, ErrClosed, ErrCorrupt. Safe for concurrent use.
func (pc *PageCache[P]) Root(tx *Tx[P], name string) (PageID, error) {
	if err := pc.finder.check(tx.base(), "read roots on", format.MetaPage); err != nil {
		return 0, err
	}
	pg, err := pc.finder.findRoot(name)
	if err != nil {
		return 0, err
	}
	if root := pg.head.Root(); root.Target != 0 {
		return root.Target, nil
	}
	return 0, describeRoot("read", name, ErrRootNotFound)
}

// findRoot looks up the page that holds the root of a name. If there is none, the target of its head's root is 0.
func (f *finder) findRoot(name string) (page, error) {
	pid, s, h, err := f.pages.FindRoot(name)
	return page{id: pid, slot: s, head: h}, describePage("read root on", pid, f.core.opts.report.Corrupt(err))
}

// Root returns the root page of that name as the transaction sees it, as Get does a page. Errors: ErrRootNotFound, and
// those of Get.
func (tx *Tx[P]) Root(name string) (PageID, error) {
	err := tx.enter()
	if err != nil {
		return 0, describeRoot("read", name, err)
	}
	defer tx.leave()
	pid := PageID(0)
	if own := tx.ownRoot(name); own != nil {
		pid = own.To
	} else {
		var r pagemap.RootChange
		r, err = tx.readRoot(name)
		pid = r.Was()
	}
	if err == nil && pid == 0 {
		err = ErrRootNotFound
	}
	return pid, describeRoot("read", name, err)
}

// SetRoot makes pid the root of that name when the transaction commits; 0 removes the root, if there is one. Pages and
// names are those of PageCache.CASRoot, and so are the errors, except that there is ErrConflict.
func (tx *Tx[P]) SetRoot(name string, pid PageID) error {
	return describeRoot("set", name, tx.setRoot(name, pid))
}

func (tx *Tx[P]) setRoot(name string, pid PageID) error {
	if err := tx.enter(); err != nil {
		return err
	}
	defer tx.leave()
	if err := cmp.Or(tx.mayWrite(), checkRoot(name, pid)); err != nil {
		return err
	}
	if own := tx.ownRoot(name); own != nil {
		own.To = pid
		return nil
	}
	r, err := tx.readRoot(name)
	if r.To = pid; err == nil {
		tx.t.roots = append(tx.t.roots, r)
	}
	return err
}

// ownRoot returns the root of that name that the transaction has set, or nil.
func (tx *Tx[P]) ownRoot(name string) *pagemap.RootChange {
	for i := range tx.t.roots {
		if r := &tx.t.roots[i]; r.Name == name {
			return r
		}
	}
	return nil
}

// readRoot reads the root of a name, which counts as read from then on.
func (tx *Tx[P]) readRoot(name string) (pagemap.RootChange, error) {
	if tx.t.view != nil {
		r, err := tx.pc.pages.RootAt(name, tx.t.view)
		return r, tx.pc.core.opts.report.Corrupt(err)
	}
	r, err := tx.pc.pages.ReadRoot(name, &tx.t.reads, tx.t.token)
	if c := (*ConflictError)(nil); errors.As(err, &c) {
		return r, tx.conflict(c.Page)
	}
	return r, tx.pc.core.opts.report.Corrupt(err)
}

// CASRoot makes new the root of that name if old is its root now. 0 means no root: old 0 requires that the name has
// none, and new 0 removes the name. It returns the root after the call, and whether it is the one that this call set.
// The change is durable after Flush, or after MakeStable of any later LSN; SetRoot of a Tx in Update returns an LSN to
// wait for. The page new need not exist, but its id must be one that a page can have; otherwise ErrPageRange. Page 0
// itself cannot be a root.
//
// A root costs what a page costs: a change writes one message with the name, whatever the number of roots, and the root
// takes a page id of its own, on which Get returns KindRoot; the id is free again once the root is removed. Each name
// takes some 150 bytes of memory and its own length while the store is open, which the capacity of the cache does not
// limit. A longer name than MaxRootName, or more roots than MaxRoots, are ErrTooLarge. Other errors are those of
// Allocate. Safe for concurrent use.
func (pc *PageCache[P]) CASRoot(tx *Tx[P], name string, old, new PageID) (PageID, bool, error) {
	sc := tx.base()
	if err := pc.finder.check(sc, "change a root on", format.MetaPage); err != nil {
		return 0, false, err
	}
	err := checkRoot(name, new)
	if pc.core.opts.ReadOnly {
		err = ErrReadOnly
	}
	var now PageID
	var won bool
	if err == nil {
		defer sc.Release()
		now, won, err = pc.casRoot(sc, name, old, new)
	}
	if err != nil {
		return 0, false, describeRoot("change", name, err)
	}
	return now, won, nil
}

// checkRoot checks the arguments of a call that changes a root.
func checkRoot(name string, to PageID) error {
	switch {
	case to > format.MaxPageID:
		return fmt.Errorf("to page %d: %w: the highest is %d", to, ErrPageRange, uint64(format.MaxPageID))
	case len(name) > MaxRootName:
		return fmt.Errorf("%w: its name has %d bytes, the most is %d", ErrTooLarge, len(name), MaxRootName)
	}
	return nil
}

// describeRoot is describe for a call on a root.
func describeRoot(doing, name string, err error) error {
	if err == nil {
		return nil
	}
	return describe(fmt.Sprintf("%s root %.64q", doing, name), err)
}

// casRoot is CASRoot for valid arguments. The loop ends, since each turn but the last finds that another goroutine has
// changed the root meanwhile, or the names of its shard.
func (pc *PageCache[P]) casRoot(sc *scope.Scope, name string, old, new PageID) (now PageID, won bool, err error) {
	for {
		pg, err := pc.finder.findRoot(name)
		if err != nil {
			return 0, false, err // roots that cannot be read are not replaced
		}
		now := pg.head.Root().Target
		if now != old || now == 0 && new == 0 {
			return now, now == old, nil
		}
		if now == 0 || new == 0 {
			won, err = pc.renameRoot(name, old, new, 0)
		} else {
			// The name in the entry is kept: that of the caller may be a part of something large.
			r := format.Root{Name: pg.head.Root().Name, Target: new}
			c := change[P]{kind: format.KindRoot, root: r, on: ifHead, from: pg.head}
			buf := sc.Buffer()
			buf.Encoded = format.AppendRoot(buf.Encoded[:0], r)
			c.payload.Body = buf.Encoded
			pc.cleaner.Pace() // it delays the caller while the cleaner is behind
			_, won, err = pc.apply(sc, pg, &c)
		}
		if won || err != nil {
			return new, won, err
		}
	}
}

// renameRoot changes the root of a name from old to to, one of which is 0: it adds the name, or removes it. at is the
// page that will hold the root; 0: any. It returns false if another goroutine was first, or has changed other names of
// the same shard.
func (pc *PageCache[P]) renameRoot(name string, old, to, at PageID) (won bool, err error) {
	tx, err := pc.Begin()
	if err != nil {
		return false, err
	}
	defer tx.End()
	if err = tx.enter(); err != nil {
		return false, err
	}
	r, err := tx.readRoot(name)
	tx.leave()
	if won = err == nil && r.Was() == old; won {
		r.To, r.At = to, at
		tx.t.roots = append(tx.t.roots, r)
		_, err = tx.commitAll()
	}
	if errors.Is(err, ErrConflict) {
		return false, nil
	}
	return won && err == nil, err
}

// BumpReadTS raises the page's read timestamp to ts if that is higher. Read timestamps live in memory only and start at
// 0 with every opening. The call does nothing if the Tx has ended, the store is closed, or no page can have this id.
// Safe for concurrent use.
func (pc *PageCache[P]) BumpReadTS(tx *Tx[P], pid PageID, ts uint64) {
	if pc.finder.check(tx.base(), "bump", pid) == nil && pid <= format.MaxPageID {
		raise(pc.pages.Table.MakeReadTS(pid), ts)
	}
}

func raise(c *atomic.Uint64, v uint64) {
	for {
		old := c.Load()
		if old >= v || c.CompareAndSwap(old, v) {
			return
		}
	}
}

// ReadTS returns the page's read timestamp: 0 if it was never raised; false if the page does not exist, its state
// cannot be read, the Tx has ended or the store is closed. Safe for concurrent use.
func (pc *PageCache[P]) ReadTS(tx *Tx[P], pid PageID) (uint64, bool) {
	pg, err := pc.finder.find(tx.base(), "read timestamp of", pid)
	if err != nil || !pg.exists() {
		return 0, false
	}
	if c := pc.pages.Table.ReadTS(pid); c != nil {
		return c.Load(), true
	}
	return 0, true
}
