package blob

import (
	"errors"
	"io/fs"
	"sync"

	"pagecache/internal/vfs"
)

// held is the directory of the blobs. It is opened when it is first needed, and stays open until Close: if the store's
// directory is moved, the blobs move with it (rule 15).
type held struct {
	mu   sync.Mutex
	dir  vfs.Dir // nil: not open
	made bool    // its name is durable
}

// Find opens the directory of the blobs if it exists. Anything else under its name is an error. The caller calls it
// before it writes anything, so that a later call does not fail for that.
func (s *Store) Find() error {
	_, err := s.dir()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// dir returns the directory. If there is none yet the error wraps fs.ErrNotExist.
func (s *Store) dir() (vfs.Dir, error) {
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	return s.dirLocked()
}

func (s *Store) dirLocked() (vfs.Dir, error) {
	h := &s.held
	if h.dir == nil {
		dir, err := s.c.In.OpenDir(s.c.Name)
		if err != nil {
			return nil, err
		}
		h.dir = dir
	}
	return h.dir, nil
}

// makeDir returns the directory, and makes it, durably, if there is none yet.
func (s *Store) makeDir() (vfs.Dir, error) {
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	h := &s.held
	if h.made {
		return h.dir, nil
	}
	dir, err := s.dirLocked()
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.c.In.Mkdir(s.c.Name); err == nil || errors.Is(err, fs.ErrExist) {
			dir, err = s.dirLocked()
		}
	}
	if err == nil {
		err = s.c.In.Sync() // also if it exists: the opening that made it may have been cut off
	}
	h.made = err == nil
	return dir, err
}

func (h *held) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dir != nil {
		_ = h.dir.Close()
	}
	h.dir, h.made = nil, false
}
