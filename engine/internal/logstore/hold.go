package logstore

import (
	"errors"
	"fmt"
	"io"

	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments"
	"pagecache/segments/format"
)

// A Hold keeps the part of the log below its cut as it is: no slot that holds a segment below the cut is used again
// while the hold is open. Everything else goes on. It ends with Release.
type Hold struct {
	r     *Recycler
	image Image
	// late says that segments below the cut leave by a message above it.
	late bool
}

// An Image is the log up to a cut, as it would be if the store had been closed cleanly there. The cut is the stable end
// of some moment, so every batch lies below it as a whole or not at all.
type Image struct {
	// Super is the superblock after such a close, except for NextID and NextPage, which are zero. End is the cut.
	Super    format.Superblock
	Segments []ImageSegment // in the order of the log
}

// An ImageSegment is a segment of an Image.
type ImageSegment struct {
	Slot     format.SegmentID
	Base     format.LSN
	Identity format.Identity
	Seed     format.Seed
	Used     int // bytes up to the end of the last message below the cut, header included
}

// Hold cuts the log at its stable end and holds everything below. It waits for no batch and no Tx.
func (r *Recycler) Hold() *Hold {
	s := r.s
	r.mu.Lock()
	defer r.mu.Unlock()
	cut := s.Log.StableEnd()
	size := format.LSN(s.Super.SegmentSize)
	if cut%size <= format.SegmentStart { // of the last segment, not even the header need be durable
		cut -= cut % size
	}
	h := &Hold{r: r}
	gone := map[format.Identity]bool{}
	if r.leaving.ids != nil && r.leaving.at < cut { // they have left, although their slots may not be free yet
		for _, id := range r.leaving.message.Segments {
			gone[id] = true
		}
	}
	h.late = r.leaving.ids != nil && r.leaving.at >= cut
	h.image = s.imageAt(cut, gone)
	if r.holds == nil {
		r.holds = map[*Hold]struct{}{}
	}
	r.holds[h] = struct{}{}
	return h
}

// Image returns the log below the cut.
func (h *Hold) Image() Image { return h.image }

// Clone returns another hold of the same image.
func (h *Hold) Clone() *Hold {
	h.r.mu.Lock()
	defer h.r.mu.Unlock()
	c := &Hold{r: h.r, image: h.image, late: h.late}
	h.r.holds[c] = struct{}{}
	return c
}

// Late reports whether segments below the cut leave by a message above it. No other segment can leave until the hold
// is released. Another Hold, once the message is stable, does not have them in its image.
func (h *Hold) Late() bool { return h.late }

// Release ends the hold. More than one call does no harm.
func (h *Hold) Release() {
	h.r.mu.Lock()
	defer h.r.mu.Unlock()
	delete(h.r.holds, h)
}

// Holds returns the number of holds that are open.
func (r *Recycler) Holds() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.holds)
}

// keptLocked returns the LSN below which holds keep every segment. mu is held.
func (r *Recycler) keptLocked() (below format.LSN) {
	for h := range r.holds {
		below = max(below, h.image.Super.End)
	}
	return below
}

// holdsAt reports whether a hold has cut the log at or below lsn, where a message is by which segments leave: they
// belong to its image, and so their slots must not become free.
func (r *Recycler) holdsAt(lsn format.LSN) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for h := range r.holds {
		if h.image.Super.End <= lsn {
			return true
		}
	}
	return false
}

// imageAt returns the log up to cut, which is at most the stable end, without the segments in gone. The file ends with
// the last slot that holds a segment.
func (s *Store) imageAt(cut format.LSN, gone map[format.Identity]bool) Image {
	sb := s.super.current()
	sb.Clean, sb.Begun, sb.End, sb.NextID, sb.NextPage = true, true, cut, 0, 0
	sb.Floor, sb.Branch = min(sb.Floor, cut), min(sb.Branch, cut)
	sb.Joined = s.Space.JoinedBelow(cut)
	// In a copy, slots that are not in use were never written, on another disk.
	sb.OutOfUse, sb.Suspects, sb.Extent.Slots = format.SlotList{}, format.SlotList{}, 0
	img := Image{}
	for _, f := range s.Space.Below(cut) {
		if gone[f.Identity] {
			continue
		}
		g := ImageSegment{Slot: f.Slot, Base: f.Base, Identity: f.Identity, Seed: f.Seed}
		g.Used = min(sb.Ends.Used(f.Base, sb.SegmentSize), int(cut-f.Base))
		img.Segments = append(img.Segments, g)
		sb.Extent.Slots = max(sb.Extent.Slots, uint32(f.Slot)+1)
	}
	sb.Begun = len(img.Segments) > 0
	img.Super = sb
	return img
}

