package pagemap

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// rebuilder fills a Map when a store is opened: the snapshot's accounts first, then the messages of the log on top. Of
// the snapshot's pages it looks only at those that have messages in the log.
type rebuilder struct {
	m       *Map
	r       *logstore.Recovered
	next    format.PageID                      // the lowest id that was never handed out, as far as is known
	lost    map[format.LSN]int64               // live bytes, by base, of segments that only the snapshot knows
	orphans map[format.PageID]recovery.Message // deltas whose base was recycled, until the page is written anew
}

// Rebuild fills the map from the recovered log.
func (m *Map) Rebuild(r *logstore.Recovered) error {
	m.rebuilding = true
	b := rebuilder{m: m, r: r, orphans: map[format.PageID]recovery.Message{}}
	b.next = max(r.NextPage, format.FirstUserPage)
	for _, step := range []func() error{b.checkNextPage, b.countSnapshot, b.apply, b.finishPages, b.checkLost} {
		if err := step(); err != nil {
			return err
		}
	}
	b.adoptBlobs()
	b.freeIDs()
	m.rebuilding = false
	for _, pid := range []format.PageID{format.MetaPage, format.CounterPage} {
		if _, _, err := m.Find(pid); err != nil {
			return err
		}
	}
	m.IDs.Ready(b.next)
	return nil
}

// checkNextPage refuses a superblock whose next page id the log has no room for (rule 12).
func (b *rebuilder) checkNextPage() error {
	s := b.m.store
	slots, _, _ := s.Space.Totals()
	if most := logstore.MaxMessages(slots, s.SegmentSize()); b.r.NextPage > most {
		reason := fmt.Sprintf("next page %d is implausible: the log has room for %d", b.r.NextPage, most)
		return logstore.CorruptFile(filepath.Join(s.Dir, logstore.SuperName), reason, nil)
	}
	return nil
}

// countSnapshot accounts for everything that the snapshot refers to. Segments that are no longer there were recycled,
// so their pages were written anew after the snapshot; checkLost verifies that.
func (b *rebuilder) countSnapshot() error {
	snap := b.m.base
	if snap == nil {
		return nil
	}
	b.next = max(b.next, snap.NextPage)
	b.lost = map[format.LSN]int64{}
	size := b.m.store.SegmentSize()
	for _, g := range snap.Segments {
		if g.Live < 0 || g.Live > int64(size) || g.Live%format.Align != 0 {
			return snap.Corrupt(fmt.Errorf("%w: %d live bytes in a segment", format.ErrSnapshot, g.Live))
		}
		if id, ok := b.m.store.Space.Find(g.Base); ok {
			b.m.store.Space.Live(format.DiskPtr{Off: id.Offset(size), Len: uint32(g.Live)})
		} else if g.Live > 0 {
			b.lost[g.Base] = g.Live
		}
	}
	return nil
}

// apply enters the messages of the log into the table.
//
// Page ids are dense, and of each page that exists or existed a message is in the log, except for the last allocations
// before a crash: ids of a dropped batch count as never handed out, and Salvage frees those of pages that it does not
// find. So the number of messages that the log has room for bounds the ids. A hostile id must not cost memory (rule
// 12).
func (b *rebuilder) apply() error {
	bound := b.next + logstore.MaxMessages(len(b.r.Scan.Segments), b.m.store.SegmentSize())
	err := b.r.Scan.Apply(func(msg recovery.Message) error {
		if msg.Page > bound {
			return b.m.store.Misplaced(msg, "implausible page id")
		}
		return b.applyOne(msg)
	})
	if err != nil {
		return err
	}
	for _, msg := range b.orphans {
		return b.m.store.Misplaced(msg, noBase)
	}
	return nil
}

func (b *rebuilder) applyOne(msg recovery.Message) error {
	s, old, err := b.m.Find(msg.Page)
	if err != nil || old != nil && msg.LSN <= old.LSN { // the snapshot includes it
		return err
	}
	if s == nil {
		s = b.m.Table.Make(msg.Page)
	}
	if msg.Kind == format.KindCounter || msg.Kind == format.KindMeta {
		h, err := b.m.reserved(msg)
		s.Store(h)
		return err
	}
	b.next = max(b.next, msg.Page+1)
	if b.r.Scan.Recycled > 0 && b.orphaned(msg, old) {
		return nil
	}
	return b.applyToPage(msg, s, old)
}

const noBase = "a delta of a page that has no base"

// orphaned reports whether a message is a delta whose base was recycled. In that case the page was written anew further
// on; orphans keeps those deltas for which the new base has not come yet. old is the page's newest state so far.
func (b *rebuilder) orphaned(msg recovery.Message, old *Head) bool {
	if msg.Kind.Plain() != format.KindAppend {
		delete(b.orphans, msg.Page)
		return false
	}
	if old != nil && old.Kind() == pagestack.KindOnDisk {
		if _, already := b.orphans[msg.Page]; !already {
			return false
		}
	}
	b.orphans[msg.Page] = msg
	return true
}

