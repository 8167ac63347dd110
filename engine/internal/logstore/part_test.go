package logstore

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/internal/vfs"
)

// dyingFile is a file of a disk that takes a second for each error.
type dyingFile struct{ vfs.File }

func (dyingFile) ReadAt([]byte, int64) (int, error) {
	time.Sleep(time.Second)
	return 0, &fs.PathError{Op: "read", Path: "log", Err: syscall.EIO}
}

// A segment on a dying disk is not read block by block for longer than readPatience. Proves rule 10.
func TestReadAroundIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, start := &Store{file: dyingFile{}}, time.Now()
		if _, err := s.readAround(make([]byte, 1<<20), 0); !errors.Is(err, syscall.EIO) {
			t.Error(err)
		}
		if d := time.Since(start); d > readPatience+2*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}
