package engine

import (
	"fmt"
	"maps"
	"sync/atomic"

	"pagecache/engine/internal/pagestack"
	"pagecache/segments/format"
)

// Meta is the map from names to root pages, page 0. It is the caller's copy.
type Meta map[string]PageID

// Meta returns all names and root pages. Errors: ErrTxEnded, ErrClosed, ErrCorrupt. Safe for concurrent use.
func (pc *PageCache[P]) Meta(tx *Tx) (Meta, error) {
	pg, err := pc.finder.find(tx, "read roots on", format.MetaPage)
	if err != nil {
		return nil, err
	}
	m := rootsOf(pg.head)
	c := make(Meta, len(m))
	maps.Copy(c, m)
	return c, nil
}

// rootsOf returns the map of the Meta page with head h, which may be nil.
func rootsOf(h *head) map[string]PageID {
	if h == nil {
		return nil
	}
	return h.Ext().Meta
}

// Root returns the root page of that name. Errors: ErrRootNotFound, ErrTxEnded, ErrClosed, ErrCorrupt. Safe for
// concurrent use.
func (pc *PageCache[P]) Root(tx *Tx, name string) (PageID, error) {
	pg, err := pc.finder.find(tx, "read roots on", format.MetaPage)
	if err != nil {
		return 0, err
	}
	pid, ok := rootsOf(pg.head)[name]
	if !ok {
		return 0, fmt.Errorf("root %q: %w", name, ErrRootNotFound)
	}
	return pid, nil
}

// CASRoot makes new the root of that name if old is its root now. 0 means no root: old 0 requires that the name has
// none, and new 0 removes the name. It returns the root after the call, and whether it is the one that this call set.
// The change is durable after Flush, or after MakeStable of any later LSN. The page new need not exist, but its id must
// be one that a page can have; otherwise ErrPageRange. Page 0 itself cannot be a root. Other errors are those of Link.
// Safe for concurrent use.
func (pc *PageCache[P]) CASRoot(tx *Tx, name string, old, new PageID) (PageID, bool, error) {
	if _, err := pc.finder.find(tx, "change a root on", format.MetaPage); err != nil {
		return 0, false, err // roots that cannot be read are not replaced
	}
	if pc.core.opts.ReadOnly {
		return 0, false, fmt.Errorf("change root %q: %w", name, ErrReadOnly)
	}
	if new > format.MaxPageID {
		const text = "change root %q to page %d: %w: the highest is %d"
		return 0, false, fmt.Errorf(text, name, new, ErrPageRange, uint64(format.MaxPageID))
	}
	var now PageID
	c := change[P]{kind: format.KindMeta, on: ifOwned}
	c.prepare = func(h *head) (bool, error) {
		roots := rootsOf(h)
		if now = roots[name]; now != old {
			return false, nil
		}
		m := make(map[string]PageID, len(roots)+1)
		maps.Copy(m, roots)
		if new != 0 {
			m[name] = new
		} else {
			delete(m, name)
		}
		c.payload.body, c.ext = format.AppendMeta(nil, m), &pagestack.Ext{Meta: m}
		return true, nil
	}
	s := pc.pages.Table.Make(format.MetaPage)
	_, won, err := pc.apply(tx, page{id: format.MetaPage, slot: s}, &c)
	if err != nil {
		return 0, false, describe(fmt.Sprintf("change root %q", name), err)
	}
	if !won {
		return now, false, nil
	}
	return new, true, nil
}

// BumpReadTS raises the page's read timestamp to ts if that is higher. Read timestamps live in memory only and start at
// 0 with every opening. The call does nothing if the Tx has ended, the store is closed, or no page can have this id.
// Safe for concurrent use.
func (pc *PageCache[P]) BumpReadTS(tx *Tx, pid PageID, ts uint64) {
	if pc.finder.check(tx, "bump", pid) == nil && pid <= format.MaxPageID {
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
func (pc *PageCache[P]) ReadTS(tx *Tx, pid PageID) (uint64, bool) {
	pg, err := pc.finder.find(tx, "read timestamp of", pid)
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
	id, err := pc.ids.Draw()
	return id, describe("generate id", err)
}

// noteID writes id v to page 1.
func (pc *PageCache[P]) noteID(v uint64) (LSN, error) {
	call, err := pc.core.enter()
	if err != nil {
		return 0, err
	}
	defer call.End()
	c := change[P]{kind: format.KindCounter, on: ifOwned, ext: &pagestack.Ext{Counter: v}}
	c.payload.body = format.AppendCounter(nil, v)
	s := pc.pages.Table.Make(format.CounterPage)
	h, _, err := pc.apply(call, page{id: format.CounterPage, slot: s}, &c)
	if err != nil {
		return 0, err
	}
	return h.LSN, nil
}
