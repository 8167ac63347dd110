package engine

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pagecache/engine/internal/idgen"
	"pagecache/engine/internal/logstore"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// get1 returns what a page is, in a Tx of its own.
func get1(t testing.TB, pc *PageCache[[]byte], pid PageID) Page[[]byte] {
	t.Helper()
	tx := begin(t, pc)
	defer tx.End()
	p, err := pc.Get(tx, pid)
	if err != nil {
		t.Fatal(err)
	}
	p.Value = bytes.Clone(p.Value)
	return p
}

// allocate makes a page and says where that is durable.
func allocate(t testing.TB, pc *PageCache[[]byte], v []byte) (PageID, LSN) {
	t.Helper()
	tx := begin(t, pc)
	defer tx.End()
	pid, ptr, err := pc.Allocate(tx, v)
	if err != nil {
		t.Fatal(err)
	}
	return pid, ptr.LastLSN()
}

// A batch of however many pages that a clean close leaves open takes its page ids with it: the next ones are in proportion to the log, so that what is
// acknowledged after it can be opened after a crash. Ids of GenerateID do not come again, and nothing of the batch does, but for the page ids. Proves rule 12.
func TestIDsOfDroppedBatch(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	o := simOptions(d)
	pc := openTest(t, "/store", o)
	first, _ := allocate(t, pc, []byte("before"))
	batch, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	pc.pages.IDs.RaiseNext(1<<20 + 4000) // as if so many were allocated
	for range 40 {
		allocate(t, pc, make([]byte, 4000))
	}
	if used := pc.core.store.Log.Tail() - batch.LSN(); used < 9*16<<10 {
		t.Fatalf("the batch is no more than %d bytes", used)
	}
	id, err := pc.GenerateID()
	if err != nil {
		t.Fatal(err)
	}
	closeTest(t, pc)
	runtime.KeepAlive(batch)
	var acked []PageID
	for n := range 3 {
		pc = openTest(t, "/store", o)
		if next, err := pc.GenerateID(); err != nil || next <= id {
			t.Errorf("id %d after %d, %v", next, id, err)
		} else {
			id = next
		}
		for i, pid := range acked {
			if p := get1(t, pc, pid); string(p.Value) != fmt.Sprint("acknowledged ", i) {
				t.Errorf("page %d is %v %q", pid, p.Kind, p.Value)
			}
		}
		if p := get1(t, pc, first); string(p.Value) != "before" {
			t.Errorf("page %d is %v %q", first, p.Kind, p.Value)
		}
		pid, lsn := allocate(t, pc, fmt.Append(nil, "acknowledged ", n))
		if want := first + 1 + PageID(n); pid != want {
			t.Errorf("page %d, want %d", pid, want)
		}
		acked = append(acked, pid)
		if p := get1(t, pc, pid+1); p.Kind != KindUnallocated {
			t.Errorf("page %d is %v", pid+1, p.Kind)
		}
		if _, err := pc.MakeStable(lsn); err != nil {
			t.Fatal(err)
		}
		next := d.Crash(uint64(n))
		_ = pc.Close()
		d, o.seam.FS = next, next
	}
}

// An id is not returned once Close has ended, which has noted where the next opening begins.
func TestIDDrawnWhileClosing(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	pc := openSim(t, d)
	_, lsn := allocate(t, pc, nil)
	flushTest(t, pc)
	closing := func(uint64) (LSN, error) { // in the middle of drawing one
		closeTest(t, pc)
		return lsn, nil
	}
	pc.ids.Start(idgen.Config{Next: pc.ids.Next(), Limit: pc.ids.Next(), Interval: pc.core.opts.IDPersistInterval,
		Closed: &pc.core.closed, Write: closing, MakeDurable: pc.core.store.Log.MakeDurable})
	if id, err := pc.GenerateID(); !errors.Is(err, ErrClosed) || id != 0 {
		t.Errorf("id %d of a store that was closed meanwhile, %v", id, err)
	}
	closeTest(t, openSim(t, d))
}

