package clean

import (
	"pagecache/engine/internal/logstore"
	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

// blockSize is the unit in which the kernel's page cache holds a file.
const blockSize = 4096

// Warmth keeps pages warm that are moved: if the old place of a page was in the kernel's page cache, its new place is
// read into it once its segment is sealed. The log is written past the page cache, so otherwise the first reads of all
// pages that were moved would go to the disk. Its methods run under the cleaner's mutex. Only the cleaner recycles
// segments, so none is recycled while Read reads it.
type Warmth struct {
	Store *logstore.Store

	extent Extent
	warm   []bool       // for each block of the extent: it was in the kernel's page cache when Look looked
	moved  []movedRange // new places in segments that were not sealed yet
}

// movedRange is a part of a segment that pages were moved to.
type movedRange struct {
	base format.LSN // of the segment
	vfs.Range
}

// Look notes which blocks of a segment are warm. It comes before pages are moved out of the segment: that reads cold
// blocks, and other pages may lie in the same ones. It asks the kernel, since the map does not know all warm blocks.
func (w *Warmth) Look(e Extent) {
	w.extent = e
	w.warm = w.Store.View.Cached(w.warm[:0], vfs.Range{Off: int64(e.From), Len: int(e.To - e.From)})
}

// Was reports whether all blocks of a message in the segment that Look has looked at were warm.
func (w *Warmth) Was(ptr format.DiskPtr) bool {
	if ptr.Off < w.extent.From {
		return false
	}
	first, last := (ptr.Off-w.extent.From)/blockSize, (ptr.Off+format.Offset(ptr.Len)-1-w.extent.From)/blockSize
	for i := first; i <= last; i++ {
		if int(i) >= len(w.warm) || !w.warm[i] {
			return false
		}
	}
	return true
}

// Moved notes the new place of a page that was warm.
func (w *Warmth) Moved(lsn format.LSN, ptr format.DiskPtr) {
	from := int64(ptr.Off) &^ (blockSize - 1)
	to := (int64(ptr.Off) + int64(ptr.Len) + blockSize - 1) &^ (blockSize - 1)
	base := lsn - lsn%format.LSN(w.Store.SegmentSize())
	if n := len(w.moved); n > 0 { // pages are mostly moved to places side by side
		last := &w.moved[n-1]
		if last.base == base && from >= last.Off && from <= last.Off+int64(last.Len) {
			last.Len = max(last.Len, int(to-last.Off))
			return
		}
	}
	w.moved = append(w.moved, movedRange{base, vfs.Range{Off: from, Len: int(to - from)}})
}

// Read reads the new places whose segments are sealed by now. An error does not matter: the next Get of such a page
// reads it again, and reports the error.
func (w *Warmth) Read() {
	var sealed []vfs.Range
	later := w.moved[:0]
	for _, m := range w.moved {
		switch g := w.Store.Space.At(format.Offset(m.Off)); {
		case g.Base() != m.base || g.State() == segments.StateFree: // it was recycled
		case g.State() == segments.StateActive: // read from an io buffer (rule 2)
			later = append(later, m)
		default:
			sealed = append(sealed, m.Range)
		}
	}
	if w.moved = later; len(later) == 0 {
		w.moved = nil // release the memory of a burst
	}
	if len(sealed) > 0 {
		_, _ = w.Store.View.Warm(sealed)
	}
}
