package engine_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// Open fails if it cannot sync the log, and changes no file then. Proves rule 11.
func TestOpenFailsIfItCannotSync(t *testing.T) {
	d, pid := enginetest.DirtyStore(t, simdisk.New(5, simdisk.Options{}))
	before := enginetest.Files(t, d)
	d.FailFrom(simdisk.OpSync, 1, syscall.EIO)
	if _, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d)); !errors.Is(err, syscall.EIO) {
		t.Fatalf("open a log that cannot be synced: %v, want EIO", err)
	}
	if after := enginetest.Files(t, d); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Error("an Open that failed changed files")
	}
	d.FailFrom(simdisk.OpSync, 1, nil)
	pc := enginetest.OpenSim(t, d)
	defer enginetest.Close(t, pc)
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "durable" {
		t.Errorf("after reopening: %q, %v", p.Value, err)
	}
}

// After a failed sync the page cache holds bytes that the disk does not hold, and the next sync reports success. All
// that a store shows after reopening is on the disk nevertheless. Proves rule 11.
func TestWritesLostByAFailedSyncAreNotShown(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		d := simdisk.New(seed, simdisk.Options{ForgetOnFailedSync: true})
		pc := enginetest.OpenSim(t, d)
		tx := enginetest.Begin(t, pc)
		pid, ptr, err := pc.Allocate(tx, []byte("durable"))
		if err == nil {
			_, err = pc.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		// The write of the delta reaches only the page cache. Then the process dies, which ends its locks.
		d.FailFrom(simdisk.OpDeviceWrite, 1, syscall.EIO)
		ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte(" forgotten")))
		if _, err := pc.MakeStable(ptr.LastLSN()); !errors.Is(err, engine.ErrFailed) {
			t.Fatalf("make stable: %v, want ErrFailed", err)
		}
		tx.End()
		_ = pc.Close()
		d.FailFrom(simdisk.OpSync, 1, syscall.EIO)
		if _, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d)); !errors.Is(err, syscall.EIO) {
			t.Fatalf("open: %v, want EIO", err)
		}
		d.FailFrom(simdisk.OpSync, 1, nil)

		pc = enginetest.OpenSim(t, d)
		tx = enginetest.Begin(t, pc)
		shown, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		want := string(shown.Value)
		tx.End()
		d2 := d.Crash(seed) // right after it was shown
		_ = pc.Close()
		pc = enginetest.OpenSim(t, d2)
		tx = enginetest.Begin(t, pc)
		if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != want {
			t.Fatalf("seed %d: %q, %v after a power cut, %q was shown before", seed, p.Value, err, want)
		}
		tx.End()
		enginetest.Close(t, pc)
	}
}

// A crash at any operation of the first Open leaves a directory that opens as an empty store. Proves rule 11.
func TestCrashInFirstOpen(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		for seed := range uint64(8) {
			d := simdisk.New(seed, simdisk.Options{})
			d.CrashAfter(at)
			pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
			if err == nil {
				err = pc.Close()
			}
			if !d.Crashed() {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			d = d.Crash(seed)
			pc = enginetest.OpenSim(t, d)
			if err := enginetest.NewHistory().Check(pc); err != nil {
				t.Fatalf("crash at %d, seed %d: %v", at, seed, err)
			}
			enginetest.Close(t, pc)
		}
	}
}

// An Open that fails at any operation leaves the data as it was, and the next Open finds all of it (O8).
func TestFailedOpenLeavesTheStore(t *testing.T) {
	t.Parallel()
	first, pid := enginetest.DirtyStore(t, simdisk.New(8, simdisk.Options{}))
	for _, kind := range []simdisk.OpKind{simdisk.OpOpen, simdisk.OpRead, simdisk.OpSync, simdisk.OpWrite,
		simdisk.OpRename, simdisk.OpSyncDir, simdisk.OpDeviceWrite, simdisk.OpAllocate} {
		for n := 1; ; n++ {
			d := first.Crash(1) // a copy
			d.FailFrom(kind, n, syscall.EIO)
			pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
			d.FailFrom(kind, n, nil)
			if err == nil {
				enginetest.Watch(t, pc, enginetest.SimOptions(d))
				enginetest.Close(t, pc)
				break
			}
			if !errors.Is(err, syscall.EIO) {
				t.Fatalf("open, with operation %d of kind %d failing: %v, want EIO", n, kind, err)
			}
			if n > 20 {
				t.Fatalf("Open does more than %d operations of kind %d", n, kind)
			}
			pc = enginetest.OpenSim(t, d)
			tx := enginetest.Begin(t, pc)
			if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "durable" {
				t.Fatalf("after operation %d of kind %d failed: %q, %v", n, kind, p.Value, err)
			}
			tx.End()
			enginetest.Close(t, pc)
		}
	}
}

