package engine

import (
	"bytes"
	"errors"
	"testing"

	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/seam"
	"pagecache/lru"
)

// grown allocates a page, links a delta, reads it, so that it gets room, and links more deltas. It returns the page and
// its value.
func grown(t testing.TB, pc *PageCache[[]byte], size, more int) (PageID, []byte) {
	t.Helper()
	want := bytes.Repeat([]byte("x"), size)
	pid, _ := allocate(t, pc, want)
	tx := begin(t, pc)
	defer tx.End()
	for n := range 1 + more {
		p := get1(t, pc, pid)
		delta := []byte{'d', byte('0' + n), '.'}
		must(t)(pc.Link(tx, pid, p.Ptr, delta))
		want = append(want, delta...)
	}
	if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, want) || cap(p.Value) != len(want) {
		t.Fatalf("%q, room for %d, %v, want %q", p.Value, cap(p.Value), err, want)
	}
	return pid, want
}

// headOf returns the head of a page.
func headOf(pc *PageCache[[]byte], pid PageID) *head { return pc.pages.Table.Get(pid).Load() }

// A read after a change costs no merge once the page has room for its deltas, within a transaction and outside. Proves
// K4.
func TestReadAfterLinkMergesNothing(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{seam: seam.Options{Foreground: true}})
	defer closeTest(t, pc)
	pid, want := grown(t, pc, 100, 0)
	before := pc.mem.counts.merges.Load()
	for n := range 4 {
		if h := headOf(pc, pid); !h.IsWhole() || h.IsGrown() != (n > 0) {
			t.Fatalf("link %d: the head is a %v", n, h.Kind())
		}
		delta := []byte{byte('A' + n)}
		if n%2 == 0 {
			tx := begin(t, pc)
			must(t)(pc.Link(tx, pid, get1(t, pc, pid).Ptr, delta))
			tx.End()
		} else {
			link := func(tx *Tx[[]byte]) error { return tx.Link(pid, delta) }
			if _, err := pc.Update(t.Context(), link); err != nil {
				t.Fatal(err)
			}
		}
		delta[0] = 'z' // the store has copied it
		want = append(want, byte('A'+n))
		if p := get1(t, pc, pid); !bytes.Equal(p.Value, want) {
			t.Fatalf("%q, want %q", p.Value, want)
		}
	}
	if n := pc.mem.counts.merges.Load() - before; n != 0 {
		t.Errorf("%d merges", n)
	}
}

// Fragments of a page that has grown are its deltas, and the value that they were appended to.
func TestFragmentsOfGrownPage(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{seam: seam.Options{Foreground: true}})
	defer closeTest(t, pc)
	pid, want := grown(t, pc, 50, 2)
	tx := begin(t, pc)
	defer tx.End()
	_, frags, err := pc.Fragments(tx, pid)
	if err != nil || len(frags) != 3 || string(frags[0]) != "d2." || string(frags[1]) != "d1." ||
		!bytes.Equal(frags[2], want[:53]) {
		t.Errorf("%q, %v", frags, err)
	}
	for _, f := range frags {
		if len(f) != cap(f) {
			t.Errorf("%q has room for %d bytes", f, cap(f))
		}
	}
}

