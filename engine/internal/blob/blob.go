// Package blob stores values that are too long for the log, each in a file of its own.
//
//	B1  The file of a blob and its name are durable before Write returns, so before a message that points to it is
//	    reserved (trap 5).
//	B2  A blob is removed only once the LSN at which it was retired is stable, and every reader that was inside at
//	    that time has left (rule 4), and no Hold keeps it.
//	B3  FindStrays finds every blob to which no message points, as a crash leaves them, and no other file;
//	    RemoveStrays removes them.
//
// A blob that Read returns is the one its pointer names, whole, or the error is a *recovery.CorruptError.
package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"

	"pagecache/engine/internal/report"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// ErrTooLarge reports that a value is longer than a blob can be.
var ErrTooLarge = errors.New("value is too large")

// maxMaps limits how many blobs are mapped at a time, because each map takes a file descriptor. Other blobs are read
// into the heap.
const maxMaps = 256

// Config is what a Store needs. The zero values of Device, Reader and MaxLen can be used.
type Config struct {
	In    vfs.Dir        // the store's directory; must be closed after the Store
	Name  string         // of the directory in it that holds the blobs, and nothing else; made by the first Write
	Store format.StoreID // in the header of each file
	// Timeline is that of this opening, in the header of each file that it writes.
	Timeline format.Timeline
	Device   vfs.DeviceOptions // how long blobs are written; Depth and Buffers are not used
	Reader   vfs.Reader        // of FS; must be closed after the Store
	Report   *report.Reporter
	MaxLen   int // length in bytes of the longest blob; 0: format.MaxBlob
}

// A Store holds the blobs of one store of pages. Safe for concurrent use, except where a method says otherwise.
type Store struct {
	c Config

	held held // the directory of the blobs

	// live maps each format.BlobID to its *file. Written under mu; readers look a blob up without a lock (trap 40).
	// They find every blob that a message which they have read points to: Write and Adopt store it first.
	live sync.Map

	mu      sync.Mutex    // no disk access is made while it is held
	retired []retiredBlob // still in live, too
	holds   map[*Hold]struct{}

	// mapped counts the maps in live, count the blobs, and bytes is the length of all their files. Written under mu. A
	// stale mapped makes a reader open a map in vain, or read without one; statistics read the others.
	mapped, count, bytes atomic.Int64
}

// file is a blob that can be read.
type file struct {
	size int64 // of the file in bytes
	// mapping is nil as long as the blob is not mapped. Written once, under mu; it publishes the map to readers.
	mapping atomic.Pointer[mapping]
}

// mapping is the map of a blob's file, which stays open with it.
type mapping struct {
	file vfs.File
	view vfs.Map
}

func (m *mapping) close() { _, _ = m.view.Close(), m.file.Close() }

// retiredBlob is a blob to which no page's current state points.
type retiredBlob struct {
	id    format.BlobID
	lsn   format.LSN // once this is stable, no crash brings back a message that points to the blob
	epoch uint64     // readers that entered in this epoch or later cannot find the blob
}

// New returns a Store without blobs. It touches no file.
func New(c Config) *Store {
	if c.MaxLen == 0 {
		c.MaxLen = format.MaxBlob
	}
	return &Store{c: c}
}

// find returns a blob that is live, or nil.
func (s *Store) find(id format.BlobID) *file {
	f, _ := s.live.Load(id)
	l, _ := f.(*file)
	return l
}

// path returns the path of the directory of the blobs, for messages.
func (s *Store) path() string { return filepath.Join(s.c.In.Name(), s.c.Name) }

// name returns the path of a blob's file, for messages.
func (s *Store) name(id format.BlobID) string { return filepath.Join(s.path(), id.String()) }

// Adopt makes a blob readable that is already on the disk: recovery has found a message that points to it. Of ptr it
// uses ID and Len. Adopting a blob twice does nothing.
func (s *Store) Adopt(ptr format.BlobPtr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &file{size: format.BlobHeaderSize + ptr.Len}
	if _, known := s.live.LoadOrStore(ptr.ID, l); !known {
		s.count.Add(1)
		s.bytes.Add(l.size)
	}
}

// Discard removes a blob at once, because the write that it was for has failed or lost its race, so no page will ever
// point to it. A Hold keeps it all the same: a part of a commit that points to it may be complete in the log, below
// what the Hold is for.
func (s *Store) Discard(id format.BlobID) {
	s.mu.Lock()
	if s.heldLocked(id) {
		s.retired = append(s.retired, retiredBlob{id: id}) // for nothing but the Hold
		s.mu.Unlock()
		return
	}
	m := s.takeLocked(id)
	s.mu.Unlock()
	s.delete(id, m)
}

