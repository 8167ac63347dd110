package engine_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// simPages returns a store on a simulated disk and a Tx, for tests of single calls.
func simPages(t *testing.T, consolidateAfter int) (*engine.PageCache[[]byte], *engine.Tx[[]byte]) {
	t.Helper()
	o := enginetest.SimOptions(simdisk.New(1, simdisk.Options{}))
	o.ConsolidateAfter = consolidateAfter
	pc := enginetest.Open(t, "/store", o)
	tx := enginetest.Begin(t, pc)
	t.Cleanup(func() {
		tx.End()
		enginetest.Close(t, pc)
	})
	return pc, tx
}

// casCall is a compare-and-swap call on a page.
type casCall func(engine.PageID, engine.PagePtr[[]byte]) (engine.PagePtr[[]byte], bool, error)

// A call that loses returns the state from which the same call wins. Proves rule 6.
func TestLoserGetsStateThatWins(t *testing.T) {
	pc, tx := simPages(t, 0)
	for name, call := range map[string]casCall{
		"Link": func(pid engine.PageID, old engine.PagePtr[[]byte]) (engine.PagePtr[[]byte], bool, error) {
			return pc.Link(tx, pid, old, []byte("!"))
		},
		"Replace": func(pid engine.PageID, old engine.PagePtr[[]byte]) (engine.PagePtr[[]byte], bool, error) {
			return pc.Replace(tx, pid, old, []byte("!"))
		},
		"Free": func(pid engine.PageID, old engine.PagePtr[[]byte]) (engine.PagePtr[[]byte], bool, error) {
			return pc.Free(tx, pid, old)
		},
	} {
		pid, stale, err := pc.Allocate(tx, []byte("a"))
		if err != nil {
			t.Fatal(err)
		}
		head := enginetest.Must(t)(pc.Link(tx, pid, stale, []byte("b")))
		before := pc.Stats()
		now, won, err := call(pid, stale)
		if err != nil || won || now != head {
			t.Fatalf("%s from an old state: won %v, error %v", name, won, err)
		}
		after := pc.Stats()
		if after.Space.LiveBytes != before.Space.LiveBytes || after.Pages.InUse != before.Pages.InUse {
			t.Errorf("%s lost and changed the counts: %+v, before %+v", name, after, before)
		}
		if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "ab" {
			t.Errorf("%s lost, and the page holds %q, want \"ab\", error %v", name, p.Value, err)
		}
		next, won, err := call(pid, now)
		if err != nil || !won || next.LastLSN() <= head.LastLSN() || next.IsZero() {
			t.Errorf("%s from the state that it returned: won %v, error %v", name, won, err)
		}
	}
}