// A page that has grown is consolidated, moved and evicted like any other: its value stays, in memory of its own, and
// the accounts are right. Proves K2 and M1.
func TestHousekeepingOfGrownPages(t *testing.T) {
	dir := t.TempDir()
	o := &Options{FlushEvery: -1, SegmentSize: 64 << 10, EvictionWrites: 1000, seam: seam.Options{Foreground: true}}
	pc := openTest(t, dir, o)
	v := evictor[[]byte]{pc}
	pages := map[PageID][]byte{}
	add := func(size, more int) PageID {
		pid, want := grown(t, pc, size, more)
		pages[pid] = want
		return pid
	}
	same := func(what string) {
		t.Helper()
		settleAll(pc)
		heap, mapped := residentTruth(t, pc)
		if h, m := pc.mem.budget.Resident(); h != heap || m != mapped {
			t.Errorf("%s: %d and %d bytes are resident, counted are %d and %d", what, heap, mapped, h, m)
		}
		for pid, want := range pages {
			if p := get1(t, pc, pid); !bytes.Equal(p.Value, want) {
				t.Errorf("%s: page %d is %q, want %q", what, pid, p.Value, want)
			}
		}
	}
	consolidated := add(100, pc.limit+1)
	if h := headOf(pc, consolidated); h.Depth() > pc.limit || !h.IsWhole() || !h.HasRoom() {
		t.Errorf("the page has %d messages, and room: %v", h.Depth(), h.HasRoom())
	}
	same("consolidated")
	small := add(100, 2)
	flushTest(t, pc)
	for range 2 { // the first one writes it anew
		v.Evict(uint64(small))
		flushTest(t, pc)
	}
	if h := headOf(pc, small); h.Kind() != pagestack.KindOnDisk {
		t.Errorf("after evictions the head is a %v", h.Kind())
	}
	same("evicted")
	large := add(5000, 3) // its base is dropped, and its deltas stay
	flushTest(t, pc)
	pc.mem.allowance.Wrote(1 << 40)
	if out := v.Evict(uint64(large)); out != lru.OutcomeEvicted {
		t.Errorf("evict a page with small deltas: %v", out)
	}
	if h := headOf(pc, large); h.Kind() != pagestack.KindDelta || h.IsWhole() ||
		h.TailEntry().Kind() != pagestack.KindOnDisk {
		t.Errorf("after dropping the base the head is a %v on a %v", h.Kind(), h.TailEntry().Kind())
	}
	same("base dropped")
	moved := add(200, 3)
	tx, c := begin(t, pc), change[[]byte]{}
	h := headOf(pc, moved)
	if err := pc.prepareMove(tx.base(), moved, h, &c); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(c.frag, pages[moved]) || &c.frag[0] == &pagestack.EntryOf[[]byte](h).Frag[0] {
		t.Errorf("a page that is moved is %q, or shares memory with its old entries", c.frag)
	}
	e := movedTo(h, pagestack.Ref{LSN: h.LSN, Ptr: h.Ptr()}, &c)
	if e.Kind() != pagestack.KindBase || e.TS() != h.TS() || e.Depth() != 1 || !pagestack.CanGrow(e, 1) {
		t.Errorf("a page that is moved becomes a %v of %d messages", e.Kind(), e.Depth())
	}
	tx.base().Release()
	tx.End()
	closeTest(t, pc)
	pc = openTest(t, dir, o)
	same("reopened")
	closeTest(t, pc)
}

// A transaction that conflicts leaves a page the room for other deltas. Proves K4.
func TestConflictLeavesTheRoom(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{seam: seam.Options{Foreground: true}})
	defer closeTest(t, pc)
	pid, want := grown(t, pc, 100, 1)
	other, _ := grown(t, pc, 100, 1)
	read, _ := allocate(t, pc, []byte("read"))
	tx := begin(t, pc)
	if _, err := tx.Get(read); err != nil {
		t.Fatal(err)
	}
	for _, page := range []PageID{pid, other} {
		if err := errors.Join(tx.Link(page, []byte("lost")), tx.Link(page, []byte("twice"))); err != nil {
			t.Fatal(err)
		}
	}
	single := begin(t, pc)
	must(t)(pc.Link(single, read, get1(t, pc, read).Ptr, []byte("er")))
	single.End()
	if _, err := tx.Commit(); !errors.Is(err, ErrConflict) {
		t.Fatal(err)
	}
	tx.End()
	if !pagestack.CanGrow(headOf(pc, pid), 1) {
		t.Error("the room was not given back")
	}
	if _, err := pc.Update(t.Context(), func(tx *Tx[[]byte]) error {
		return errors.Join(tx.Link(pid, []byte("+")), tx.Link(other, []byte("-")))
	}); err != nil {
		t.Fatal(err)
	}
	if p := get1(t, pc, pid); !bytes.Equal(p.Value, append(want, '+')) || !headOf(pc, pid).IsGrown() {
		t.Errorf("%q", p.Value)
	}
}
