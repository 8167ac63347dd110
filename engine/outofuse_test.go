package engine_test

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// badHeaders makes writes fail that cover the beginning of one of the slots.
func badHeaders(d *simdisk.Disk, slots ...format.SegmentID) {
	d.SetFault(func(o simdisk.Op) error {
		if o.Kind == simdisk.OpDeviceWrite && o.Name == logFile && o.Off%crashSegment == 0 &&
			slices.Contains(slots, format.SegmentID(o.Off/crashSegment)) {
			return syscall.EIO
		}
		return nil
	})
}

// eagerStore opens the store with options under which any segment is cleaned at once.
func eagerStore(t *testing.T, d *simdisk.Disk) (*engine.PageCache[[]byte], error) {
	t.Helper()
	o := enginetest.WithSeam(enginetest.SimOptions(d), seam.Options{Eager: true, FS: d})
	return engine.Open("/store", engine.Bytes{}, o)
}

// churned changes all pages again and again, cleans, and writes a snapshot.
func churned(t *testing.T, pc *engine.PageCache[[]byte], pids []engine.PageID) error {
	t.Helper()
	for range 3 {
		enginetest.Churn(t, pc, pids, 1)
		enginetest.CleanAll(t, pc)
	}
	return pc.Snapshot()
}

// has returns an error unless the store has the values of the last Churn, and n slots are out of use.
func churnedIs(t *testing.T, pc *engine.PageCache[[]byte], pids []engine.PageID, n int) error {
	t.Helper()
	if got := pc.Stats().Space.OutOfUse; got != n {
		return fmt.Errorf("%d slots are out of use, want %d", got, n)
	}
	for _, pid := range pids {
		if p := enginetest.Get(t, pc, pid); len(p.Value) != 2500/len(pids) || p.Value[0] != 5 {
			return fmt.Errorf("page %d: %s", pid, enginetest.Brief(p.Value))
		}
	}
	return nil
}

// The header of a slot cannot be written any more, in turn of each slot that holds a segment, when the cleaner frees
// the slot. It is left out of use: cleaning and snapshots go on, the store is closed or killed and opens again and
// again, and once the disk takes the write, the slot is used again. Proves rule 14.
func TestSlotThatCannotBeFreedIsLeftOut(t *testing.T) {
	t.Parallel()
	tried := 0
	for slot := range format.SegmentID(4) {
		for _, killed := range []bool{false, true} {
			d := simdisk.New(5, simdisk.Options{})
			pc, err := eagerStore(t, d)
			if err != nil {
				t.Fatal(err)
			}
			pids := enginetest.AllocateMany(t, pc, 10, 1000)
			enginetest.Churn(t, pc, pids, 2)
			used := slices.ContainsFunc(pc.Segments(), func(s engine.SegmentStats) bool { return s.Slot == int(slot) })
			if !used {
				t.Fatalf("slot %d is not in use", slot)
			}
			out := 1
			for round := range 4 {
				badHeaders(d, slot)
				if round == 3 {
					d.SetFault(nil)
					out = 0
				}
				if round > 0 {
					if pc, err = eagerStore(t, d); err != nil {
						t.Fatalf("slot %d, killed %v, opening %d: %v", slot, killed, round, err)
					}
				}
				if round > 0 {
					if err := churnedIs(t, pc, pids, out); err != nil {
						t.Fatalf("slot %d, killed %v, opening %d: %v", slot, killed, round, err)
					}
				}
				if err := errors.Join(churned(t, pc, pids), churnedIs(t, pc, pids, out)); err != nil {
					t.Fatalf("slot %d, killed %v, opening %d: %v", slot, killed, round, err)
				}
				tried++
				next := d.Copy() // without what was not written durably
				err := pc.Close()
				if killed {
					d = next
				} else if d = d.Copy(); err != nil {
					t.Fatal(err)
				}
			}
			if err := enginetest.Problems("/store", enginetest.SimOptions(d)); err != nil {
				t.Errorf("slot %d, killed %v: %v", slot, killed, err)
			}
		}
	}
	if tried < 20 {
		t.Errorf("%d openings", tried)
	}
}