// After a page was freed and its id used again, no state of the freed page wins on the new page. Trap 2.
func TestStatesOfFreedPageLose(t *testing.T) {
	pc, tx := simPages(t, 0)
	pid, first, err := pc.Allocate(tx, []byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	linked := enginetest.Must(t)(pc.Link(tx, pid, first, []byte("+")))
	freed := enginetest.Must(t)(pc.Free(tx, pid, linked))
	tx.End()
	tx = enginetest.Begin(t, pc)
	defer tx.End()
	again, second, err := pc.Allocate(tx, []byte("second"))
	if err != nil || again != pid {
		t.Fatalf("allocated page %d, want %d again: error %v", again, pid, err)
	}
	for i, old := range []engine.PagePtr[[]byte]{first, linked, freed} {
		for _, call := range []func() (engine.PagePtr[[]byte], bool, error){
			func() (engine.PagePtr[[]byte], bool, error) { return pc.Link(tx, pid, old, []byte("!")) },
			func() (engine.PagePtr[[]byte], bool, error) { return pc.Replace(tx, pid, old, []byte("!")) },
			func() (engine.PagePtr[[]byte], bool, error) { return pc.Free(tx, pid, old) },
		} {
			if now, won, err := call(); err != nil || won || now != second {
				t.Errorf("state %d of the freed page: won %v, error %v", i, won, err)
			}
		}
	}
}

// Allocate uses the ids of freed pages again before it makes new ones, the highest first, in the same opening and in
// the next. It does not return the id of a page that was freed in the same Tx.
func TestFreedIDsAreReused(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	for range 2 {
		tx := enginetest.Begin(t, pc)
		for want := enginetest.NextPage(pc); want < 12; want++ { // in the second round all exist
			if pid, _, err := pc.Allocate(tx, nil); err != nil || pid != want {
				t.Errorf("allocated page %d, want %d, error %v", pid, want, err)
			}
		}
		tx.End()
		enginetest.Close(t, pc)
		pc = enginetest.OpenSim(t, d)
		tx = enginetest.Begin(t, pc)
		for _, pid := range []engine.PageID{4, 9, 3} {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Must(t)(pc.Free(tx, pid, p.Ptr))
		}
		next := enginetest.NextPage(pc)
		if pid, _, err := pc.Allocate(tx, nil); err != nil || pid != next {
			t.Errorf("allocated page %d while a Tx sees the freed pages, want %d, error %v", pid, next, err)
		}
		tx.End()
		tx = enginetest.Begin(t, pc)
		for _, want := range []engine.PageID{9, 4, 3, next + 1} {
			if pid, _, err := pc.Allocate(tx, nil); err != nil || pid != want {
				t.Errorf("allocated page %d, want %d, error %v", pid, want, err)
			}
		}
		tx.End()
	}
	enginetest.Close(t, pc)
}

// A value or fragment that a Tx holds does not change while its page is replaced and freed. The values were resident or
// read from disk, from an io buffer or from the map. Trap 9.
func TestHeldValuesOutlivePage(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	tx := enginetest.Begin(t, pc)
	const pages = 40 // a segment and a half
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i + 1)}, 600) }
	for i := range pages {
		pid, ptr, err := pc.Allocate(tx, value(i)[:300])
		if err != nil {
			t.Fatal(err)
		}
		enginetest.Must(t)(pc.Link(tx, pid, ptr, value(i)[300:]))
	}
	tx.End()
	enginetest.Close(t, pc)
	pc = enginetest.OpenSim(t, d)
	reader := enginetest.Begin(t, pc)
	defer reader.End()
	type view struct {
		page int
		b    []byte
	}
	var views []view
	for i := range pages {
		pid := engine.FirstUserPage + engine.PageID(i)
		_, frags, err := pc.Fragments(reader, pid)
		if err != nil || len(frags) != 2 {
			t.Fatalf("page %d has %d fragments, want 2, error %v", pid, len(frags), err)
		}
		p, err := pc.Get(reader, pid)
		if err != nil {
			t.Fatal(err)
		}
		views = append(views, view{i, p.Value}, view{i, frags[0]}, view{i, frags[1]})
	}
	for round := range 5 {
		tx := enginetest.Begin(t, pc)
		for i := range pages {
			pid := engine.FirstUserPage + engine.PageID(i)
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			if round == 4 {
				enginetest.Must(t)(pc.Free(tx, pid, p.Ptr))
			} else {
				enginetest.Must(t)(pc.Replace(tx, pid, p.Ptr, bytes.Repeat([]byte{0xee}, 700)))
			}
		}
		tx.End()
	}
	for i, v := range views {
		if len(v.b) != []int{600, 300, 300}[i%3] || !bytes.Equal(v.b, value(v.page)[:len(v.b)]) {
			t.Fatalf("value %d of page %d has changed", i, v.page)
		}
	}
}

// When a call returns, no page has more fragments than ConsolidateAfter. Consolidation by readers makes no caller lose.
// Proves rule 6.
func TestConsolidateAfterLimitsFragments(t *testing.T) {
	for _, limit := range []int{1, 2, 5, 10} {
		pc, tx := simPages(t, limit)
		pid, ptr, err := pc.Allocate(tx, []byte{0})
		if err != nil {
			t.Fatal(err)
		}
		want := []byte{0}
		for i := 1; i <= 4*limit+1; i++ {
			want = append(want, byte(i))
			// From the state that Link returned, although the page may have been merged since.
			ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte{byte(i)}))
			_, frags, err := pc.Fragments(tx, pid)
			if err != nil || len(frags) > limit || len(frags) == 0 {
				t.Fatalf("ConsolidateAfter %d: %d fragments after %d deltas, error %v", limit, len(frags), i, err)
			}
			if i%3 == 0 {
				p, err := pc.Get(tx, pid)
				if err != nil || !bytes.Equal(p.Value, want) || p.Ptr.LastLSN() < ptr.LastLSN() {
					t.Fatalf("ConsolidateAfter %d: page holds %x, want %x, error %v", limit, p.Value, want, err)
				}
			}
		}
		if n := pc.Stats().Pages.Consolidations; n < 4 || limit == 1 && n != 5 {
			t.Errorf("ConsolidateAfter %d: %d consolidations", limit, n)
		}
	}
}

