package engine_test

import (
	"errors"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// Calls that change or take apart pages 0 and 1 return ErrReserved. They change nothing, also if the pages exist.
func TestReservedPagesAreRefused(t *testing.T) {
	pc, tx := simPages(t, 0)
	call := map[string]func(engine.PageID) error{
		"Link": func(pid engine.PageID) error {
			_, _, err := pc.Link(tx, pid, engine.PagePtr[[]byte]{}, []byte("x"))
			return err
		},
		"Replace": func(pid engine.PageID) error {
			_, _, err := pc.Replace(tx, pid, engine.PagePtr[[]byte]{}, []byte("x"))
			return err
		},
		"Free": func(pid engine.PageID) error {
			_, _, err := pc.Free(tx, pid, engine.PagePtr[[]byte]{})
			return err
		},
		"Fragments": func(pid engine.PageID) error {
			_, _, err := pc.Fragments(tx, pid)
			return err
		},
	}
	for _, exist := range []bool{false, true} {
		if exist {
			if _, won, err := pc.CASRoot(tx, "root", 0, 7); err != nil || !won {
				t.Fatalf("change a root: won %v, error %v", won, err)
			}
		}
		for name, f := range call {
			for pid := range engine.FirstUserPage {
				if err := f(pid); !errors.Is(err, engine.ErrReserved) {
					t.Errorf("%s of page %d, which exists %v: error %v, want ErrReserved", name, pid, exist, err)
				}
			}
			if err := f(engine.FirstUserPage); errors.Is(err, engine.ErrReserved) {
				t.Errorf("%s of page %d: error %v", name, engine.FirstUserPage, err)
			}
		}
	}
	if pid, err := pc.Root(tx, "root"); err != nil || pid != 7 {
		t.Errorf("root is page %d, want 7, error %v", pid, err)
	}
}

// CASRoot accepts the highest page id as a root, and returns ErrPageRange for higher ones.
func TestRootAbovePageRangeIsRefused(t *testing.T) {
	pc, tx := simPages(t, 0)
	for _, pid := range []engine.PageID{format.MaxPageID + 1, 1 << 63, ^engine.PageID(0)} {
		if now, won, err := pc.CASRoot(tx, "root", 0, pid); !errors.Is(err, engine.ErrPageRange) || won || now != 0 {
			t.Errorf("root %d: now %d, won %v, error %v, want ErrPageRange", pid, now, won, err)
		}
	}
	if _, err := pc.Root(tx, "root"); !errors.Is(err, engine.ErrRootNotFound) {
		t.Errorf("a refused root: error %v, want ErrRootNotFound", err)
	}
	if now, won, err := pc.CASRoot(tx, "root", 0, format.MaxPageID); err != nil || !won || now != format.MaxPageID {
		t.Errorf("the highest page as root: now %d, won %v, error %v", now, won, err)
	}
}

// Opening a standalone log as a page store, or a page store as a log, returns ErrKind, also ReadOnly, and changes no
// file.
func TestOpenOfOtherKindIsRefused(t *testing.T) {
	pages, logs := simdisk.New(1, simdisk.Options{}), simdisk.New(2, simdisk.Options{})
	enginetest.Close(t, enginetest.OpenSim(t, pages))
	enginetest.Close(t, enginetest.OpenLog(t, "/store", enginetest.SimOptions(logs)))
	for _, readOnly := range []bool{false, true} {
		o := enginetest.SimOptions(logs)
		o.ReadOnly = readOnly
		before := enginetest.Files(t, logs)
		if _, err := engine.Open("/store", engine.Bytes{}, o); !errors.Is(err, engine.ErrKind) {
			t.Errorf("ReadOnly %v: log opened as a page store: error %v, want ErrKind", readOnly, err)
		}
		wantFiles(t, logs, before)
		o = enginetest.SimOptions(pages)
		o.ReadOnly = readOnly
		before = enginetest.Files(t, pages)
		if _, err := engine.OpenLog("/store", o); !errors.Is(err, engine.ErrKind) {
			t.Errorf("ReadOnly %v: page store opened as a log: error %v, want ErrKind", readOnly, err)
		}
		wantFiles(t, pages, before)
	}
}

// Opening a log of another format version returns ErrFormat, as Open of a page store does, also ReadOnly.
func TestOpenLogOfOtherVersionIsRefused(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	enginetest.Close(t, enginetest.OpenLog(t, "/store", enginetest.SimOptions(d)))
	hurt := d.Copy()
	hurt.WriteFile("/store/superblock", withVersion(d.ReadDurable("/store/superblock"), format.Version+1))
	before := enginetest.Files(t, hurt)
	for _, readOnly := range []bool{false, true} {
		o := enginetest.SimOptions(hurt)
		o.ReadOnly = readOnly
		_, err := engine.OpenLog("/store", o)
		if !errors.Is(err, engine.ErrFormat) || errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("ReadOnly %v: error %v, want ErrFormat", readOnly, err)
		}
		wantFiles(t, hurt, before)
	}
}

// wantFiles fails the test if the files of the store in /store differ from want.
func wantFiles(t *testing.T, d *simdisk.Disk, want map[string]string) {
	t.Helper()
	got := enginetest.Files(t, d)
	for name, b := range want {
		if got[name] != b {
			t.Errorf("%s was changed", name)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
}
