package blob

import (
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"

	"pagecache/internal/vfs"
)

// held is the directory of the blobs. It is opened when it is first needed, and stays open until Close: if the store's
// directory is moved, the blobs move with it (rule 15).
type held struct {
	// open is nil as long as the directory is not open. Written under mu; it publishes the directory.
	open atomic.Pointer[vfs.Dir]
	mu   sync.Mutex
	made bool // its name is durable; guarded by mu
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
	if dir := s.held.open.Load(); dir != nil {
		return *dir, nil
	}
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	return s.dirLocked()
}

func (s *Store) dirLocked() (vfs.Dir, error) {
	h := &s.held
	if dir := h.open.Load(); dir != nil {
		return *dir, nil
	}
	dir, err := s.c.In.OpenDir(s.c.Name)
	if err != nil {
		return nil, err
	}
	h.open.Store(&dir)
	return dir, nil
}

// makeDir returns the directory, and makes it, durably, if there is none yet.
func (s *Store) makeDir() (vfs.Dir, error) {
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	h := &s.held
	dir, err := s.dirLocked()
	if err == nil && h.made {
		return dir, nil
	}
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
	if dir := h.open.Swap(nil); dir != nil {
		_ = (*dir).Close()
	}
	h.made = false
}
