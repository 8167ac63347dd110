package pagemap

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"pagecache/engine/internal/logstore"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// rebuilder fills a Map when a store is opened: the snapshot's accounts first, then the messages of the log on top. Of
// the snapshot's pages it looks only at those that have messages in the log.
type rebuilder struct {
	m     *Map
	r     *logstore.Recovered
	next  format.PageID        // the lowest id that was never handed out, as far as is known
	lost  map[format.LSN]int64 // live bytes, by base, of segments that only the snapshot knows
	index *recovery.ByPage     // the messages of the log, without those of pages 0 and 1
	again []format.PageID      // roots that have messages in the log, none of them newer than the snapshot's

	workers int // goroutines that apply the log
}

// Rebuild fills the map from the recovered log. Errors are *recovery.CorruptError, those of reading, or several of
// them, joined in the order of the pages.
func (m *Map) Rebuild(r *logstore.Recovered) error { return m.rebuild(r, appliersFor(r.Scan.Len())) }

// rebuild is Rebuild with the given number of goroutines.
func (m *Map) rebuild(r *logstore.Recovered, workers int) error {
	m.rebuilding, m.applying = true, true
	b := rebuilder{m: m, r: r, workers: workers}
	b.next = max(r.NextPage, format.FirstUserPage)
	for _, step := range []func() error{b.checkNextPage, b.countSnapshot, b.apply, b.checkLost, b.nameRoots} {
		if err := step(); err != nil {
			return err
		}
	}
	m.applying = false
	b.adoptDecisions()
	b.adoptBlobs()
	b.freeIDs()
	if _, _, err := m.FindNow(format.CounterPage); err != nil {
		return err
	}
	m.rebuilding = false
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
			b.m.store.Space.AddLive(id, g.Live)
		} else if g.Live > 0 {
			b.lost[g.Base] = g.Live
		}
	}
	return nil
}

// locate is Map.locate without a lock. It also returns the slot. While a store is opened, the segments are those of the
// recovered log.
func (b *rebuilder) locate(r recovery.Ref) (format.DiskPtr, format.SegmentID) {
	size := format.LSN(b.m.store.SegmentSize())
	base, segs := r.LSN-r.LSN%size, b.r.Scan.Segments
	i, found := slices.BinarySearchFunc(segs, base, func(g recovery.Segment, base format.LSN) int {
		return cmp.Compare(g.Base, base)
	})
	if !found {
		return format.DiskPtr{}, 0
	}
	slot := segs[i].Slot
	return format.DiskPtr{Off: slot.Offset(int(size)) + format.Offset(r.LSN-base), Len: r.Len, Blob: r.Blob}, slot
}

// adoptBlobs makes the blobs readable that only the snapshot knows.
func (b *rebuilder) adoptBlobs() {
	if b.m.base == nil {
		return
	}
	for _, v := range b.m.base.Blobs {
		if s := b.m.Table.Get(v.Page); s == nil || s.IsEmpty() {
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
		if s := b.m.Table.Get(pid); s == nil || s.IsEmpty() {
			b.m.IDs.AddFree(pid)
		}
	}
}

// checkLost reports the first segment that is missing although pages still need it.
func (b *rebuilder) checkLost() error {
	for _, base := range slices.Sorted(maps.Keys(b.lost)) {
		if live := b.lost[base]; live > 0 {
			reason := fmt.Sprintf("a segment with %d live bytes is missing", live)
			return b.m.store.CorruptLog(recovery.Place{}.WithLSN(base), reason)
		}
	}
	return nil
}
