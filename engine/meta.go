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

// Option is a page id or none. The zero Option is none.
type Option struct {
	PageID PageID
	Valid  bool
}

// Some is the Option that holds pid.
func Some(pid PageID) Option { return Option{PageID: pid, Valid: true} }

// None is the Option that holds nothing.
var None = Option{}

// Meta returns all names and root pages.
func (pc *PageCache[P]) Meta(tx *Tx) (Meta, error) {
	if err := pc.check(tx, "meta:", format.MetaPage); err != nil {
		return nil, err
	}
	m, _ := pc.roots()
	c := make(Meta, len(m))
	maps.Copy(c, m)
	return c, nil
}

func (pc *PageCache[P]) roots() (map[string]PageID, *head) {
	h := pc.table.Make(format.MetaPage).Load()
	if h == nil {
		return nil, nil
	}
	return h.Ext().Meta, h
}

// Root returns the root page of that name, or ErrRootNotFound.
func (pc *PageCache[P]) Root(tx *Tx, name []byte) (PageID, error) {
	if err := pc.check(tx, "root:", format.MetaPage); err != nil {
		return 0, err
	}
	m, _ := pc.roots()
	pid, ok := m[string(name)]
	if !ok {
		return 0, fmt.Errorf("root %q: %w", name, ErrRootNotFound)
	}
	return pid, nil
}

// CASRoot makes new the root of that name if old is: None for new removes the name, None for old wants it absent. It returns
// new and true, or the current root and false. The change is durable after Flush or MakeStable of a later LSN. new need not exist, but be
// an id that a page can have: else ErrUnsupported. Other errors as for Link.
func (pc *PageCache[P]) CASRoot(tx *Tx, name []byte, old, new Option) (Option, bool, error) {
	if err := pc.check(tx, "change a root on", format.MetaPage); err != nil {
		return None, false, err
	}
	if pc.opts.ReadOnly {
		return None, false, fmt.Errorf("root %q: %w", name, ErrReadOnly)
	}
	if new.Valid && new.PageID > format.MaxPageID {
		return None, false, fmt.Errorf("root %q for page %d: %w: the highest is %d", name, new.PageID, ErrUnsupported, uint64(format.MaxPageID))
	}
	s := pc.table.Make(format.MetaPage)
	for {
		roots, h := pc.roots()
		pid, ok := roots[string(name)]
		if now := (Option{PageID: pid, Valid: ok}); now != old.norm() {
			return now, false, nil
		}
		m := make(map[string]PageID, len(roots)+1)
		maps.Copy(m, roots)
		if new = new.norm(); new.Valid {
			m[string(name)] = new.PageID
		} else {
			delete(m, string(name))
		}
		body := format.AppendMeta(nil, m)
		r, err := pc.log.Reserve(format.KindMeta, format.MetaPage, len(body))
		if err != nil {
			return None, false, logError(fmt.Sprintf("change root %q", name), err)
		}
		copy(r.Body(), body)
		e := pagestack.New[P](pagestack.KindMeta, nextTS(h), 1, r.LSN(), r.Ptr())
		e.Ext = &pagestack.Ext{Meta: m}
		if pc.install(tx, format.MetaPage, s, h, &e.Head, &r, 0) {
			return new, true, nil
		}
	}
}

// norm makes all Options that hold nothing equal.
func (o Option) norm() Option {
	if !o.Valid {
		return None
	}
	return o
}

// BumpReadTS raises the page's read timestamp to ts if that is higher. Read timestamps are kept in memory only and begin
// at 0 with every opening. An ended Tx, a closed store or an id beyond any table is ignored.
func (pc *PageCache[P]) BumpReadTS(tx *Tx, pid PageID, ts uint64) {
	if pc.check(tx, "bump", pid) != nil || pid > format.MaxPageID {
		return
	}
	raise(pc.table.MakeReadTS(pid), ts)
}

func raise(c *atomic.Uint64, v uint64) {
	for {
		old := c.Load()
		if old >= v || c.CompareAndSwap(old, v) {
			return
		}
	}
}

// ReadTS returns the page's read timestamp; false for a page that does not exist, 0 and true for one that was never bumped.
func (pc *PageCache[P]) ReadTS(tx *Tx, pid PageID) (uint64, bool) {
	if pc.check(tx, "read timestamp of", pid) != nil {
		return 0, false
	}
	if _, e, err := pc.head(pid); err != nil || e == nil || e.Kind() == pagestack.KindFree {
		return 0, false
	}
	if c := pc.table.ReadTS(pid); c != nil {
		return c.Load(), true
	}
	return 0, true
}
