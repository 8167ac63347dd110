package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/osfs"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

// A symbolic link, or anything else that is no directory, in place of the directory of blobs, and a symbolic link in
// place of a file of the store, are refused before anything is written. O8; proves rule 15.
func TestOpenRefusesLinksInside(t *testing.T) {
	t.Parallel()
	h := house{t, osfs.OS, t.TempDir(), os.Rename, os.RemoveAll, new(bytes.Buffer)}
	pc := h.open("data", h.options())
	enginetest.AllocateMany(t, pc, 2, 20_000)
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{enginetest.BlobDir, enginetest.LogName, enginetest.SuperName} {
		at := h.path("data/" + name)
		h.move("data/"+name, "real")
		put := map[string]func() error{"link": func() error { return os.Symlink("../real", at) },
			"fifo": func() error { return syscall.Mkfifo(at, 0o600) }}
		if name == enginetest.BlobDir {
			put["file"] = func() error { return os.WriteFile(at, nil, 0o600) }
		} else {
			put["directory"] = func() error { return os.Mkdir(at, 0o700) }
		}
		for what, f := range put {
			if err := f(); err != nil {
				t.Fatal(err)
			}
			before := []map[string]string{enginetest.TreeFiles(t, h.path("real"))}
			if what == "file" {
				before = append(before, enginetest.TreeFiles(t, h.path("data")))
			}
			for _, readOnly := range []bool{true, false} {
				o := h.options()
				o.ReadOnly = readOnly
				enginetest.Soon(t, what, func() {
					if pc, err := engine.Open(h.path("data"), engine.Bytes{}, o); err == nil {
						t.Errorf("ReadOnly %v: opened with a %s in place of %s", readOnly, what, name)
						_ = pc.Close()
					} else if !strings.Contains(err.Error(), at) {
						t.Errorf("ReadOnly %v, a %s in place of %s: error %v, want the path", readOnly, what, name, err)
					}
				})
			}
			after := []map[string]string{enginetest.TreeFiles(t, h.path("real"))}
			if what == "file" {
				after = append(after, enginetest.TreeFiles(t, h.path("data")))
			}
			if fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("a %s in place of %s: files were changed", what, name)
			}
			if err := os.Remove(at); err != nil {
				t.Fatal(err)
			}
		}
		h.move("real", "data/"+name)
	}
	enginetest.Check(t, h.path("data"), h.options())
}

// openBelow returns how many descriptors of this process are files, and how many are directories, in dir.
func openBelow(t *testing.T, dir string) (files, dirs int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		name := "/proc/self/fd/" + fd.Name()
		if at, err := os.Readlink(name); err != nil || !strings.HasPrefix(at, dir) {
			continue
		}
		if st, err := os.Stat(name); err == nil && st.IsDir() {
			dirs++
		} else {
			files++
		}
	}
	return files, dirs
}

// failingFS is the file system of the operating system, on which one opening of a file or directory, or one sync of a
// directory, fails.
func failingFS(step func() error) vfs.FS {
	w := &simdisk.Wrap{FS: osfs.OS}
	w.File = func(d vfs.Dir, name string, flag vfs.Flag) (vfs.File, error) {
		if err := step(); err != nil {
			return nil, err
		}
		return d.Open(name, flag)
	}
	w.Dir = func(_ string, open func() (vfs.Dir, error)) (vfs.Dir, error) {
		if err := step(); err != nil {
			return nil, err
		}
		return open()
	}
	w.Sync = func(d vfs.Dir) error { return errors.Join(step(), d.Sync()) }
	return w
}

// Neither an opening that fails, at any file or directory, nor Close leaves a descriptor open. An open store has one
// for each of its directories. O8.
func TestNoDescriptorIsLeft(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		o    engine.Options
		dirs int // the store's, those of blobs and snapshots if they exist
	}{{engine.Options{}, 3}, {engine.Options{ReadOnly: true}, 3}, {engine.Options{Temporary: true}, 1}} {
		h := house{t, osfs.OS, t.TempDir(), os.Rename, os.RemoveAll, new(bytes.Buffer)}
		c.o.SnapshotDir, c.o.SegmentSize, c.o.Logger = h.path("snaps"), 16<<10, slog.New(slog.DiscardHandler)
		if !c.o.Temporary {
			first := c.o
			first.ReadOnly = false
			pc := h.open("data", &first)
			enginetest.AllocateMany(t, pc, 2, 20_000)
			if err := errors.Join(pc.Snapshot(), pc.Close()); err != nil {
				t.Fatal(err)
			}
		}
		for fail, done := 1, false; !done; fail++ { // ends: an opening has a finite number of steps
			n := 0
			enginetest.WithSeam(&c.o, seam.Options{FS: failingFS(func() error {
				if n++; n == fail {
					return syscall.EMFILE
				}
				return nil
			})})
			pc, err := engine.Open(h.path("data"), engine.Bytes{}, &c.o)
			if err == nil {
				files, dirs := openBelow(t, h.base)
				err = pc.Close()
				if done = n < fail; done && (err != nil || files == 0 || dirs != c.dirs || fail < 4) {
					t.Errorf("%+v: %d steps, %d files and %d directories are open, want %d; close: %v",
						c.o, n, files, dirs, c.dirs, err)
				}
			}
			if files, dirs := openBelow(t, h.base); files+dirs > 0 {
				t.Fatalf("%+v, step %d fails with %v: %d files and %d directories are left open",
					c.o, fail, err, files, dirs)
			}
		}
	}
}
