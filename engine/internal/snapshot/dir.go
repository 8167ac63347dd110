package snapshot

import (
	"errors"
	"io/fs"
	"sync"

	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// held is the directory of the snapshots, if it is not the store's. It is opened when it is first needed, and stays
// open until Close: if it is moved, the snapshots move with it (rule 15).
type held struct {
	mu  sync.Mutex
	dir vfs.Dir // nil: not open
}

// path returns the path of the directory, for messages.
func (s *Store) path() string {
	if s.c.OwnDir != "" {
		return s.c.OwnDir
	}
	return s.c.In.Name()
}

// dir returns the directory. If there is none yet the error wraps fs.ErrNotExist.
func (s *Store) dir() (vfs.Dir, error) {
	if s.c.OwnDir == "" {
		return s.c.In, nil
	}
	h := &s.held
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dir == nil {
		dir, err := s.c.FS.OpenDir(s.c.OwnDir)
		if err != nil {
			return nil, err
		}
		h.dir = dir
	}
	return h.dir, nil
}

// makeDir returns the directory for a new snapshot, and makes it, durably, if there is none yet.
func (s *Store) makeDir() (vfs.Dir, error) {
	if s.c.Lost != nil {
		if err := s.c.Lost(); err != nil {
			return nil, err
		}
	}
	dir, err := s.dir()
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.c.FS.MkdirAll(s.c.OwnDir); err == nil {
			dir, err = s.dir()
		}
	}
	return dir, err
}

// OpenFile opens the file of a snapshot. It does not look into it.
func (s *Store) OpenFile(id format.SnapshotID) (vfs.File, error) {
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	return dir.Open(id.Name(), vfs.FlagRead)
}

// OpenNamed opens a file that Names has listed.
func (s *Store) OpenNamed(name string) (vfs.File, error) {
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	return dir.Open(name, vfs.FlagRead)
}

func (h *held) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dir != nil {
		_ = h.dir.Close()
	}
	h.dir = nil
}
