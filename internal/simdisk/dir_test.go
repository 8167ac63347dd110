package simdisk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"pagecache/internal/osfs"
	"pagecache/internal/vfs"
)

// tree is a file system of a test, with the calls that change directories by their paths, as other processes do.
type tree struct {
	vfs.FS
	base      string
	rename    func(oldpath, newpath string) error
	removeAll func(path string) error
}

func (f tree) path(name string) string { return filepath.Join(f.base, name) }

// onBoth runs a test on the file system of the operating system and on a simulated disk.
func onBoth(t *testing.T, test func(t *testing.T, f tree)) {
	t.Run("os", func(t *testing.T) {
		test(t, tree{osfs.OS, t.TempDir(), os.Rename, os.RemoveAll})
	})
	t.Run("simdisk", func(t *testing.T) {
		d := New(1, Options{})
		test(t, tree{d, "/base", d.Rename, d.RemoveAll})
	})
}

// dir makes a directory and opens it.
func (f tree) dir(t *testing.T, name string) vfs.Dir {
	t.Helper()
	if err := f.MkdirAll(f.path(name)); err != nil {
		t.Fatal(err)
	}
	d, err := f.OpenDir(f.path(name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// makeFile makes an empty file.
func makeFile(t *testing.T, d vfs.Dir, name string) {
	t.Helper()
	f, err := d.Open(name, writable)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(d.Name(), name); f.Name() != want {
		t.Errorf("the file is named %s, want %s", f.Name(), want)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// list returns the names in a directory, in one string.
func list(d vfs.Dir) string {
	names, err := d.ReadDir()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(names)
}

// Files are made, renamed, listed and removed in an open directory. Names keep their order, and errors wrap those of
// io/fs.
func TestDirEntries(t *testing.T) {
	onBoth(t, func(t *testing.T, f tree) {
		d := f.dir(t, "a/b")
		for _, name := range []string{"z", "y"} {
			makeFile(t, d, name)
		}
		err := errors.Join(d.Mkdir("sub"), d.Rename("z", "x"), d.Sync())
		if got := list(d); err != nil || got != "[sub x y]" {
			t.Errorf("entries %s, want [sub x y], error %v", got, err)
		}
		x, err := d.Open("x", vfs.FlagRead)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		open, err := x.Identity()
		named, err2 := d.Identify("x")
		other, err3 := d.Identify("y")
		if err := errors.Join(err, err2, err3); err != nil || open != named || open == other {
			t.Errorf("x is %v, its file %v, and y is %v; %v", named, open, other, err)
		}
		if err := d.Rename("y", "x"); err != nil {
			t.Error(err)
		}
		if named, err := d.Identify("x"); err != nil || named != other {
			t.Errorf("x is %v, want %v, that of the file renamed to it; %v", named, other, err)
		}
		for what, err := range map[string]error{
			"make a directory twice":             check(d.Mkdir("sub"), fs.ErrExist),
			"make a directory in place of x":     check(d.Mkdir("x"), fs.ErrExist),
			"remove a missing file":              check(d.Remove("none"), fs.ErrNotExist),
			"remove a directory as a file":       check(d.Remove("sub"), syscall.EISDIR),
			"rename a missing file":              check(d.Rename("none", "w"), fs.ErrNotExist),
			"rename a file to a directory":       check(d.Rename("x", "sub"), syscall.EISDIR),
			"rename a directory to a file":       check(d.Rename("sub", "x"), syscall.ENOTDIR),
			"identify a missing file":            check(second(d.Identify("none")), fs.ErrNotExist),
			"open a missing file":                check(second(d.Open("none", vfs.FlagWrite)), fs.ErrNotExist),
			"open a missing directory":           check(second(d.OpenDir("none")), fs.ErrNotExist),
			"open a missing directory by a path": check(second(f.OpenDir(f.path("none"))), fs.ErrNotExist),
			"open a file as a directory":         check(second(f.OpenDir(f.path("a/b/x"))), syscall.ENOTDIR),
		} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		for what, err := range map[string]error{
			"open a directory as a file":            second(d.Open("sub", vfs.FlagRead)),
			"open a file in a directory as one":     second(d.OpenDir("x")),
			"remove the directory, which is in use": d.Unlink(),
		} {
			if err == nil {
				t.Errorf("%s: no error", what)
			}
		}
		if err := d.Remove("x"); err != nil || list(d) != "[sub]" {
			t.Errorf("entries %s, want [sub], error %v", list(d), err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

// check returns an error unless err is want.
func check(err, want error) error {
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("error %v, want %v", err, want)
}

// An open directory stays the same one when it is moved, with those opened in it. Another directory that is made in its
// old place is not touched. Proves rule 15, guards against trap 28.
func TestDirIsMoved(t *testing.T) {
	onBoth(t, func(t *testing.T, f tree) {
		d := f.dir(t, "data")
		if err := d.Mkdir("sub"); err != nil {
			t.Fatal(err)
		}
		sub, err := d.OpenDir("sub")
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		makeFile(t, d, "tmp")
		if err := f.rename(f.path("data"), f.path("data.old")); err != nil {
			t.Fatal(err)
		}
		other := f.dir(t, "data")
		makeFile(t, other, "log")
		before, _ := other.Identify("log")
		makeFile(t, sub, "blob")
		makeFile(t, d, "log")
		if err := errors.Join(d.Rename("tmp", "superblock"), d.Sync(), sub.Sync()); err != nil {
			t.Error(err)
		}
		if after, err := other.Identify("log"); list(other) != "[log]" || after != before || err != nil {
			t.Errorf("the other directory was changed: %s, %v", list(other), err)
		}
		moved := f.dir(t, "data.old")
		movedSub, err := moved.OpenDir("sub")
		if err != nil {
			t.Fatal(err)
		}
		defer movedSub.Close()
		if list(moved) != "[log sub superblock]" || list(movedSub) != "[blob]" || list(d) != list(moved) {
			t.Errorf("the moved directory has %s, %s", list(moved), list(movedSub))
		}
		if d.Name() != f.path("data") {
			t.Errorf("the directory is named %s, want the path by which it was opened", d.Name())
		}
		if err := errors.Join(d.Remove("log"), d.Remove("superblock"), sub.Remove("blob"), sub.Unlink()); err != nil {
			t.Error(err)
		}
		if err := errors.Join(other.Remove("log")); err != nil {
			t.Error(err)
		}
		if err := d.Unlink(); err == nil || list(other) != "[]" || list(d) != "[]" {
			t.Errorf("Unlink by the path of another directory: %v; that one has %s", err, list(other))
		}
	})
}

// In a directory that was removed nothing is made, neither there nor in another one that has its path. Proves rule 15.
func TestDirIsRemoved(t *testing.T) {
	for _, again := range []bool{false, true} {
		onBoth(t, func(t *testing.T, f tree) {
			d := f.dir(t, "data")
			makeFile(t, d, "log")
			if err := f.removeAll(f.path("data")); err != nil {
				t.Fatal(err)
			}
			var other vfs.Dir
			if again {
				other = f.dir(t, "data")
			}
			for what, err := range map[string]error{
				"open":     second(d.Open("log", vfs.FlagWrite)),
				"create":   second(d.Open("log", writable)),
				"open dir": second(d.OpenDir("sub")),
				"mkdir":    d.Mkdir("sub"),
				"rename":   d.Rename("log", "x"),
				"remove":   d.Remove("log"),
				"identify": second(d.Identify("log")),
				"readdir":  second(d.ReadDir()),
			} {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: error %v, want ErrNotExist", what, err)
				}
			}
			if err := d.Unlink(); err == nil {
				t.Error("Unlink of a removed directory: no error")
			}
			if again && list(other) != "[]" {
				t.Errorf("the other directory has %s", list(other))
			}
			base, err := f.OpenDir(f.base)
			if err != nil {
				t.Fatal(err)
			}
			defer base.Close()
			if want := map[bool]string{false: "[]", true: "[data]"}[again]; list(base) != want {
				t.Errorf("the parent has %s, want %s", list(base), want)
			}
		})
	}
}

// No method of a directory takes a name that leads out of it. Proves rule 15.
func TestDirRefusesHostileNames(t *testing.T) {
	onBoth(t, func(t *testing.T, f tree) {
		outside := f.dir(t, "")
		makeFile(t, outside, "secret")
		d := f.dir(t, "data")
		makeFile(t, d, "log")
		for _, bad := range []string{"", ".", "..", "/", "../secret", "sub/x", "log/", f.path("secret"), "nul\x00"} {
			for what, err := range map[string]error{
				"open":      second(d.Open(bad, vfs.FlagRead)),
				"create":    second(d.Open(bad, writable|vfs.FlagTrunc)),
				"open dir":  second(d.OpenDir(bad)),
				"mkdir":     d.Mkdir(bad),
				"rename":    d.Rename(bad, "x"),
				"rename to": d.Rename("log", bad),
				"remove":    d.Remove(bad),
				"identify":  second(d.Identify(bad)),
			} {
				if !errors.Is(err, fs.ErrInvalid) {
					t.Errorf("%s %q: error %v, want ErrInvalid", what, bad, err)
				}
			}
		}
		if list(outside) != "[data secret]" || list(d) != "[log]" {
			t.Errorf("entries %s and %s", list(outside), list(d))
		}
	})
}

// After Close, and while it runs, calls fail with ErrClosed or do what they say. Other calls run beside each other.
func TestDirConcurrentUse(t *testing.T) {
	onBoth(t, func(t *testing.T, f tree) {
		d := f.dir(t, "data")
		var wg sync.WaitGroup
		var names []string
		for g := range 4 {
			renamed := fmt.Sprint("new", g)
			names = append(names, renamed)
			wg.Go(func() {
				for range 50 {
					name := fmt.Sprint(g)
					file, err := d.Open(name, writable)
					if err != nil {
						t.Error(err)
						return
					}
					all, err := d.ReadDir()
					_, idErr := d.Identify(name)
					if err := errors.Join(err, idErr, file.Close(), d.Sync(), d.Rename(name, renamed)); err != nil ||
						!slices.Contains(all, name) {
						t.Errorf("%s is not in %v, error %v", name, all, err)
					}
				}
			})
		}
		wg.Wait()
		if list(d) != fmt.Sprint(names) {
			t.Errorf("entries %s, want %v", list(d), names)
		}
		for range 4 {
			wg.Go(func() {
				for range 50 {
					for _, err := range []error{d.Sync(), second(d.Identify(names[0])), second(d.ReadDir())} {
						if err != nil && !errors.Is(err, fs.ErrClosed) {
							t.Errorf("beside Close: %v", err)
						}
					}
				}
			})
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		for what, err := range map[string]error{
			"open": second(d.Open(names[0], vfs.FlagRead)), "open dir": second(d.OpenDir("x")), "mkdir": d.Mkdir("x"),
			"rename": d.Rename(names[0], "x"), "remove": d.Remove(names[0]), "unlink": d.Unlink(),
			"readdir": second(d.ReadDir()), "identify": second(d.Identify(names[0])), "sync": d.Sync(),
			"close": d.Close(),
		} {
			if !errors.Is(err, fs.ErrClosed) {
				t.Errorf("%s after Close: error %v, want ErrClosed", what, err)
			}
		}
	})
}

// A directory that is made, moved or removed is so after a crash if its parent was synced; otherwise any prefix of the
// changes survives. Proves Y4.
func TestDirectoriesSurviveInOrder(t *testing.T) {
	found := map[string]bool{}
	for seed := range uint64(200) {
		d := New(1, Options{})
		f := tree{d, "/", d.Rename, d.RemoveAll}
		data := f.dir(t, "data")
		makeFile(t, data, "log")
		if err := errors.Join(data.Sync(), data.Mkdir("blobs")); err != nil {
			t.Fatal(err)
		}
		blobs, err := data.OpenDir("blobs")
		if err != nil {
			t.Fatal(err)
		}
		makeFile(t, blobs, "1")
		if err := errors.Join(blobs.Sync(), d.Rename("/data", "/old")); err != nil {
			t.Fatal(err)
		}
		if seed%4 == 0 {
			if err := errors.Join(data.Sync(), d.SyncDir("/")); err != nil {
				t.Fatal(err)
			}
		}
		c := d.Crash(seed)
		state := ""
		c.root.files(shown, "/", func(path string, _ *inode) { state += path + " " })
		if seed%4 == 0 && state != "/old/blobs/1 /old/log " && state != "/old/log /old/blobs/1 " {
			t.Fatalf("seed %d, synced: %s", seed, state)
		}
		found[fmt.Sprint(len(state))] = true
	}
	if len(found) != 3 { // the blob is lost with its directory; the name is old or new
		t.Errorf("found %v", found)
	}
}
