package engine

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"pagecache/engine/internal/pagestack"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// rebuild fills the table from the messages that recovery found, on top of what the snapshot tells, of which nothing but the pages in those messages
// is looked at.
func (pc *PageCache[P]) rebuild(r *recovered) error {
	pc.rebuilding = true
	snap := pc.snaps.base
	next, first := max(r.nextPage, FirstUserPage), FirstUserPage
	if snap != nil {
		next, first = max(next, snap.NextPage), max(first, snap.NextPage)
	}
	slots, _, _ := pc.space.Totals()
	if most := pc.messagesIn(slots); r.nextPage > most {
		return damagedFile(filepath.Join(pc.dir, superName), fmt.Sprintf("next page %d, and the log has room for %d", r.nextPage, most), nil)
	}
	lost, err := pc.liveInSnapshot()
	if err == nil {
		next, err = pc.apply(r, next)
	}
	if err != nil {
		return err
	}
	pc.pages.begin(snap)
	pc.table.Each(func(pid PageID, s *slot) { err = errors.Join(err, pc.rebuilt(pid, s, lost)) })
	if err != nil {
		return err
	}
	if snap != nil {
		for _, b := range snap.Blobs {
			if s := pc.table.Get(b.Page); s == nil || s.Load() == nil {
				pc.blobs.adopt(format.BlobPtr{ID: b.ID, Len: b.Len})
			}
		}
	}
	for pid := first; pid < next; pid++ {
		if s := pc.table.Get(pid); s == nil || s.Load() == nil {
			pc.pages.free = append(pc.pages.free, pid)
		}
	}
	for base, live := range lost {
		if live > 0 {
			return &CorruptError{File: filepath.Join(pc.dir, logName), Place: recovery.Place{}.WithLSN(base),
				Reason: fmt.Sprintf("a segment with %d live bytes is missing", live)}
		}
	}
	pc.rebuilding = false
	for _, pid := range []PageID{format.MetaPage, format.CounterPage} {
		if _, _, err := pc.head(pid); err != nil {
			return err
		}
	}
	pc.pages.next.Store(uint64(next))
	pc.pages.ready()
	if pc.opts.ReadOnly {
		return nil
	}
	return pc.blobs.sweep()
}

// apply puts the messages of the log into the table. next is the first page id that was never allocated, as far as is known; it returns that again.
func (pc *PageCache[P]) apply(r *recovered, next PageID) (PageID, error) {
	// Ids are dense, and of each page that there is, or was, a message is in the log, but for those of the last allocations before a crash: ids of a batch
	// that is dropped count as never handed out (recover), and Salvage frees those of pages that it does not find. So ids are bounded by how many messages
	// the log has room for: a hostile one must not cost memory (rule 12).
	bound := next + pc.messagesIn(len(r.scan.Segments))
	orphans := map[PageID]recovery.Message{}
	err := r.scan.Apply(func(m recovery.Message) error {
		if m.Page > bound {
			return pc.misplaced(m, "page id out of proportion to the log")
		}
		s, old, err := pc.head(m.Page)
		if err != nil || old != nil && m.LSN <= old.LSN { // the snapshot has it already
			return err
		}
		if s == nil {
			s = pc.table.Make(m.Page)
		}
		if m.Kind == format.KindCounter || m.Kind == format.KindMeta {
			e, err := pc.special(m)
			s.Store(e)
			return err
		}
		next = max(next, m.Page+1)
		if r.scan.Recycled > 0 && orphaned(orphans, m, old) {
			return nil
		}
		return pc.rebuildPage(m, s, old)
	})
	if err != nil {
		return next, err
	}
	for _, m := range orphans {
		return next, pc.misplaced(m, noBase)
	}
	return next, nil
}

// messagesIn is more than how many messages so many segments can hold.
func (s *store) messagesIn(segments int) PageID {
	const slack = 1 << 20
	return slack + PageID(segments*(s.super.SegmentSize/format.HeaderSize))
}

// liveInSnapshot accounts for everything that the snapshot knows of. It returns the live bytes of segments that are not there any more: what was in them was
// written anew after the snapshot.
func (pc *PageCache[P]) liveInSnapshot() (lost map[LSN]int64, err error) {
	snap := pc.snaps.base
	if snap == nil {
		return nil, nil
	}
	lost = map[LSN]int64{}
	size := pc.super.SegmentSize
	for _, g := range snap.Segments {
		if g.Live < 0 || g.Live > int64(size) || g.Live%format.Align != 0 {
			return nil, snap.Corrupt(fmt.Errorf("%w: %d live bytes in a segment", format.ErrSnapshot, g.Live))
		}
		if id, ok := pc.space.Find(g.Base); ok {
			pc.space.Live(DiskPtr{Off: id.Offset(size), Len: uint32(g.Live)})
		} else if g.Live > 0 {
			lost[g.Base] = g.Live
		}
	}
	return lost, nil
}

