package engine

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// checked makes a store with something of everything in it.
func checked(t *testing.T) (*simdisk.Disk, *Options, string) {
	t.Helper()
	d := simdisk.New(1, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 4, Compression: CompressionZstd, CompressionLevel: 1, seam: seam.Options{Eager: true, FS: d}}
	pc := openTest(t, "/store", o)
	for round := range uint64(3) {
		busy(t, pc, 200, round)
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		cleanAll(t, pc)
	}
	busy(t, pc, 100, 9) // chains of deltas
	want := contentsOf(t, pc)
	closeTest(t, pc)
	return d, o, want
}

// A good store has no problems; one with a flipped bit anywhere that matters has, and so has one that lacks a file. Nothing is written. O7, O8.
func TestCheck(t *testing.T) {
	d, o, _ := checked(t)
	var problems []string
	found := func(err error) { problems = append(problems, err.Error()) }
	before := files(t, d)
	r, err := Check("/store", o, found)
	if err != nil || len(problems) > 0 || r.Problems != 0 || r.Pages == 0 || r.Fragments <= r.Pages || r.Blobs == 0 || r.Bytes == 0 || r.Snapshot == "" {
		t.Fatalf("%+v, %v, %q", r, err, problems)
	}
	if fmt.Sprint(files(t, d)) != fmt.Sprint(before) {
		t.Error("checking has written")
	}
	pc := openTest(t, "/store", o)
	if _, err := Check("/store", o, found); !errors.Is(err, ErrLocked) {
		t.Errorf("an open store: %v", err)
	}
	var refs []DiskPtr // of what is current
	for pid := PageID(0); pid < PageID(pc.pages.IDs.Next()); pid++ {
		_, head, err := pc.pages.Find(pid)
		if err != nil {
			t.Fatal(err)
		}
		head.Refs(func(r pagestack.Ref) { refs = append(refs, r.Ptr) })
	}
	closeTest(t, pc)
	for i := 0; i < len(refs); i += 7 {
		hurt := d.Copy()
		hurt.FlipBit("/store/log", int64(refs[i].Off)+int64(refs[i].Len)/2, uint(i%8))
		o := *o
		o.seam.FS, problems = hurt, nil
		if r, err := Check("/store", &o, found); err != nil || r.Problems == 0 || len(problems) != r.Problems || !strings.Contains(problems[0], "/store") {
			t.Errorf("%v flipped: %+v, %v, %q", refs[i], r, err, problems)
		}
	}
	for name := range files(t, d) {
		hurt := d.Copy()
		if err := hurt.Remove("/store/" + name); err != nil || strings.HasPrefix(name, "snapshot") {
			continue // the log is enough
		}
		o := *o
		o.seam.FS, problems = hurt, nil
		if r, err := Check("/store", &o, found); err != nil || r.Problems == 0 {
			t.Errorf("without %s: %+v, %v", name, r, err)
		}
	}
	for _, name := range snapshotFiles(t, d, "/store") {
		hurt := d.Copy()
		hurt.FlipBit("/store/"+name, 5000, 1)
		o := *o
		o.seam.FS, problems = hurt, nil
		if r, err := Check("/store", &o, found); err != nil || r.Problems != 1 || !strings.Contains(problems[0], name) {
			t.Errorf("%s flipped: %+v, %v, %q", name, r, err, problems)
		}
	}
}

// Standalone logs can be checked and salvaged too.
func TestCheckLog(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	l := openSimLog(t, d)
	var ptrs []DiskPtr
	for i := range 100 {
		_, ptr, err := l.Write(bytes.Repeat([]byte{byte(i)}, 500))
		if err != nil {
			t.Fatal(err)
		}
		ptrs = append(ptrs, ptr)
	}
	closeTest(t, l)
	o := simOptions(d)
	problems := 0
	if r, err := Check("/store", o, func(error) { problems++ }); err != nil || r.Records != 100 || problems > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	d.FlipBit("/store/log", int64(ptrs[10].Off)+100, 1)
	if r, err := Check("/store", o, func(error) { problems++ }); err != nil || r.Problems != 1 || problems != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := OpenLog("/store", o); !errors.Is(err, ErrCorrupt) {
		t.Errorf("opened: %v", err)
	}
	var lost []string
	r, err := Salvage("/store", "/saved", o, func(what string) { lost = append(lost, what) })
	if err != nil || r.Records != 99 || len(lost) != 1 || !strings.Contains(lost[0], "528 corrupt bytes") {
		t.Errorf("%+v, %v, %q", r, err, lost)
	}
	l, err = OpenLog("/saved", o)
	if err != nil {
		t.Fatal(err)
	}
	if _, got := records(t, l, 0); len(got) != 99 || got[10][0] != 11 {
		t.Errorf("%d records", len(got))
	}
	closeTest(t, l)
}

