package blob

import (
	"errors"
	"fmt"
	"io/fs"

	"pagecache/internal/vfs"
	"pagecache/mmapread"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// Read returns the contents of the blob that ptr points to, after it has verified all of them. It blocks while they
// are read from the disk. view reports whether contents lie in a map; otherwise they are memory of their own. A view
// is valid until the blob is removed, which is after every reader has left that could have called Read for it, or
// until Close.
//
// If the blob is missing, unreadable or not what ptr says, the error is a *recovery.CorruptError with the file's name.
// The caller adds the place of the message that points to the blob.
func (s *Store) Read(ptr format.BlobPtr) (contents []byte, view bool, err error) {
	contents, view, err = s.contents(ptr)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, format.ErrBlob) || vfs.IsUnreadable(err) {
		err = s.corrupt(ptr.ID, err)
	}
	return contents, view, err
}

// corrupt returns the error for a blob that cannot be read because of err.
func (s *Store) corrupt(id format.BlobID, err error) error {
	return &recovery.CorruptError{File: s.name(id), Reason: "read blob", Err: err}
}

func (s *Store) contents(ptr format.BlobPtr) (contents []byte, view bool, err error) {
	v, f, err := s.open(ptr.ID)
	if err != nil {
		return nil, false, err
	}
	if v == nil {
		defer f.Close()
	}
	size, err := f.Size()
	if err == nil && size != format.BlobHeaderSize+ptr.Len {
		err = fmt.Errorf("%w: its file is %d bytes long, not %d", format.ErrBlob, size, format.BlobHeaderSize+ptr.Len)
	}
	if err != nil {
		return nil, false, err
	}
	if v == nil {
		all := make([]byte, size) // no longer than the file (rule 12)
		if _, err := f.ReadAt(all, 0); err != nil {
			return nil, false, err
		}
		contents, err = verify(ptr, s.c.Store, all)
		return contents, false, err
	}
	err = mmapread.Guard(func() error {
		all, err := v.View(0, int(size))
		if err == nil {
			contents, err = verify(ptr, s.c.Store, all)
		}
		return err
	})
	return contents, len(contents) > 0 && v.Holds(format.BlobHeaderSize, contents), err
}

// verify checks all bytes of a blob's file and returns the contents among them.
func verify(ptr format.BlobPtr, store format.StoreID, all []byte) ([]byte, error) {
	contents := all[format.BlobHeaderSize:len(all):len(all)]
	err := ptr.CheckHeader(all[:format.BlobHeaderSize], store)
	if err == nil {
		err = ptr.CheckContents(contents)
	}
	return contents, err
}

// open returns the file of a blob and its map. The map stays open until the blob is removed. If the map is nil the
// caller must close the file.
func (s *Store) open(id format.BlobID) (vfs.Map, vfs.File, error) {
	l := s.find(id)
	if l != nil {
		if m := l.mapping.Load(); m != nil {
			return m.view, m.file, nil
		}
	}
	dir, err := s.dir()
	if err != nil {
		return nil, nil, err
	}
	f, err := dir.Open(id.String(), vfs.FlagRead)
	if err != nil {
		return nil, nil, err
	}
	if l == nil || s.mapped.Load() >= maxMaps {
		return nil, f, nil
	}
	v, err := f.OpenMap(vfs.PatternSequential, s.c.Reader)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	own := &mapping{f, v}
	if m := s.install(id, l, own); m != nil {
		if m != own {
			own.close()
		}
		return m.view, m.file, nil
	}
	_ = v.Close()
	return nil, f, nil
}

// install makes m the map of the blob l, unless it has one, and returns the blob's map; nil if there are too many maps,
// or the blob was removed.
func (s *Store) install(id format.BlobID, l *file, m *mapping) *mapping {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := l.mapping.Load(); now != nil {
		return now
	}
	if s.find(id) != l || s.mapped.Load() >= maxMaps {
		return nil
	}
	l.mapping.Store(m)
	s.mapped.Add(1)
	return m
}

// ReadAhead starts to read a blob into the page cache and does not wait for that. It is a hint: Read reports errors.
func (s *Store) ReadAhead(ptr format.BlobPtr) {
	v, f, err := s.open(ptr.ID)
	switch {
	case err != nil:
	case v == nil:
		_ = f.Close()
	default:
		v.ReadAhead([]vfs.Range{{Len: int(format.BlobHeaderSize + ptr.Len)}})
	}
}
