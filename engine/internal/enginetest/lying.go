package enginetest

import (
	"strings"

	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

// LyingFS is a simulated disk that claims to have done what it has not done.
type LyingFS struct {
	*simdisk.Disk
	NoSyncOf  string                                // files whose paths contain it are not synced; empty: none
	NoSync    bool                                  // no file is synced
	NoSyncDir bool                                  // no directory is synced
	Device    func(vfs.File, vfs.Device) vfs.Device // replaces devices; nil: none
}

// OpenDir opens a directory that lies, and whose files do.
func (l LyingFS) OpenDir(path string) (vfs.Dir, error) {
	w := &simdisk.Wrap{FS: l.Disk, File: l.open, Sync: l.sync}
	return w.OpenDir(path)
}

func (l LyingFS) sync(d vfs.Dir) error {
	if l.NoSyncDir {
		return nil
	}
	return d.Sync()
}

func (l LyingFS) open(d vfs.Dir, name string, flag vfs.Flag) (vfs.File, error) {
	f, err := d.Open(name, flag)
	if err != nil {
		return nil, err
	}
	return lyingFile{f, l}, nil
}

type lyingFile struct {
	vfs.File
	l LyingFS
}

func (f lyingFile) Sync() error {
	if f.l.NoSync || f.l.NoSyncOf != "" && strings.Contains(f.Name(), f.l.NoSyncOf) {
		return nil
	}
	return f.File.Sync()
}

func (f lyingFile) OpenDevice(o vfs.DeviceOptions) (vfs.Device, vfs.DeviceReport, error) {
	d, r, err := f.File.OpenDevice(o)
	if err == nil && f.l.Device != nil {
		d = f.l.Device(f.File, d)
	}
	return d, r, err
}