// goneSlots returns a store that was killed when segments had left and their slots were not marked as free yet, and its
// pages.
func goneSlots(t *testing.T) (*simdisk.Disk, []engine.PageID) {
	t.Helper()
	d := simdisk.New(5, simdisk.Options{})
	pc, err := eagerStore(t, d)
	if err != nil {
		t.Fatal(err)
	}
	pids := enginetest.AllocateMany(t, pc, 10, 1000)
	enginetest.Churn(t, pc, pids, 2)
	if _, err := pc.AttemptGC(); err != nil { // it writes the message
		t.Fatal(err)
	}
	enginetest.Flush(t, pc)
	next := d.Copy()
	_ = pc.Close()
	res, err := enginetest.ScanLog(next, "/store")
	if err != nil || len(res.Gone) == 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	return next, pids
}

// A segment has left when the process is killed, and its slot cannot be marked as free then: the next openings leave it
// out of use, although the message by which the segment left is recycled, too. Proves rule 14.
func TestGoneSlotThatCannotBeMarked(t *testing.T) {
	t.Parallel()
	next, pids := goneSlots(t)
	res, err := enginetest.ScanLog(next, "/store")
	if err != nil {
		t.Fatal(err)
	}
	for n, slot := range res.Gone {
		d := next.Copy()
		for opening := range 5 {
			badHeaders(d, slot)
			out := 1
			if opening == 4 {
				d.SetFault(nil)
				out = 0
			}
			pc, err := eagerStore(t, d)
			if err != nil {
				t.Fatalf("slot %v, opening %d: %v", slot, opening, err)
			}
			if err := errors.Join(churned(t, pc, pids), churnedIs(t, pc, pids, out)); err != nil {
				t.Fatalf("slot %v, opening %d: %v", slot, opening, err)
			}
			after := d.Copy()
			_ = pc.Close()
			if opening%2 == n%2 { // killed
				d = after
			} else {
				d = d.Copy()
			}
		}
	}
}

