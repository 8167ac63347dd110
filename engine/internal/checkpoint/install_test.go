package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pagecache/engine/internal/logstore"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// beside is a file system that lets something happen beside an Install: opened is called once its directory is open,
// and locking instead of taking a lock, unless it returns nil. It counts the files that are open.
type beside struct {
	vfs.FS
	opened  func()
	locking func(vfs.LockKind) error
	files   int
}

func (b *beside) OpenDir(name string) (vfs.Dir, error) {
	d, err := b.FS.OpenDir(name)
	return besideDir{d, b}, err
}

type besideDir struct {
	vfs.Dir
	b *beside
}

func (d besideDir) OpenDir(name string) (vfs.Dir, error) {
	in, err := d.Dir.OpenDir(name)
	if f := d.b.opened; f != nil && strings.HasSuffix(name, tmpSuffix) {
		d.b.opened = nil
		f()
	}
	return besideDir{in, d.b}, err
}

func (d besideDir) Open(name string, flag vfs.Flag) (vfs.File, error) {
	f, err := d.Dir.Open(name, flag)
	if err != nil {
		return nil, err
	}
	d.b.files++
	return besideFile{f, d.b}, nil
}

type besideFile struct {
	vfs.File
	b *beside
}

func (f besideFile) Lock(k vfs.LockKind) error {
	if f.b.locking != nil {
		if err := f.b.locking(k); err != nil {
			return err
		}
	}
	return f.File.Lock(k)
}

func (f besideFile) Close() error {
	f.b.files--
	return f.File.Close()
}

// install makes an empty store in /copy.
func install(t *testing.T, fsys vfs.FS) error {
	t.Helper()
	_, err := Install(context.Background(), fsys, "/copy", func(string, Info) error { return nil },
		[]io.Reader{bytes.NewReader(emptyStream(t))})
	return err
}

// wantStoreIn fails the test unless a directory has the files of an empty store.
func wantStoreIn(t *testing.T, d *simdisk.Disk, dir string) {
	t.Helper()
	names, err := d.ReadDir(dir)
	if err != nil || !slices.Equal(names, []string{logstore.LogName, logstore.SuperName}) {
		t.Errorf("%s has %v, %v", dir, names, err)
	}
}

// An Install that opened the directory before another one gave it its name does not touch the store in it, even if a
// third one has made a directory of that name since. Proves Z3.
func TestInstallBesideAnother(t *testing.T) {
	for _, third := range []bool{false, true} {
		d := simdisk.New(1, simdisk.Options{})
		b := &beside{FS: d, opened: func() {
			if err := install(t, d); err != nil {
				t.Error(err)
			}
			if !third {
				return
			}
			if err := d.MkdirAll("/copy" + tmpSuffix); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Open("/copy"+tmpSuffix+"/"+logstore.LogName, vfs.FlagWrite|vfs.FlagCreate); err != nil {
				t.Fatal(err)
			}
		}}
		if err := install(t, b); !errors.Is(err, logstore.ErrLocked) {
			t.Errorf("the second Install: %v", err)
		}
		wantStoreIn(t, d, "/copy")
		if b.files != 0 {
			t.Errorf("%d files are open", b.files)
		}
	}
}

// A lock is changed to another kind by releasing it. If another Install takes it in between, the files belong to that
// one. Proves Z3.
func TestInstallLosesItsLock(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	b := &beside{FS: d, locking: func(k vfs.LockKind) error {
		if k == vfs.LockShared {
			return vfs.ErrLocked
		}
		return nil
	}}
	if err := install(t, b); !errors.Is(err, logstore.ErrLocked) {
		t.Errorf("an Install that has lost its lock: %v", err)
	}
	wantStoreIn(t, d, "/copy"+tmpSuffix)
}

// A snapshot that a later stream replaces is closed and removed.
func TestInstallReplacesSnapshots(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	b := &beside{FS: d}
	dir, err := b.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	x := &installer{dir: dir}
	for n := range uint64(3) {
		id := format.SnapshotID{Store: format.StoreID{1}, Number: n + 1}
		if err := errors.Join(x.snapshot(id, 8), x.snapshotData(0, make([]byte, 8))); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := d.ReadDir("/"); err != nil || len(names) != 1 || b.files != 1 {
		t.Errorf("%v, %v; %d files are open", names, err, b.files)
	}
}

// A disk that has room for the directory, and none for a file in it, is left as it was. Proves Z3.
func TestInstallWithoutRoomForAFile(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	d.SetFault(func(op simdisk.Op) error {
		if op.Kind == simdisk.OpOpen && strings.HasSuffix(op.Name, logstore.LogName) {
			return syscall.ENOSPC
		}
		return nil
	})
	if err := install(t, d); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("install on a full disk: %v", err)
	}
	if names, err := d.ReadDir("/"); err != nil || len(names) > 0 {
		t.Errorf("left: %v, %v", names, err)
	}
	d.SetFault(nil)
	if err := install(t, d); err != nil {
		t.Error(err)
	}
}

// Of the files that a crash has left of an Install, none gets into the store of the next one. Proves Z3.
func TestInstallAfterACrash(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	const left = "/copy" + tmpSuffix
	if err := d.MkdirAll(left + "/" + logstore.BlobDir); err != nil {
		t.Fatal(err)
	}
	id := format.SnapshotID{Store: format.StoreID{1}, Number: 1}
	for _, name := range []string{logstore.LogName, id.Name(), logstore.BlobDir + "/" + format.BlobID(7).String()} {
		f, err := d.Open(left+"/"+name, vfs.FlagWrite|vfs.FlagCreate)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("old"), 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := install(t, d); err != nil {
		t.Fatal(err)
	}
	names, err := d.ReadDir("/copy")
	if err != nil || slices.Contains(names, id.Name()) {
		t.Errorf("/copy has %v, %v", names, err)
	}
	if names, err := d.ReadDir("/copy/" + logstore.BlobDir); err == nil && len(names) > 0 {
		t.Errorf("blobs: %v", names)
	}
}
