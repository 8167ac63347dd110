package engine

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"

	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// simPages returns a store on a simulated disk and a Tx, for tests of single calls.
func simPages(t *testing.T, consolidateAfter int) (*PageCache[[]byte], *Tx) {
	t.Helper()
	o := simOptions(simdisk.New(1, simdisk.Options{}))
	o.ConsolidateAfter = consolidateAfter
	pc := openTest(t, "/store", o)
	tx := begin(t, pc)
	t.Cleanup(func() {
		tx.End()
		closeTest(t, pc)
	})
	return pc, tx
}

// A call that loses hands back the state with which the same call wins. Proves rule 6.
func TestLosersRetryWithWhatTheyGet(t *testing.T) {
	pc, tx := simPages(t, 0)
	for name, call := range map[string]func(PageID, PagePtr[[]byte]) (PagePtr[[]byte], bool, error){
		"Link": func(pid PageID, old PagePtr[[]byte]) (PagePtr[[]byte], bool, error) {
			return pc.Link(tx, pid, old, []byte("!"))
		},
		"Replace": func(pid PageID, old PagePtr[[]byte]) (PagePtr[[]byte], bool, error) {
			return pc.Replace(tx, pid, old, []byte("!"))
		},
		"Free": func(pid PageID, old PagePtr[[]byte]) (PagePtr[[]byte], bool, error) { return pc.Free(tx, pid, old) },
	} {
		pid, stale, err := pc.Allocate(tx, []byte("a"))
		if err != nil {
			t.Fatal(err)
		}
		head := must(t)(pc.Link(tx, pid, stale, []byte("b")))
		before := pc.Stats()
		now, won, err := call(pid, stale)
		if err != nil || won || now != head {
			t.Fatalf("%s from an old state: %v %v", name, won, err)
		}
		after := pc.Stats()
		if after.Space.LiveBytes != before.Space.LiveBytes || after.Pages.InUse != before.Pages.InUse {
			t.Errorf("%s lost and changed the accounts: %+v, before %+v", name, after, before)
		}
		if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "ab" {
			t.Errorf("%s lost, and the page is %q, %v", name, p.Value, err)
		}
		next, won, err := call(pid, now)
		if err != nil || !won || next.LastLSN() <= head.LastLSN() || next.IsZero() {
			t.Errorf("%s from the state it got: %v %v", name, won, err)
		}
	}
}

