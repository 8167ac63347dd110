package engine

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// Open skips a snapshot that is corrupt anywhere, missing, cut short, another store's or half written, and the store
// has the same contents. If the blocks of a snapshot are verified only when they are used, the contents are the same,
// too. O6, O7. Proves rule 12; traps 6 and 29.
func TestCorruptSnapshotIsSkipped(t *testing.T) {
	t.Parallel()
	d := simdisk.New(2, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 4, seam: seam.Options{FS: d}}
	pc := openTest(t, "/store", o)
	busy(t, pc, 400, 1)
	want := contentsOf(t, pc)
	closeTest(t, pc)
	name := filepath.Join("/store", snapshotFiles(t, d, "/store")[0])
	good := d.ReadDurable(name)
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at/8] ^= 1 << (at % 8)
		return b
	}
	bad := map[string][]byte{"empty": {}, "cut": good[:len(good)-1], "longer": append(bytes.Clone(good), 0),
		"block": good[:format.SnapshotBlock],
		"zeros": make([]byte, len(good))}
	for at := 0; at < 8*len(good); at += 611 {
		bad[fmt.Sprint("bit ", at)] = flip(at)
	}
	foreign := bytes.Clone(good)
	h, err := format.DecodeSnapshotHeader(good, int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	own := h.ID()
	later, other, copied := own, own, own // the names of snapshots that would be newer
	later.Number, other.Number, copied.Number = 1<<63, 1<<63, 1<<63
	other.Store, copied.Timeline = format.StoreID{}, own.Timeline+1
	h.Store[3]++
	h.Put(foreign)
	bad["foreign"] = foreign
	skipped := 0
	for what, b := range bad {
		for _, unchecked := range []bool{false, true} {
			hurt := d.Copy()
			hurt.WriteFile(name, b)
			for _, name := range []string{"snapshot.tmp", "snapshot.ffffffffffffffff", "snapshot.1",
				own.TmpName(), later.Name() + ".tmp", other.Name(), copied.Name()} {
				hurt.WriteFile(filepath.Join("/store", name), good)
			}
			o := *o
			o.seam.FS, o.seam.Unchecked = hurt, unchecked
			pc, err := Open("/store", Bytes{}, &o)
			if err != nil {
				t.Fatalf("%s, unchecked %v: %v", what, unchecked, err)
			}
			if pc.snaps.Base == nil {
				skipped++
			} else if !unchecked {
				t.Fatalf("%s: the snapshot was used", what)
			}
			if contentsOf(t, pc) != want {
				t.Fatalf("%s, unchecked %v: the contents differ", what, unchecked)
			}
			closeUnchecked(t, pc)
		}
	}
	if skipped < len(bad) {
		t.Errorf("%d bad snapshots were skipped, want at least %d", skipped, len(bad))
	}
	hurt := d.Copy()
	if err := hurt.Remove(name); err != nil {
		t.Fatal(err)
	}
	o.seam.FS = hurt
	pc = openTest(t, "/store", o)
	if contentsOf(t, pc) != want {
		t.Error("without a snapshot, the contents differ")
	}
	closeTest(t, pc)
}

// cachingFS is a file system whose snapshots cannot be dropped from the page cache.
type cachingFS struct{ vfs.FS }

func (f cachingFS) OpenDir(path string) (vfs.Dir, error) {
	w := &simdisk.Wrap{FS: f.FS, File: func(d vfs.Dir, name string, flag vfs.Flag) (vfs.File, error) {
		file, err := d.Open(name, flag)
		if err == nil && strings.HasPrefix(name, "snapshot.") {
			file = cachingFile{file}
		}
		return file, err
	}}
	return w.OpenDir(path)
}

type cachingFile struct{ vfs.File }

func (cachingFile) DropCache(int64, int64) error { return errors.New("planted") }

// After a crash, Open skips a snapshot that it cannot drop from the page cache and read from disk. Proves rule 11.
func TestCachedSnapshotIsSkipped(t *testing.T) {
	d := simdisk.New(7, simdisk.Options{})
	o := simOptions(d)
	pc := openTest(t, "/store", o)
	busy(t, pc, 200, 1)
	if err := pc.Snapshot(); err != nil {
		t.Fatal(err)
	}
	flushTest(t, pc)
	want := contentsOf(t, pc)
	crashed := d.Crash(1)
	_ = pc.Close()
	o.seam.FS = cachingFS{crashed}
	pc = openTest(t, "/store", o)
	if pc.snaps.Base != nil || contentsOf(t, pc) != want {
		t.Error("the snapshot was used, or the contents differ")
	}
	closeTest(t, pc)
}

