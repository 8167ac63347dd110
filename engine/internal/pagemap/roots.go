package pagemap

import (
	"fmt"
	"sync"
	"sync/atomic"

	"pagecache/engine/internal/pagestack"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// nameRoots makes the entries of the roots that the log has, and fills the index of all roots, once the messages of the
// log are applied. A root without a message in the log is as the snapshot's list says; its entry is made at its first
// use, as that of any page.
func (b *rebuilder) nameRoots() error {
	m := b.m
	names := make([]namer, b.workers)
	var taken atomic.Int64
	work := func(n *namer) {
		for i := int(taken.Add(1)) - 1; i < len(b.r.Scan.Segments); i = int(taken.Add(1)) - 1 {
			b.r.Scan.EachRoot(i, func(msg recovery.Message) { n.name(m, msg) })
		}
	}
	var wg sync.WaitGroup
	for i := 1; i < len(names); i++ {
		wg.Go(func() { work(&names[i]) })
	}
	work(&names[0])
	wg.Wait()
	fill := m.Roots.Fill()
	if m.base != nil {
		fill.Grow(len(m.base.Roots))
		for _, r := range m.base.Roots {
			if m.head(r.Page) == nil {
				fill.Add(r.Name, r.Page)
			}
		}
	}
	for _, pid := range b.again {
		fill.Add(m.head(pid).Root().Name, pid)
	}
	var failed firstError
	for i := range names {
		failed.add(names[i].failed.lsn, names[i].failed.err)
		fill.Grow(len(names[i].pages))
		for _, pid := range names[i].pages {
			fill.Add(m.head(pid).Root().Name, pid)
		}
	}
	if failed.err != nil {
		return failed.err
	}
	if name, x, y, ok := fill.Done(); !ok {
		at := recovery.Place{}.WithPage(max(x, y))
		return m.store.CorruptLog(at, fmt.Sprintf("page %d is the same root, %.64q", min(x, y), name))
	}
	return nil
}

// namer makes the entries of roots. It belongs to one goroutine.
type namer struct {
	pages  []format.PageID // whose entries it made
	failed firstError
	_      [64]byte // another namer is written to by another goroutine
}

// name makes the entry of a root, if msg is what its page consists of.
func (n *namer) name(m *Map, msg recovery.Message) {
	h := m.head(msg.Page)
	if h == nil || h.LSN != msg.LSN || h.Kind() == pagestack.KindRoot { // superseded, or the snapshot includes it
		return
	}
	r, err := format.DecodeRoot(msg.Body)
	if err != nil {
		n.failed.add(msg.LSN, m.store.Misplaced(msg, err.Error()))
		return
	}
	m.Table.Make(msg.Page).Store(pagestack.NewRoot(0, r, pagestack.Ref{LSN: msg.LSN, Ptr: msg.Ptr}))
	n.pages = append(n.pages, msg.Page)
}

// errNoRoot reports a root in the list whose record says that its page is none.
var errNoRoot = fmt.Errorf("%w: root on a page that is none", format.ErrSnapshot)

// CheckRoot returns an error unless the page is a root. The caller holds the lock of the name's shard, and has found
// the page in the index and looked it up: only a corrupt snapshot says that such a page is none.
func (m *Map) CheckRoot(pid format.PageID) error {
	if m.head(pid).Root().Target != 0 || m.base == nil {
		return nil
	}
	return m.base.CorruptPage(pid, errNoRoot)
}

// head returns the head of a page that is in the table, or nil.
func (m *Map) head(pid format.PageID) *Head {
	if s := m.Table.Get(pid); s != nil {
		return m.Clock.Load(s)
	}
	return nil
}
