package engine_test

import (
	"bytes"
	"errors"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// A placed part is a part of a commit on the disk.
type placedPart struct {
	off  int64 // in the log file
	n    int   // bytes
	lsn  engine.LSN
	head format.GroupHead
}

// partsOn returns the parts of the commits in the log of a store, in the order of the log.
func partsOn(t testing.TB, d *simdisk.Disk, store format.StoreID) (all []placedPart) {
	t.Helper()
	res, err := enginetest.ScanLog(d, "/store")
	if err != nil {
		t.Fatal(err)
	}
	const size = 16 << 10
	log := d.Copy().Crash(0).ReadDurable("/store/log")
	for _, g := range res.Segments {
		off := int(g.Slot.Offset(size))
		seed := format.MakeSeed(store, g.Generation, g.Slot)
		for pos := format.SegmentStart; pos < g.Used; {
			lsn := g.Base + engine.LSN(pos)
			h, body, err := format.DecodeMessage(log[off+pos:off+size], lsn, seed)
			if err != nil {
				t.Fatal(err)
			}
			if h.Kind.IsGroup() {
				head, err := format.CheckGroup(h.Kind, body, lsn, seed)
				if err != nil {
					t.Fatal(err)
				}
				if head.InParts(h.Kind) {
					all = append(all, placedPart{int64(off + pos), h.Len, lsn, head})
				}
			}
			pos += format.AlignUp(h.Len)
		}
	}
	return all
}

// corruptParts is a store with two commits in parts, of which the first was acknowledged.
type corruptParts struct {
	disk  *simdisk.Disk
	pids  []engine.PageID
	parts []placedPart // of the second commit
}

// newCorruptParts makes the store. If proven is set, the second commit was acknowledged too, and the log proves it.
func newCorruptParts(t testing.TB, proven bool) *corruptParts {
	d := simdisk.New(7, simdisk.Options{Block: 512})
	pc := openParts(t, d)
	s := &corruptParts{pids: make([]engine.PageID, 9)}
	other, _ := enginetest.Allocate(t, pc, []byte("other"))
	first := bigCommit(t, pc, s.pids, 'a', 2000)
	if _, err := pc.MakeStable(first); err != nil {
		t.Fatal(err)
	}
	lsn := bigCommit(t, pc, s.pids, 'b', 2000)
	if _, err := pc.MakeStable(lsn); err != nil {
		t.Fatal(err)
	}
	if proven { // the next messages carry the durable end
		for range 2 {
			if _, err := pc.MakeStable(replaceAlone(t, pc, other, "proof")); err != nil {
				t.Fatal(err)
			}
		}
	}
	enginetest.NoCheck(t, pc)
	s.disk = d.Crash(7)
	store := engine.StoreOf(pc).Super.Store
	_ = pc.Close()
	for _, p := range partsOn(t, s.disk, store) {
		if p.lsn > first {
			s.parts = append(s.parts, p)
		}
	}
	if len(s.parts) < 4 {
		t.Fatalf("the commit has %d parts", len(s.parts))
	}
	return s
}

// A flipped bit in any part of a commit is reported as corruption if the log proves that the commit was acknowledged.
// Otherwise the commit may also be absent, as a whole. Proves D1, rules 10 and 13.
func TestFlippedBitInPart(t *testing.T) {
	t.Parallel()
	for _, proven := range []bool{true, false} {
		s := newCorruptParts(t, proven)
		refused, absent := 0, 0
		for i, p := range s.parts {
			for at := 0; at < p.n; at += 1 + at/3 {
				d := s.disk.Copy()
				d.FlipBit("/store/log", p.off+int64(at), uint(at%8))
				pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
				if errors.Is(err, engine.ErrCorrupt) {
					refused++
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if absent++; proven {
					t.Errorf("part %d, byte %d: the corruption is not reported", i, at)
				}
				wantFill(t, pc, s.pids, 'a', 2000)
				if err := errors.Join(engine.ExactAccounts(pc), pc.Close()); err != nil {
					t.Error(err)
				}
			}
		}
		t.Logf("proven %v: refused %d times, the commit was absent %d times", proven, refused, absent)
		if refused == 0 || absent == 0 && !proven {
			t.Error("that proves little")
		}
	}
}

// Salvage saves of each page the value before or after a commit in parts of which one is corrupt, and nothing of a
// commit whose last part is missing.
func TestSalvageOfParts(t *testing.T) {
	s := newCorruptParts(t, true)
	salvaged := func(d *simdisk.Disk) (got []byte, r engine.SalvageReport) {
		t.Helper()
		r, err := engine.Salvage("/store", "/saved", enginetest.SimOptions(d), nil)
		if err != nil {
			t.Fatal(err)
		}
		pc, err := engine.Open("/saved", engine.Bytes{}, enginetest.SimOptions(d))
		if err != nil {
			t.Fatal(err)
		}
		tx := enginetest.Begin(t, pc)
		for _, pid := range s.pids {
			p, err := pc.Get(tx, pid)
			if err != nil || len(p.Value) == 0 {
				t.Fatalf("page %d: %v, %v", pid, p.Kind, err)
			}
			if len(p.Value) != 2000 || bytes.Count(p.Value, p.Value[:1]) != len(p.Value) {
				t.Errorf("page %d has a value that it never had: %d bytes", pid, len(p.Value))
			}
			got = append(got, p.Value[0])
		}
		tx.End()
		if err := pc.Close(); err != nil {
			t.Error(err)
		}
		return got, r
	}
	if got, r := salvaged(s.disk.Copy()); len(r.Losses) != 0 || string(got) != "bbbbbbbbb" {
		t.Errorf("an intact store: %q, %d losses", got, len(r.Losses))
	}
	for i, p := range s.parts {
		d := s.disk.Copy()
		d.FlipBit("/store/log", p.off+int64(p.n)-9, 3)
		got, r := salvaged(d)
		olds := bytes.Count(got, []byte("a"))
		if len(r.Losses) == 0 || olds == 0 || p.head.Left == 0 && olds != len(got) || p.head.Left > 0 && olds > 2 {
			t.Errorf("part %d of %d: saved %q, losses %v", i, len(s.parts), got, r.Losses)
		}
	}
	// A crash in the middle of the parts: the last one was never written.
	d := simdisk.New(8, simdisk.Options{Block: 512})
	pc := openParts(t, d)
	enginetest.Allocate(t, pc, []byte("other"))
	s.pids = make([]engine.PageID, 9)
	bigCommit(t, pc, s.pids, 'a', 2000)
	var killed *simdisk.Disk
	parts := 0
	engine.BetweenParts(pc, func() {
		if parts++; parts == 3 {
			enginetest.Flush(t, pc)
			killed = d.Copy()
		}
	})
	bigCommit(t, pc, s.pids, 'b', 2000)
	enginetest.NoCheck(t, pc)
	_ = pc.Close()
	if got, r := salvaged(killed.Crash(1)); len(r.Losses) != 0 || string(got) != "aaaaaaaaa" {
		t.Errorf("a commit without its last part: saved %q, losses %v", got, r.Losses)
	}
}
