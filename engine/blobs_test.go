package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

func random(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// blobNames returns the files of blobs.
func blobNames(t testing.TB, pc *PageCache[[]byte]) []string {
	t.Helper()
	names, err := pc.core.store.FS.ReadDir(pc.blobs.Dir())
	if ignore(err, os.ErrNotExist) != nil {
		t.Fatal(err)
	}
	return names
}

// Long values live in files of their own: they are found again after reopening, moved by the cleaner without a copy, and removed once they are
// replaced, freed or merged into another, what replaced them is stable and nobody looks at them any more. Proves rule 4; trap 4.
func TestBlobs(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 3, seam: seam.Options{Eager: true, FS: d}}
	pc := openTest(t, "/store", o)
	tx := begin(t, pc)
	want := map[PageID][]byte{}
	for i, n := range []int{4096, 4097, 10000, 100000, 1 << 20} {
		v := random(n, uint64(i))
		pid, _, err := pc.Allocate(tx, v)
		if err != nil {
			t.Fatal(err)
		}
		want[pid] = v
	}
	check := func(what string, blobs int) {
		t.Helper()
		tx := begin(t, pc)
		defer tx.End()
		for pid, v := range want {
			p, err := pc.Get(tx, pid)
			if err != nil || !bytes.Equal(p.Value, v) {
				t.Fatalf("%s: page %d: %d bytes, want %d, %v", what, pid, len(p.Value), len(v), err)
			}
		}
		if n := blobNames(t, pc); len(n) != blobs {
			t.Errorf("%s: blobs %v, want %d", what, n, blobs)
		}
	}
	check("written", 4)
	if s := pc.Stats(); s.Space.Blobs != 4 || s.Space.BlobBytes < 1<<20 || s.Space.LiveBytes > 8<<10 {
		t.Errorf("%+v", s)
	}
	old, err := pc.Get(tx, 5)
	if err != nil {
		t.Fatal(err)
	}
	want[5] = random(50000, 9)
	must(t)(pc.Replace(tx, 5, old.Ptr, want[5]))
	if _, ok, err := pc.Replace(tx, 5, old.Ptr, random(60000, 9)); ok || err != nil { // makes a blob, and loses
		t.Fatal(ok, err)
	}
	cleanAll(t, pc)
	check("replaced, but not stable", 5)
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	cleanAll(t, pc)
	check("replaced, but in use", 5)
	if !bytes.Equal(old.Value, random(100000, 3)) {
		t.Error("a value changed within its Tx")
	}
	tx.End()
	cleanAll(t, pc)
	check("replaced", 4)
	// Deltas on blobs, blobs as deltas; then they are merged into one.
	tx = begin(t, pc)
	p, err := pc.Get(tx, 4)
	if err != nil {
		t.Fatal(err)
	}
	ptr := p.Ptr
	for i, n := range []int{10, 9000, 10} {
		v := random(n, uint64(20+i))
		ptr = must(t)(pc.Link(tx, 4, ptr, v))
		want[4] = append(bytes.Clone(want[4]), v...)
	}
	tx.End()
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	cleanAll(t, pc)
	check("merged", 4)
	closeTest(t, pc)
	pc = openTest(t, "/store", o)
	check("reopened", 4)
	pids := some(t, pc, 10, 1000)
	churn(t, pc, pids, 12)
	before := blobNames(t, pc)
	if n := cleanAll(t, pc); n == 0 {
		t.Error("nothing was cleaned")
	}
	if after := blobNames(t, pc); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("blobs %v before cleaning, %v after", before, after)
	}
	check("moved", 4)
	tx = begin(t, pc)
	if p, err = pc.Get(tx, 6); err != nil {
		t.Fatal(err)
	}
	must(t)(pc.Free(tx, 6, p.Ptr))
	delete(want, 6)
	tx.End()
	closeTest(t, pc) // which has no need to wait
	pc = openTest(t, "/store", o)
	check("freed", 3)
	closeTest(t, pc)
}

