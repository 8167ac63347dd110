package engine_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// badCopy makes writes of a copy of the superblock fail, until the superblock has another file.
func badCopy(d *simdisk.Disk, copy int) {
	moved := false
	d.SetFault(func(o simdisk.Op) error {
		moved = moved || o.Kind == simdisk.OpRename && o.Name == superFile
		if !moved && o.Kind == simdisk.OpWrite && o.Name == superFile && o.Off == int64(copy)*format.SuperCopySize {
			return syscall.EIO
		}
		return nil
	})
}

// A copy of the superblock cannot be written. The superblock gets a new file, the store opens and is closed, and says
// so. A power cut at any moment leaves a store that opens with all that is durable. Proves rule 16.
func TestSuperblockCopyThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	for copy := range 2 {
		for _, closed := range []bool{false, true} {
			d := simdisk.New(3, simdisk.Options{})
			pc := enginetest.OpenSim(t, d)
			pages := pagesOf(t, pc, 3)
			whole := d.Copy()
			enginetest.Close(t, pc)
			if closed {
				whole = d.Copy()
			}
			open := func(d *simdisk.Disk) error {
				badCopy(d, copy)
				pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
				if err != nil {
					return err
				}
				if n := pc.Stats().SuperblockMoves; n != 1 {
					err = fmt.Errorf("the superblock has moved %d times", n)
				}
				return errors.Join(err, pc.Close())
			}
			good := whole.Copy()
			if err := open(good); err != nil {
				t.Fatalf("copy %d, closed %v: %v", copy, closed, err)
			}
			if err := checkPages(t, good.Copy(), pages); err != nil {
				t.Errorf("copy %d, closed %v: %v", copy, closed, err)
			}
			for n := 1; n <= good.Ops(); n++ {
				cut := whole.Copy()
				cut.CrashAfter(n)
				_ = open(cut)
				if err := checkPages(t, cut.Crash(uint64(n)), pages); err != nil {
					t.Fatalf("copy %d, closed %v, cut at operation %d: %v", copy, closed, n, err)
				}
			}
		}
	}
}

// The new file of the superblock has its name, but that is not durable. Nothing more is written, since the old file may
// come back. Proves rule 16.
func TestNewSuperblockThatIsNotDurable(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	enginetest.NoCheck(t, pc)
	pages := pagesOf(t, pc, 3)
	named := false
	d.SetFault(func(o simdisk.Op) error {
		named = named || o.Kind == simdisk.OpRename && o.Name == superFile
		if o.Name == superFile && o.Kind == simdisk.OpWrite && !named ||
			o.Kind == simdisk.OpSyncDir && named {
			return syscall.EIO
		}
		return nil
	})
	if err := pc.Close(); !errors.Is(err, syscall.EIO) || !named {
		t.Fatalf("named %v, %v", named, err)
	}
	for seed := range uint64(8) {
		if err := checkPages(t, d.Crash(seed), pages); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}