// Open of a store whose superblock is missing or corrupt returns ErrCorrupt with the file's name, and changes no file.
// Proves rule 12.
func TestOpenWithCorruptSuperblock(t *testing.T) {
	first, _ := enginetest.DirtyStore(t, simdisk.New(9, simdisk.Options{}))
	const super = "/store/superblock"
	good := first.ReadDurable(super)
	for name, c := range map[string]struct {
		do   func(*simdisk.Disk)
		want error
	}{
		"missing":   {func(d *simdisk.Disk) { _ = d.Remove(super) }, engine.ErrCorrupt},
		"truncated": {func(d *simdisk.Disk) { d.WriteFile(super, good[:40]) }, engine.ErrCorrupt},
		"empty":     {func(d *simdisk.Disk) { d.WriteFile(super, nil) }, engine.ErrCorrupt},
		"too long":  {func(d *simdisk.Disk) { d.WriteFile(super, make([]byte, 1<<20)) }, engine.ErrCorrupt},
		"flipped in both copies": {func(d *simdisk.Disk) {
			d.FlipBit(super, 33, 2)
			d.FlipBit(super, format.SuperCopySize+20, 2)
		}, engine.ErrCorrupt},
	} {
		d := first.Crash(1)
		c.do(d)
		before := enginetest.Files(t, d)
		_, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
		ce := (*engine.CorruptError)(nil)
		if !errors.Is(err, c.want) || !errors.As(err, &ce) || ce.File != super {
			t.Errorf("open with a superblock that is %s: %v, want %v in %s", name, err, c.want, super)
		}
		if fmt.Sprint(before) != fmt.Sprint(enginetest.Files(t, d)) {
			t.Errorf("open with a superblock that is %s: files were changed", name)
		}
	}
}

// If any bit of the log is flipped, the store either holds the right values or reports ErrCorrupt. It never panics, and
// never returns another error. Proves rules 10 and 12.
func TestFlippedBitIsHarmlessOrReported(t *testing.T) {
	t.Parallel()
	d := simdisk.New(10, simdisk.Options{Block: 512})
	h := enginetest.NewHistory()
	pc := enginetest.OpenSim(t, d)
	dr, err := enginetest.NewDriver(pc, rand.New(rand.NewPCG(10, 10)), h)
	if err != nil {
		t.Fatal(err)
	}
	dr.Syncs = false
	for i := range 40 {
		if err := dr.Step(); err != nil {
			t.Fatal(err)
		}
		if i == 20 {
			if err := dr.SealAll(); err != nil {
				t.Fatal(err)
			}
			enginetest.Flush(t, pc)
		}
	}
	dr.End()
	if err := dr.SealAll(); err != nil {
		t.Fatal(err)
	}
	enginetest.Close(t, pc)
	end, _, err := enginetest.LogEnd(d, "/store")
	if err == nil {
		err = h.Cut(end)
	}
	if err != nil {
		t.Fatal(err)
	}
	step := 7
	if testing.Short() {
		step = 61
	}
	reported, right := 0, 0
	for bit := 0; bit < int(end)*8; bit += step {
		c := d.Crash(1)
		c.FlipBit("/store/log", int64(bit/8), uint(bit))
		pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(c))
		if err == nil {
			tx := enginetest.Begin(t, pc)
			err = h.Now.Holds(pc, tx)
			tx.End()
			_ = pc.Close()
		}
		ce := (*engine.CorruptError)(nil)
		switch {
		case err == nil:
			right++
		case errors.Is(err, engine.ErrCorrupt) && errors.As(err, &ce) && ce.File == "/store/log":
			reported++
		default:
			t.Fatalf("bit %d of byte %d flipped: %v, want ErrCorrupt", bit%8, bit/8, err)
		}
	}
	t.Logf("%d flips were reported, %d did no harm", reported, right)
	if reported == 0 {
		t.Error("no flipped bit was reported")
	}
}
