package engine

import (
	"fmt"

	"pagecache/engine/internal/pagestack"
	"pagecache/internal/vfs"
	"pagecache/segments"
)

// bringIn has what a page of which nothing is resident consists of brought into the page cache, all of it at once, while the goroutine is parked: no fault
// is taken that would hold up a P. What could not be read is found out by who looks at it.
func (pc *PageCache[P]) bringIn(h *head) {
	warm := true
	h.Refs(func(r pagestack.Ref) { warm = warm && pc.view.IsWarm(rangeOf(r)) })
	if warm {
		return
	}
	if cold, _ := pc.view.Warm(pc.sealed(nil, h)); cold > 0 {
		pc.counts.cold.Add(int64(cold))
	}
}

func rangeOf(r pagestack.Ref) vfs.Range { return vfs.Range{Off: int64(r.Ptr.Off), Len: int(r.Ptr.Len)} }

// sealed appends where the messages of a page lie that are read through the map.
func (s *store) sealed(ranges []vfs.Range, h *head) []vfs.Range {
	h.Refs(func(r pagestack.Ref) {
		if s.space.At(r.Ptr.Off).State() != segments.StateActive {
			ranges = append(ranges, rangeOf(r))
		}
	})
	return ranges
}

// Prefetch begins to bring in what Get will need of the pages, and does not wait for it: pages that are resident, or do not exist, cost a look. It is a hint; where much
// is under way already the rest is left to Get. Values that are files of their own are brought in too. Errors: ErrTxEnded, ErrClosed,
// and what makes a page's state unknown, such as a damaged snapshot. Safe for concurrent use.
func (pc *PageCache[P]) Prefetch(tx *Tx, pids ...PageID) error {
	var ranges []vfs.Range
	var inBlobs []PageID
	for _, pid := range pids {
		if err := pc.check(tx, "prefetch", pid); err != nil {
			return err
		}
		_, h, err := pc.head(pid)
		if err != nil {
			return fmt.Errorf("prefetch page %d: %w", pid, err)
		}
		if h == nil {
			continue
		}
		if h = h.TailEntry(); h.Kind() == pagestack.KindOnDisk {
			ranges = pc.sealed(ranges, h)
			blobs := false
			h.Refs(func(r pagestack.Ref) { blobs = blobs || r.Ptr.Blob })
			if blobs && len(inBlobs) < mostBlobsAhead {
				inBlobs = append(inBlobs, pid)
			}
		}
	}
	pc.view.ReadAhead(ranges)
	if len(inBlobs) > 0 && pc.blobsAhead.CompareAndSwap(false, true) {
		go pc.prefetchBlobs(inBlobs)
	}
	return nil
}

// mostBlobsAhead is how many pages in blobs a Prefetch brings in. One at a time does that: each page takes a wait for the name of its file.
const mostBlobsAhead = 64

// prefetchBlobs begins to bring in the blobs of pages, whose names must be read first.
func (pc *PageCache[P]) prefetchBlobs(pids []PageID) {
	defer pc.blobsAhead.Store(false)
	for _, pid := range pids {
		if !pc.prefetchBlob(pid) {
			return
		}
	}
}

// prefetchBlob is for one page, in a Tx of its own. False: the store is being closed.
func (pc *PageCache[P]) prefetchBlob(pid PageID) bool {
	tx := pc.txs.begin()
	defer tx.End()
	if pc.closed.Load() { // Close waits for Txs that have not seen it
		return false
	}
	_, h, err := pc.head(pid)
	if err != nil || h == nil {
		return true // Get will tell
	}
	if h = h.TailEntry(); h.Kind() == pagestack.KindOnDisk {
		pc.bringIn(h)
		h.Refs(func(r pagestack.Ref) {
			if !r.Ptr.Blob {
				return
			}
			if ptr, err := pc.blobAt(r); err == nil {
				pc.blobs.ahead(ptr)
			}
		})
	}
	return true
}
