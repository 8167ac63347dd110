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

var errKilled = errors.New("the process was killed")

// killAfter lets a disk make n operations other than reads, and then none any more, as if the process had been killed.
// The page cache stays as it is, unlike in a crash of the disk. killed reports whether the last operation came.
func killAfter(d *simdisk.Disk, n int) (killed func() bool) {
	dead := false
	d.SetFault(func(o simdisk.Op) error {
		if o.Kind == simdisk.OpRead && !dead {
			return nil
		}
		if n--; n < 0 {
			dead = true
			return errKilled
		}
		return nil
	})
	return func() bool { return dead }
}

// openKilled opens and closes the store, and kills it after n operations. It reports whether it came to that.
func openKilled(d *simdisk.Disk, n int) bool {
	killed := killAfter(d, n)
	if pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d)); err == nil {
		_ = pc.Close()
	}
	d.SetFault(nil)
	return killed()
}

// shows returns an error unless the store on a disk opens with a value in a page.
func shows(t *testing.T, d *simdisk.Disk, pid engine.PageID, want string) error {
	t.Helper()
	pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
	if err != nil {
		return err
	}
	if v := string(enginetest.Get(t, pc, pid).Value); v != want {
		err = fmt.Errorf("page %d holds %q, want %q", pid, v, want)
	}
	return errors.Join(err, pc.Close())
}

// If the process that makes a store is killed when the superblock has its name, and before the directory is synced, the
// next opening syncs the directory before it acknowledges anything: no power cut takes the store away. Proves rule 11;
// trap 5.
func TestNameOfSuperblockIsDurableBeforeUse(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	renamed := false
	d.SetFault(func(o simdisk.Op) error {
		if renamed {
			return errKilled
		}
		renamed = o.Kind == simdisk.OpRename && o.Name == superFile
		return nil
	})
	if _, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d)); !errors.Is(err, errKilled) {
		t.Fatalf("the first opening: %v", err)
	}
	d.SetFault(nil)
	pc := enginetest.OpenSim(t, d)
	pid, _ := enginetest.Allocate(t, pc, []byte("durable"))
	enginetest.Flush(t, pc)
	cut := d.Copy() // the disk after a power cut
	enginetest.Close(t, pc)
	for name, d := range map[string]*simdisk.Disk{"after a commit": cut, "after a clean close": d.Copy()} {
		if err := shows(t, d, pid, "durable"); err != nil {
			t.Errorf("power cut %s: %v", name, err)
		}
	}
}

