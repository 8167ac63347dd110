package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// Check finds no problem in an intact store. It finds one if a bit of a current message is flipped or a file is
// missing. It writes nothing. O7, O8.
func TestCheck(t *testing.T) {
	t.Parallel()
	d, o, _ := enginetest.MixedStore(t)
	var problems []string
	found := func(err error) { problems = append(problems, err.Error()) }
	before := enginetest.Files(t, d)
	r, err := engine.Check("/store", o, found)
	if err != nil || len(problems) > 0 || r.Problems != 0 || r.Pages == 0 || r.Fragments <= r.Pages ||
		r.Blobs == 0 || r.Bytes == 0 || r.Snapshot == "" {
		t.Fatalf("intact store: report %+v, error %v, problems %q", r, err, problems)
	}
	if fmt.Sprint(enginetest.Files(t, d)) != fmt.Sprint(before) {
		t.Error("Check changed files")
	}
	pc := enginetest.Open(t, "/store", o)
	if _, err := engine.Check("/store", o, found); !errors.Is(err, engine.ErrLocked) {
		t.Errorf("Check of an open store: error %v, want ErrLocked", err)
	}
	var refs []engine.DiskPtr // of current messages
	for pid := engine.PageID(0); pid < enginetest.NextPage(pc); pid++ {
		places, err := engine.Places(pc, pid)
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, places...)
	}
	enginetest.Close(t, pc)
	for i := 0; i < len(refs); i += 7 {
		hurt := d.Copy()
		hurt.FlipBit("/store/log", int64(refs[i].Off)+int64(refs[i].Len)/2, uint(i%8))
		o := *o
		problems = nil
		enginetest.WithSeam(&o, seam.Options{FS: hurt})
		if r, err := engine.Check("/store", &o, found); err != nil || r.Problems == 0 || len(problems) != r.Problems ||
			!strings.Contains(problems[0], "/store") {
			t.Errorf("bit of %v flipped: report %+v, error %v, problems %q", refs[i], r, err, problems)
		}
	}
	for name := range enginetest.Files(t, d) {
		hurt := d.Copy()
		if err := hurt.Remove("/store/" + name); err != nil || strings.HasPrefix(name, "snapshot") {
			continue // a snapshot is not needed
		}
		o := *o
		problems = nil
		enginetest.WithSeam(&o, seam.Options{FS: hurt})
		if r, err := engine.Check("/store", &o, found); err != nil || r.Problems == 0 {
			t.Errorf("without %s: report %+v, error %v; want a problem", name, r, err)
		}
	}
	for _, name := range enginetest.SnapshotFiles(t, d, "/store") {
		hurt := d.Copy()
		hurt.FlipBit("/store/"+name, 5000, 1)
		o := *o
		problems = nil
		enginetest.WithSeam(&o, seam.Options{FS: hurt})
		if r, err := engine.Check("/store", &o, found); err != nil || r.Problems != 1 ||
			!strings.Contains(problems[0], name) {
			t.Errorf("bit of %s flipped: report %+v, error %v, problems %q", name, r, err, problems)
		}
	}
}

