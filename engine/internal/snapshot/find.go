package snapshot

import (
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

// Find opens the newest snapshot that is intact. It logs and skips corrupt ones: the log alone is enough. With logAlone
// it opens none, and only finds the number of the newest.
func (s *Store) Find(logAlone bool) error {
	numbers, err := s.Numbers()
	if err != nil {
		return err
	}
	for _, number := range slices.Backward(numbers) {
		s.number = max(s.number, number)
		if logAlone {
			continue
		}
		f, err := s.Open(number)
		if err == nil {
			s.Base, s.file, s.view = f.Snapshot, f.file.File, f.file.Map
			s.from = s.Base.From
			return nil
		}
		s.c.Logger.Warn("snapshot skipped", "file", s.Path(number), "err", err)
	}
	return nil
}

// Numbers returns the numbers of the files that are named like snapshots of this store, in rising order.
func (s *Store) Numbers() (numbers []uint64, err error) {
	err = s.names(func(_ string, store format.StoreID, n uint64) {
		if store == s.c.Store {
			numbers = append(numbers, n)
		}
	})
	slices.Sort(numbers)
	return numbers, err
}

// Names returns the names of the files that are named like snapshots of any store, for OpenNamed.
func (s *Store) Names() (names []string, err error) {
	err = s.names(func(name string, _ format.StoreID, _ uint64) { names = append(names, name) })
	return names, err
}

// names calls visit with each name in the directory that is like that of a snapshot.
func (s *Store) names(visit func(name string, store format.StoreID, number uint64)) error {
	dir, err := s.dir()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	names, err := dir.ReadDir()
	for _, name := range names {
		if store, n, ok := format.ParseSnapshotName(name); ok {
			visit(name, store, n)
		}
	}
	return err
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
func (s *Store) Open(number uint64) (*File, error) {
	f, err := s.OpenFile(number)
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
	snap, err := recovery.OpenSnapshot(both, s.Path(number), s.c.Store, s.c.SegmentSize)
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

// Verify opens a snapshot and verifies every block of it. If the disk cannot read one, the snapshot is corrupt too.
func (s *Store) Verify(number uint64) error {
	f, err := s.Open(number)
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

// CheckKind reports a record whose kind its page cannot have: pages 0 and 1 have kinds of their own, which no other
// page has.
func CheckKind(pid format.PageID, k format.SnapshotKind) error {
	ok := k != format.SnapshotKindMeta && k != format.SnapshotKindCounter
	switch pid {
	case format.MetaPage:
		ok = k == format.SnapshotKindMeta
	case format.CounterPage:
		ok = k == format.SnapshotKindCounter
	}
	if ok || k == format.SnapshotKindNone {
		return nil
	}
	return fmt.Errorf("%w: page %d has a record of kind %v", format.ErrSnapshot, pid, k)
}