// Retire schedules a blob for deletion: no message that is written from now on points to it. Reap deletes it once lsn
// is stable and the oldest reader has entered in epoch or later.
func (s *Store) Retire(id format.BlobID, lsn format.LSN, epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = append(s.retired, retiredBlob{id, lsn, epoch})
}

// Waiting returns how many blobs are retired and not deleted yet.
func (s *Store) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.retired)
}

// Reap deletes the retired blobs that are no longer needed, and returns how many. stable is the LSN below which the
// log is stable, oldest the epoch in which the oldest reader has entered.
func (s *Store) Reap(stable format.LSN, oldest uint64) (n int) {
	s.mu.Lock()
	maps := map[format.BlobID]*mapping{}
	kept := s.retired[:0]
	for _, r := range s.retired {
		if stable < r.lsn || r.epoch > oldest || s.heldLocked(r.id) {
			kept = append(kept, r)
			continue
		}
		if m := s.takeLocked(r.id); m != nil || maps[r.id] == nil {
			maps[r.id] = m
		}
		n++
	}
	s.retired = kept
	s.mu.Unlock()
	for id, m := range maps {
		s.delete(id, m)
	}
	return n
}

// takeLocked removes a blob from those that can be read, and returns its map, or nil.
func (s *Store) takeLocked(id format.BlobID) *mapping {
	f := s.find(id)
	if f == nil {
		return nil
	}
	s.live.Delete(id)
	s.count.Add(-1)
	s.bytes.Add(-f.size)
	return s.unmapLocked(f)
}

// unmapLocked returns the map of a blob, which the caller closes, or nil. Nobody uses the blob any more.
func (s *Store) unmapLocked(f *file) *mapping {
	m := f.mapping.Swap(nil)
	if m != nil {
		s.mapped.Add(-1)
	}
	return m
}

// delete closes the map of a blob that cannot be read any more, if it has one, and removes its file.
func (s *Store) delete(id format.BlobID, m *mapping) {
	if m != nil {
		m.close()
	}
	if err := s.remove(id); err != nil { // RemoveStrays of the next opening tries again
		s.c.Report.Background("blob not removed", s.name(id), err)
	}
}

// remove removes a file, if it exists.
func (s *Store) remove(id format.BlobID) error {
	dir, err := s.dir()
	if err == nil {
		err = dir.Remove(id.String())
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// strays calls f with each blob in the directory that is not live.
func (s *Store) strays(live func(format.BlobID) bool, f func(format.BlobID) error) error {
	dir, err := s.dir()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var names []string
	if err == nil {
		names, err = dir.ReadDir()
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if id, ok := format.ParseBlobID(name); ok && !live(id) {
			if err := f(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// FindStrays returns the blobs that were neither adopted nor written: those that crashes have left. It changes nothing.
// The caller calls it when recovery has adopted all blobs, before the first Write.
func (s *Store) FindStrays() (ids []format.BlobID, err error) {
	live := func(id format.BlobID) bool { return s.find(id) != nil }
	err = s.strays(live, func(id format.BlobID) error {
		ids = append(ids, id)
		return nil
	})
	return ids, err
}

// RemoveStrays removes blobs that FindStrays has found. It stops at the first that cannot be removed.
func (s *Store) RemoveStrays(ids []format.BlobID) error {
	for _, id := range ids {
		if err := s.remove(id); err != nil {
			return fmt.Errorf("remove stray blob: %w", err)
		}
	}
	return nil
}

// Strays counts the blobs in the directory for which live returns false. It changes nothing.
func (s *Store) Strays(live func(format.BlobID) bool) (n int64, err error) {
	err = s.strays(live, func(format.BlobID) error { n++; return nil })
	return n, err
}

// Count returns how many blobs exist, retired ones included, and the bytes of their files.
func (s *Store) Count() (n int, bytes int64) { return int(s.count.Load()), s.bytes.Load() }

// Close unmaps all blobs, which ends the validity of all contents that Read has returned. The files stay. A nil Store
// has nothing to close.
func (s *Store) Close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.live.Range {
		if m := s.unmapLocked(f.(*file)); m != nil {
			m.close()
		}
	}
	s.held.close()
}

// Remove removes all blobs and the directory of a temporary store, as far as that works. Nothing else may use the
// Store. A nil Store has nothing to remove.
func (s *Store) Remove() {
	if s == nil {
		return
	}
	for id := range s.live.Range {
		_ = s.remove(id.(format.BlobID))
	}
	for _, r := range s.retired {
		_ = s.remove(r.id)
	}
	if dir, err := s.dir(); err == nil {
		_ = dir.Unlink()
	}
}
