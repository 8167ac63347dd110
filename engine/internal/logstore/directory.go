package logstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"pagecache/internal/vfs"
)

// lockPatience is the time that an opening waits for a predecessor to die: after a kill, in-flight work of the kernel
// holds the file for a moment (trap 19).
const lockPatience = 2 * time.Second

// directory decides where the store lies. The path is absolute, so a later change of the working directory changes
// nothing.
func (s *Store) directory(dir string) (string, error) {
	if dir != "" {
		abs, err := s.FS.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("open %s: %w", dir, err)
		}
		return abs, nil
	}
	if !s.c.Temporary {
		return "", errors.New("open: no directory given, and not Temporary")
	}
	parent := "/dev/shm"
	if st, err := os.Stat(parent); err != nil || !st.IsDir() {
		parent = os.TempDir()
	}
	tmp, err := os.MkdirTemp(parent, "pagecache.tmp.")
	if err != nil {
		return "", fmt.Errorf("open: make a temporary directory: %w", err)
	}
	s.madeDir, s.ours = true, true
	return tmp, nil
}

// openFile makes the directory and opens and locks the log file. If the locked file has lost its name, openFile starts
// again: a temporary store removes its files before it releases the lock. The loop ends because each turn takes another
// such store.
func (s *Store) openFile() error {
	if s.c.ReadOnly {
		return s.openFileToRead()
	}
	for deadline := time.Now().Add(lockPatience); ; {
		if _, err := s.FS.ReadDir(s.Dir); errors.Is(err, fs.ErrNotExist) {
			s.madeDir = true
		}
		if err := s.FS.MkdirAll(s.Dir); err != nil {
			return err
		}
		f, err := s.findLog()
		if err != nil {
			return err
		}
		s.file = f
		if err := lockFile(f, vfs.LockExclusive, deadline); err != nil || !s.removed() {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		s.file = nil
	}
}

// openFileToRead opens the log file and takes the lock that readers share.
func (s *Store) openFileToRead() (err error) {
	if s.file, err = s.FS.Open(s.LogFile(), vfs.FlagRead); err != nil {
		return err
	}
	return lockFile(s.file, vfs.LockShared, time.Now().Add(lockPatience))
}

// findLog opens the log file, or makes that of a new store. The log file is made before the superblock and removed
// after it, so if there is a superblock alone, the log was lost.
func (s *Store) findLog() (vfs.File, error) {
	f, err := s.FS.Open(s.LogFile(), vfs.FlagWrite)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	super, err := s.FS.Open(filepath.Join(s.Dir, SuperName), vfs.FlagRead)
	if errors.Is(err, fs.ErrNotExist) {
		return s.FS.Open(s.LogFile(), vfs.FlagWrite|vfs.FlagCreate)
	}
	if err != nil {
		return nil, err
	}
	_ = super.Close()
	f, err = s.FS.Open(s.LogFile(), vfs.FlagWrite) // another process may just have made both
	if errors.Is(err, fs.ErrNotExist) {
		err = CorruptFile(s.LogFile(), "there is a superblock but the log is missing", nil)
	}
	return f, err
}

// lockFile locks f. It tries until the deadline (trap 19).
func lockFile(f vfs.File, kind vfs.LockKind, deadline time.Time) error {
	for ; ; time.Sleep(5 * time.Millisecond) {
		err := f.Lock(kind)
		if !errors.Is(err, vfs.ErrLocked) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %w", ErrLocked, err)
		}
	}
}

// removed reports whether the open log file has lost its name.
func (s *Store) removed() bool {
	f, ok := s.file.(interface{ Stat() (fs.FileInfo, error) })
	if !ok {
		return false // on the simulated disk
	}
	open, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(s.LogFile())
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(open, named)
}
