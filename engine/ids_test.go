package engine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// reopened opens the store that Salvage wrote in all ways: as it is, from the log alone, and after a crash. Each
// opening must find the pages, with exact accounts, and allocate a page with an id that none of them has.
func reopened(t *testing.T, d *simdisk.Disk, pages map[engine.PageID]string) {
	t.Helper()
	d = d.Copy()
	for n, alone := range []bool{false, true, false, true} {
		o := enginetest.WithSeam(enginetest.SimOptions(d), seam.Options{FS: d, LogAlone: alone})
		pc := enginetest.Open(t, "/saved", o)
		if err := engine.ExactAccounts(pc); err != nil {
			t.Error(err)
		}
		for pid, v := range pages {
			if p := enginetest.Get(t, pc, pid); string(p.Value) != v {
				t.Errorf("opening %d: page %d is %v %.20q, want %.20q", n, pid, p.Kind, p.Value, v)
			}
		}
		pid, lsn := enginetest.Allocate(t, pc, fmt.Append(nil, n))
		if _, old := pages[pid]; old {
			t.Errorf("opening %d: page %d was allocated while it is in use", n, pid)
		}
		pages[pid] = fmt.Sprint(n)
		if _, err := pc.MakeStable(lsn); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			enginetest.Close(t, pc)
			continue
		}
		next := d.Crash(uint64(n))
		_ = pc.Close()
		d = next
	}
}

// A store that Salvage wrote can be opened, whatever part of the log was lost: the page ids that are left are in
// proportion to the new log. Salvage reports page ids that are implausible or reserved. Proves rule 12.
func TestSalvageReportsImplausiblePageIDs(t *testing.T) {
	t.Parallel()
	const far = 1<<20 + 5000 // beyond what a small log has room for
	for name, c := range map[string]struct {
		ids  []engine.PageID // of the pages that are left
		next engine.PageID   // in the superblock; 0: the store was not closed
		bad  []engine.PageID // ids in messages that are left, which no page can have
	}{
		"the end is lost":       {ids: []engine.PageID{2, 3}, next: 5 << 20},
		"the beginning is lost": {ids: []engine.PageID{4, far, far + 7}}, // after a crash
		"hostile": {ids: []engine.PageID{9}, next: 1 << 35,
			bad: []engine.PageID{format.MetaPage, format.CounterPage, 1 << 35, format.MaxPageID}},
	} {
		if enginetest.Raced && slices.Contains(c.ids, far) {
			continue // reading a million messages takes too long
		}
		d := simdisk.New(3, simdisk.Options{})
		o := enginetest.SimOptions(d)
		pc := enginetest.Open(t, "/store", o)
		pages := map[engine.PageID]string{}
		for _, pid := range slices.Concat(c.ids, c.bad) {
			v := fmt.Sprint("page ", pid)
			r, err := engine.StoreOf(pc).Log.Reserve(format.KindCompact, pid, len(v))
			if err != nil {
				t.Fatal(err)
			}
			copy(r.Body(), v)
			r.Complete()
			if !slices.Contains(c.bad, pid) {
				pages[pid] = v
			}
		}
		enginetest.NoCheck(t, pc)
		enginetest.Close(t, pc)
		sb := engine.StoreOf(pc).Written()
		sb.NextPage, sb.Clean = c.next, c.next > 0
		d.WriteFile("/store/superblock", sb.Append(nil))
		var lost []string
		r, err := engine.Salvage("/store", "/saved", o, func(what string) { lost = append(lost, what) })
		if err != nil || int(r.Pages) != len(c.ids) || int(r.Lost) != len(c.bad) || len(lost) != len(c.bad) {
			t.Fatalf("%s: %+v, %v, %q", name, r, err, lost)
		}
		for _, pid := range c.bad {
			if !strings.Contains(strings.Join(lost, ";"), fmt.Sprintf("page %d:", pid)) {
				t.Errorf("%s: page %d is not reported: %q", name, pid, lost)
			}
		}
		reopened(t, d, pages)
	}
}

// If the superblock's id counter or interval is so high that ids cannot continue above it, Salvage reports that, and
// the new store opens. Proves rule 12.
func TestSalvageReportsImplausibleIDCounter(t *testing.T) {
	for _, hostile := range []format.Superblock{
		{NextID: logstore.MaxID - 1}, {IDInterval: 1 << 63}, {NextID: logstore.MaxID + 1},
	} {
		d := simdisk.New(4, simdisk.Options{})
		o := enginetest.SimOptions(d)
		pc := enginetest.Open(t, "/store", o)
		pid, _ := enginetest.Allocate(t, pc, []byte("x"))
		enginetest.Close(t, pc)
		sb := engine.StoreOf(pc).Written()
		sb.NextID, sb.IDInterval = hostile.NextID, hostile.IDInterval
		d.WriteFile("/store/superblock", sb.Append(nil))
		var lost []string
		r, err := engine.Salvage("/store", "/saved", o, func(what string) { lost = append(lost, what) })
		if err != nil || r.Pages != 1 || len(lost) != 1 || !strings.Contains(lost[0], "out of bounds") {
			t.Fatalf("%+v, %v, %q", r, err, lost)
		}
		reopened(t, d, map[engine.PageID]string{pid: "x"})
	}
}