// If the directory of a new store was made and its name is not durable, by the caller or by an opening that was killed,
// the store makes it durable before it acknowledges anything: no power cut takes the store away. Trap 5.
func TestNameOfDirectoryIsDurableBeforeUse(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	root, err := d.OpenDir("/")
	if err == nil {
		err = errors.Join(root.Mkdir("store"), root.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	pc := enginetest.OpenSim(t, d)
	pid, _ := enginetest.Allocate(t, pc, []byte("durable"))
	enginetest.Flush(t, pc)
	if err := shows(t, d.Copy(), pid, "durable"); err != nil {
		t.Errorf("power cut: %v", err)
	}
	enginetest.Close(t, pc)
}

// diskRead returns the contents of a file as the page cache shows them.
func diskRead(t *testing.T, d *simdisk.Disk, name string) []byte {
	t.Helper()
	return []byte(enginetest.Files(t, d)[name])
}

// After an opening was killed at any operation, a copy of the superblock may be in the page cache and not on the disk.
// The next opening never has both copies in flight: it syncs such a copy before it writes the other one. Proves rules
// 11 and 16.
func TestCopiesOfSuperblockAreNotInFlightTogether(t *testing.T) {
	t.Parallel()
	dirty, _ := enginetest.DirtyStore(t, simdisk.New(1, simdisk.Options{}))
	inFlight := 0
	for at := 0; ; at++ {
		d := dirty.Copy()
		if !openKilled(d, at) {
			break
		}
		now, durable := diskRead(t, d, enginetest.SuperName), d.ReadDurable(superFile)
		unsynced := map[int64]bool{}
		for i := range int64(2) {
			off := i * format.SuperCopySize
			if string(now[off:][:format.SuperCopySize]) != string(durable[off:][:format.SuperCopySize]) {
				unsynced[i] = true
				inFlight++
			}
		}
		d.SetFault(func(o simdisk.Op) error {
			switch {
			case o.Name != superFile:
			case o.Kind == simdisk.OpSync:
				clear(unsynced)
			case o.Kind == simdisk.OpWrite:
				if unsynced[o.Off/format.SuperCopySize] = true; len(unsynced) > 1 {
					t.Errorf("killed after %d operations: the next opening has both copies in flight", at)
				}
			}
			return nil
		})
		pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
		if err != nil {
			t.Fatalf("killed after %d operations: %v", at, err)
		}
		d.SetFault(nil)
		if err := pc.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if inFlight == 0 {
		t.Error("no kill left a copy that is not durable")
	}
}

// cutInFreeSlot returns a store that was closed cleanly with a page, "durable", and whose file then was cut inside its
// last slot, which is free.
func cutInFreeSlot(t *testing.T) (*simdisk.Disk, engine.PageID) {
	t.Helper()
	d := simdisk.New(1, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	pid, _ := enginetest.Allocate(t, pc, []byte("durable"))
	enginetest.Flush(t, pc)
	enginetest.Close(t, pc)
	sb, err := format.DecodeSuperblock(d.ReadDurable(superFile))
	if err != nil {
		t.Fatal(err)
	}
	b := d.ReadDurable(logFile)
	last := len(b)/sb.SegmentSize - 1
	format.SegmentHeader{State: format.SegmentStateFree, SegmentSize: sb.SegmentSize, BlockSize: 4096,
		Generation: sb.Generation, Slot: format.SegmentID(last), Store: sb.Store}.Put(b[last*sb.SegmentSize:])
	d.WriteFile(logFile, b[:len(b)-5000])
	return d, pid
}

// A store that was closed cleanly and whose file was then cut inside a free slot opens, also after a crash of the disk
// at any operation of an opening: before the superblock says that the store is in use, the file has whole slots,
// durably. Proves rule 11; trap 13.
func TestFileIsWholeBeforeStoreIsInUse(t *testing.T) {
	t.Parallel()
	cut, pid := cutInFreeSlot(t)
	for at := 1; ; at++ {
		d := cut.Copy()
		d.CrashAfter(at)
		pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
		if err == nil {
			err = pc.Close()
		}
		if !d.Crashed() {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		for seed := range uint64(3) {
			if err := shows(t, d.Crash(seed), pid, "durable"); err != nil {
				t.Errorf("crash at operation %d: %v", at, err)
			}
		}
	}
}

// commitAndCut opens the store on a disk, commits a page, and cuts the power. Then the store must show the page, and
// those of old. If the power is cut before the commit, it must show those of old.
func commitAndCut(t *testing.T, d *simdisk.Disk, old map[engine.PageID]string) error {
	t.Helper()
	pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
	if err != nil {
		return err
	}
	defer pc.Close()
	opened := d.Copy()
	for pid, v := range old {
		if err := shows(t, opened, pid, v); err != nil {
			return fmt.Errorf("power cut after the opening: %w", err)
		}
	}
	tx := enginetest.Begin(t, pc)
	pid, _, err := pc.Allocate(tx, []byte("new"))
	tx.End()
	if err == nil {
		_, err = pc.Flush()
	}
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	for name, cut := range map[string]*simdisk.Disk{"power cut": d.Copy(), "crash": d.Crash(uint64(pid))} {
		err := shows(t, cut.Copy(), pid, "new")
		for pid, v := range old {
			err = errors.Join(err, shows(t, cut.Copy(), pid, v))
		}
		if err != nil {
			return fmt.Errorf("%s after the commit: %w", name, err)
		}
	}
	return nil
}

// A kill at any operation of an opening, and at any of a second one, takes nothing back: the next opening shows all
// pages, and a power cut after its first commit loses neither these nor the commit. The store is new, was killed, or
// was closed or killed with a batch open. Proves rules 10, 11 and 16.
func TestKilledOpeningsThenPowerCut(t *testing.T) {
	t.Parallel()
	type start struct {
		disk *simdisk.Disk
		old  map[engine.PageID]string
	}
	starts := map[string]start{"new": {simdisk.New(1, simdisk.Options{}), nil}}
	dirty, pid := enginetest.DirtyStore(t, simdisk.New(1, simdisk.Options{}))
	starts["killed"] = start{dirty, map[engine.PageID]string{pid: "durable"}}
	d := simdisk.New(1, simdisk.Options{})
	pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	pid, _ = enginetest.Allocate(t, pc, []byte("durable"))
	enginetest.Flush(t, pc)
	batch, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	enginetest.AllocateMany(t, pc, 30, 1500)
	old := map[engine.PageID]string{pid: "durable"}
	starts["killed in a batch"] = start{d.Copy(), old}
	_ = pc.Close() // it reports the batch
	runtime.KeepAlive(batch)
	starts["closed in a batch"] = start{d.Copy(), old}
	step := 6 // of the second kill; the first one comes at every operation
	if testing.Short() || enginetest.Raced {
		step = 30
	}
	for name, s := range starts {
		t.Run(name, func(t *testing.T) {
			// Copies of a disk lose the page cache, so kills are repeated from the beginning.
			kills := func(at ...int) bool {
				d := s.disk.Copy()
				for _, n := range at {
					if !openKilled(d, n) {
						return false
					}
				}
				if err := commitAndCut(t, d, s.old); err != nil {
					t.Errorf("killed after %d operations: %v", at, err)
				}
				return true
			}
			for first := 0; kills(first) && !t.Failed(); first++ {
				for second := first % step; kills(first, second) && !t.Failed(); second += step {
				}
			}
		})
	}
}

// Whichever error says that the disk does not return a copy of the superblock, the other copy is used. Proves rule 16.
func TestUnreadableCopyOfSuperblock(t *testing.T) {
	dirty, pid := enginetest.DirtyStore(t, simdisk.New(1, simdisk.Options{}))
	const uncleanLinux = syscall.Errno(117) // EUCLEAN, which package syscall does not name on other systems
	for _, cause := range []error{syscall.EIO, syscall.ENODATA, uncleanLinux, syscall.EBADMSG} {
		d := dirty.Copy()
		d.SetFault(func(o simdisk.Op) error {
			if o.Kind == simdisk.OpRead && o.Name == superFile && o.Off == 0 {
				return cause
			}
			return nil
		})
		if err := shows(t, d, pid, "durable"); err != nil {
			t.Errorf("copy 0 cannot be read (%v): %v", cause, err)
		}
	}
}
