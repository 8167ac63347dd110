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

// notRemoved is what is reported about a file that stays behind.
const notRemoved = "temporary store not removed"

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
	tmp, err := s.makeTemporary()
	if err != nil {
		return "", fmt.Errorf("open: make a temporary directory: %w", err)
	}
	s.madeDir, s.ours = true, true
	return tmp, nil
}

// openFile opens or makes the directory, and opens and locks the log file. If one of them was removed before the lock
// was taken, openFile starts again: a temporary store removes its files before it releases the lock. The loop ends
// because each turn takes another such store.
func (s *Store) openFile() error {
	if s.c.ReadOnly {
		return s.openFileToRead()
	}
	for deadline := time.Now().Add(lockPatience); ; {
		err := s.lockLog(deadline)
		removed := errors.Is(err, fs.ErrNotExist) && s.Held != nil && (s.file != nil || s.dirRemoved())
		if !removed {
			return err
		}
		if s.file != nil {
			_ = s.file.Close()
		}
		_ = s.Held.Close()
		s.file, s.Held = nil, nil
	}
}

// lockLog is one try of openFile.
func (s *Store) lockLog(deadline time.Time) error {
	if err := s.openDir(); err != nil {
		return err
	}
	f, err := s.findLog()
	if err != nil {
		return err
	}
	s.file = f
	if err := lockFile(f, vfs.LockExclusive, deadline); err != nil {
		return err
	}
	return s.Lost()
}

// openDir opens the directory, and makes it if it is missing.
func (s *Store) openDir() (err error) {
	s.Held, err = s.FS.OpenDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		s.madeDir = true
		if err = s.FS.MkdirAll(s.Dir); err == nil {
			s.Held, err = s.FS.OpenDir(s.Dir)
		}
	}
	return err
}

// syncParent makes the name of the directory durable, unless openDir has made the directory, and so done that. It may
// have been made a moment ago, by the caller or by an opening that was killed before it could sync. If the directory
// above cannot be opened or synced, as with one that the process must not read, nothing is done about it.
func (s *Store) syncParent() {
	if s.madeDir {
		return
	}
	if d, err := s.FS.OpenDir(filepath.Dir(s.Dir)); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}

// openFileToRead opens the log file and takes the lock that readers share.
func (s *Store) openFileToRead() (err error) {
	if s.Held, err = s.FS.OpenDir(s.Dir); err != nil {
		return err
	}
	f, err := s.Held.Open(LogName, vfs.FlagRead)
	if err != nil {
		return err
	}
	s.file = f
	return lockFile(f, vfs.LockShared, time.Now().Add(lockPatience))
}

// findLog opens the log file, or makes that of a new store. The log file is made before the superblock and removed
// after it, so if there is a superblock alone, the log was lost.
func (s *Store) findLog() (vfs.File, error) {
	f, err := s.Held.Open(LogName, vfs.FlagWrite)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	super, err := s.Held.Open(SuperName, vfs.FlagRead)
	if errors.Is(err, fs.ErrNotExist) {
		s.madeLog = true
		return s.Held.Open(LogName, vfs.FlagWrite|vfs.FlagCreate)
	}
	if err != nil {
		return nil, err
	}
	_ = super.Close()
	f, err = s.Held.Open(LogName, vfs.FlagWrite) // another process may just have made both
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

// Lost returns an error that wraps fs.ErrNotExist if the log file has lost its name in the held directory, because the
// file, or the directory with it, was removed or replaced since the store was opened (rule 15).
func (s *Store) Lost() error {
	open, err := s.file.Identity()
	if err != nil {
		return err
	}
	named, err := s.Held.Identify(LogName)
	switch {
	case err == nil && named == open:
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case s.dirRemoved():
		return fmt.Errorf("directory %s was removed while the store was open: %w", s.Dir, fs.ErrNotExist)
	}
	return fmt.Errorf("log file %s was removed or replaced while the store was open: %w", s.LogFile(), fs.ErrNotExist)
}

// dirRemoved reports whether the held directory was removed.
func (s *Store) dirRemoved() bool {
	_, err := s.Held.ReadDir()
	return errors.Is(err, fs.ErrNotExist)
}

// removeFiles removes a temporary store, or the beginning of a new one, as far as it belongs to this opening. Unlink
// fails, rightly, if somebody put something into the directory, or another one in its place.
func (s *Store) removeFiles() {
	if s.ours && s.Held != nil {
		if s.c.Temporary {
			for _, a := range s.attached {
				a.Remove()
			}
		}
		for _, n := range []string{superTmpName, SuperName, LogName} {
			err := s.Held.Remove(n)
			if s.c.Temporary && !errors.Is(err, fs.ErrNotExist) {
				s.c.Report.Background(notRemoved, filepath.Join(s.Dir, n), err)
			}
		}
	}
	switch {
	case !s.madeDir:
	case s.Held != nil:
		err := s.Held.Unlink() // fails if a blob or a snapshot is left
		if s.c.Temporary && !errors.Is(err, fs.ErrNotExist) {
			s.c.Report.Background(notRemoved, s.Dir, err)
		}
	case s.ours:
		_ = os.Remove(s.Dir) // it was made a moment ago and could not be opened
	}
}