// reopened opens what Salvage wrote in all ways: as it is, from the log alone, and after a crash. Each must hold pages, with exact accounts, and begin a
// page with an id that none of them has.
func reopened(t *testing.T, d *simdisk.Disk, pages map[PageID]string) {
	t.Helper()
	d = d.Copy()
	o := *simOptions(d)
	for n, alone := range []bool{false, true, false, true} {
		o.seam.LogAlone = alone
		pc := openTest(t, "/saved", &o)
		if err := exactAccounts(pc); err != nil {
			t.Error(err)
		}
		for pid, v := range pages {
			if p := get1(t, pc, pid); string(p.Value) != v {
				t.Errorf("opening %d: page %d is %v %.20q", n, pid, p.Kind, p.Value)
			}
		}
		pid, lsn := allocate(t, pc, fmt.Append(nil, n))
		if _, old := pages[pid]; old {
			t.Errorf("opening %d: page %d was given out again", n, pid)
		}
		pages[pid] = fmt.Sprint(n)
		if _, err := pc.MakeStable(lsn); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			closeTest(t, pc)
			continue
		}
		next := d.Crash(uint64(n))
		_ = pc.Close()
		d, o.seam.FS = next, next
	}
}

// What Salvage writes opens, whatever of the log is lost: the ids of the pages that are left are in proportion to the new log, and a page id that they cannot
// be, or that is the store's own, is reported. Proves rule 12.
func TestSalvagedIDs(t *testing.T) {
	const far = 1<<20 + 5000 // beyond what a small log has room for
	for name, c := range map[string]struct {
		ids  []PageID // of the pages that are left
		next PageID   // as the superblock has it
		bad  []PageID // of pages that are left, but cannot be
	}{
		"the end is lost":       {ids: []PageID{2, 3}, next: 5 << 20},
		"the beginning is lost": {ids: []PageID{4, far, far + 7}}, // in a crash
		"hostile":               {ids: []PageID{9}, next: 1 << 35, bad: []PageID{format.MetaPage, format.CounterPage, 1 << 35, format.MaxPageID}},
	} {
		if raced && slices.Contains(c.ids, far) {
			continue // a million messages
		}
		d := simdisk.New(3, simdisk.Options{})
		o := simOptions(d)
		pc := openTest(t, "/store", o)
		pages := map[PageID]string{}
		for _, pid := range slices.Concat(c.ids, c.bad) {
			v := fmt.Sprint("page ", pid)
			r, err := pc.core.store.Log.Reserve(format.KindCompact, pid, len(v))
			if err != nil {
				t.Fatal(err)
			}
			copy(r.Body(), v)
			r.Complete()
			if !slices.Contains(c.bad, pid) {
				pages[pid] = v
			}
		}
		closeTest(t, pc)
		sb := pc.core.store.Super
		sb.NextPage, sb.Clean = c.next, c.next > 0
		d.WriteFile("/store/superblock", sb.Append(nil))
		var lost []string
		r, err := Salvage("/store", "/saved", o, func(what string) { lost = append(lost, what) })
		if err != nil || int(r.Pages) != len(c.ids) || int(r.Lost) != len(c.bad) || len(lost) != len(c.bad) {
			t.Fatalf("%s: %+v, %v, %q", name, r, err, lost)
		}
		for _, pid := range c.bad {
			if !strings.Contains(strings.Join(lost, ";"), fmt.Sprintf("page %d:", pid)) {
				t.Errorf("%s: %q", name, lost)
			}
		}
		reopened(t, d, pages)
	}
}

// Where ids cannot go on above those that were found, because the counter is nonsense, Salvage says so, and the new store opens. Proves rule 12.
func TestSalvagedCounter(t *testing.T) {
	for _, hostile := range []format.Superblock{{NextID: logstore.MaxID - 1}, {IDInterval: 1 << 63}, {NextID: logstore.MaxID + 1}} {
		d := simdisk.New(4, simdisk.Options{})
		o := simOptions(d)
		pc := openTest(t, "/store", o)
		pid, _ := allocate(t, pc, []byte("x"))
		closeTest(t, pc)
		sb := pc.core.store.Super
		sb.NextID, sb.IDInterval = hostile.NextID, hostile.IDInterval
		d.WriteFile("/store/superblock", sb.Append(nil))
		var lost []string
		r, err := Salvage("/store", "/saved", o, func(what string) { lost = append(lost, what) })
		if err != nil || r.Pages != 1 || len(lost) != 1 || !strings.Contains(lost[0], "out of bounds") {
			t.Fatalf("%+v, %v, %q", r, err, lost)
		}
		reopened(t, d, map[PageID]string{pid: "x"})
	}
}
