package pagemap

import (
	"errors"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/snapshot"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// source shows the map to one snapshot. It implements snapshot.Source.
type source struct {
	m      *Map
	header format.SnapshotHeader
	inUse  []format.LSN
	blobs  map[format.PageID][]format.SnapshotBlob // those that the snapshot of the opening knows
	// decided are the commits in parts that the snapshot must name, until they are added to it.
	decided []format.Decision
}

// BeginSnapshot implements snapshot.Table.
func (m *Map) BeginSnapshot(from format.LSN) snapshot.Source {
	from, decided := m.beginSnapshot(from)
	inUse, ledger, from := m.store.Space.Census(from)
	s := &source{m: m, inUse: inUse, decided: decided, blobs: map[format.PageID][]format.SnapshotBlob{}}
	s.header = format.SnapshotHeader{Store: m.store.Super.Store, From: from,
		Recycled: ledger.Recycled, Left: ledger.Left,
		NextPage: min(m.IDs.Next(), format.MaxPageID+1), SegmentSize: m.store.SegmentSize()}
	if h := m.head(format.CounterPage); h != nil {
		s.header.Counter = h.Ext().Counter
	}
	if m.base != nil {
		for _, b := range m.base.Blobs {
			s.blobs[b.Page] = append(s.blobs[b.Page], b)
		}
	}
	return s
}

// Header implements snapshot.Source.
func (s *source) Header() format.SnapshotHeader { return s.header }

// InUse implements snapshot.Source.
func (s *source) InUse() []format.LSN { return s.inUse }

// Add implements snapshot.Source. It is inside the epoch meanwhile, so no message that a page refers to is recycled.
func (s *source) Add(w *recovery.SnapshotWriter, pid, end format.PageID, over func() bool) (format.PageID, error) {
	s.m.writer.TryEnter(s.m.readers)
	defer s.m.writer.Leave()
	for _, d := range s.decided {
		w.AddDecision(d)
	}
	s.decided = nil
	defer func() { w.RaiseHigh(s.m.commits.highestPart()) }() // after the last page that was added (D2)
	for pid < end && !over() {
		for stop := min(pid+snapshot.SlicePages, end); pid < stop; pid++ {
			if err := s.add(w, pid); err != nil {
				return pid, err
			}
		}
	}
	return pid, nil
}

// add adds a page: as it is in the table, or, if it was not touched since the opening, as it was then.
func (s *source) add(w *recovery.SnapshotWriter, pid format.PageID) error {
	var h *Head
	if slot := s.m.Table.Get(pid); slot != nil {
		h = s.m.Clock.Load(slot)
	}
	if h == nil {
		return s.addUntouched(w, pid)
	}
	return s.addTouched(w, pid, h)
}

// addTouched adds a page with head h.
func (s *source) addTouched(w *recovery.SnapshotWriter, pid format.PageID, h *Head) error {
	p := recovery.Page{Kind: format.SnapshotKindPage, LSN: h.LSN}
	switch h.Kind() {
	case pagestack.KindFree:
		p.Kind = format.SnapshotKindFree
	case pagestack.KindRoot:
		p.Kind = format.SnapshotKindRoot
	case pagestack.KindCounter:
		p.Kind = format.SnapshotKindCounter
	}
	var blobs []format.BlobPtr
	var err error
	h.Refs(func(r pagestack.Ref) {
		p.Refs = append(p.Refs, recovery.Ref{LSN: r.LSN, Len: r.Ptr.Len, Blob: r.Ptr.Blob})
		if r.Ptr.Blob && err == nil {
			var ptr format.BlobPtr
			if ptr, err = s.m.store.Blob(r.LSN, r.Ptr); err != nil {
				ptr, err = s.blobInBase(pid, r.LSN, logstore.InPage(pid, err))
			}
			blobs = append(blobs, ptr)
		}
	})
	if err != nil {
		return err
	}
	w.Add(p)
	if p.Kind == format.SnapshotKindRoot {
		w.AddRoot(h.Root())
	}
	for _, b := range blobs {
		w.AddBlob(b.ID, b.Len)
	}
	return nil
}

// blobInBase returns the blob that the message of a page at lsn points to, by the snapshot of the opening. If that does
// not say it, blobInBase returns err, which says why the message cannot be read.
func (s *source) blobInBase(pid format.PageID, lsn format.LSN, err error) (format.BlobPtr, error) {
	if len(s.blobs[pid]) == 0 || !errors.Is(err, recovery.ErrCorrupt) {
		return format.BlobPtr{}, err
	}
	p, baseErr := s.m.base.Page(pid)
	if baseErr != nil {
		return format.BlobPtr{}, err
	}
	left := s.blobs[pid] // in the order of the messages that point to them
	for _, r := range p.Refs {
		switch {
		case !r.Blob:
		case len(left) > 0 && r.LSN == lsn:
			return format.BlobPtr{ID: left[0].ID, Len: left[0].Len}, nil
		case len(left) > 0:
			left = left[1:]
		}
	}
	return format.BlobPtr{}, err
}

func (s *source) addUntouched(w *recovery.SnapshotWriter, pid format.PageID) error {
	base := s.m.base
	if base == nil || pid >= base.NextPage {
		w.Add(recovery.Page{})
		return nil
	}
	p, err := s.m.inBase(pid)
	// It may have been taken in meanwhile. A block that was rebuilt since then says nothing of such pages.
	if slot := s.m.Table.Get(pid); slot != nil {
		if h := s.m.Clock.Load(slot); h != nil {
			return s.addTouched(w, pid, h)
		}
	}
	if err != nil {
		return err
	}
	w.Add(p)
	if p.Kind == format.SnapshotKindRoot {
		r, ok := base.Root(pid)
		if !ok {
			return base.CorruptPage(pid, errNotListed)
		}
		w.AddRoot(r)
	}
	for _, b := range s.blobs[pid] {
		w.AddBlob(b.ID, b.Len)
	}
	return nil
}