// edited returns a snapshot in which the record of a page is edited, with good checksums.
func edited(t *testing.T, snapshot []byte, pid PageID, edit func(*format.SnapshotEntry)) []byte {
	t.Helper()
	b := bytes.Clone(snapshot)
	h, err := format.DecodeSnapshotHeader(b, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	number := 1 + int64(pid)/format.EntriesPerBlock
	block := b[number*format.SnapshotBlock:][:format.SnapshotBlock]
	at := block[int64(pid)%format.EntriesPerBlock*format.SnapshotEntrySize:]
	e, err := format.GetSnapshotEntry(at, &h)
	if err != nil {
		t.Fatal(err)
	}
	edit(&e)
	e.Put(at)
	format.SealSnapshotBlock(block, h.Seed(), number)
	return b
}

// Open skips a snapshot that gives pages 0 and 1 kinds that they cannot have, although its checksums are good. If
// another page has a record of the counter's kind, or of a root that has no name, the call that reads the page returns
// an error. If the record of page 1 lies in no segment, Open returns an error. Proves rule 12.
func TestSnapshotWithWrongKinds(t *testing.T) {
	t.Parallel()
	d := simdisk.New(8, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 4,
		seam: seam.Options{Eager: true, FS: d}}
	pc := openTest(t, "/store", o)
	for round := range uint64(4) {
		busy(t, pc, 300, round)
		flushTest(t, pc)
		cleanAll(t, pc)
	}
	gone := LSN(0) // the base of a segment that was recycled
	for ok := true; ok; gone += 16 << 10 {
		_, ok = pc.core.store.Space.Find(gone)
	}
	gone -= 16 << 10
	if _, err := pc.noteID(pc.ids.Next()); err != nil {
		t.Fatal(err)
	}
	user := FirstUserPage
	for get1(t, pc, user).Kind != KindMaterialized {
		user++
	}
	want := contentsOf(t, pc)
	closeTest(t, pc)
	name := filepath.Join("/store", snapshotFiles(t, d, "/store")[0])
	good := d.ReadDurable(name)
	open := func(pid PageID, unchecked bool, edit func(*format.SnapshotEntry)) (*PageCache[[]byte], error) {
		hurt := d.Copy()
		hurt.WriteFile(name, edited(t, good, pid, edit))
		o := *o
		o.seam.FS, o.seam.Unchecked = hurt, unchecked
		return Open("/store", Bytes{}, &o)
	}
	kinds := []format.SnapshotKind{format.SnapshotKindPage, format.SnapshotKindPages, format.SnapshotKindFree,
		format.SnapshotKindRoot, format.SnapshotKindCounter}
	right := map[PageID]format.SnapshotKind{
		format.MetaPage: format.SnapshotKindNone, format.CounterPage: format.SnapshotKindCounter}
	for _, k := range kinds {
		as := func(e *format.SnapshotEntry) {
			if e.Kind = k; k == format.SnapshotKindPages {
				e.Len, e.First = 1, 0
			}
		}
		for pid, own := range right {
			for _, unchecked := range []bool{false, true} {
				pc, err := open(pid, unchecked, as)
				if err != nil {
					t.Fatalf("page %d with kind %d: %v", pid, k, err)
				}
				if skipped := pc.snaps.Base == nil; skipped == (k == own) || contentsOf(t, pc) != want {
					t.Errorf("page %d with kind %d: skipped %v, or the contents differ", pid, k, skipped)
				}
				closeUnchecked(t, pc)
			}
		}
		if k != format.SnapshotKindRoot && k != format.SnapshotKindCounter {
			continue
		}
		pc, err := open(user, false, as)
		if err != nil {
			t.Fatal(err)
		}
		tx := begin(t, pc)
		if p, err := pc.Get(tx, user); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), name) {
			t.Errorf("page %d with kind %d: %v, error %v, want ErrCorrupt with the file", user, k, p.Kind, err)
		}
		tx.End()
		closeUnchecked(t, pc)
	}
	_, err := open(format.CounterPage, false, func(e *format.SnapshotEntry) { e.LSN = gone + format.SegmentStart })
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "missing") {
		t.Errorf("page 1 in no segment: error %v, want ErrCorrupt", err)
	}
}
