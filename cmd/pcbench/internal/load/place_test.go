package load

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pagecache/cmd/pcbench/internal/job"
)

// inside returns the paths of all files and directories below dir, relative to dir and sorted.
func inside(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if err == nil && p != dir {
			p, err = filepath.Rel(dir, p)
			names = append(names, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func wantInside(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := inside(t, dir); !slices.Equal(got, want) {
		t.Errorf("the directory holds %q, want %q", got, want)
	}
}

func wantError(t *testing.T, err error, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("error %v, want %q in it", err, text)
		}
	}
}

// makePlace makes a place whose store has all of storeFiles.
func makePlace(t *testing.T, parent string) *place {
	t.Helper()
	p, err := newPlace(parent, "a")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.marker.Close() })
	if err := os.Mkdir(p.store(), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range storeFiles {
		put(t, filepath.Join(p.store(), name))
	}
	return p
}

func put(t *testing.T, name string) {
	t.Helper()
	if err := os.WriteFile(name, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A directory that pcbench has not made is left alone. One that a killed pcbench has left is reused. One in use is an
// error.
func TestPlace(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "b"+job.PlaceSuffix), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := newPlace(dir, "b")
	wantError(t, err, "not made by pcbench")
	put(t, filepath.Join(dir, "c"+job.PlaceSuffix))
	_, err = newPlace(dir, "c")
	wantError(t, err, "not a directory")
	p := makePlace(t, dir)
	if err := os.Symlink(p.dir, filepath.Join(dir, "d"+job.PlaceSuffix)); err != nil {
		t.Fatal(err)
	}
	_, err = newPlace(dir, "d")
	wantError(t, err, "not a directory")
	_, err = newPlace(dir, "a")
	wantError(t, err, "in use")
	p.marker.Close() // as if killed
	if p, err = newPlace(dir, "a"); err != nil {
		t.Fatal(err)
	}
	wantInside(t, p.dir, markerName)
	if err := p.remove(); err != nil {
		t.Error(err)
	}
	wantInside(t, dir, "b.pcbench", "c.pcbench", "d.pcbench")
}

// A user's files in the directory stay, at the end of a run and at the start of the next one.
func TestPlaceKeepsForeignFiles(t *testing.T) {
	for _, name := range []string{"notes", "store/notes", "store/superblock.old"} {
		p := makePlace(t, filepath.Join(t.TempDir(), "new"))
		put(t, filepath.Join(p.dir, name))
		all := inside(t, p.dir)
		p.marker.Close() // as if killed
		_, err := newPlace(filepath.Dir(p.dir), "a")
		wantError(t, err, "pcbench has not made", name, "--name")
		wantInside(t, p.dir, all...)
		if err := p.mark(0); err != nil {
			t.Fatal(err)
		}
		wantError(t, p.remove(), "remove the store", "pcbench has not made", name)
		if dir := filepath.Dir(name); dir == "." {
			wantInside(t, p.dir, name)
		} else {
			wantInside(t, p.dir, dir, name)
		}
		_, err = newPlace(filepath.Dir(p.dir), "a")
		wantError(t, err, "not made by pcbench")
	}
}

// Symbolic links and directories with the names of pcbench's files do not make it remove files of other directories.
func TestPlaceFollowsNothing(t *testing.T) {
	other := t.TempDir()
	for _, name := range storeFiles {
		put(t, filepath.Join(other, name))
	}
	all := inside(t, other)
	link := func(to, name string) {
		if err := os.Symlink(to, name); err != nil {
			t.Fatal(err)
		}
	}
	p := makePlace(t, t.TempDir())
	for _, name := range storeFiles {
		if err := os.Remove(filepath.Join(p.store(), name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(p.store(), storeFiles[0]), 0o755); err != nil {
		t.Fatal(err)
	}
	wantError(t, p.remove(), "store/"+storeFiles[0])
	wantInside(t, p.dir, "store", "store/"+storeFiles[0])

	p = makePlace(t, t.TempDir())
	if err := os.Rename(p.store(), p.store()+".moved"); err != nil {
		t.Fatal(err)
	}
	link(other, p.store())
	wantError(t, p.remove(), "store")
	wantInside(t, other, all...)

	p = makePlace(t, t.TempDir())
	if err := os.Remove(filepath.Join(p.dir, markerName)); err != nil {
		t.Fatal(err)
	}
	link(filepath.Join(other, storeFiles[0]), filepath.Join(p.dir, markerName))
	_, err := newPlace(filepath.Dir(p.dir), "a")
	wantError(t, err, "too many levels")
	wantInside(t, other, all...)
}

// A marker that is removed between opening and locking counts as locked: another pcbench is clearing its directory.
func TestLockOfRemovedMarker(t *testing.T) {
	name := filepath.Join(t.TempDir(), markerName)
	put(t, name)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := lock(f); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name, name+".old"); err != nil {
		t.Fatal(err)
	}
	if err := lock(f); err == nil {
		t.Error("lock succeeded on a removed file")
	}
	put(t, name)
	if err := lock(f); err == nil {
		t.Error("lock succeeded on a replaced file")
	}
}

// Removing the store frees the space of its log at once, even while the kernel still holds the file, as io_uring does
// for some time after the process has closed it.
func TestRemoveFreesSpace(t *testing.T) {
	p := makePlace(t, t.TempDir())
	f, err := os.Create(filepath.Join(p.store(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := p.remove(); err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("the removed log still has %d bytes, %v", info.Size(), err)
	}
}