// The slot that the log's tail is to move to cannot be written. The opening fails, and the next one takes another slot.
func TestTailMovesToAnotherSlot(t *testing.T) {
	d := simdisk.New(5, simdisk.Options{})
	pc, err := eagerStore(t, d)
	if err != nil {
		t.Fatal(err)
	}
	pids := enginetest.AllocateMany(t, pc, 10, 1000)
	if err := churned(t, pc, pids); err != nil {
		t.Fatal(err)
	}
	enginetest.Allocate(t, pc, []byte("so that the log ends inside a segment"))
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	probe := d.Copy()
	_, headers := watch(probe, 4096, func() {
		if pc, err = eagerStore(t, probe); err != nil {
			t.Fatal(err)
		}
	})
	_ = pc.Close()
	badHeaders(d, format.SegmentID(headers[0].off/crashSegment))
	if pc, err = eagerStore(t, d); !errors.Is(err, syscall.EIO) {
		t.Fatalf("the first opening: %v", err)
	}
	for opening := range 3 {
		if d = d.Copy(); opening < 2 {
			badHeaders(d, format.SegmentID(headers[0].off/crashSegment))
		}
		if pc, err = eagerStore(t, d); err != nil {
			t.Fatalf("opening %d: %v", opening, err)
		}
		if err := churnedIs(t, pc, pids, 1-opening/2); err != nil {
			t.Error(err)
		}
		if err := pc.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A slot that is left out of use still holds a page that was freed since. Salvage, which reads every slot, does not
// bring it back: the message that frees it is live, wherever it has moved. Proves rule 14.
func TestSalvageBesideSlotOutOfUse(t *testing.T) {
	d := simdisk.New(5, simdisk.Options{})
	pc, err := eagerStore(t, d)
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := enginetest.Allocate(t, pc, []byte("freed"))
	pids := enginetest.AllocateMany(t, pc, 10, 1000)
	enginetest.Churn(t, pc, pids, 2)
	tx := enginetest.Begin(t, pc)
	enginetest.Must(t)(pc.Free(tx, pid, enginetest.Get(t, pc, pid).Ptr))
	tx.End()
	badHeaders(d, 0)
	for range 9 {
		enginetest.Churn(t, pc, pids, 1)
		enginetest.CleanAll(t, pc)
	}
	if err := churnedIs(t, pc, pids, 1); err != nil {
		t.Fatal(err)
	}
	next := d.Copy()
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := engine.Salvage("/store", "/saved", enginetest.SimOptions(next), nil)
	if err != nil || len(r.Losses) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	saved := enginetest.Open(t, "/saved", enginetest.SimOptions(next))
	if p := enginetest.Get(t, saved, pid); p.Kind == engine.KindMaterialized {
		t.Errorf("page %d is back: %s", pid, enginetest.Brief(p.Value))
	}
	for _, pid := range pids {
		if p := enginetest.Get(t, saved, pid); len(p.Value) != 2500/len(pids) || p.Value[0] != 5 {
			t.Errorf("page %d: %s", pid, enginetest.Brief(p.Value))
		}
	}
}

// A slot that is left out of use still holds a batch that an opening has cut off. The segment with the same LSNs, where
// the log went on, was recycled since. Salvage does not bring the batch back. Proves rule 14, trap 7.
func TestSalvageBesideDiscardedTailOutOfUse(t *testing.T) {
	d := simdisk.New(5, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	pid, _ := enginetest.Allocate(t, pc, []byte("true"))
	pids := enginetest.AllocateMany(t, pc, 12, 1000) // more than the first segment, so that it is full of live pages
	enginetest.Flush(t, pc)
	stable, lsn := enginetest.Allocate(t, pc, []byte("stable"))
	batch, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	tx := enginetest.Begin(t, pc)
	enginetest.Must(t)(pc.Replace(tx, pid, enginetest.Get(t, pc, pid).Ptr, []byte("discarded")))
	tx.End()
	if _, err := pc.MakeStable(lsn); err != nil {
		t.Fatal(err)
	}
	killed := d.Copy()
	if err := errors.Join(batch.Seal(), pc.Close()); err != nil {
		t.Fatal(err)
	}
	d = killed
	log, err := enginetest.ScanLog(d, "/store")
	if err != nil || log.End == log.Tip || log.End < crashSegment {
		t.Fatalf("%+v, %v", log, err)
	}
	tail := log.Segments[len(log.Segments)-1]
	before := d.ReadDurable(logFile)
	badHeaders(d, tail.Slot)
	pc = enginetest.OpenSim(t, d)
	enginetest.NoCheck(t, pc)
	late := append(enginetest.AllocateMany(t, pc, 20, 1000), stable)
	for _, pid := range pids { // those in the second segment
		if places, err := engine.Places(pc, pid); err != nil {
			t.Fatal(err)
		} else if places[0].Off/crashSegment != 0 {
			late = append(late, pid)
		}
	}
	enginetest.Churn(t, pc, late, 2)
	enginetest.CleanAll(t, pc)
	for _, s := range pc.Segments() {
		if s.State != "free" && s.Base == tail.Base {
			t.Fatalf("the segment is still there: %+v", s)
		}
	}
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	now := d.ReadDurable(logFile) // with what the disk was given and has not taken
	copy(now[tail.Slot.Offset(crashSegment):][:crashSegment], before[tail.Slot.Offset(crashSegment):])
	d = d.Copy()
	d.WriteFile(logFile, now)
	r, err := engine.Salvage("/store", "/saved", enginetest.SimOptions(d), nil)
	if err != nil || len(r.Losses) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	saved := enginetest.Open(t, "/saved", enginetest.SimOptions(d))
	if p := enginetest.Get(t, saved, pid); string(p.Value) != "true" {
		t.Errorf("page %d: %s", pid, enginetest.Brief(p.Value))
	}
}
