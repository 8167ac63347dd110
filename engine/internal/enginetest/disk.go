package enginetest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"pagecache/engine"
	"pagecache/engine/internal/logstore"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// The names of a store's files in its directory.
const (
	LogName   = logstore.LogName
	SuperName = logstore.SuperName
	BlobDir   = "blobs"
)

// LogEnd reads where the log of a store ends, without opening the store. It returns false if there is no store.
func LogEnd(fsys vfs.FS, dir string) (engine.LSN, bool, error) {
	d, err := fsys.OpenDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer d.Close()
	if _, err := logstore.ReadSuper(d); errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	res, err := scanLog(d)
	if err != nil {
		return 0, true, err
	}
	return res.End, true, nil
}

// ScanLog reads the log of a store without opening the store, and without snapshots.
func ScanLog(fsys vfs.FS, dir string) (*recovery.Result, error) {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return scanLog(d)
}

func scanLog(d vfs.Dir) (*recovery.Result, error) {
	sb, err := logstore.ReadSuper(d)
	if err != nil {
		return nil, err
	}
	log, err := d.Open(LogName, vfs.FlagRead)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	return recovery.Scan(log, ScanOptions(sb))
}

// ScanOptions returns the options for a scan of the log of the store with this superblock.
func ScanOptions(sb format.Superblock) recovery.Options {
	return recovery.Options{Store: sb.Store, SegmentSize: sb.SegmentSize, Generation: sb.Generation, Clean: sb.Clean,
		End: sb.End, Floor: sb.Floor, Joined: sb.Joined, Lineage: sb.Lineage(), Listed: sb.Listed, Log: sb.Log,
		File: LogName, OutOfUse: sb.OutOfUse.Slots(), Ends: sb.Ends}
}

// Files returns the contents of all files of the store in /store, by name, without its blobs.
func Files(t testing.TB, fsys vfs.FS) map[string]string {
	t.Helper()
	d, err := fsys.OpenDir("/store")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	names, err := d.ReadDir()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, n := range names {
		if n == BlobDir {
			continue
		}
		f, err := d.Open(n, vfs.FlagRead)
		if err != nil {
			t.Fatal(err)
		}
		size, _ := f.Size()
		b := make([]byte, size)
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		m[n] = string(b)
		f.Close()
	}
	return m
}

// TreeFiles returns the contents of all files below a directory of the operating system, by path.
func TreeFiles(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		m[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// ReadDir returns the names in a directory.
func ReadDir(fsys vfs.FS, path string) ([]string, error) {
	d, err := fsys.OpenDir(path)
	if err != nil {
		return nil, err
	}
	names, err := d.ReadDir()
	return names, errors.Join(err, d.Close())
}

// SyncDir makes the entries of a directory durable.
func SyncDir(fsys vfs.FS, path string) error {
	d, err := fsys.OpenDir(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// BlobNames returns the names of the blob files of the store in dir.
func BlobNames(t testing.TB, fsys vfs.FS, dir string) []string {
	t.Helper()
	names, err := ReadDir(fsys, filepath.Join(dir, BlobDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return names
}

// SnapshotFiles returns the names in dir that begin with "snapshot".
func SnapshotFiles(t testing.TB, fsys vfs.FS, dir string) (names []string) {
	t.Helper()
	all, err := ReadDir(fsys, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		if strings.HasPrefix(n, "snapshot") {
			names = append(names, n)
		}
	}
	return names
}

// DirtyStore makes a store on d with one durable page, "durable", and crashes the disk. It returns the disk after the
// crash and the page.
func DirtyStore(t testing.TB, d *simdisk.Disk) (*simdisk.Disk, engine.PageID) {
	t.Helper()
	pc := OpenSim(t, d)
	pid, _ := Allocate(t, pc, []byte("durable"))
	Flush(t, pc)
	next := d.Crash(1)
	_ = pc.Close()
	return next, pid
}

// Mapped returns how many bytes of accessible memory are mapped outside of the heap of Go's collector, which grows by
// 64 MiB at a time and whenever the collector is late. The C library reserves that much for a thread, but cannot access
// it. With the race detector the heap counts: io buffers lie there.
func Mapped(t testing.TB) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	type area struct {
		from, to   uintptr
		accessible int
	}
	var areas []area // neighbours that touch are one
	for line := range strings.Lines(string(b)) {
		var from, to uintptr
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if k := len(areas); k == 0 || areas[k-1].to != from {
			areas = append(areas, area{from: from})
		}
		a := &areas[len(areas)-1]
		if a.to = to; mode != "---p" {
			a.accessible += int(to - from)
		}
	}
	object := uintptr(unsafe.Pointer(unsafe.SliceData(b))) // the runtime places the heap as a whole anywhere
	for _, a := range areas {
		if Raced || object < a.from || object >= a.to {
			n += a.accessible
		}
	}
	return n
}
