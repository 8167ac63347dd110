package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// GetMany returns for each page what Get returns, in the order of the ids, whatever kinds of pages they are, how many,
// and how often each is asked for.
func TestGetManyAgreesWithGet(t *testing.T) {
	pc, tx := simPages(t, 0)
	rng := rand.New(rand.NewPCG(1, 1))
	if _, won, err := pc.CASRoot(tx, "root", 0, 7); err != nil || !won {
		t.Fatal(won, err)
	}
	pids := []engine.PageID{0, 1, engine.RootPage(pc, "root"), 1 << 20, format.MaxPageID, format.MaxPageID + 1}
	for i := range 60 {
		pid, ptr, err := pc.Allocate(tx, bytes.Repeat([]byte{byte(i)}, i*20))
		if err != nil {
			t.Fatal(err)
		}
		for range i % 4 {
			ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte("delta")))
		}
		if i%9 == 0 {
			enginetest.Must(t)(pc.Free(tx, pid, ptr))
		}
		pids = append(pids, pid)
	}
	enginetest.Flush(t, pc)
	for round := range 300 {
		for range rng.IntN(6) {
			engine.Evict(pc, tx, pids[rng.IntN(len(pids))])
		}
		wanted := make([]engine.PageID, rng.IntN(50))
		for i := range wanted {
			wanted[i] = pids[rng.IntN(len(pids))]
		}
		dst := make([]engine.Page[[]byte], 1, 20)
		dst[0].Kind = engine.KindRoot
		for i := range dst[:cap(dst)] { // what was there before does not show
			dst[:cap(dst)][i] = engine.Page[[]byte]{Kind: engine.KindUnreadable, Value: []byte("old")}
		}
		pages, err := pc.GetMany(tx, wanted, dst)
		if err != nil || len(pages) != 1+len(wanted) || string(pages[0].Value) != "old" {
			t.Fatalf("round %d: %d pages for %d ids, error %v", round, len(pages), len(wanted), err)
		}
		for i, p := range pages[1:] {
			want, err := pc.Get(tx, wanted[i])
			if err != nil || p.Kind != want.Kind || p.Ptr != want.Ptr || !bytes.Equal(p.Value, want.Value) ||
				cap(p.Value) != len(p.Value) {
				t.Fatalf("round %d: page %d is %+v, Get says %+v, error %v", round, wanted[i], p, want, err)
			}
		}
	}
}

// A page that cannot be read is KindUnreadable, and its error is joined to those of others; all other pages are read.
func TestGetManyReportsEachPage(t *testing.T) {
	dir := t.TempDir()
	pc := enginetest.OpenWith(t, dir, upper{}, &engine.Options{SegmentSize: 16 << 10})
	tx := enginetest.Begin(t, pc)
	for _, s := range []string{"good", "bad", "fine", "bad too"} {
		if _, _, err := pc.Allocate(tx, s); err != nil {
			t.Fatal(err)
		}
	}
	tx.End()
	enginetest.Close(t, pc)
	pc = enginetest.OpenWith(t, dir, upper{picky: true}, nil)
	defer enginetest.Close(t, pc)
	tx = enginetest.Begin(t, pc)
	pages, err := pc.GetMany(tx, []engine.PageID{5, 2, 3, 4, 9}, nil)
	if err == nil || !strings.Contains(err.Error(), "page 3") || !strings.Contains(err.Error(), "page 5") ||
		strings.Contains(err.Error(), "page 4") {
		t.Errorf("error %v", err)
	}
	got := ""
	for _, p := range pages {
		got += fmt.Sprintf("%v %q %v, ", p.Kind, p.Value, p.Ptr.IsZero())
	}
	const want = `unreadable "" true, materialized "GOOD" false, unreadable "" true, materialized "FINE" false, ` +
		`unallocated "" true, `
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	tx.End()
	if pages, err := pc.GetMany(nil, []engine.PageID{2}, pages); !errors.Is(err, engine.ErrTxEnded) || len(pages) != 5 {
		t.Errorf("without a Tx: %d pages, error %v", len(pages), err)
	}
}

// GetMany reads the blocks of all pages that are on disk before it looks at the first of them, and each page once.
func TestGetManyReadsColdPages(t *testing.T) {
	dir := t.TempDir()
	o := &engine.Options{SegmentSize: 256 << 10}
	pc := enginetest.Open(t, dir, o)
	pids := enginetest.AllocateMany(t, pc, 200, 3000)
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, dir, o)
	size, err := engine.StoreOf(pc).File().Size()
	if err == nil {
		err = engine.StoreOf(pc).File().DropCache(0, size)
	}
	if err != nil {
		t.Fatal(err)
	}
	tx := enginetest.Begin(t, pc)
	pages, err := pc.GetMany(tx, append(slices.Clone(pids), pids...), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range pages {
		if want := byte('a' + i%len(pids)); len(p.Value) != 3000 || p.Value[0] != want || p.Value[2999] != want {
			t.Errorf("page %d: %d bytes", pids[i%len(pids)], len(p.Value))
		}
	}
	st := pc.Stats()
	if n := st.Pages.Fetches; n != int64(len(pids)) {
		t.Errorf("%d fragments were read, want %d", n, len(pids))
	}
	if n := st.Pages.FetchesCold; n < int64(len(pids))/2 || n > int64(len(pids)) {
		t.Errorf("%d of %d fragments were cold, want nearly all", n, len(pids))
	}
	t.Logf("%d fetches, %d of them cold; %+v", st.Pages.Fetches, st.Pages.FetchesCold, engine.StoreOf(pc).View.Counts())
	n := testing.AllocsPerRun(100, func() { _, _ = pc.GetMany(tx, pids, pages[:0]) })
	if n != 0 && !invariants.Enabled {
		t.Errorf("GetMany allocates %v times for resident pages", n)
	}
	tx.End()
	enginetest.Close(t, pc)
}
