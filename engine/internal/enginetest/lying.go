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

// SyncDir syncs a directory, or only claims to.
func (l LyingFS) SyncDir(dir string) error {
	if l.NoSyncDir {
		return nil
	}
	return l.Disk.SyncDir(dir)
}

// Open opens a file that lies, too.
func (l LyingFS) Open(name string, flag vfs.Flag) (vfs.File, error) {
	f, err := l.Disk.Open(name, flag)
	return lyingFile{f, l}, err
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
