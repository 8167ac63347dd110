package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/osfs"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

// house is a directory for stores, with the calls that change directories by their paths, as other processes do.
type house struct {
	t         *testing.T
	fs        vfs.FS
	base      string
	rename    func(oldpath, newpath string) error
	removeAll func(path string) error
	logs      *bytes.Buffer // of the stores
}

// inBoth runs a test on the file system of the operating system and on a simulated disk.
func inBoth(t *testing.T, test func(t *testing.T, h house)) {
	t.Run("os", func(t *testing.T) {
		test(t, house{t, osfs.OS, t.TempDir(), os.Rename, os.RemoveAll, new(bytes.Buffer)})
	})
	t.Run("simdisk", func(t *testing.T) {
		d := simdisk.New(1, simdisk.Options{})
		if err := d.MkdirAll("/base"); err != nil {
			t.Fatal(err)
		}
		test(t, house{t, d, "/base", d.Rename, d.RemoveAll, new(bytes.Buffer)})
	})
}

func (h house) path(name string) string { return filepath.Join(h.base, name) }

// options returns the options of a small store without background flushing.
func (h house) options() *engine.Options {
	o := &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1,
		Logger: slog.New(slog.NewTextHandler(h.logs, nil))}
	s := seam.Options{Foreground: true}
	if h.fs != osfs.OS {
		s.FS = h.fs
	}
	return enginetest.WithSeam(o, s)
}

// open opens a store that the test closes itself.
func (h house) open(name string, o *engine.Options) *engine.PageCache[[]byte] {
	h.t.Helper()
	pc, err := engine.Open(h.path(name), engine.Bytes{}, o)
	if err != nil {
		h.t.Fatalf("open %s: %v", name, err)
	}
	h.t.Cleanup(func() { _ = pc.Close() })
	return pc
}

// mkdir makes a directory.
func (h house) mkdir(name string) {
	h.t.Helper()
	if err := h.fs.MkdirAll(h.path(name)); err != nil {
		h.t.Fatal(err)
	}
}

// move renames a directory, as mv does.
func (h house) move(from, to string) {
	h.t.Helper()
	if err := h.rename(h.path(from), h.path(to)); err != nil {
		h.t.Fatal(err)
	}
}

// remove removes a directory, as rm -rf does.
func (h house) remove(name string) {
	h.t.Helper()
	if err := h.removeAll(h.path(name)); err != nil {
		h.t.Fatal(err)
	}
}

// names returns the names in a directory, in one string.
func (h house) names(name string) string {
	h.t.Helper()
	names, err := enginetest.ReadDir(h.fs, h.path(name))
	if err != nil {
		h.t.Fatal(err)
	}
	return fmt.Sprint(names)
}

// wantStore opens a closed store, which must have these contents and verify.
func (h house) wantStore(name, contents string, o *engine.Options) {
	h.t.Helper()
	enginetest.Check(h.t, h.path(name), o)
	pc := h.open(name, o)
	if got := enginetest.Contents(h.t, pc); got != contents || !pc.WasRecovered() {
		h.t.Errorf("the store in %s has other contents, or none", name)
	}
	if n, err := engine.ExactBlobs(pc); err != nil || n == 0 {
		h.t.Errorf("the store in %s has %d blobs, error %v", name, n, err)
	}
	if err := pc.Close(); err != nil {
		h.t.Error(err)
	}
}

// gone fails the test unless err says that the directory of the store was removed, with its path.
func (h house) gone(name string, err error) {
	h.t.Helper()
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), h.path(name)) ||
		!strings.Contains(err.Error(), "was removed") {
		h.t.Errorf("error %v, want one that says that %s was removed", err, h.path(name))
	}
}

