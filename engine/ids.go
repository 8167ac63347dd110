package engine

import (
	"fmt"
	"strings"
	"sync/atomic"

	"pagecache/engine/internal/clean"
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
		if root := pg.head.Root(); root.Target != 0 {
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
	return 0, fmt.Errorf("root %.64q: %w", name, ErrRootNotFound)
}

// findRoot looks up the page that holds the root of a name. Its slot is nil if there is none. The caller's Tx began
// before, so the page holds no other root before that ends (roots, I3); its head says whether the root was removed.
func (f *finder) findRoot(name string) (page, error) {
	pid, ok := f.pages.Roots.Find(name)
	if !ok {
		return page{}, nil
	}
	return f.lookup("read root on", pid)
}

// CASRoot makes new the root of that name if old is its root now. 0 means no root: old 0 requires that the name has
// none, and new 0 removes the name. It returns the root after the call, and whether it is the one that this call set.
// The change is durable after Flush, or after MakeStable of any later LSN. The page new need not exist, but its id must
// be one that a page can have; otherwise ErrPageRange. Page 0 itself cannot be a root.
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
	switch {
	case pc.core.opts.ReadOnly:
		return 0, false, fmt.Errorf("change root %.64q: %w", name, ErrReadOnly)
	case new > format.MaxPageID:
		const text = "change root %.64q to page %d: %w: the highest is %d"
		return 0, false, fmt.Errorf(text, name, new, ErrPageRange, uint64(format.MaxPageID))
	case len(name) > MaxRootName:
		const text = "change root %.64q…: %w: its name has %d bytes, the most is %d"
		return 0, false, fmt.Errorf(text, name, ErrTooLarge, len(name), MaxRootName)
	}
	defer sc.Release()
	now, won, err := pc.casRoot(sc, name, old, new)
	if err != nil {
		return 0, false, describe(fmt.Sprintf("change root %.64q", name), err)
	}
	return now, won, nil
}

// casRoot is CASRoot for valid arguments. The loop ends, since each turn but the last finds that another goroutine has
// changed the root meanwhile.
func (pc *PageCache[P]) casRoot(tx *scope.Scope, name string, old, new PageID) (now PageID, won bool, err error) {
	for {
		pg, err := pc.finder.findRoot(name)
		if err != nil {
			return 0, false, err // roots that cannot be read are not replaced
		}
		now := pg.head.Root().Target
		if now != old || now == 0 && new == 0 {
			return now, now == old, nil
		}
		switch {
		case now == 0:
			won, err = pc.addRoot(tx, format.Root{Name: name, Target: new}, pc.finder.take)
		case new == 0:
			won, err = pc.removeRoot(tx, name, pg)
		default:
			// The name in the entry is kept: that of the caller may be a part of something large.
			r := format.Root{Name: pg.head.Root().Name, Target: new}
			c := change[P]{kind: format.KindRoot, root: r, on: ifHead, from: pg.head}
			c.payload.Body = encodeRoot(tx, pc.cleaner, r)
			_, won, err = pc.apply(tx, pg, &c)
		}
		if won || err != nil {
			return new, won, err
		}
	}
}

// encodeRoot returns the body of the message of a root, in the scratch memory of the Tx, and delays the caller while
// the cleaner is behind.
func encodeRoot(tx *scope.Scope, c *clean.Cleaner, r format.Root) []byte {
	buf := tx.Buffer()
	buf.Encoded = format.AppendRoot(buf.Encoded[:0], r)
	c.Pace()
	return buf.Encoded
}

// addRoot adds a root, on the page that take returns. It returns false if another goroutine has added one of that name.
func (pc *PageCache[P]) addRoot(tx *scope.Scope, r format.Root, take func() (page, error)) (bool, error) {
	r.Name = strings.Clone(r.Name)
	c := change[P]{kind: format.KindRoot, root: r, on: ifOwned}
	c.payload.Body = encodeRoot(tx, pc.cleaner, r)
	shard := pc.pages.Roots.Shard(r.Name)
	shard.Lock()
	defer shard.Unlock()
	if pid, found := shard.Find(r.Name); found {
		return false, pc.pages.CheckRoot(pid)
	}
	if !pc.pages.Roots.Admit() {
		return false, fmt.Errorf("%w: there are %d roots, the most", ErrTooLarge, MaxRoots)
	}
	pg, err := take()
	if err == nil {
		if _, _, err = pc.apply(tx, pg, &c); err != nil {
			pc.pages.IDs.GiveBack(pg.id)
		}
	}
	if err != nil {
		pc.pages.Roots.Withdraw()
		return false, err
	}
	shard.Add(r.Name, pg.id)
	return true, nil
}

// removeRoot frees the page of a root, if its head is still that of pg.
func (pc *PageCache[P]) removeRoot(tx *scope.Scope, name string, pg page) (bool, error) {
	shard := pc.pages.Roots.Shard(name)
	shard.Lock()
	defer shard.Unlock()
	_, won, err := pc.apply(tx, pg, &change[P]{kind: format.KindFree, on: ifHead, from: pg.head})
	if won {
		shard.Remove(name)
		pc.pages.IDs.Give(&pc.txs.Domain, pg.id)
	}
	return won, err
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

// GenerateID returns an id that was never returned before in the life of the store and is higher than all of them. A
// crash skips up to twice IDPersistInterval ids. It blocks only when a note of ids is overdue. Errors: ErrClosed,
// ErrReadOnly, and those of the log if ids cannot be noted. Safe for concurrent use.
func (pc *PageCache[P]) GenerateID() (uint64, error) {
	if pc.core.closed.Load() {
		return 0, fmt.Errorf("generate id: %w", ErrClosed)
	}
	if pc.core.opts.ReadOnly {
		return 0, fmt.Errorf("generate id: %w", ErrReadOnly)
	}
	id, ok := pc.ids.Try()
	if !ok {
		if err := pc.ids.Approve(id); err != nil {
			return 0, describe("generate id", err)
		}
	}
	if pc.core.closed.Load() { // Close may not have counted the id: see Draw
		return 0, fmt.Errorf("generate id: %w", ErrClosed)
	}
	return id, nil
}

// noteID writes id v to page 1.
func (pc *PageCache[P]) noteID(v uint64) (LSN, error) {
	call, err := pc.core.enter()
	if err != nil {
		return 0, err
	}
	defer call.End()
	c := change[P]{kind: format.KindCounter, on: ifOwned, counter: v}
	c.payload.Body = format.AppendCounter(nil, v)
	s := pc.pages.Table.Make(format.CounterPage)
	h, _, err := pc.apply(call, page{id: format.CounterPage, slot: s}, &c)
	if err != nil {
		return 0, err
	}
	return h.LSN, nil
}
