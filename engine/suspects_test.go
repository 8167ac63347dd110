package engine_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// badBlock makes device writes fail that cover the byte at offset at of the log file.
func badBlock(d *simdisk.Disk, at int64) {
	d.SetFault(func(o simdisk.Op) error {
		if o.Kind == simdisk.OpDeviceWrite && o.Name == logFile && o.Off <= at && at < o.Off+int64(o.Len) {
			return syscall.EIO
		}
		return nil
	})
}

// A block of a slot cannot be written. The log stops once, whether the process closes the store then or is killed. From
// then on the slot is left out of use, and once the disk takes the write, it is used again. Nothing that was
// acknowledged is lost. Proves rule 8.
func TestSlotThatStoppedTheLogIsLeftOut(t *testing.T) {
	t.Parallel()
	for _, block := range []int64{0, 4096, 8192, 12288} {
		for _, killed := range []bool{false, true} {
			name := fmt.Sprintf("block at %d, killed %v", block, killed)
			d := simdisk.New(7, simdisk.Options{})
			stops, out := 0, 0
			pages := map[engine.PageID][]byte{}
			for opening := range 7 {
				if badBlock(d, 2*crashSegment+block); opening == 6 {
					d.SetFault(nil)
				}
				pc, err := eagerStore(t, d)
				if err != nil {
					t.Fatalf("%s, opening %d: %v", name, opening, err)
				}
				out = pc.Stats().Space.OutOfUse
				for i := range 40 {
					v := enginetest.Random(500, uint64(100*opening+i))
					tx := enginetest.Begin(t, pc)
					pid, _, err := pc.Allocate(tx, v)
					tx.End()
					if err == nil {
						_, err = pc.Flush()
					}
					if err == nil {
						pages[pid] = v
					} else if stops++; !errors.Is(err, engine.ErrFailed) {
						t.Fatalf("%s, opening %d: %v", name, opening, err)
					} else {
						break
					}
				}
				if err := hasPages(pc, pages); err != nil {
					t.Fatalf("%s, opening %d: %v", name, opening, err)
				}
				if out != 1 && opening > 0 && opening < 6 {
					t.Errorf("%s, opening %d: %d slots are out of use", name, opening, out)
				}
				next := d.Copy()
				_ = pc.Close()
				if d = d.Copy(); killed {
					d = next
				}
			}
			if stops != 1 || out != 0 {
				t.Errorf("%s: the log has stopped %d times, %d slots are out of use", name, stops, out)
			}
			if err := enginetest.Problems("/store", enginetest.SimOptions(d)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// A full disk on which even a write to a slot of the file needs space (as on copy-on-write file systems) does not keep
// a store with a suspect shut. The suspect is used again once the disk takes its writes. Proves rule 8.
func TestSuspectOnAFullDisk(t *testing.T) {
	const slot = 2 * crashSegment
	for _, at := range []int64{slot, slot + 8192} { // the header is written alone
		d := simdisk.New(7, simdisk.Options{})
		badBlock(d, slot+8192)
		pc, err := eagerStore(t, d)
		if err != nil {
			t.Fatal(err)
		}
		pages := map[engine.PageID][]byte{}
		for i := uint64(0); err == nil && i < 100; i++ {
			v := enginetest.Random(500, i)
			tx := enginetest.Begin(t, pc)
			var pid engine.PageID
			pid, _, err = pc.Allocate(tx, v)
			if tx.End(); err == nil {
				_, err = pc.Flush()
			}
			if err == nil {
				pages[pid] = v
			}
		}
		if !errors.Is(err, engine.ErrFailed) {
			t.Fatalf("the log has not stopped at the bad block: %v", err)
		}
		_ = pc.Close()
		for opening, full := range []bool{false, true, true, false, false} {
			d = d.Copy()
			if d.SetFault(nil); full {
				d.SetFault(func(o simdisk.Op) error {
					end := o.Off + int64(o.Len)
					if o.Kind == simdisk.OpDeviceWrite && o.Name == logFile && o.Off <= at && at < end {
						return syscall.ENOSPC
					}
					return nil
				})
			} else if opening == 0 {
				badBlock(d, slot+8192) // the slot still holds a part of the log, or is found to be bad
			}
			pc, err := eagerStore(t, d)
			if err != nil {
				t.Fatalf("offset %d, opening %d: %v", at-slot, opening, err)
			}
			out := pc.Stats().Space.OutOfUse
			if want := 1; opening == 4 && out != 0 || full && out != want {
				t.Errorf("offset %d, opening %d: %d slots are out of use", at-slot, opening, out)
			}
			if err := hasPages(pc, pages); err != nil {
				t.Errorf("offset %d, opening %d: %v", at-slot, opening, err)
			}
			if err := pc.Close(); err != nil {
				t.Errorf("offset %d, opening %d: %v", at-slot, opening, err)
			}
		}
	}
}

// A block of the slot that the log's tail is to move to cannot be written, while its header can. One opening fails, and
// no later one.
func TestTailMovesToASlotThatCanBeWritten(t *testing.T) {
	d := simdisk.New(5, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	pages := pagesOf(t, pc, 6) // longer than a block
	enginetest.Close(t, pc)
	d = d.Copy()
	probe := d.Copy()
	_, headers := watch(probe, 4096, func() {
		pc = enginetest.OpenSim(t, probe)
	})
	enginetest.Close(t, pc)
	failed := 0
	for opening := range 6 {
		badBlock(d, headers[0].off+4096)
		pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
		if err != nil {
			if failed++; !errors.Is(err, syscall.EIO) || failed > 1 {
				t.Fatalf("opening %d: %v", opening, err)
			}
			d = d.Copy()
			continue
		}
		for i := range 10 {
			v := enginetest.Random(3000, uint64(10*opening+i))
			pid, _ := enginetest.Allocate(t, pc, v)
			pages[pid] = v
		}
		enginetest.Flush(t, pc)
		if err := hasPages(pc, pages); err != nil {
			t.Errorf("opening %d: %v", opening, err)
		}
		if n := pc.Stats().Space.OutOfUse; n != 1 {
			t.Errorf("opening %d: %d slots are out of use", opening, n)
		}
		if err := pc.Close(); err != nil {
			t.Errorf("opening %d: %v", opening, err)
		}
		d = d.Copy()
	}
	if failed != 1 {
		t.Errorf("%d openings have failed", failed)
	}
}

// hasPages returns an error unless the store has the pages.
func hasPages(pc *engine.PageCache[[]byte], pages map[engine.PageID][]byte) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for pid, want := range pages {
		if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != string(want) {
			return fmt.Errorf("page %d: %s, %w", pid, enginetest.Brief(p.Value), err)
		}
	}
	return nil
}