// The directory of an open store is moved away, and a new store is made in its place. Both go on: each has exactly its
// own pages, blobs and snapshots, is locked by its new path, and is closed cleanly. Proves rule 15, guards against trap
// 28.
func TestMovedStoreGoesOn(t *testing.T) {
	t.Parallel()
	inBoth(t, func(t *testing.T, h house) {
		o := h.options()
		first := h.open("data", o)
		enginetest.Busy(t, first, 200, 1)
		if err := first.Snapshot(); err != nil {
			t.Fatal(err)
		}
		h.move("data", "data.old")
		second := h.open("data", o)
		if second.WasRecovered() {
			t.Error("the new store was recovered from something")
		}
		for round := range uint64(3) {
			for _, pc := range []*engine.PageCache[[]byte]{second, first} { // their blobs have the same numbers
				enginetest.Busy(t, pc, 200, round)
				enginetest.Flush(t, pc)
				if err := pc.Snapshot(); err != nil {
					t.Error(err)
				}
				enginetest.CleanAll(t, pc)
			}
		}
		for _, name := range []string{"data", "data.old"} {
			if _, err := engine.Open(h.path(name), engine.Bytes{}, o); !errors.Is(err, engine.ErrLocked) {
				t.Errorf("opening %s again: error %v, want ErrLocked", name, err)
			}
		}
		if dir := first.Stats().Dir; dir != h.path("data") {
			t.Errorf("the moved store names %s, want the path by which it was opened", dir)
		}
		want := map[string]string{"data": enginetest.Contents(t, second), "data.old": enginetest.Contents(t, first)}
		if err := first.Close(); err != nil {
			t.Errorf("close the moved store: %v", err)
		}
		enginetest.Busy(t, second, 50, 9)
		want["data"] = enginetest.Contents(t, second)
		if err := second.Close(); err != nil {
			t.Errorf("close the new store: %v", err)
		}
		for name, contents := range want {
			h.wantStore(name, contents, o)
		}
		if got := h.names(""); got != "[data data.old]" || strings.Contains(h.logs.String(), "level=WARN") {
			t.Errorf("directories %s; logged:\n%s", got, h.logs)
		}
	})
}

// If the new store is killed after the old one has closed, everything acknowledged is there. Proves rule 15, guards
// against trap 28.
func TestMovedStoreAndKilledOne(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		d := simdisk.New(seed, simdisk.Options{})
		h := house{t, d, "/", d.Rename, d.RemoveAll, new(bytes.Buffer)}
		first := h.open("data", h.options())
		enginetest.Busy(t, first, 100, seed)
		h.move("data", "data.old")
		if err := d.SyncDir("/"); err != nil {
			t.Fatal(err)
		}
		second := h.open("data", h.options())
		enginetest.Busy(t, second, 100, seed)
		enginetest.AllocateMany(t, first, 2, 20_000) // blobs with the same numbers
		enginetest.AllocateMany(t, second, 2, 20_000)
		enginetest.Flush(t, second)
		want := map[string]string{"data": enginetest.Contents(t, second), "data.old": enginetest.Contents(t, first)}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		crashed := d.Crash(seed)
		_ = second.Close()
		h.fs = crashed
		for name, contents := range want {
			h.wantStore(name, contents, h.options())
		}
	}
}

// A store whose directory is moved and moved back while goroutines write, read and take snapshots loses nothing. Proves
// rule 15.
func TestMovedWhileInUse(t *testing.T) {
	t.Parallel()
	h := house{t, osfs.OS, t.TempDir(), os.Rename, os.RemoveAll, new(bytes.Buffer)}
	o := &engine.Options{SegmentSize: 16 << 10, Logger: slog.New(slog.NewTextHandler(h.logs, nil))}
	pc := h.open("data", o)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for at, to := "data", "data.old"; ; at, to = to, at {
			h.move(at, to)
			select {
			case <-stop:
				if to != "data" {
					h.move(to, "data")
				}
				return
			case <-time.After(100 * time.Microsecond):
			}
		}
	})
	var writers sync.WaitGroup
	for g := range uint64(3) {
		writers.Go(func() {
			for i := range uint64(60) {
				n := 50
				if i%6 == 0 {
					n = 20_000
				}
				pid, lsn := enginetest.Allocate(t, pc, enginetest.Random(n, g<<32+i))
				if _, err := pc.MakeStable(lsn); err != nil {
					t.Error(err)
				}
				if got := enginetest.Get(t, pc, pid); !bytes.Equal(got.Value, enginetest.Random(n, g<<32+i)) {
					t.Errorf("page %d has other contents", pid)
				}
			}
		})
	}
	writers.Go(func() {
		for range 10 {
			if err := pc.Snapshot(); err != nil {
				t.Error(err)
			}
		}
	})
	enginetest.Soon(t, "work on a store that is moved", writers.Wait)
	close(stop)
	wg.Wait()
	contents := enginetest.Contents(t, pc)
	if err := pc.Close(); err != nil {
		t.Error(err)
	}
	h.wantStore("data", contents, o)
	if got := h.names(""); got != "[data]" {
		t.Errorf("directories %s, want [data]", got)
	}
}

