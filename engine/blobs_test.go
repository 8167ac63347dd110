package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// A long value has a file of its own, which survives reopening. The cleaner moves its page and does not copy the file.
// The file is removed once its value was replaced, freed or merged into another, the replacement is stable, and no Tx
// can see the value. Proves rule 4; trap 4.
func TestBlobLifetime(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	o := enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 3},
		seam.Options{Eager: true, FS: d})
	pc := enginetest.Open(t, "/store", o)
	tx := enginetest.Begin(t, pc)
	want := map[engine.PageID][]byte{}
	for i, n := range []int{4096, 4097, 10000, 100000, 1 << 20} {
		v := enginetest.Random(n, uint64(i))
		pid, _, err := pc.Allocate(tx, v)
		if err != nil {
			t.Fatal(err)
		}
		want[pid] = v
	}
	check := func(what string, blobs int) {
		t.Helper()
		tx := enginetest.Begin(t, pc)
		defer tx.End()
		for pid, v := range want {
			p, err := pc.Get(tx, pid)
			if err != nil || !bytes.Equal(p.Value, v) {
				t.Fatalf("%s: page %d: read %d bytes, want %d, error %v", what, pid, len(p.Value), len(v), err)
			}
		}
		if n := enginetest.BlobNames(t, d, "/store"); len(n) != blobs {
			t.Errorf("%s: blob files %v, want %d", what, n, blobs)
		}
	}
	check("written", 4)
	if s := pc.Stats(); s.Space.Blobs != 4 || s.Space.BlobBytes < 1<<20 || s.Space.LiveBytes > 8<<10 {
		t.Errorf("stats %+v", s.Space)
	}
	old, err := pc.Get(tx, 5)
	if err != nil {
		t.Fatal(err)
	}
	want[5] = enginetest.Random(50000, 9)
	enginetest.Must(t)(pc.Replace(tx, 5, old.Ptr, want[5]))
	// This one creates a blob and loses.
	if _, ok, err := pc.Replace(tx, 5, old.Ptr, enginetest.Random(60000, 9)); ok || err != nil {
		t.Fatalf("Replace of an old state: won %v, error %v", ok, err)
	}
	enginetest.CleanAll(t, pc)
	check("replacement not stable", 5)
	enginetest.Flush(t, pc)
	enginetest.CleanAll(t, pc)
	check("replaced value visible to a Tx", 5)
	if !bytes.Equal(old.Value, enginetest.Random(100000, 3)) {
		t.Error("value changed before its Tx ended")
	}
	tx.End()
	enginetest.CleanAll(t, pc)
	check("replaced", 4)
	// Short and long deltas on a blob are consolidated into one blob.
	tx = enginetest.Begin(t, pc)
	p, err := pc.Get(tx, 4)
	if err != nil {
		t.Fatal(err)
	}
	ptr := p.Ptr
	for i, n := range []int{10, 9000, 10} {
		v := enginetest.Random(n, uint64(20+i))
		ptr = enginetest.Must(t)(pc.Link(tx, 4, ptr, v))
		want[4] = append(bytes.Clone(want[4]), v...)
	}
	tx.End()
	enginetest.Flush(t, pc)
	enginetest.CleanAll(t, pc)
	check("merged", 4)
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, "/store", o)
	check("reopened", 4)
	pids := enginetest.AllocateMany(t, pc, 10, 1000)
	enginetest.Churn(t, pc, pids, 12)
	before := enginetest.BlobNames(t, d, "/store")
	if n := enginetest.CleanAll(t, pc); n == 0 {
		t.Error("no segment was recycled")
	}
	if after := enginetest.BlobNames(t, d, "/store"); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("blob files %v before cleaning, %v after", before, after)
	}
	check("cleaned", 4)
	tx = enginetest.Begin(t, pc)
	if p, err = pc.Get(tx, 6); err != nil {
		t.Fatal(err)
	}
	enginetest.Must(t)(pc.Free(tx, 6, p.Ptr))
	delete(want, 6)
	tx.End()
	enginetest.Close(t, pc) // no Tx is open: Close removes the blob
	pc = enginetest.Open(t, "/store", o)
	check("freed", 3)
	enginetest.Close(t, pc)
}

