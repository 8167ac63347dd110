package logstore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pagecache/internal/vfs"
)

// tmpPrefix is what the names of the directories of temporary stores begin with, which no caller has named.
const tmpPrefix = "pagecache.tmp."

// memoryDir is a file system in memory, and memoryRoom returns the number of its free bytes. Tests change them.
var memoryDir, memoryRoom = "/dev/shm", room

// tmpSegments is the number of segments that a file system in memory must have room for. A smaller one, such as those
// of containers, would soon be full.
const tmpSegments = 16

// unfinished is the age at which a directory without a store is not one that is just being made.
const unfinished = time.Hour

// makeTemporary makes the directory of a temporary store, in memory if there is room. It first removes the stores that
// dead processes have left.
func (s *Store) makeTemporary() (string, error) {
	size := int64(s.c.SegmentSize)
	if size == 0 {
		size = DefaultSegmentSize
	}
	s.removeDead(memoryDir)
	s.removeDead(os.TempDir())
	if memoryRoom(memoryDir) >= tmpSegments*size {
		if tmp, err := os.MkdirTemp(memoryDir, tmpPrefix); err == nil {
			return tmp, nil
		} // it may be read only, or have no room for a name
	}
	return os.MkdirTemp(os.TempDir(), tmpPrefix)
}

// removeDead removes the temporary stores in parent whose process is dead: nobody has locked them. It removes nothing
// that is not known to be a store's, and follows no symbolic link. Errors do not matter; another opening tries again.
func (s *Store) removeDead(parent string) {
	held, err := s.FS.OpenDir(parent)
	if err != nil {
		return
	}
	defer held.Close()
	names, err := held.ReadDir()
	if err != nil {
		return
	}
	for _, name := range names {
		if !strings.HasPrefix(name, tmpPrefix) {
			continue
		}
		dir, err := held.OpenDir(name)
		if err != nil {
			continue
		}
		if err := destroy(dir, 0); err == nil || !errors.Is(err, ErrLocked) && isOld(filepath.Join(parent, name)) {
			removeBeginning(dir)
			_ = dir.Unlink()
		}
		_ = dir.Close()
	}
}

// isOld reports whether nothing was made or removed in a directory of late.
func isOld(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && time.Since(st.ModTime()) > unfinished
}

// removeBeginning removes the files of a store that was never finished: an empty log, and a superblock without its
// name.
func removeBeginning(dir vfs.Dir) {
	_ = dir.Remove(superTmpName)
	f, err := dir.Open(LogName, vfs.FlagWrite)
	if err != nil {
		return
	}
	defer f.Close()
	if size, err := f.Size(); err == nil && size == 0 && f.Lock(vfs.LockExclusive) == nil {
		_ = dir.Remove(LogName)
	}
}