// The directory of an open store is moved away, and a symbolic link to another directory, or a file, takes its place.
// The store writes to neither. Proves rule 15.
func TestDirectoryIsReplaced(t *testing.T) {
	t.Parallel()
	for what, replace := range map[string]func(h house) error{
		"link": func(h house) error { return os.Symlink("other", h.path("data")) },
		"file": func(h house) error { return os.WriteFile(h.path("data"), []byte("mine"), 0o600) },
	} {
		h := house{t, osfs.OS, t.TempDir(), os.Rename, os.RemoveAll, new(bytes.Buffer)}
		o := h.options()
		pc := h.open("data", o)
		h.mkdir("other")
		h.move("data", "moved")
		if err := replace(h); err != nil {
			t.Fatal(err)
		}
		before := enginetest.TreeFiles(t, h.path("other"))
		enginetest.Busy(t, pc, 100, 1)
		enginetest.AllocateMany(t, pc, 2, 20_000)
		if err := pc.Snapshot(); err != nil {
			t.Error(err)
		}
		contents := enginetest.Contents(t, pc)
		if err := pc.Close(); err != nil {
			t.Errorf("%s: close: %v", what, err)
		}
		if after := enginetest.TreeFiles(t, h.path("other")); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("%s: the other directory was changed: %v", what, after)
		}
		if b, err := os.ReadFile(h.path("data")); what == "file" && (err != nil || string(b) != "mine") {
			t.Errorf("the file holds %q, error %v", b, err)
		}
		h.wantStore("moved", contents, o)
	}
}

// The directory of the snapshots is moved, and another one takes its place: snapshots go into the moved one. If it is
// removed, there are no snapshots, and nothing else is wrong. Proves rule 15.
func TestSnapshotDirIsMoved(t *testing.T) {
	inBoth(t, func(t *testing.T, h house) {
		o := h.options()
		o.SnapshotDir = h.path("snaps")
		pc := h.open("data", o)
		enginetest.Busy(t, pc, 100, 1)
		if err := pc.Snapshot(); err != nil {
			t.Fatal(err)
		}
		before := h.names("snaps")
		h.move("snaps", "moved")
		h.mkdir("snaps")
		enginetest.Busy(t, pc, 100, 2)
		if err := pc.Snapshot(); err != nil {
			t.Error(err)
		}
		if after := h.names("moved"); after == before || strings.Contains(after, " ") || h.names("snaps") != "[]" {
			t.Errorf("the moved directory had %s and has %s, the other has %s", before, after, h.names("snaps"))
		}
		enginetest.Busy(t, pc, 100, 3)
		h.remove("moved")
		if err := pc.Snapshot(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), h.path("snaps")) {
			t.Errorf("snapshot in a removed directory: error %v, want ErrNotExist with the path", err)
		}
		contents := enginetest.Contents(t, pc)
		if err := pc.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if got := h.names(""); got != "[data snaps]" || h.names("snaps") != "[]" ||
			!strings.Contains(h.logs.String(), "snapshot not written") {
			t.Errorf("directories %s, snapshots %s, logged:\n%s", got, h.names("snaps"), h.logs)
		}
		h.wantStore("data", contents, o)
	})
}

// A relative SnapshotDir means the same directory for as long as the store is open.
func TestRelativeSnapshotDir(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	t.Chdir(dir)
	pc := enginetest.Open(t, "store", &engine.Options{SegmentSize: 16 << 10, SnapshotDir: "snaps"})
	enginetest.NoCheck(t, pc) // its options have the relative path
	enginetest.AllocateMany(t, pc, 5, 100)
	t.Chdir(other)
	if err := pc.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(other); err != nil || len(left) > 0 {
		t.Errorf("%v are in the new working directory, error %v", left, err)
	}
	if n := enginetest.SnapshotFiles(t, osfs.OS, filepath.Join(dir, "snaps")); len(n) != 1 {
		t.Errorf("snapshots %v, want one", n)
	}
}
