package pagemap

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"pagecache/engine/internal/epoch"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/txn"
	"pagecache/segments/format"
)

// former are the pages that held the roots of names which Views may still look for, although the index has another page
// of the name, or none. The index shows names as they are now; a page shows whether it was a root at the cut of a View.
type former struct {
	names sync.Map // string → *formerPages
	// count is the number of names. Written by keep and drop; a stale value delays drop.
	count atomic.Int64
	mu    sync.Mutex // held while names are dropped
	later int64      // the number of names from which on End looks for some to drop; guarded by mu
}

// formerPages are the pages that held the root of one name. They never change.
type formerPages struct {
	pages []format.PageID
	until uint64 // no View looks for them that begins later
}

// keep notes that a page has held the root of a name, which the caller is about to take out of the index. It holds the
// lock of the shard, and the page is free.
func (f *former) keep(v *txn.Views, name string, page format.PageID) {
	if v.Open() == 0 {
		return // a View that begins later does not see the root
	}
	next := &formerPages{until: v.Moment()}
	next.pages = slices.Clip(f.find(name))
	if !slices.Contains(next.pages, page) {
		next.pages = append(next.pages, page)
	}
	if _, known := f.names.Swap(name, next); !known {
		f.count.Add(1)
	}
}

// find returns the pages that have held the root of a name.
func (f *former) find(name string) []format.PageID {
	if p, ok := f.names.Load(name); ok {
		return p.(*formerPages).pages
	}
	return nil
}

// drop drops names that no View looks for, once there are many, or if no View is open.
func (f *former) drop(v *txn.Views) {
	if f.count.Load() == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	const few = 64
	if v.Open() > 0 && f.count.Load() < max(f.later, few) {
		return
	}
	f.names.Range(func(name, p any) bool {
		if !v.Needs(p.(*formerPages).until) && f.names.CompareAndDelete(name, p) {
			f.count.Add(-1)
		}
		return true
	})
	f.later = 2 * f.count.Load()
}

// View sees the pages as they were at one moment. It belongs to one goroutine.
//
// Everything that it can find lies in segments that were opened before its cut, and in blobs that were made before:
// the messages of each version were reserved before the cut, or a message that was reserved earlier has the version,
// since a page that is moved counts as changed for Views. So it keeps those that hold nothing any more since it began,
// and no others, and is loose in the epoch.
type View struct {
	txn.View
	pin pin
}

// pin is what a View keeps.
type pin struct {
	epoch uint64     // what was retired before was out of reach when the View began
	below format.LSN // it keeps segments with lower bases
	blobs uint64     // and blobs with lower ids
	cut   uint64     // and blobs that were replaced after this moment
	kept  []keptBlob // that are retired when the View ends
}

// keptBlob is a blob that was replaced while a View was open that needs it.
type keptBlob struct {
	id     format.BlobID
	moment uint64     // when it was replaced
	lsn    format.LSN // see blob.Store.Retire
}

// pins are those of the open Views.
type pins struct {
	mu   sync.Mutex
	open []*pin // guarded by mu
}

// BeginView begins a View of the pages, in a Tx with the given slot, which is loose from then on. nextBlob returns a
// number that no blob has that was made before the call, and that those have, or a higher one, that are made later.
//
// The pin begins before the cut: so whatever is replaced after the cut is kept, until the cut is known.
func (m *Map) BeginView(slot *epoch.Slot, nextBlob func() uint64) *View {
	w := &View{pin: pin{epoch: slot.Epoch(), below: math.MaxInt64, blobs: math.MaxUint64}}
	m.pins.mu.Lock()
	m.pins.open = append(m.pins.open, &w.pin)
	m.pins.mu.Unlock()
	w.Begin(&m.Clock.Views)
	below, blobs := m.store.Log.Tail(), nextBlob()
	m.pins.mu.Lock()
	w.pin.below, w.pin.blobs, w.pin.cut = below, blobs, w.Cut()
	m.pins.mu.Unlock()
	slot.Loosen()
	return w
}

// EndView ends a View, if there is one.
func (m *Map) EndView(w *View) {
	if w == nil {
		return
	}
	w.End()
	m.pins.mu.Lock()
	m.pins.open = slices.DeleteFunc(m.pins.open, func(p *pin) bool { return p == &w.pin })
	var free []keptBlob
	for _, b := range w.pin.kept {
		if !m.pins.keepLocked(b) {
			free = append(free, b)
		}
	}
	m.pins.mu.Unlock()
	for _, b := range free {
		m.blobs.Retire(b.id, b.lsn, m.readers.Retire())
	}
	m.former.drop(&m.Clock.Views)
}

// keepLocked lets a View keep a blob, and reports whether one needs it. The caller holds mu.
func (p *pins) keepLocked(b keptBlob) bool {
	for _, pin := range p.open {
		if uint64(b.id) < pin.blobs && pin.cut < b.moment {
			pin.kept = append(pin.kept, b)
			return true
		}
	}
	return false
}

// keep is keepLocked for a blob that was replaced just now, after which no View begins that needs it.
func (p *pins) keep(b keptBlob) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keepLocked(b)
}

// Holds reports whether a View may look at a segment that holds nothing any more: with the given base, retired in the
// given epoch.
func (m *Map) Holds(base format.LSN, epoch uint64) bool {
	m.pins.mu.Lock()
	defer m.pins.mu.Unlock()
	return slices.ContainsFunc(m.pins.open, func(p *pin) bool { return base < p.below && epoch > p.epoch })
}

// At returns the head of a page at the cut of a View, and its slot if that is its head now, as far as a View can tell;
// nil if the page has changed since then. Slot and head are nil if there never was such a page. Errors are those of
// Find.
func (m *Map) At(pid format.PageID, at *View) (*Slot, *Head, error) {
	s := m.Table.Get(pid)
	for found := false; ; found = true {
		if s != nil {
			h, past := at.Read(s)
			if past {
				return nil, h, nil
			}
			if h != nil || found {
				return s, h, nil
			}
		}
		var err error
		if s, _, err = m.Find(pid); err != nil || s == nil { // the page was not used since Open
			return nil, nil, err
		}
	}
}

// RootAt reads the root of a name as it was at the cut of a View. Errors are those of Find.
//
// A page held the root at the cut if its head says so. The index has that page, or the name was taken out of it since
// then: then the page is one of former, which it was added to before.
func (m *Map) RootAt(name string, at *View) (r RootChange, err error) {
	r.Name = name
	if pid, ok := m.Roots.Find(name); ok {
		if found, err := m.wasRoot(&r, pid, at); found || err != nil {
			return r, err
		}
	}
	for _, pid := range m.former.find(name) {
		if found, err := m.wasRoot(&r, pid, at); found || err != nil {
			return r, err
		}
	}
	return r, nil
}

// wasRoot reports whether a page held the root r at the cut of a View, and sets it if so.
func (m *Map) wasRoot(r *RootChange, pid format.PageID, at *View) (bool, error) {
	_, h, err := m.At(pid, at)
	if err != nil || !isRoot(h, r.Name) {
		return false, err
	}
	r.was = h.Root()
	return true, nil
}

// onDisk returns an entry in the state of h without values in memory, for Views that are open.
func onDisk(h *Head) *Head {
	switch h.Kind() {
	case pagestack.KindBase, pagestack.KindDelta, pagestack.KindMerged:
		return h.ToOnDisk()
	}
	return h
}