// An ImageReader reads the segments of images. It belongs to one goroutine.
type ImageReader struct {
	s    *Store
	bulk vfs.Bulk
	buf  []byte // as long as a segment
	free func()
}

// Piece is the length in bytes of one read of a segment while the store is written to: a flush may have to wait for
// one. QuietPiece is that length while it is not: longer reads keep more of the disk busy.
const Piece, QuietPiece = 512 << 10, 4 << 20

// OpenImages returns a reader of images. It reads past the page cache if the file system supports that.
func (s *Store) OpenImages() (*ImageReader, error) {
	r := &ImageReader{s: s, bulk: s.file.OpenBulk()}
	var err error
	if r.buf, r.free, err = r.bulk.Buffer(s.Super.SegmentSize); err != nil {
		return nil, errors.Join(err, r.bulk.Close())
	}
	return r, nil
}

// Close releases the reader.
func (r *ImageReader) Close() error {
	r.free()
	return r.bulk.Close()
}

// Read reads a piece of the used bytes of a segment that a Hold keeps: most bytes, at most, from offset at on, or, in a
// segment that is still being written, its header or all the rest. It returns where the next piece begins. most is a
// multiple of vfs.BulkAlign. If the disk does not return the piece, the error is a *recovery.CorruptError.
func (r *ImageReader) Read(g ImageSegment, at, most int) (next int, err error) {
	const align, header = vfs.BulkAlign, format.SegmentStart
	switch {
	case !r.isBuffered(g):
	case at == 0:
		return header, r.readFile(g, 0, header) // it is on the disk, and never written again
	case at == header && r.s.Log.Read(r.buf[header:g.Used], g.Base+header):
		return g.Used, nil
	}
	next = min(at+most, (g.Used+align-1)&^(align-1), len(r.buf))
	return next, r.readFile(g, at, next)
}

// Bytes returns the used bytes of the segment that was read last, from its beginning to its end. They are valid until
// the next Read.
func (r *ImageReader) Bytes(g ImageSegment) []byte { return r.buf[:g.Used:g.Used] }

// isBuffered reports whether a segment is still being written: its bytes are read from the io buffer, as by any reader
// (rule 2).
func (r *ImageReader) isBuffered(g ImageSegment) bool {
	return r.s.Space.Segment(g.Slot).State() == segments.StateActive
}

// readFile reads bytes [at, end) of a segment from the file.
func (r *ImageReader) readFile(g ImageSegment, at, end int) error {
	off := g.Slot.Offset(r.s.Super.SegmentSize) + format.Offset(at)
	n, err := r.bulk.ReadAt(r.buf[at:end], int64(off))
	if errors.Is(err, io.EOF) {
		clear(r.buf[at+n : end])
		return nil
	}
	if err != nil && vfs.IsUnreadable(err) {
		place := recovery.Place{}.WithSlot(g.Slot).WithOffset(off).WithLSN(g.Base + format.LSN(at))
		return &recovery.CorruptError{File: r.s.LogFile(), Place: place, Err: err}
	}
	if err != nil {
		return fmt.Errorf("read segment of LSN %v in slot %v: %w", g.Base, g.Slot, err)
	}
	return nil
}

// ReadFile fills p from the log file. Bytes beyond its end are zeros.
func (s *Store) ReadFile(p []byte, off int64) error {
	n, err := s.file.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		return nil
	}
	return err
}

// CloneTo makes bytes [off, off+n) of another file share those of the log file, at the same place: see vfs.Cloner.
func (s *Store) CloneTo(to vfs.File, off, n int64) error { return vfs.Clone(to, s.file, off, n) }

// OpenMap returns another map of the log file, for segments that a Hold keeps. It must be closed before the store is.
func (s *Store) OpenMap(p vfs.Pattern, r vfs.Reader) (vfs.Map, error) { return s.file.OpenMap(p, r) }