// An undamaged store is saved as it is.
func TestSalvageWhole(t *testing.T) {
	d, o, want := checked(t)
	var lost []string
	r, err := Salvage("/store", "/saved", o, func(what string) { lost = append(lost, what) })
	if err != nil || len(lost) > 0 || r.Pages == 0 || r.Lost+r.Corrupt > 0 {
		t.Fatalf("%+v, %v, %q", r, err, lost)
	}
	if _, err := Salvage("/store", "/saved", o, func(string) {}); err == nil {
		t.Error("saved over a store")
	}
	pc := openTest(t, "/saved", o)
	if got := contentsOf(t, pc); got != want {
		t.Error("the contents differ")
	}
	if err := exactAccounts(pc); err != nil {
		t.Error(err)
	}
	old, err := d.Open("/store/superblock", 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, format.SuperblockSize)
	if _, err := old.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	sb, err := format.DecodeSuperblock(b)
	if id, err2 := pc.GenerateID(); err != nil || err2 != nil || id < sb.NextID {
		t.Errorf("id %d, they were at %d", id, sb.NextID)
	}
	closeTest(t, pc)
}

// What is saved is saved fragment by fragment, though the policy writes chains as one page before it pages them out: only the owner of
// the pages knows how to merge them. Trap 8.
func TestSalvageMergesNothing(t *testing.T) {
	const deltas = 5
	for _, verbatim := range []bool{false, true} {
		pc := openTest(t, t.TempDir(), &Options{SegmentSize: 1 << 20, seam: seam.Options{Verbatim: verbatim}})
		tx := begin(t, pc)
		pid, ptr, err := pc.Allocate(tx, []byte("0"))
		for n := 1; n < deltas && err == nil; n++ {
			ptr, _, err = pc.Link(tx, pid, ptr, []byte{byte('0' + n)})
		}
		if err != nil {
			t.Fatal(err)
		}
		flushTest(t, pc)
		want := 1
		if verbatim {
			want = deltas
		}
		v := evictor[[]byte]{pc}
		v.Evict(uint64(pid))
		flushTest(t, pc)
		v.Evict(uint64(pid))
		if _, frags, err := pc.Fragments(tx, pid); err != nil || len(frags) != want {
			t.Errorf("verbatim %v: %q, %v", verbatim, frags, err)
		}
		tx.End()
		closeTest(t, pc)
	}
}

// Whatever is damaged, what is not is saved, and no page has a value that it never had.
func TestSalvageDamaged(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{FS: d}}
	pc := openTest(t, "/store", o)
	history := map[PageID]map[string]bool{}
	tx := begin(t, pc)
	for round := range 3 {
		for i := range 60 {
			v := bytes.Repeat([]byte{byte('a' + round), byte(i)}, 300)
			pid := FirstUserPage + PageID(i)
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			if p.Kind == KindUnallocated {
				if pid, _, err = pc.Allocate(tx, v); err != nil {
					t.Fatal(err)
				}
				history[pid] = map[string]bool{}
			} else {
				must(t)(pc.Replace(tx, pid, p.Ptr, v))
			}
			history[pid][string(v)] = true
		}
	}
	if _, _, err := pc.CASRoot(tx, "root", 0, 5); err != nil {
		t.Fatal(err)
	}
	tx.End()
	closeTest(t, pc)
	log := d.ReadDurable("/store/log")
	for n := range 40 {
		hurt := d.Copy()
		b := bytes.Clone(log)
		at := n * len(b) / 40
		what := "bytes"
		switch n % 4 {
		case 0:
			clear(b[at:min(at+512, len(b))])
		case 1:
			b[at] ^= 0x10
		case 2:
			what = "header"
			clear(b[at-at%(16<<10):][:64])
		case 3:
			what = "superblock"
			hurt.FlipBit("/store/superblock", 20, 3)
		}
		hurt.WriteFile("/store/log", b)
		o := *o
		o.seam.FS = hurt
		var lost []string
		r, err := Salvage("/store", "/saved", &o, func(what string) { lost = append(lost, what) })
		if err != nil {
			t.Errorf("%s at %d: %v", what, at, err)
			continue
		}
		pc := openTest(t, "/saved", &o)
		tx := begin(t, pc)
		saved := int64(0)
		for pid, values := range history {
			p, err := pc.Get(tx, pid)
			if err != nil || p.Kind == KindMaterialized && !values[string(p.Value)] {
				t.Errorf("%s at %d: page %d: %.10q, %v", what, at, pid, p.Value, err)
			}
			if p.Kind == KindMaterialized {
				saved++
			}
		}
		if saved != r.Pages || saved < 58 {
			t.Errorf("%s at %d: %d pages, %+v, %q", what, at, saved, r, lost)
		}
		tx.End()
		closeTest(t, pc)
	}
}