// No state of a page that was freed is one of the page that has its id now. Trap 2.
func TestStatesOfEarlierOwners(t *testing.T) {
	pc, tx := simPages(t, 0)
	pid, first, err := pc.Allocate(tx, []byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	linked := must(t)(pc.Link(tx, pid, first, []byte("+")))
	freed := must(t)(pc.Free(tx, pid, linked))
	tx.End()
	tx = begin(t, pc)
	defer tx.End()
	again, second, err := pc.Allocate(tx, []byte("second"))
	if err != nil || again != pid {
		t.Fatalf("page %d, want %d again: %v", again, pid, err)
	}
	for i, old := range []PagePtr[[]byte]{first, linked, freed} {
		for _, call := range []func() (PagePtr[[]byte], bool, error){
			func() (PagePtr[[]byte], bool, error) { return pc.Link(tx, pid, old, []byte("!")) },
			func() (PagePtr[[]byte], bool, error) { return pc.Replace(tx, pid, old, []byte("!")) },
			func() (PagePtr[[]byte], bool, error) { return pc.Free(tx, pid, old) },
		} {
			if now, won, err := call(); err != nil || won || now != second {
				t.Errorf("state %d of the page before: %v %v", i, won, err)
			}
		}
	}
}

// Ids of freed pages are handed out again before new ones, the highest first, in the same opening and in the next. The
// id of a page that is freed in a Tx is not handed out in that Tx.
func TestFreedIDsComeAgain(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	pc := openSim(t, d)
	for range 2 {
		tx := begin(t, pc)
		for want := pc.pages.IDs.Next(); want < 12; want++ { // the second time there is none to make
			if pid, _, err := pc.Allocate(tx, nil); err != nil || pid != want {
				t.Errorf("page %d, want %d, %v", pid, want, err)
			}
		}
		tx.End()
		closeTest(t, pc)
		pc = openSim(t, d)
		tx = begin(t, pc)
		for _, pid := range []PageID{4, 9, 3} {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			must(t)(pc.Free(tx, pid, p.Ptr))
		}
		next := pc.pages.IDs.Next()
		if pid, _, err := pc.Allocate(tx, nil); err != nil || pid != next {
			t.Errorf("page %d while a Tx sees those that were freed, want %d, %v", pid, next, err)
		}
		tx.End()
		tx = begin(t, pc)
		for _, want := range []PageID{9, 4, 3, next + 1} {
			if pid, _, err := pc.Allocate(tx, nil); err != nil || pid != want {
				t.Errorf("page %d, want %d, %v", pid, want, err)
			}
		}
		tx.End()
	}
	closeTest(t, pc)
}

// A value or fragment that a Tx holds does not change, whatever is done to its page: resident or read from disk, from
// an io buffer or from the map. Trap 9.
func TestViewsStay(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	pc := openSim(t, d)
	tx := begin(t, pc)
	const pages = 40 // a segment and a half
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i + 1)}, 600) }
	for i := range pages {
		pid, ptr, err := pc.Allocate(tx, value(i)[:300])
		if err != nil {
			t.Fatal(err)
		}
		must(t)(pc.Link(tx, pid, ptr, value(i)[300:]))
	}
	tx.End()
	closeTest(t, pc)
	pc = openSim(t, d)
	defer closeTest(t, pc)
	reader := begin(t, pc)
	defer reader.End()
	type view struct {
		page int
		b    []byte
	}
	var views []view
	for i := range pages {
		pid := FirstUserPage + PageID(i)
		_, frags, err := pc.Fragments(reader, pid)
		if err != nil || len(frags) != 2 {
			t.Fatal(len(frags), err)
		}
		p, err := pc.Get(reader, pid)
		if err != nil {
			t.Fatal(err)
		}
		views = append(views, view{i, p.Value}, view{i, frags[0]}, view{i, frags[1]})
	}
	for round := range 5 {
		tx := begin(t, pc)
		for i := range pages {
			p, err := pc.Get(tx, FirstUserPage+PageID(i))
			if err != nil {
				t.Fatal(err)
			}
			if round == 4 {
				must(t)(pc.Free(tx, FirstUserPage+PageID(i), p.Ptr))
			} else {
				must(t)(pc.Replace(tx, FirstUserPage+PageID(i), p.Ptr, bytes.Repeat([]byte{0xee}, 700)))
			}
		}
		tx.End()
	}
	for i, v := range views {
		if len(v.b) != []int{600, 300, 300}[i%3] || !bytes.Equal(v.b, value(v.page)[:len(v.b)]) {
			t.Fatalf("view %d has changed", i)
		}
	}
}

// No page has more fragments than ConsolidateAfter when a call returns. Housekeeping by readers makes no caller lose.
// Proves rule 6.
func TestConsolidateAfter(t *testing.T) {
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
			ptr = must(t)(pc.Link(tx, pid, ptr, []byte{byte(i)}))
			_, frags, err := pc.Fragments(tx, pid)
			if err != nil || len(frags) > limit || len(frags) == 0 {
				t.Fatalf("ConsolidateAfter %d: %d fragments after %d deltas, %v", limit, len(frags), i, err)
			}
			if i%3 == 0 {
				p, err := pc.Get(tx, pid)
				if err != nil || !bytes.Equal(p.Value, want) || p.Ptr.LastLSN() < ptr.LastLSN() {
					t.Fatalf("ConsolidateAfter %d: %x, %v", limit, p.Value, err)
				}
			}
		}
		if n := pc.Stats().Pages.Consolidations; n < 4 || limit == 1 && n != 5 {
			t.Errorf("ConsolidateAfter %d: %d consolidations", limit, n)
		}
	}
}

