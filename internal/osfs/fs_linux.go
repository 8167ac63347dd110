package osfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"pagecache/internal/vfs"
)

// OS is the file system of the operating system.
var OS vfs.FS = osFS{}

type osFS struct{}

func (osFS) MkdirAll(dir string) error {
	dir = filepath.Clean(dir)
	st, err := os.Stat(dir)
	if err == nil {
		if !st.IsDir() {
			return pathError("mkdir", dir, unix.ENOTDIR)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := OS.MkdirAll(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(parent)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (osFS) Abs(name string) (string, error) { return filepath.Abs(name) }

func (osFS) OpenDir(dir string) (vfs.Dir, error) {
	dir = filepath.Clean(dir)
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Open(dir, dirMode, 0)
		return err
	})
	if err != nil {
		return nil, pathError("open", dir, err)
	}
	return &osDir{f: os.NewFile(uintptr(fd), dir)}, nil
}