func (b *rebuilder) applyToPage(msg recovery.Message, s *Slot, old *Head) error {
	ref := pagestack.Ref{LSN: msg.LSN, Ptr: msg.Ptr}
	if msg.Page < format.FirstUserPage {
		return b.m.store.Misplaced(msg, fmt.Sprintf("%v message for page %d", msg.Kind, msg.Page))
	}
	switch msg.Kind.Plain() {
	case format.KindFree:
		s.Store(pagestack.NewFree(0, msg.LSN, msg.Ptr))
	case format.KindCompact:
		s.Store(pagestack.NewOnDisk(0, []pagestack.Ref{ref}))
	case format.KindAppend:
		if old == nil || old.Kind() != pagestack.KindOnDisk {
			return b.m.store.Misplaced(msg, noBase)
		}
		// Nobody else sees the list yet. It is oldest first until finishPage reverses it.
		refs := []pagestack.Ref{{LSN: old.LSN, Ptr: old.Ptr()}}
		if old.Listed() {
			refs = old.Ext().Refs
		}
		s.Store(pagestack.NewListed(0, ref, append(refs, ref)))
	default:
		return b.m.store.Misplaced(msg, fmt.Sprintf("%v message in a page store", msg.Kind))
	}
	return nil
}

// finishPages completes every page that has messages in the log.
func (b *rebuilder) finishPages() (err error) {
	b.m.IDs.UseSnapshot(b.m.base)
	b.m.Table.Each(func(pid format.PageID, s *Slot) { err = errors.Join(err, b.finishPage(pid, s)) })
	return err
}

// finishPage accounts for the page's messages in place of those that the snapshot knows.
func (b *rebuilder) finishPage(pid format.PageID, s *Slot) error {
	m, h := b.m, s.Load()
	if m.base != nil && pid < m.base.NextPage {
		if err := b.uncount(pid); err != nil {
			return err
		}
	}
	if h.Kind() == pagestack.KindFree {
		m.IDs.AddFree(pid)
	}
	if h.Listed() {
		slices.Reverse(h.Ext().Refs)
		defer func() { s.Store(pagestack.NewOnDisk(h.TS(), h.Ext().Refs)) }()
	}
	var err error
	h.Refs(func(ref pagestack.Ref) {
		if ref.Ptr.IsZero() {
			err = m.missingSegment(pid, ref.LSN)
			return
		}
		m.store.Space.Live(ref.Ptr)
		if ref.Ptr.Blob {
			ptr, blobErr := m.store.Blob(ref.LSN, ref.Ptr)
			blobErr = logstore.InPage(pid, blobErr)
			if blobErr == nil {
				m.blobs.Adopt(ptr)
			}
			err = errors.Join(err, blobErr)
		}
	})
	return err
}

// uncount takes the messages that the snapshot knows of a page out of the accounts.
func (b *rebuilder) uncount(pid format.PageID) error {
	m := b.m
	p, err := m.base.Page(pid)
	if err != nil {
		return err
	}
	for _, r := range p.Refs {
		if ptr := m.locate(r); !ptr.IsZero() {
			m.store.Space.Dead(ptr)
		} else {
			b.lost[r.LSN-r.LSN%format.LSN(m.store.SegmentSize())] -= int64(format.AlignUp(int(r.Len)))
		}
	}
	m.IDs.Touched(pid, p.Kind)
	return nil
}

// adoptBlobs makes the blobs readable that only the snapshot knows.
func (b *rebuilder) adoptBlobs() {
	if b.m.base == nil {
		return
	}
	for _, v := range b.m.base.Blobs {
		if s := b.m.Table.Get(v.Page); s == nil || s.Load() == nil {
			b.m.blobs.Adopt(format.BlobPtr{ID: v.ID, Len: v.Len})
		}
	}
}

// freeIDs frees the ids below next of which there is no page. The snapshot knows the free ids below its own next page.
func (b *rebuilder) freeIDs() {
	first := format.FirstUserPage
	if b.m.base != nil {
		first = max(first, b.m.base.NextPage)
	}
	for pid := first; pid < b.next; pid++ {
		if s := b.m.Table.Get(pid); s == nil || s.Load() == nil {
			b.m.IDs.AddFree(pid)
		}
	}
}

// checkLost reports a segment that is missing although pages still need it.
func (b *rebuilder) checkLost() error {
	for base, live := range b.lost {
		if live > 0 {
			reason := fmt.Sprintf("a segment with %d live bytes is missing", live)
			return b.m.store.CorruptLog(recovery.Place{}.WithLSN(base), reason)
		}
	}
	return nil
}