// rebuilt completes a page that the log after the snapshot tells of: the accounts forget what the snapshot said of it.
func (pc *PageCache[P]) rebuilt(pid PageID, s *slot, lost map[LSN]int64) error {
	e := s.Load()
	if snap := pc.snaps.base; snap != nil && pid < snap.NextPage {
		p, err := snap.Page(pid)
		if err != nil {
			return err
		}
		for _, r := range p.Refs {
			if ptr := pc.place(r); !ptr.IsZero() {
				pc.space.Dead(ptr)
			} else {
				lost[r.LSN-r.LSN%LSN(pc.super.SegmentSize)] -= int64(format.AlignUp(int(r.Len)))
			}
		}
		pc.pages.touched(pid, p.Kind)
	}
	if e.Kind() == pagestack.KindFree {
		pc.pages.free = append(pc.pages.free, pid)
	}
	if e.Listed() {
		slices.Reverse(e.Ext().Refs)
		defer func() { s.Store(pagestack.NewOnDisk(e.TS(), e.Ext().Refs)) }()
	}
	var err error
	e.Refs(func(ref pagestack.Ref) {
		if ref.Ptr.IsZero() {
			err = &CorruptError{File: filepath.Join(pc.dir, logName), Place: recovery.Place{}.WithLSN(ref.LSN).WithPage(pid),
				Reason: "a segment with a part of the page is missing"}
			return
		}
		pc.space.Live(ref.Ptr)
		if ref.Ptr.Blob {
			err = errors.Join(err, pc.adoptBlob(ref))
		}
	})
	return err
}

// adoptBlob says that the blob that a message points to is there.
func (pc *PageCache[P]) adoptBlob(ref pagestack.Ref) error {
	ptr, err := pc.blobAt(ref)
	if err == nil {
		pc.blobs.adopt(ptr)
	}
	return err
}

// blobAt returns the pointer to a blob that a message is.
func (s *store) blobAt(ref pagestack.Ref) (format.BlobPtr, error) {
	_, body, _, err := s.read(ref.LSN, ref.Ptr)
	if err != nil {
		return format.BlobPtr{}, err
	}
	ptr, err := format.DecodeBlobPtr(body)
	return ptr, s.corrupt(ref.LSN, ref.Ptr, format.Header{Page: format.MaxPageID + 1}, err)
}

const noBase = "a delta of a page that has no base"

// orphaned reports whether a message is a delta whose base was recycled. Then the page was written anew further on: orphans keeps those for which
// that has not come yet. old is the page's newest state so far.
func orphaned(orphans map[PageID]recovery.Message, m recovery.Message, old *head) bool {
	if m.Kind.Plain() != format.KindAppend {
		delete(orphans, m.Page)
		return false
	}
	if old != nil && old.Kind() == pagestack.KindOnDisk {
		if _, already := orphans[m.Page]; !already {
			return false
		}
	}
	orphans[m.Page] = m
	return true
}

func (pc *PageCache[P]) rebuildPage(m recovery.Message, s *slot, old *head) error {
	ref := pagestack.Ref{LSN: m.LSN, Ptr: m.Ptr}
	var e *head
	if m.Page < FirstUserPage {
		return pc.misplaced(m, fmt.Sprintf("a %v message for page %d", m.Kind, m.Page))
	}
	switch m.Kind.Plain() {
	case format.KindFree:
		e = pagestack.NewFree(0, m.LSN, m.Ptr)
	case format.KindCompact:
		e = pagestack.NewOnDisk(0, []pagestack.Ref{ref})
	case format.KindAppend:
		if old == nil || old.Kind() != pagestack.KindOnDisk {
			return pc.misplaced(m, noBase)
		}
		// Nobody else sees the list yet. Oldest first until rebuilt turns it round.
		refs := []pagestack.Ref{{LSN: old.LSN, Ptr: old.Ptr()}}
		if old.Listed() {
			refs = old.Ext().Refs
		}
		e = pagestack.NewListed(0, ref, append(refs, ref))
	default:
		return pc.misplaced(m, "a message of kind "+m.Kind.String()+" in a page store")
	}
	s.Store(e)
	return nil
}

// misplaced is the error for a message that is intact but cannot be where it is.
func (s *store) misplaced(m recovery.Message, reason string) error {
	return &CorruptError{File: filepath.Join(s.dir, logName), Reason: reason,
		Place: recovery.Place{}.WithSlot(format.SegmentID(int64(m.Ptr.Off) / int64(s.super.SegmentSize))).
			WithOffset(m.Ptr.Off).WithLSN(m.LSN).WithPage(m.Page)}
}

// special makes the entry of page 0 or 1.
func (pc *PageCache[P]) special(m recovery.Message) (*head, error) {
	ext := new(pagestack.Ext)
	var err error
	kind := pagestack.KindMeta
	switch {
	case m.Kind == format.KindMeta && m.Page == format.MetaPage:
		ext.Meta, err = format.DecodeMeta(m.Body)
	case m.Kind == format.KindCounter && m.Page == format.CounterPage:
		kind = pagestack.KindCounter
		ext.Counter, err = format.DecodeCounter(m.Body)
	default:
		err = fmt.Errorf("%v message for page %d", m.Kind, m.Page)
	}
	if err != nil {
		return nil, pc.misplaced(m, err.Error())
	}
	e := pagestack.New[P](kind, 0, 1, m.LSN, m.Ptr)
	e.Ext = ext
	return &e.Head, nil
}