// Calls refuse a Tx that was not begun, and ending it does nothing. A Tx is reused only after its End, with a new
// timestamp.
func TestZeroTxIsRefused(t *testing.T) {
	pc, tx := simPages(t, 0)
	var zero engine.Tx[[]byte]
	zero.End()
	_, err := pc.Get(&zero, 2)
	if !errors.Is(err, engine.ErrTxEnded) || !strings.Contains(err.Error(), "another store") {
		t.Errorf("Get: error %v, want ErrTxEnded with the reason", err)
	}
	if _, _, err := pc.Allocate(&zero, nil); !errors.Is(err, engine.ErrTxEnded) {
		t.Errorf("Allocate: error %v, want ErrTxEnded", err)
	}
	seen := map[uint64]bool{tx.TS(): true}
	for range 100 {
		tx := enginetest.Begin(t, pc)
		if seen[tx.TS()] {
			t.Fatalf("timestamp %d was returned twice", tx.TS())
		}
		seen[tx.TS()] = true
		tx.End()
	}
	if n := pc.Stats().Txs.Open; n != 1 {
		t.Errorf("%d Txs are open, want 1", n)
	}
}

// Get returns the kinds of the reserved pages and of those that hold roots, and no value for them.
func TestReservedPagesHaveKinds(t *testing.T) {
	o := enginetest.SimOptions(simdisk.New(4, simdisk.Options{}))
	o.IDPersistInterval = 1
	pc := enginetest.Open(t, "/store", o)
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	if _, _, err := pc.CASRoot(tx, "", 0, 2); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := pc.GenerateID(); err != nil {
			t.Fatal(err)
		}
	}
	kinds := map[engine.PageID]engine.PageKind{
		format.MetaPage: engine.KindMeta, format.CounterPage: engine.KindCounter,
		engine.FirstUserPage: engine.KindRoot, engine.FirstUserPage + 1: engine.KindUnallocated}
	for pid, want := range kinds {
		p, err := pc.Get(tx, pid)
		if err != nil || p.Kind != want || p.Value != nil ||
			p.Ptr.IsZero() != (want == engine.KindUnallocated || want == engine.KindMeta) {
			t.Errorf("page %d is %v, want %v without a value, error %v", pid, p.Kind, want, err)
		}
	}
	var names []string
	for k := engine.KindUnallocated; k <= engine.KindRoot; k++ {
		names = append(names, k.String())
	}
	if got := strings.Join(names, " "); got != "unallocated materialized free counter meta unreadable root" {
		t.Errorf("names of the kinds: %s", got)
	}
	if ptr := (engine.PagePtr[[]byte]{}); !ptr.IsZero() || ptr.LastLSN() != 0 {
		t.Error("the zero PagePtr identifies a page")
	}
}

// Of several writers that link from the same state exactly one wins, each time, and the deltas make one chain.
func TestOneWriterWins(t *testing.T) {
	pc, tx := simPages(t, 3)
	pid, ptr, err := pc.Allocate(tx, []byte{'-'})
	if err != nil {
		t.Fatal(err)
	}
	const writers = 4
	want := []byte{'-'}
	for range 100 {
		var wins [writers]engine.PagePtr[[]byte]
		var wg sync.WaitGroup
		for g := range writers {
			wg.Go(func() {
				tx, err := pc.Begin()
				if err != nil {
					t.Errorf("begin: %v", err)
					return
				}
				defer tx.End()
				now, won, err := pc.Link(tx, pid, ptr, []byte{'a' + byte(g)})
				if err != nil || now.IsZero() {
					t.Errorf("link: won %v, state %v, error %v", won, now, err)
				} else if won {
					wins[g] = now
				}
			})
		}
		enginetest.Soon(t, "writers from one state", wg.Wait)
		winners := 0
		for g, w := range wins {
			if !w.IsZero() {
				winners++
				ptr, want = w, append(want, 'a'+byte(g))
			}
		}
		if winners != 1 {
			t.Fatalf("%d writers won, want 1", winners)
		}
	}
	if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, want) {
		t.Errorf("page holds %s, want %s, error %v", p.Value, want, err)
	}
}

// Pages yields every id below the highest that was handed out, in order, with the kind that Get returns.
func TestPagesYieldsKindsInOrder(t *testing.T) {
	pc, tx := simPages(t, 0)
	wantPages(t, pc, tx, []engine.PageKind{engine.KindUnallocated, engine.KindUnallocated})
	want := []engine.PageKind{engine.KindMeta, engine.KindUnallocated, engine.KindRoot}
	if _, _, err := pc.CASRoot(tx, "root", 0, 2); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		pid, ptr, err := pc.Allocate(tx, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			enginetest.Must(t)(pc.Free(tx, pid, ptr))
			want = append(want, engine.KindFree)
		} else {
			want = append(want, engine.KindMaterialized)
		}
	}
	wantPages(t, pc, tx, want)
}