// A value cannot be longer than the limit. One that could not be written leaves nothing behind, and the store works on. Rule 9; O5.
func TestBlobFailures(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	pc := openSim(t, d)
	defer closeTest(t, pc)
	tx := begin(t, pc)
	defer tx.End()
	pid, ptr, err := pc.Allocate(tx, random(5000, 1))
	if err != nil {
		t.Fatal(err)
	}
	pc.blobs.SetMaxLen(1 << 20)
	if _, _, err := pc.Replace(tx, pid, ptr, make([]byte, 1<<20+1)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	d.SetCapacity(256 << 10)
	if _, _, err := pc.Replace(tx, pid, ptr, make([]byte, 1<<20)); !errors.Is(err, ErrNoSpace) {
		t.Error(err)
	}
	d.SetCapacity(0)
	for _, kind := range []simdisk.Kind{simdisk.OpAllocate, simdisk.OpSync, simdisk.OpSyncDir} {
		failOn(d, kind, 1, os.ErrPermission)
		if _, _, err := pc.Replace(tx, pid, ptr, make([]byte, 5000)); !errors.Is(err, os.ErrPermission) {
			t.Errorf("%v: %v", kind, err)
		}
		d.SetFault(nil)
	}
	if n := blobNames(t, pc); len(n) != 1 {
		t.Errorf("blobs %v", n)
	}
	if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, random(5000, 1)) {
		t.Error(len(p.Value), err)
	}
	must(t)(pc.Replace(tx, pid, ptr, make([]byte, 6000)))
}

// A blob that is missing, shortened, changed, or another's is an error of that page alone, and says where; strange files are left alone. O1, O7, O8.
func TestDamagedBlob(t *testing.T) {
	dir := t.TempDir()
	o := &Options{SegmentSize: 16 << 10}
	pc := openTest(t, dir, o)
	tx := begin(t, pc)
	pid, _, err := pc.Allocate(tx, random(70000, 1))
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := pc.Allocate(tx, random(70000, 2))
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	name, another := filepath.Join(pc.blobs.Dir(), blobNames(t, pc)[0]), filepath.Join(pc.blobs.Dir(), blobNames(t, pc)[1])
	stray := filepath.Join(pc.blobs.Dir(), "README")
	if err := os.WriteFile(stray, []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	closeTest(t, pc)
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
	for what, b := range map[string][]byte{"missing": nil, "empty": {}, "short": good[:len(good)-1], "long": append(bytes.Clone(good), 0), "magic": flipped(0),
		"header": flipped(50), "first": flipped(format.BlobHeaderSize), "last": flipped(len(good) - 1), "another": foreign} {
		_ = os.Remove(name)
		if b != nil {
			if err := os.WriteFile(name, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		pc := openTest(t, dir, o)
		tx := begin(t, pc)
		_, err := pc.Get(tx, pid)
		ce := (*CorruptError)(nil)
		if !errors.Is(err, ErrCorrupt) || !errors.As(err, &ce) {
			t.Fatalf("%s: %v", what, err)
		}
		lsn, _ := ce.Place.LSN()
		if at, _ := ce.Place.Page(); lsn.IsZero() || at != pid {
			t.Errorf("%s: %v", what, err)
		}
		if p, err := pc.Get(tx, other); err != nil || len(p.Value) != 70000 {
			t.Errorf("%s: the other: %v", what, err)
		}
		tx.End()
		closeTest(t, pc)
	}
	if _, err := os.Stat(stray); err != nil {
		t.Error(err)
	}
}

// A blob that a crash left without a page is removed by the next opening.
func TestBlobLeftBehind(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	pc := openSim(t, d)
	tx := begin(t, pc)
	if _, _, err := pc.Allocate(tx, random(5000, 1)); err != nil {
		t.Fatal(err)
	}
	after := d.Crash(1) // the message was not flushed
	tx.End()
	_ = pc.Close()
	pc = openSim(t, after)
	if n := blobNames(t, pc); len(n) != 0 {
		t.Errorf("blobs %v", n)
	}
	closeTest(t, pc)
}

// A value of a gigabyte.
func TestGigabyte(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 1 GiB of disk and 2 GiB of memory")
	}
	dir := t.TempDir()
	pc := openTest(t, dir, nil)
	v := make([]byte, 1<<30)
	for i := 0; i < len(v); i += 4096 {
		v[i] = byte(i >> 12)
	}
	tx := begin(t, pc)
	pid, _, err := pc.Allocate(tx, v)
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	closeTest(t, pc)
	pc = openTest(t, dir, nil)
	tx = begin(t, pc)
	if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, v) {
		t.Errorf("%d bytes, %v", len(p.Value), err)
	}
	tx.End()
	closeTest(t, pc)
}
