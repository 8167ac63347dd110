package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"pagecache/internal/vfs"
	"pagecache/mmapread"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// checkedWhole is the size in bytes up to which a snapshot is verified as a whole when it is opened, so that an older
// one or the log can take its place if it is corrupt. That costs some milliseconds. Each block of a larger snapshot is
// verified when it is first used.
const checkedWhole = 16 << 20

// errCopy reports a snapshot that a copy of the store has written.
var errCopy = errors.New("snapshot of another copy of the store")

// Find opens the newest snapshot that is intact. It logs and skips corrupt ones: the log alone is enough. With logAlone
// it opens none, and only finds the number of the newest.
func (s *Store) Find(logAlone bool) error {
	ids, err := s.IDs()
	if err != nil {
		return err
	}
	for _, id := range slices.Backward(ids) {
		s.number = max(s.number, id.Number)
		if logAlone {
			continue
		}
		f, err := s.Open(id)
		if err == nil {
			s.Base, s.file, s.view = f.Snapshot, f.file.File, f.file.Map
			s.from = s.Base.From
			return nil
		}
		if errors.Is(err, errCopy) {
			s.c.Report.Background("snapshot skipped", s.Path(id), err)
		} else {
			s.c.Report.Corruption("snapshot "+s.Path(id)+" skipped", err)
		}
	}
	return nil
}

// IDs returns the ids of the files that are named like snapshots of this store and its timelines, in rising order of
// their numbers.
func (s *Store) IDs() (ids []format.SnapshotID, err error) {
	names, err := s.names()
	for _, name := range names {
		if id, ok := format.ParseSnapshotName(name); ok && s.knows(id) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, byNumber)
	return ids, err
}

func byNumber(a, b format.SnapshotID) int { return cmp.Compare(a.Number, b.Number) }

// Timelines returns the timelines of this store of which there are files, unfinished ones included.
func (s *Store) Timelines() (timelines []format.Timeline, err error) {
	names, err := s.names()
	for _, name := range names {
		id, ok := format.ParseSnapshotName(name)
		if !ok {
			id, ok = format.ParseSnapshotTmpName(name)
		}
		if ok && s.knows(id) {
			timelines = append(timelines, id.Timeline)
		}
	}
	return timelines, err
}

// knows reports whether a snapshot has the id of this store and one of its timelines.
func (s *Store) knows(id format.SnapshotID) bool {
	_, _, known := s.c.Lineage.Span(id.Timeline)
	return id.Store == s.c.Store && (known || id.Timeline == s.c.Timeline)
}

// isOwn reports whether the store, and not a copy of it, wrote the snapshot with this header, whose timeline it knows.
func (s *Store) isOwn(h *format.SnapshotHeader) bool {
	_, end, known := s.c.Lineage.Span(h.Timeline)
	return !known || h.High.IsZero() || h.High < end
}

// Names returns the names of the files that are named like snapshots of any store, for OpenNamed, in rising order of
// their numbers.
func (s *Store) Names() ([]string, error) {
	names, err := s.names()
	var ids []format.SnapshotID
	for _, name := range names {
		if id, ok := format.ParseSnapshotName(name); ok {
			ids = append(ids, id)
		}
	}
	slices.SortStableFunc(ids, byNumber)
	names = names[:0]
	for _, id := range ids {
		names = append(names, id.Name())
	}
	return names, err
}

// names returns the names in the directory.
func (s *Store) names() ([]string, error) {
	dir, err := s.dir()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return dir.ReadDir()
}

// file implements recovery.SnapshotFile.
type file struct {
	vfs.File
	vfs.Map
}

// Guard turns a fault in f into an error.
func (file) Guard(f func() error) error { return mmapread.Guard(f) }

// Close closes the map and the file.
func (f file) Close() error { return errors.Join(f.Map.Close(), f.File.Close()) }

// File is an open snapshot file.
type File struct {
	Snapshot *recovery.Snapshot
	file     file
}

// Close releases the file.
func (f *File) Close() error { return f.file.Close() }

// Open opens a snapshot. A small one is verified as a whole. Errors other than those of reading wrap
// format.ErrSnapshot.
func (s *Store) Open(id format.SnapshotID) (*File, error) {
	f, err := s.OpenFile(id)
	if err != nil {
		return nil, err
	}
	if !s.c.Clean { // rule 11
		size, err := f.Size()
		if err == nil {
			err = f.DropCache(0, size)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	v, err := f.OpenMap(vfs.PatternRandom, s.c.Reader)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	both := file{f, v}
	snap, err := recovery.OpenSnapshot(both, s.Path(id), s.c.Store, s.c.SegmentSize)
	if err == nil {
		err = s.checkHeader(&snap.SnapshotHeader, id)
	}
	if err == nil && snap.RestOffset() <= checkedWhole && !s.c.Unchecked {
		err = snap.Check()
	}
	if err == nil {
		err = checkReserved(snap)
	}
	if err != nil {
		return nil, errors.Join(err, both.Close())
	}
	_ = f.Advise(vfs.PatternRandom) // from now on it is read page by page
	return &File{snap, both}, nil
}

// checkHeader verifies that the header is the one of the snapshot with this id, and that the snapshot is the store's.
func (s *Store) checkHeader(h *format.SnapshotHeader, id format.SnapshotID) error {
	switch {
	case h.Timeline != id.Timeline:
		return fmt.Errorf("%w: its timeline is %v, its name says %v", format.ErrSnapshot, h.Timeline, id.Timeline)
	case !s.isOwn(h):
		return fmt.Errorf("%w: %w: LSN %v is not of its timeline here", format.ErrSnapshot, errCopy, h.High)
	}
	return nil
}

// Verify opens a snapshot and verifies every block of it. If the disk cannot read one, the snapshot is corrupt too. One
// that a copy of the store has written is not looked at.
func (s *Store) Verify(id format.SnapshotID) error {
	f, err := s.Open(id)
	if errors.Is(err, errCopy) {
		return nil
	}
	if err != nil && vfs.IsUnreadable(err) {
		return fmt.Errorf("%w: %w", format.ErrSnapshot, err)
	}
	if err != nil {
		return err
	}
	if err = f.Snapshot.Check(); err != nil {
		err = f.Snapshot.Corrupt(err)
	}
	return errors.Join(err, f.Close())
}

// checkReserved verifies the records of pages 0 and 1, without which no store opens.
func checkReserved(snap *recovery.Snapshot) error {
	for pid := format.PageID(0); pid < min(format.FirstUserPage, snap.NextPage); pid++ {
		p, err := snap.Page(pid)
		if err == nil {
			err = CheckKind(pid, p.Kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// CheckKind reports a record whose kind its page cannot have: page 0 has no messages, and page 1 has a kind of its own,
// which no other page has.
func CheckKind(pid format.PageID, k format.SnapshotKind) error {
	ok := k != format.SnapshotKindCounter
	switch pid {
	case format.MetaPage:
		ok = false
	case format.CounterPage:
		ok = k == format.SnapshotKindCounter
	}
	if ok || k == format.SnapshotKindNone {
		return nil
	}
	return fmt.Errorf("%w: page %d has a record of kind %v", format.ErrSnapshot, pid, k)
}
