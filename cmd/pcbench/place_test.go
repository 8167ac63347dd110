package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// inside returns the paths of all that is in dir, from it, sorted.
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
		t.Errorf("in the directory is %q, want %q", got, want)
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

// makePlace makes a place whose store has all the files that a store can have.
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

// A directory that pcbench has not made is left alone; one that a killed pcbench left is taken over; one in use is refused.
func TestPlace(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "b"+placeSuffix), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := newPlace(dir, "b")
	wantError(t, err, "not made by pcbench")
	put(t, filepath.Join(dir, "c"+placeSuffix))
	_, err = newPlace(dir, "c")
	wantError(t, err, "no directory")
	p := makePlace(t, dir)
	if err := os.Symlink(p.dir, filepath.Join(dir, "d"+placeSuffix)); err != nil {
		t.Fatal(err)
	}
	_, err = newPlace(dir, "d")
	wantError(t, err, "no directory")
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

// However a user's files come into the directory, they stay, at the end of a run and at the beginning of the next.
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

// Links and directories with the names of our files do not lead to anybody else's.
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

// A marker that is removed between its opening and its locking belongs to another pcbench's clearing.
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
		t.Error("locked, though it is gone")
	}
	put(t, name)
	if err := lock(f); err == nil {
		t.Error("locked, though another is there")
	}
}

// A run says which files it leaves, beside its report.
func TestRunKeepsForeignFiles(t *testing.T) {
	dir := t.TempDir()
	s := defaults()
	s.Directory, s.RW, s.Size, s.IOSize = dir, "write", 64<<10, 64<<10
	ses, err := open(&s)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(ses.place.store(), "mine"))
	if _, err := ses.run(t.Context(), &s, nil); err != nil {
		t.Fatal(err)
	}
	wantError(t, ses.close(), "pcbench has not made", "store/mine")
	wantInside(t, dir, "pcbench.pcbench", "pcbench.pcbench/store", "pcbench.pcbench/store/mine")
}