// wantPages fails the test unless Pages yields pages of these kinds, in the order of their ids from 0 on.
func wantPages(t *testing.T, pc *engine.PageCache[[]byte], tx *engine.Tx[[]byte], want []engine.PageKind) {
	t.Helper()
	var got []engine.PageKind
	for pid, kind := range pc.Pages(tx) {
		if pid != engine.PageID(len(got)) {
			t.Fatalf("Pages yields page %d, want page %d", pid, len(got))
		}
		got = append(got, kind)
		if p, err := pc.Get(tx, pid); err == nil && p.Kind != kind {
			t.Errorf("Pages yields page %d as %v, Get as %v", pid, kind, p.Kind)
		} else if (err != nil) != (kind == engine.KindUnreadable) {
			t.Errorf("Pages yields page %d as %v, Get returns error %v", pid, kind, err)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("Pages yields %v, want %v", got, want)
	}
}

// Pages yields the pages whose records lie in a corrupt block of the snapshot with their kinds. Only if the log is
// corrupt too, where such a page lies, the page is KindUnreadable, and Get returns the error. Trap 29.
func TestPagesInCorruptBlock(t *testing.T) {
	const lost = format.EntriesPerBlock + 5
	d := simdisk.New(5, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	enginetest.AllocateMany(t, pc, 3*format.EntriesPerBlock, 10)
	places, err := engine.Places(pc, lost)
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Close(t, pc)
	d.FlipBit("/store/log", int64(places[0].Off)+format.HeaderSize, 0)
	name := "/store/" + enginetest.SnapshotFiles(t, d, "/store")[0]
	d.FlipBit(name, 2*format.SnapshotBlock+100, 3) // block 0 is the header, block 2 has the second part of the pages
	o := enginetest.WithSeam(enginetest.SimOptions(d), seam.Options{FS: d, Unchecked: true})
	pc = enginetest.Open(t, "/store", o)
	enginetest.NoCheck(t, pc)
	want := []engine.PageKind{engine.KindUnallocated, engine.KindUnallocated}
	for pid := engine.FirstUserPage; pid < enginetest.NextPage(pc); pid++ {
		if pid == lost {
			want = append(want, engine.KindUnreadable)
		} else {
			want = append(want, engine.KindMaterialized)
		}
	}
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	wantPages(t, pc, tx, want)
	if _, err := pc.Get(tx, lost); !errors.Is(err, engine.ErrCorrupt) {
		t.Errorf("Get of an unreadable page: error %v, want ErrCorrupt", err)
	}
}

// Pages stops if the loop is left, the Tx has ended or ends, or the store is closed.
func TestPagesStopsEarly(t *testing.T) {
	pc := enginetest.OpenSim(t, simdisk.New(6, simdisk.Options{}))
	enginetest.AllocateMany(t, pc, 100, 10)
	tx := enginetest.Begin(t, pc)
	yielded := 0
	for pid := range pc.Pages(tx) {
		if yielded++; pid == 9 {
			break
		}
	}
	if yielded != 10 {
		t.Errorf("left at page 9: %d pages yielded, want 10", yielded)
	}
	yielded = 0
	for pid := range pc.Pages(tx) {
		if yielded++; pid == 19 {
			tx.End()
		}
	}
	if yielded != 20 {
		t.Errorf("the Tx ends at page 19: %d pages yielded, want 20", yielded)
	}
	for pid := range pc.Pages(tx) {
		t.Fatalf("the Tx has ended, and Pages yields page %d", pid)
	}
	for pid := range pc.Pages(nil) {
		t.Fatalf("there is no Tx, and Pages yields page %d", pid)
	}
	tx = enginetest.Begin(t, pc)
	tx.End()
	enginetest.Close(t, pc)
	for pid := range pc.Pages(tx) {
		t.Fatalf("the store is closed, and Pages yields page %d", pid)
	}
}

// A state of one page is none of another, which has changed as often.
func TestConflictWithAnotherPage(t *testing.T) {
	pc, tx := simPages(t, 4)
	a, _ := enginetest.Allocate(t, pc, []byte("a"))
	b, _ := enginetest.Allocate(t, pc, []byte("b"))
	p, err := pc.Get(tx, a)
	if err != nil {
		t.Fatal(err)
	}
	if _, won, err := pc.Link(tx, b, p.Ptr, []byte("+")); won || err != nil {
		t.Errorf("link: %v, %v", won, err)
	}
	if _, won, err := pc.Replace(tx, b, p.Ptr, []byte("c")); won || err != nil {
		t.Errorf("replace: %v, %v", won, err)
	}
	if _, won, err := pc.Free(tx, b, p.Ptr); won || err != nil {
		t.Errorf("free: %v, %v", won, err)
	}
	if p, err := pc.Get(tx, b); err != nil || string(p.Value) != "b" {
		t.Errorf("%q, %v", p.Value, err)
	}
}