// Check and Salvage work on a standalone log. A corrupt record costs that record only.
func TestCheckAndSalvageLog(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	var lsns []engine.LSN
	var ptrs []engine.DiskPtr
	for i := range 100 {
		lsn, ptr, err := l.Write(bytes.Repeat([]byte{byte(i)}, 500))
		if err != nil {
			t.Fatal(err)
		}
		lsns, ptrs = append(lsns, lsn), append(ptrs, ptr)
	}
	enginetest.Close(t, l)
	o := enginetest.SimOptions(d)
	problems := 0
	if r, err := engine.Check("/store", o, func(error) { problems++ }); err != nil || r.Records != 100 || problems > 0 {
		t.Errorf("intact log: report %+v, error %v", r, err)
	}
	d.FlipBit("/store/log", int64(ptrs[10].Off)+100, 1)
	if r, err := engine.Check("/store", o, func(error) { problems++ }); err != nil || r.Problems != 1 || problems != 1 {
		t.Errorf("log with a corrupt record: report %+v, error %v", r, err)
	}
	l = enginetest.OpenLog(t, "/store", o) // its index is intact
	enginetest.NoCheck(t, l)
	if _, err := l.Read(lsns[10], ptrs[10]); !errors.Is(err, engine.ErrCorrupt) {
		t.Errorf("read the corrupt record: error %v, want ErrCorrupt", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	var lost []string
	r, err := engine.Salvage("/store", "/saved", o, func(what string) { lost = append(lost, what) })
	if err != nil || r.Records != 99 || len(lost) != 1 || !strings.Contains(lost[0], "528 corrupt bytes") {
		t.Errorf("Salvage: report %+v, error %v, lost %q", r, err, lost)
	}
	l = enginetest.OpenLog(t, "/saved", o)
	if _, got := enginetest.Records(t, l, 0); len(got) != 99 || got[10][0] != 11 {
		t.Errorf("%d records salvaged, want all but the corrupt one", len(got))
	}
	enginetest.Close(t, l)
}

// Salvage of an intact store loses nothing: pages, roots and the id counter are the same.
func TestSalvageIntactStore(t *testing.T) {
	d, o, want := enginetest.MixedStore(t)
	var lost []string
	r, err := engine.Salvage("/store", "/saved", o, func(what string) { lost = append(lost, what) })
	if err != nil || len(lost) > 0 || r.Pages == 0 || r.Lost+r.Corrupt > 0 {
		t.Fatalf("Salvage: report %+v, error %v, lost %q", r, err, lost)
	}
	if _, err := engine.Salvage("/store", "/saved", o, func(string) {}); err == nil {
		t.Error("Salvage into an existing store: no error")
	}
	pc := enginetest.Open(t, "/saved", o)
	if got := enginetest.Contents(t, pc); got != want {
		t.Error("salvaged contents differ")
	}
	if err := engine.ExactAccounts(pc); err != nil {
		t.Errorf("accounts of the salvaged store: %v", err)
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
		t.Errorf("id %d, want %d or more, errors %v, %v", id, sb.NextID, err, err2)
	}
	enginetest.Close(t, pc)
}

// A store that Salvage writes keeps each fragment: the eviction policy does not consolidate chains in it, because
// Salvage does not have the caller's Merge. Trap 8.
func TestVerbatimStoreKeepsFragments(t *testing.T) {
	const deltas = 5
	for _, verbatim := range []bool{false, true} {
		o := &engine.Options{SegmentSize: 1 << 20, EvictionWrites: 1000}
		pc := enginetest.Open(t, t.TempDir(), enginetest.WithSeam(o, seam.Options{Verbatim: verbatim}))
		tx := enginetest.Begin(t, pc)
		pid, ptr, err := pc.Allocate(tx, []byte("0"))
		for n := 1; n < deltas && err == nil; n++ {
			ptr, _, err = pc.Link(tx, pid, ptr, []byte{byte('0' + n)})
		}
		if err != nil {
			t.Fatal(err)
		}
		enginetest.Flush(t, pc)
		want := 1
		if verbatim {
			want = deltas
		}
		engine.EvictByPolicy(pc, pid)
		enginetest.Flush(t, pc)
		engine.EvictByPolicy(pc, pid)
		if _, frags, err := pc.Fragments(tx, pid); err != nil || len(frags) != want {
			t.Errorf("verbatim %v: fragments %q, want %d, error %v", verbatim, frags, want, err)
		}
		tx.End()
		enginetest.Close(t, pc)
	}
}

// Salvage of a corrupt store saves all pages that are intact. No salvaged page has a value that the page never had.
func TestSalvageCorruptStore(t *testing.T) {
	t.Parallel()
	d := simdisk.New(3, simdisk.Options{})
	o := enginetest.SimOptions(d)
	pc := enginetest.Open(t, "/store", o)
	history := map[engine.PageID]map[string]bool{}
	tx := enginetest.Begin(t, pc)
	for round := range 3 {
		for i := range 60 {
			v := bytes.Repeat([]byte{byte('a' + round), byte(i)}, 300)
			pid := engine.FirstUserPage + engine.PageID(i)
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			if p.Kind == engine.KindUnallocated {
				if pid, _, err = pc.Allocate(tx, v); err != nil {
					t.Fatal(err)
				}
				history[pid] = map[string]bool{}
			} else {
				enginetest.Must(t)(pc.Replace(tx, pid, p.Ptr, v))
			}
			history[pid][string(v)] = true
		}
	}
	if _, _, err := pc.CASRoot(tx, "root", 0, 5); err != nil {
		t.Fatal(err)
	}
	tx.End()
	enginetest.Close(t, pc)
	log := d.ReadDurable("/store/log")
	for n := range 40 {
		hurt := d.Copy()
		b := bytes.Clone(log)
		at := n * len(b) / 40
		what := "corrupt bytes"
		switch n % 4 {
		case 0:
			clear(b[at:min(at+512, len(b))])
		case 1:
			b[at] ^= 0x10
		case 2:
			what = "zeroed header"
			clear(b[at-at%(16<<10):][:64])
		case 3:
			what = "corrupt superblock"
			hurt.FlipBit("/store/superblock", 20, 3)
			hurt.FlipBit("/store/superblock", format.SuperCopySize+20, 3)
		}
		hurt.WriteFile("/store/log", b)
		o := *o
		enginetest.WithSeam(&o, seam.Options{FS: hurt})
		var lost []string
		r, err := engine.Salvage("/store", "/saved", &o, func(what string) { lost = append(lost, what) })
		if err != nil {
			t.Errorf("%s at %d: Salvage: %v", what, at, err)
			continue
		}
		pc := enginetest.Open(t, "/saved", &o)
		tx := enginetest.Begin(t, pc)
		saved := int64(0)
		for pid, values := range history {
			p, err := pc.Get(tx, pid)
			if err != nil || p.Kind == engine.KindMaterialized && !values[string(p.Value)] {
				t.Errorf("%s at %d: page %d never had value %.10q, error %v", what, at, pid, p.Value, err)
			}
			if p.Kind == engine.KindMaterialized {
				saved++
			}
		}
		if saved != r.Pages || saved < 58 {
			t.Errorf("%s at %d: %d pages salvaged, report %+v, lost %q", what, at, saved, r, lost)
		}
		tx.End()
		enginetest.Close(t, pc)
	}
}