// A Tx that was not begun is refused, and ending it does nothing. A Tx is reused only after its End, with a new
// timestamp.
func TestZeroTx(t *testing.T) {
	pc, tx := simPages(t, 0)
	var zero Tx
	zero.End()
	if _, err := pc.Get(&zero, 2); !errors.Is(err, ErrTxEnded) || !strings.Contains(err.Error(), "another store") {
		t.Error(err)
	}
	if _, _, err := pc.Allocate(&zero, nil); !errors.Is(err, ErrTxEnded) {
		t.Error(err)
	}
	seen := map[uint64]bool{tx.TS(): true}
	for range 100 {
		tx := begin(t, pc)
		if seen[tx.TS()] {
			t.Fatalf("timestamp %d twice", tx.TS())
		}
		seen[tx.TS()] = true
		tx.End()
	}
	if n := pc.Stats().Txs.Open; n != 1 {
		t.Errorf("%d Txs are open", n)
	}
}

// The store's own pages are told apart by kind, and only once they exist.
func TestOwnPages(t *testing.T) {
	o := simOptions(simdisk.New(4, simdisk.Options{}))
	o.IDPersistInterval = 1
	pc := openTest(t, "/store", o)
	defer closeTest(t, pc)
	tx := begin(t, pc)
	defer tx.End()
	if _, _, err := pc.CASRoot(tx, "", 0, 2); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := pc.GenerateID(); err != nil {
			t.Fatal(err)
		}
	}
	kinds := map[PageID]PageKind{
		format.MetaPage: KindMeta, format.CounterPage: KindCounter, FirstUserPage: KindUnallocated}
	for pid, want := range kinds {
		p, err := pc.Get(tx, pid)
		if err != nil || p.Kind != want || p.Value != nil || p.Ptr.IsZero() != (want == KindUnallocated) {
			t.Errorf("page %d is %v, want %v, %v", pid, p.Kind, want, err)
		}
	}
	var names []string
	for k := KindUnallocated; k <= KindMeta; k++ {
		names = append(names, k.String())
	}
	if got := strings.Join(names, " "); got != "unallocated materialized free counter meta" {
		t.Error(got)
	}
	if ptr := (PagePtr[[]byte]{}); !ptr.IsZero() || ptr.LastLSN() != 0 {
		t.Error("a zero PagePtr is the state of a page")
	}
}

// Of many writers that try from the same state one wins, each time, and the deltas make one chain.
func TestOneWinner(t *testing.T) {
	pc, tx := simPages(t, 3)
	pid, ptr, err := pc.Allocate(tx, []byte{'-'})
	if err != nil {
		t.Fatal(err)
	}
	const writers = 4
	want := []byte{'-'}
	for range 100 {
		var wins [writers]PagePtr[[]byte]
		var wg sync.WaitGroup
		for g := range writers {
			wg.Go(func() {
				tx := begin(t, pc)
				defer tx.End()
				now, won, err := pc.Link(tx, pid, ptr, []byte{'a' + byte(g)})
				if err != nil || now.IsZero() {
					t.Error(won, err)
				} else if won {
					wins[g] = now
				}
			})
		}
		wg.Wait()
		winners := 0
		for g, w := range wins {
			if !w.IsZero() {
				winners++
				ptr, want = w, append(want, 'a'+byte(g))
			}
		}
		if winners != 1 {
			t.Fatalf("%d winners", winners)
		}
	}
	if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, want) {
		t.Errorf("%s, want %s, %v", p.Value, want, err)
	}
}

// A write that fails because the value is too long leaves no page, id or bytes behind, and the next write works.
func TestTooLargeLeavesNothing(t *testing.T) {
	pc, tx := simPages(t, 0)
	pc.blobs.SetMaxLen(format.MaxBody(16 << 10))
	pid, ptr, err := pc.Allocate(tx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	before := pc.Stats()
	too := make([]byte, format.MaxBody(16<<10)+1)
	for range 3 {
		_, _, err1 := pc.Allocate(tx, too)
		_, _, err2 := pc.Link(tx, pid, ptr, too)
		_, _, err3 := pc.Replace(tx, pid, ptr, too)
		if !errors.Is(err1, ErrTooLarge) || !errors.Is(err2, ErrTooLarge) || !errors.Is(err3, ErrTooLarge) {
			t.Fatal(err1, err2, err3)
		}
	}
	after := pc.Stats()
	if after.Pages.InUse != before.Pages.InUse || after.Space.LiveBytes != before.Space.LiveBytes ||
		after.Space.SegmentsInUse != before.Space.SegmentsInUse {
		t.Errorf("%+v, before %+v", after, before)
	}
	must(t)(pc.Link(tx, pid, ptr, []byte("y")))
}
