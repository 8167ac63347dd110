package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// fullStore makes a store in /store with pages, blobs and a snapshot, and files of others among them. It returns the
// names of these.
func fullStore(t *testing.T, d *simdisk.Disk) []string {
	t.Helper()
	pc := enginetest.OpenSim(t, d)
	enginetest.NoCheck(t, pc)
	tx := enginetest.Begin(t, pc)
	for i := range 20 {
		if _, _, err := pc.Allocate(tx, enginetest.Random(1+i*500, 1)); err != nil {
			t.Fatal(err)
		}
	}
	tx.End()
	if err := pc.Snapshot(); err != nil {
		t.Fatal(err)
	}
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	other := format.SnapshotID{Store: format.StoreID{1}, Timeline: 2, Number: 3}
	others := []string{"blobs/mine", "log.bak", "mine", other.Name()}
	for _, name := range others {
		d.WriteFile("/store/"+name, []byte("not the store's"))
	}
	if n := len(enginetest.BlobNames(t, d, "/store")) + len(enginetest.SnapshotFiles(t, d, "/store")); n < 8 {
		t.Fatalf("%d blobs and snapshots", n)
	}
	return others
}

// filesLeft returns the names of the files in /store and in its directory of blobs.
func filesLeft(t *testing.T, d *simdisk.Disk) []string {
	t.Helper()
	names := slices.Collect(maps.Keys(enginetest.Files(t, d)))
	for _, name := range enginetest.BlobNames(t, d, "/store") {
		names = append(names, "blobs/"+name)
	}
	slices.Sort(names)
	return names
}

// Destroy removes a store's files and nothing else.
func TestDestroyRemovesTheStoreOnly(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	others := fullStore(t, d)
	if err := engine.DestroyIn(d, "/store"); err != nil {
		t.Fatal(err)
	}
	if left := filesLeft(t, d); !slices.Equal(left, others) {
		t.Errorf("left: %v, want %v", left, others)
	}
	if err := engine.DestroyIn(d, "/store"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("destroyed again: error %v, want ErrNotExist", err)
	}
	pc := enginetest.OpenSim(t, d)
	if pc.WasRecovered() {
		t.Error("a store is still there")
	}
	enginetest.Close(t, pc)

	dir := t.TempDir()
	l := enginetest.OpenLog(t, dir, &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2})
	if _, _, err := l.Write([]byte("record")); err != nil {
		t.Fatal(err)
	}
	if err := engine.Destroy(dir); !errors.Is(err, engine.ErrLocked) {
		t.Errorf("destroyed while it was open: error %v, want ErrLocked", err)
	}
	enginetest.Close(t, l)
	reader := enginetest.OpenLog(t, dir, &engine.Options{ReadOnly: true})
	if err := engine.Destroy(dir); !errors.Is(err, engine.ErrLocked) {
		t.Errorf("destroyed while it was open for reading: error %v, want ErrLocked", err)
	}
	enginetest.Close(t, reader)
	if err := engine.Destroy(dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, error %v", left, err)
	}
}

// Destroy of something that is not known to be a store is a clear error, and removes nothing.
func TestDestroyRefusesOthers(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	for name, contents := range map[string]string{"file": "", "user/log": "a log of another kind", "user/blobs/0": "x",
		"old/superblock": "PCSUPERB", "old/log": ""} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(contents), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := fmt.Sprint(enginetest.TreeFiles(t, dir))
	for path, want := range map[string]error{
		"": nil, filepath.Join(dir, "missing"): fs.ErrNotExist, dir: fs.ErrNotExist, file: syscall.ENOTDIR,
		filepath.Join(dir, "user"): fs.ErrNotExist, filepath.Join(dir, "old"): engine.ErrCorrupt,
	} {
		if err := engine.Destroy(path); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("destroy %q: error %v, want %v", path, err, want)
		}
	}
	if after := fmt.Sprint(enginetest.TreeFiles(t, dir)); after != before {
		t.Error("a refused Destroy has removed something")
	}
}

// A store whose superblock or log is corrupt or missing can be destroyed, if the other one shows that it is a store.
func TestDestroyCorruptStore(t *testing.T) {
	for name, hurt := range map[string]func(d *simdisk.Disk){
		"superblock": func(d *simdisk.Disk) { d.WriteFile(superFile, bytes.Repeat([]byte{1}, 8192)) },
		"no superblock": func(d *simdisk.Disk) {
			if err := removeFile(d, "/store", enginetest.SuperName); err != nil {
				t.Fatal(err)
			}
		},
		"log": func(d *simdisk.Disk) { d.WriteFile("/store/log", []byte("garbage")) },
		"no log": func(d *simdisk.Disk) {
			if err := removeFile(d, "/store", enginetest.LogName); err != nil {
				t.Fatal(err)
			}
		},
	} {
		d := simdisk.New(1, simdisk.Options{})
		others := fullStore(t, d)
		hurt(d)
		if err := engine.DestroyIn(d, "/store"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if left := filesLeft(t, d); !slices.Equal(left, others) {
			t.Errorf("%s: left: %v, want %v", name, left, others)
		}
	}
}

// removeFile removes a file of a simulated disk.
func removeFile(d *simdisk.Disk, dir, name string) error {
	held, err := d.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(held.Remove(name), held.Sync(), held.Close())
}

// After a crash in any step of Destroy, another Destroy removes the rest, and a new store can be made there.
func TestDestroyAfterCrash(t *testing.T) {
	t.Parallel()
	whole := simdisk.New(1, simdisk.Options{})
	others := fullStore(t, whole)
	for step := 1; ; step++ {
		d := whole.Copy()
		d.CrashAfter(step)
		err := engine.DestroyIn(d, "/store")
		if err == nil {
			if step < 20 {
				t.Errorf("Destroy took %d steps", step)
			}
			break
		}
		for seed := range uint64(3) {
			d := d.Crash(seed)
			err := engine.DestroyIn(d, "/store")
			left := filesLeft(t, d)
			if errors.Is(err, fs.ErrNotExist) { // the superblock is gone: an empty log may be left
				left = slices.DeleteFunc(left, func(name string) bool { return name == enginetest.LogName })
			} else if err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			if !slices.Equal(left, others) {
				t.Fatalf("step %d: left: %v, want %v", step, left, others)
			}
			pc := enginetest.OpenSim(t, d)
			if pc.WasRecovered() {
				t.Errorf("step %d: a store is still there", step)
			}
			enginetest.Close(t, pc)
		}
	}
}
