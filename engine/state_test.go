package engine_test

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// stateAgrees fails the test unless State says of a page what Get says. State comes first, since Get reads the page.
func stateAgrees(t *testing.T, pc *engine.PageCache[[]byte], tx *engine.Tx[[]byte], pid engine.PageID,
	want engine.PageKind) {
	t.Helper()
	before := pc.Stats()
	ptr, kind, err := pc.State(tx, pid)
	if after := pc.Stats(); after.Pages != before.Pages || after.Cache.Misses != before.Cache.Misses {
		t.Errorf("State of page %d: %+v became %+v", pid, before.Pages, after.Pages)
	}
	if err != nil || kind != want {
		t.Errorf("State of page %d: %v, want %v, error %v", pid, kind, want, err)
	}
	if p, err := pc.Get(tx, pid); err != nil || p.Kind != kind || p.Ptr != ptr {
		t.Errorf("page %d: State says %v %+v, Get says %v %+v, error %v", pid, kind, ptr, p.Kind, p.Ptr, err)
	}
}

// State says what Get says of a page of every kind and in every state of its chain, and reads nothing: neither of pages
// that were evicted or not accessed since Open, nor of freed or reserved ones, or roots.
func TestStateReadsNothing(t *testing.T) {
	o := enginetest.SimOptions(simdisk.New(1, simdisk.Options{}))
	o.IDPersistInterval = 100
	pc := enginetest.Open(t, "/store", o)
	tx := enginetest.Begin(t, pc)
	for pid := range engine.FirstUserPage {
		stateAgrees(t, pc, tx, pid, engine.KindUnallocated)
	}
	if _, won, err := pc.CASRoot(tx, "root", 0, 7); err != nil || !won {
		t.Fatal(won, err)
	}
	root := engine.RootPage(pc, "root")
	var pids []engine.PageID
	for i := range 12 { // pages of up to 4 messages
		pid, ptr, err := pc.Allocate(tx, fmt.Append(nil, i))
		if err != nil {
			t.Fatal(err)
		}
		for range i % 4 {
			ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte("delta")))
		}
		if i >= 8 {
			enginetest.Must(t)(pc.Free(tx, pid, ptr))
		}
		pids = append(pids, pid)
	}
	for range 101 { // the last one has a note written in the background
		if _, err := pc.GenerateID(); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Soon(t, "the note of ids", func() {
		for kind := engine.KindUnallocated; kind == engine.KindUnallocated; runtime.Gosched() {
			_, kind, _ = pc.State(tx, format.CounterPage)
		}
	})
	kinds := func() {
		t.Helper()
		stateAgrees(t, pc, tx, format.MetaPage, engine.KindMeta)
		stateAgrees(t, pc, tx, format.CounterPage, engine.KindCounter)
		stateAgrees(t, pc, tx, root, engine.KindRoot)
		for i, pid := range pids {
			want := engine.KindMaterialized
			if i >= 8 {
				want = engine.KindFree
			}
			stateAgrees(t, pc, tx, pid, want)
		}
		for _, pid := range []engine.PageID{pids[11] + 1, 1 << 20, format.MaxPageID, format.MaxPageID + 1} {
			stateAgrees(t, pc, tx, pid, engine.KindUnallocated)
		}
	}
	kinds() // resident, most of them as deltas; State precedes Get
	kinds() // merged
	enginetest.Flush(t, pc)
	for _, pid := range append(pids, root) {
		engine.Evict(pc, tx, pid)
	}
	kinds()
	tx.End()
	enginetest.Close(t, pc)
	for range 2 { // not accessed since Open: found in the log, then in the snapshot
		pc = enginetest.Open(t, "/store", o)
		tx = enginetest.Begin(t, pc)
		kinds()
		tx.End()
		if err := pc.Snapshot(); err != nil {
			t.Fatal(err)
		}
		enginetest.Close(t, pc)
	}
}

// A blind Link, from the state that State returns, reads nothing of an evicted page, and wins if nobody was first.
func TestBlindLinkReadsNothing(t *testing.T) {
	pc, tx := simPages(t, 0)
	pids := enginetest.AllocateMany(t, pc, 20, 500)
	enginetest.Flush(t, pc)
	if err := engine.EvictAll(pc, pids); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		for _, pid := range pids {
			old, kind, err := pc.State(tx, pid)
			if err != nil || kind != engine.KindMaterialized {
				t.Fatal(kind, err)
			}
			enginetest.Must(t)(pc.Link(tx, pid, old, []byte("-")))
			if _, won, err := pc.Link(tx, pid, old, []byte("-")); won || err != nil {
				t.Errorf("page %d: a superseded state: won %v, error %v", pid, won, err)
			}
		}
	}
	if st := pc.Stats(); st.Pages.Fetches != 0 || st.Cache.Misses != 0 {
		t.Errorf("blind Links fetched %d fragments, with %d misses", st.Pages.Fetches, st.Cache.Misses)
	}
	for i, pid := range pids {
		want := fmt.Sprintf("%c-----", 'a'+i)
		if p, err := pc.Get(tx, pid); err != nil || len(p.Value) != 505 || string(p.Value[499:]) != want {
			t.Errorf("page %d: %d bytes, error %v", pid, len(p.Value), err)
		}
	}
}

// State works after an I/O error, as reads do, and not in a store that is closed or in a Tx that has ended. Proves rule
// 19.
func TestStateOfStoppedStore(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	pids := enginetest.AllocateMany(t, pc, 3, 100)
	enginetest.Flush(t, pc)
	d.FailFrom(simdisk.OpDeviceWrite, 1, syscall.EIO)
	tx := enginetest.Begin(t, pc)
	if _, _, err := pc.Allocate(tx, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := pc.Flush(); !errors.Is(err, engine.ErrFailed) {
		t.Fatalf("Flush: error %v, want ErrFailed", err)
	}
	engine.Evict(pc, tx, pids[0])
	for _, pid := range pids {
		stateAgrees(t, pc, tx, pid, engine.KindMaterialized)
	}
	tx.End()
	tx2 := enginetest.Begin(t, pc)
	ended := enginetest.Begin(t, pc)
	ended.End()
	for _, tx := range []*engine.Tx[[]byte]{nil, ended} {
		if ptr, _, err := pc.State(tx, pids[0]); !errors.Is(err, engine.ErrTxEnded) || !ptr.IsZero() {
			t.Errorf("State in a Tx that has ended: %v, error %v", ptr, err)
		}
	}
	tx2.End()
	if err := pc.Close(); !errors.Is(err, engine.ErrFailed) {
		t.Errorf("close: %v, want ErrFailed", err)
	}
	if ptr, _, err := pc.State(tx2, pids[0]); err == nil || !ptr.IsZero() {
		t.Errorf("State of a closed store: %v, error %v", ptr, err)
	}
}

// State allocates nothing.
func TestStateAllocatesNothing(t *testing.T) {
	pc, tx := simPages(t, 0)
	pids := enginetest.AllocateMany(t, pc, 2, 100)
	engine.Evict(pc, tx, pids[1])
	for _, pid := range append(pids, 0, 1, 1<<20) {
		if n := testing.AllocsPerRun(100, func() { _, _, _ = pc.State(tx, pid) }); n != 0 {
			t.Errorf("State of page %d allocates %v times", pid, n)
		}
	}
}
