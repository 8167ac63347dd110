package engine

import (
	"bytes"
	"runtime"
	"testing"

	"pagecache/engine/internal/clean"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/seam"
	"pagecache/engine/internal/txn"
	"pagecache/lru"
	"pagecache/segments/format"
)

// claimed puts the intent of a transaction that goes no further into the slot of a page.
func claimed(t *testing.T, pc *PageCache[[]byte], pid PageID) *txn.Record {
	t.Helper()
	s, _, err := pc.pages.Find(pid)
	if err != nil {
		t.Fatal(err)
	}
	var reads txn.Reads
	reads.Reset(&pc.pages.Clock)
	reads.Read(pid, s)
	rec := pc.pages.Clock.Record(1, 1)
	if _, ok := rec.Install(&reads.All()[0]); !ok {
		t.Fatal("conflict without a reason")
	}
	return rec
}

// A transaction that stops while it prepares delays no call on its page, and no housekeeping. Readers and calls that
// do not change the page leave it alone. Proves Q4.
func TestCallsPassIntents(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{ConsolidateAfter: 4, seam: seam.Options{Foreground: true}})
	defer closeTest(t, pc)
	pid, _ := allocate(t, pc, []byte("value"))
	ptr := get1(t, pc, pid).Ptr
	other, _ := allocate(t, pc, []byte("other"))
	tx := begin(t, pc)
	defer tx.End()
	slot := pc.pages.Table.Get(pid)
	everywhere := clean.Extent{From: 0, To: format.Offset(1 << 40)}

	claimed(t, pc, pid)
	if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "value" || p.Ptr != ptr {
		t.Errorf("Get: %+v, %v", p, err)
	}
	pages, err := pc.GetMany(tx, []PageID{pid, other}, nil)
	if err != nil || string(pages[0].Value) != "value" || string(pages[1].Value) != "other" {
		t.Errorf("GetMany: %+v, %v", pages, err)
	}
	if p, k, err := pc.State(tx, pid); p != ptr || k != KindMaterialized || err != nil {
		t.Errorf("State: %v, %v, %v", p, k, err)
	}
	if p, frags, err := pc.Fragments(tx, pid); p != ptr || len(frags) != 1 || err != nil {
		t.Errorf("Fragments: %v, %q, %v", p, frags, err)
	}
	if p, won, err := pc.Link(tx, pid, PagePtr[[]byte]{pid: pid, ts: ptr.ts + 7}, nil); p != ptr || won || err != nil {
		t.Errorf("a Link to another state: %v, %v, %v", p, won, err)
	}
	if err := pc.Snapshot(); err != nil {
		t.Error(err)
	}
	for _, unstable := range []bool{false, true} {
		if _, out := pc.mem.evict(tx.base(), pid, unstable); out != lru.OutcomeBusy {
			t.Errorf("evict, unstable %v: %v", unstable, out)
		}
	}
	if !txn.IsClaimed(slot) {
		t.Error("a call that does not change the page has removed the intent")
	}

	// Changes abort it.
	ptr, won, err := pc.Link(tx, pid, ptr, []byte("+"))
	if err != nil || !won || txn.IsClaimed(slot) {
		t.Errorf("Link: %v, %v, still claimed: %v", won, err, txn.IsClaimed(slot))
	}
	claimed(t, pc, pid)
	v := &mover[[]byte]{pc: pc, warmth: clean.Warmth{Store: pc.core.store}}
	if n, _, err := v.Move(pid, everywhere); err != nil || n == 0 {
		t.Errorf("moved %d bytes, %v", n, err)
	}
	for range 4 {
		if ptr, won, err = pc.Link(tx, pid, ptr, []byte("+")); err != nil || !won {
			t.Fatal(won, err)
		}
	}
	claimed(t, pc, pid)
	pc.shorten(tx.base(), page{id: pid, slot: slot})
	claimed(t, pc, pid)
	if _, won, err = pc.Free(tx, pid, ptr); err != nil || !won {
		t.Errorf("Free: %v, %v", won, err)
	}
}

// Housekeeping yields to a transaction that is just about to commit, so the transaction commits. Proves Q4.
func TestMoverYieldsToTransaction(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{seam: seam.Options{Foreground: true}})
	defer closeTest(t, pc)
	pid, _ := allocate(t, pc, bytes.Repeat([]byte("v"), 1000))
	ptr := get1(t, pc, pid).Ptr
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	rec := claimed(t, pc, pid)
	h := headOf(pc, pid)
	committed := make(chan bool, 1)
	go func() {
		e := pagestack.New[[]byte](pagestack.KindBase, h.TS()+1, 1, h.LSN, h.Ptr())
		e.Frag = pagestack.EntryOf[[]byte](h).Frag
		rec.SetResult(0, &e.Head)
		committed <- rec.Decide(nil)
	}()
	v := &mover[[]byte]{pc: pc, warmth: clean.Warmth{Store: pc.core.store}}
	if _, _, err := v.Move(pid, clean.Extent{To: format.Offset(1 << 40)}); err != nil {
		t.Fatal(err)
	}
	if !<-committed {
		t.Error("the cleaner has aborted the transaction at once")
	}
	tx := begin(t, pc)
	defer tx.End()
	if p, err := pc.Get(tx, pid); err != nil || p.Ptr.ts != ptr.ts+1 {
		t.Errorf("%v, %v", p.Ptr, err)
	}
}
