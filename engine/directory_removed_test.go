package engine_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

// The directory of an open store is removed. Close says so and makes nothing: not in its old place, not in a directory
// that is there now, and not among the snapshots. Values that were in memory can still be read. Proves rule 15.
func TestRemovedStoreMakesNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ written, again, snapDir bool }{
		{}, {written: true}, {again: true}, {true, true, false}, {true, false, true}, {true, true, true},
	} {
		inBoth(t, func(t *testing.T, h house) {
			o := h.options()
			want := "[]"
			if c.snapDir {
				h.mkdir("snaps")
				o.SnapshotDir, want = h.path("snaps"), "[snaps]"
			}
			pc := h.open("data", o)
			pid, _ := enginetest.Allocate(t, pc, []byte("resident"))
			enginetest.AllocateMany(t, pc, 2, 20_000)
			enginetest.Flush(t, pc)
			h.remove("data")
			if c.again {
				h.mkdir("data")
				want = strings.Replace(want, "[", "[data ", 1)
				want = strings.Replace(want, " ]", "]", 1)
			}
			if c.written {
				enginetest.AllocateMany(t, pc, 3, 1000)
				tx := enginetest.Begin(t, pc)
				if _, _, err := pc.Allocate(tx, make([]byte, 20_000)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("write a blob: error %v, want ErrNotExist", err)
				}
				tx.End()
				h.gone("data", pc.Snapshot())
			}
			if got := enginetest.Get(t, pc, pid); string(got.Value) != "resident" {
				t.Errorf("page %d is %q", pid, got.Value)
			}
			h.gone("data", pc.Close())
			if got := h.names(""); got != want || c.again && h.names("data") != "[]" ||
				c.snapDir && h.names("snaps") != "[]" {
				t.Errorf("%+v: directories %s, want %s and all of them empty", c, got, want)
			}
		})
	}
}

// Close says that the log file alone was removed or replaced, and changes none of the other files. Proves rule 15.
func TestRemovedLogFile(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		inBoth(t, func(t *testing.T, h house) {
			pc := h.open("data", h.options())
			enginetest.AllocateMany(t, pc, 3, 1000)
			d, err := h.fs.OpenDir(h.path("data"))
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if err = d.Remove(enginetest.LogName); err == nil && replaced {
				var f vfs.File
				if f, err = d.Open(enginetest.LogName, vfs.FlagWrite|vfs.FlagCreate); err == nil {
					err = f.Close()
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			before := h.names("data")
			h.gone("data/"+enginetest.LogName, pc.Close())
			if after := h.names("data"); after != before {
				t.Errorf("files %s, then %s", before, after)
			}
		})
	}
}

// A log, and a store that is only read, whose directories are removed say so too. Proves rule 15.
func TestRemovedLog(t *testing.T) {
	inBoth(t, func(t *testing.T, h house) {
		l, err := engine.OpenLog(h.path("log"), h.options())
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Write([]byte("record")); err != nil {
			t.Fatal(err)
		}
		h.remove("log")
		h.gone("log", l.Close())
		o := h.options()
		if err := h.open("data", o).Close(); err != nil {
			t.Fatal(err)
		}
		o.ReadOnly = true
		pc := h.open("data", o)
		h.remove("data")
		h.gone("data", pc.Close())
		if got := h.names(""); got != "[]" {
			t.Errorf("directories %s", got)
		}
	})
}

// The directory of an open store is removed while a snapshot is written. The call fails, Close says so, and nothing is
// made. Proves rule 15.
func TestRemovedDuringSnapshot(t *testing.T) {
	inBoth(t, func(t *testing.T, h house) {
		w := &simdisk.Wrap{FS: h.fs, File: func(d vfs.Dir, name string, flag vfs.Flag) (vfs.File, error) {
			f, err := d.Open(name, flag)
			if strings.HasPrefix(name, "snapshot.") && strings.HasSuffix(name, ".tmp") {
				h.remove("data")
			}
			return f, err
		}}
		h.fs = w
		pc := h.open("data", h.options())
		enginetest.AllocateMany(t, pc, 10, 500)
		enginetest.Flush(t, pc)
		if err := pc.Snapshot(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("snapshot: error %v, want ErrNotExist", err)
		}
		h.gone("data", pc.Close())
		if got := h.names(""); got != "[]" {
			t.Errorf("directories %s", got)
		}
	})
}

// A temporary store whose directory was moved removes its files, and neither the other directory in its old place nor
// anything in that. Proves rule 15.
func TestMovedTemporaryStore(t *testing.T) {
	inBoth(t, func(t *testing.T, h house) {
		o := h.options()
		o.Temporary = true
		for _, again := range []bool{false, true} {
			pc := h.open("data", o)
			enginetest.AllocateMany(t, pc, 2, 20_000)
			if got := h.names("data"); got != "[blobs log superblock]" {
				t.Errorf("files %s", got)
			}
			want := "[]"
			if again {
				h.move("data", "moved")
				h.mkdir("data")
				want = "[data moved]"
			}
			if err := pc.Close(); err != nil {
				t.Error(err)
			}
			if got := h.names(""); got != want || again && h.names("moved")+h.names("data") != "[][]" {
				t.Errorf("directories %s, want %s and both empty", got, want)
			}
		}
	})
}