// A value above the length limit is refused. A blob that cannot be written leaves no file, and the store works on.
// Rule 9; O5.
func TestBlobWriteErrors(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	defer enginetest.Close(t, pc)
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	pid, ptr, err := pc.Allocate(tx, enginetest.Random(5000, 1))
	if err != nil {
		t.Fatal(err)
	}
	engine.SetMaxBlob(pc, 1<<20)
	if _, _, err := pc.Replace(tx, pid, ptr, make([]byte, 1<<20+1)); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("value above the limit: error %v, want ErrTooLarge", err)
	}
	d.SetCapacity(256 << 10)
	if _, _, err := pc.Replace(tx, pid, ptr, make([]byte, 1<<20)); !errors.Is(err, engine.ErrNoSpace) {
		t.Errorf("blob on a full disk: error %v, want ErrNoSpace", err)
	}
	d.SetCapacity(0)
	for _, kind := range []simdisk.OpKind{simdisk.OpAllocate, simdisk.OpSync, simdisk.OpSyncDir} {
		d.FailFrom(kind, 1, os.ErrPermission)
		if _, _, err := pc.Replace(tx, pid, ptr, make([]byte, 5000)); !errors.Is(err, os.ErrPermission) {
			t.Errorf("fault in %v: error %v, want ErrPermission", kind, err)
		}
		d.SetFault(nil)
	}
	if n := enginetest.BlobNames(t, d, "/store"); len(n) != 1 {
		t.Errorf("blob files %v, want 1", n)
	}
	if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, enginetest.Random(5000, 1)) {
		t.Errorf("value changed: %d bytes, error %v", len(p.Value), err)
	}
	enginetest.Must(t)(pc.Replace(tx, pid, ptr, make([]byte, 6000)))
}

// If a blob file is missing, has another length or other bytes, or is another page's, Get of its page returns a
// CorruptError with the place. Other pages can be read. Files that are not blobs are kept. O1, O7, O8.
func TestCorruptBlob(t *testing.T) {
	dir := t.TempDir()
	o := &engine.Options{SegmentSize: 16 << 10}
	pc := enginetest.Open(t, dir, o)
	tx := enginetest.Begin(t, pc)
	pid, _, err := pc.Allocate(tx, enginetest.Random(70000, 1))
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := pc.Allocate(tx, enginetest.Random(70000, 2))
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	names, err := filepath.Glob(filepath.Join(dir, enginetest.BlobDir, "*"))
	if err != nil || len(names) != 2 {
		t.Fatalf("blob files %v, want 2, error %v", names, err)
	}
	name, another := names[0], names[1]
	stray := filepath.Join(dir, enginetest.BlobDir, "README")
	if err := os.WriteFile(stray, []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	enginetest.Close(t, pc)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(another)
	if err != nil {
		t.Fatal(err)
	}
	flipped := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 4
		return b
	}
	for what, b := range map[string][]byte{
		"missing":              nil,
		"empty":                {},
		"a byte too short":     good[:len(good)-1],
		"a byte too long":      append(bytes.Clone(good), 0),
		"magic changed":        flipped(0),
		"header changed":       flipped(50),
		"first byte changed":   flipped(format.BlobHeaderSize),
		"last byte changed":    flipped(len(good) - 1),
		"blob of another page": foreign,
	} {
		_ = os.Remove(name)
		if b != nil {
			if err := os.WriteFile(name, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		pc := enginetest.Open(t, dir, o)
		enginetest.NoCheck(t, pc)
		tx := enginetest.Begin(t, pc)
		_, err := pc.Get(tx, pid)
		ce := (*engine.CorruptError)(nil)
		if !errors.Is(err, engine.ErrCorrupt) || !errors.As(err, &ce) {
			t.Fatalf("%s: error %v, want a CorruptError", what, err)
		}
		lsn, _ := ce.Place.LSN()
		if at, _ := ce.Place.Page(); lsn.IsZero() || at != pid {
			t.Errorf("%s: error %v, want LSN and page %d", what, err, pid)
		}
		if p, err := pc.Get(tx, other); err != nil || len(p.Value) != 70000 {
			t.Errorf("%s: page with a good blob: %d bytes, %v", what, len(p.Value), err)
		}
		tx.End()
		enginetest.Close(t, pc)
	}
	if _, err := os.Stat(stray); err != nil {
		t.Errorf("file that is not a blob: %v", err)
	}
}

// Open removes a blob file that no page refers to after a crash.
func TestOpenRemovesOrphanBlob(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	tx := enginetest.Begin(t, pc)
	if _, _, err := pc.Allocate(tx, enginetest.Random(5000, 1)); err != nil {
		t.Fatal(err)
	}
	after := d.Crash(1) // the message was not flushed
	tx.End()
	_ = pc.Close()
	pc = enginetest.OpenSim(t, after)
	if n := enginetest.BlobNames(t, after, "/store"); len(n) != 0 {
		t.Errorf("blob files %v, want none", n)
	}
	enginetest.Close(t, pc)
}

// A value of 1 GiB survives reopening.
func TestGigabyteValue(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes 1 GiB of disk and 2 GiB of memory")
	}
	dir := t.TempDir()
	pc := enginetest.Open(t, dir, nil)
	v := make([]byte, 1<<30)
	for i := 0; i < len(v); i += 4096 {
		v[i] = byte(i >> 12)
	}
	tx := enginetest.Begin(t, pc)
	pid, _, err := pc.Allocate(tx, v)
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, dir, nil)
	tx = enginetest.Begin(t, pc)
	if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, v) {
		t.Errorf("read %d bytes, want 1 GiB, error %v", len(p.Value), err)
	}
	tx.End()
	enginetest.Close(t, pc)
}
