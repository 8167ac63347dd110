package blob

import (
	"fmt"
	"maps"
	"slices"

	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// A Hold keeps blobs from being removed. It ends with Release. Its methods are called by one goroutine at a time.
type Hold struct {
	s *Store
	// blobs are those that are kept, with the length of their files; nil: all. Guarded by s.mu.
	blobs map[format.BlobID]int64
}

// Hold keeps all blobs, also those that are written from now on, until Keep names fewer.
func (s *Store) Hold() *Hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &Hold{s: s}
	if s.holds == nil {
		s.holds = map[*Hold]struct{}{}
	}
	s.holds[h] = struct{}{}
	return h
}

// Keep lets the hold keep only the blobs that exist now and that a page could refer to at cut, an LSN that was stable
// after Hold had returned.
func (h *Hold) Keep(cut format.LSN) {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	blobs := map[format.BlobID]int64{}
	for id, f := range h.s.live.Range {
		blobs[id.(format.BlobID)] = f.(*file).size
	}
	for _, r := range h.s.retired {
		if r.lsn <= cut {
			delete(blobs, r.id)
		}
	}
	h.blobs = blobs
}

// Clone returns another hold of the same blobs.
func (h *Hold) Clone() *Hold {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	c := &Hold{h.s, h.blobs}
	h.s.holds[c] = struct{}{}
	return c
}

// IDs returns the blobs that Keep has found, in rising order.
func (h *Hold) IDs() []format.BlobID { return slices.Sorted(maps.Keys(h.blobs)) }

// Has reports whether Keep has found a blob.
func (h *Hold) Has(id format.BlobID) bool { _, ok := h.blobs[id]; return ok }

// Size returns the length of the file of a blob that Keep has found.
func (h *Hold) Size(id format.BlobID) int64 { return h.blobs[id] }

// Release ends the hold. More than one call does no harm.
func (h *Hold) Release() {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	delete(h.s.holds, h)
}

// heldLocked reports whether a hold keeps a blob. mu is held.
func (s *Store) heldLocked(id format.BlobID) bool {
	for h := range s.holds {
		if h.blobs == nil {
			return true
		}
		if _, ok := h.blobs[id]; ok {
			return true
		}
	}
	return false
}

// IDs returns the ids of all blobs that exist, retired ones included.
func (s *Store) IDs() (ids []format.BlobID) {
	for id := range s.live.Range {
		ids = append(ids, id.(format.BlobID))
	}
	slices.Sort(ids)
	return ids
}

// Has reports whether a blob exists.
func (s *Store) Has(id format.BlobID) bool { return s.find(id) != nil }

// OpenFile opens the file of a blob.
func (s *Store) OpenFile(id format.BlobID) (vfs.File, error) {
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	return dir.Open(id.String(), vfs.FlagRead)
}

// Corrupt returns the error for a blob that is not as it should be because of err.
func (s *Store) Corrupt(id format.BlobID, err error) error { return s.corrupt(id, err) }

// CheckFiles verifies that there is a file for each blob, of the right length and with the right header. It reads no
// contents. Errors are *recovery.CorruptError and those of reading.
func (s *Store) CheckFiles() error {
	for id, f := range s.live.Range {
		if err := s.checkFile(id.(format.BlobID), f.(*file).size); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) checkFile(id format.BlobID, want int64) error {
	f, err := s.OpenFile(id)
	if err != nil {
		return s.corrupt(id, err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size != want {
		return s.corrupt(id, fmt.Errorf("%w: its file is %d bytes long, not %d", format.ErrBlob, size, want))
	}
	header := make([]byte, format.BlobHeaderSize)
	if _, err := f.ReadAt(header, 0); err != nil {
		return s.corrupt(id, err)
	}
	ptr, store, err := format.DecodeBlobHeader(header)
	if err == nil && (ptr.ID != id || ptr.Len != want-format.BlobHeaderSize || store != s.c.Store) {
		err = fmt.Errorf("%w: its header is that of another blob", format.ErrBlob)
	}
	if err != nil {
		return s.corrupt(id, err)
	}
	return nil
}
