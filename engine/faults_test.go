package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

func simOptions(d *simdisk.Disk) *Options {
	return &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{FS: d}}
}

// openSim opens the store on a simulated disk.
func openSim(t testing.TB, d *simdisk.Disk) *PageCache[[]byte] {
	t.Helper()
	return openTest(t, "/store", simOptions(d))
}

// failOn has the disk answer operations of a kind with err, from the n-th on; err nil: never again.
func failOn(d *simdisk.Disk, kind simdisk.Kind, n int, err error) {
	var mu sync.Mutex
	d.SetFault(func(o simdisk.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if o.Kind != kind || err == nil {
			return nil
		}
		if n--; n > 0 {
			return nil
		}
		return err
	})
}

// soon fails the test if f takes longer than a stuck waiter would be forgiven.
func soon(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: hangs", what)
	}
}

// A failed write to the log stops it for good: everybody who waits and every later write gets ErrFailed with the cause, and reads go on.
// What was durable before is there after reopening. Proves rule 8; trap 10.
func TestFailedWriteStopsTheLog(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	pc := openSim(t, d)
	tx := begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("durable"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	stable := pc.StableLSN()
	failOn(d, simdisk.OpDeviceWrite, 1, syscall.EIO)
	ptr = must(t)(pc.Link(tx, pid, ptr, []byte(" not")))
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			if i%2 == 0 {
				_, errs[i] = pc.MakeStable(ptr.LastLSN())
			} else {
				_, errs[i] = pc.Flush()
			}
		})
	}
	soon(t, "waiters of a log that failed", wg.Wait)
	failOn(d, simdisk.OpDeviceWrite, 1, nil) // the disk is well again, the log is not
	refused := map[string]error{}
	_, refused["MakeStable"] = pc.MakeStable(ptr.LastLSN())
	_, refused["Flush"] = pc.Flush()
	_, _, refused["Allocate"] = pc.Allocate(tx, nil)
	_, _, refused["Link"] = pc.Link(tx, pid, ptr, nil)
	_, _, refused["Replace"] = pc.Replace(tx, pid, ptr, nil)
	_, _, refused["Free"] = pc.Free(tx, pid, ptr)
	_, refused["PinLog"] = pc.PinLog()
	_, _, refused["CASRoot"] = pc.CASRoot(tx, "r", 0, pid)
	for i, err := range errs {
		refused[fmt.Sprintf("waiter %d", i)] = err
	}
	for what, err := range refused {
		if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "durable not" {
		t.Errorf("reads do not go on: %q %v", p.Value, err)
	}
	if got := pc.StableLSN(); got != stable {
		t.Errorf("stable LSN moved from %d to %d", stable, got)
	}
	tx.End()
	if err := pc.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("close: %v", err)
	}
	// What failed may be there after reopening, or not.
	pc = openSim(t, d.Crash(7))
	defer closeTest(t, pc)
	tx = begin(t, pc)
	defer tx.End()
	if p, err := pc.Get(tx, pid); err != nil || !bytes.HasPrefix(p.Value, []byte("durable")) {
		t.Errorf("after reopening: %q %v", p.Value, err)
	}
}

// Writers that wait for a free buffer are woken too when the log fails. Proves rule 8; trap 10.
func TestFailureWakesWritersThatWaitForABuffer(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	pc := openSim(t, d)
	d.Hang(true)
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		wg.Go(func() {
			for errs[i] == nil {
				tx, err := pc.Begin()
				if err != nil {
					errs[i] = err
					return
				}
				_, _, errs[i] = pc.Allocate(tx, make([]byte, 3000))
				tx.End()
			}
		})
	}
	for pc.Stats().Log.BufferWaits < 1 {
		time.Sleep(time.Millisecond)
	}
	failOn(d, simdisk.OpDeviceWrite, 1, syscall.EIO)
	d.Hang(false)
	soon(t, "writers of a log that failed", wg.Wait)
	for _, err := range errs {
		if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
			t.Error(err)
		}
	}
	if err := pc.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("close: %v", err)
	}
}

// A full disk fails the calls that need a new segment, and nothing else; once there is room all goes on. Proves rule 9.
func TestNoSpaceStopsNothing(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EFBIG, syscall.EDQUOT} {
		t.Run(errno.Error(), func(t *testing.T) {
			d := simdisk.New(3, simdisk.Options{})
			pc := openSim(t, d)
			h := newHistory()
			dr, err := newDriver(pc, rand.New(rand.NewPCG(3, 3)), h)
			if err != nil {
				t.Fatal(err)
			}
			dr.max, dr.syncs = 8000, false
			if err := dr.work(50); err != nil {
				t.Fatal(err)
			}
			failOn(d, simdisk.OpAllocate, 1, errno)
			for i := 0; dr.noSpace == 0; i++ {
				if err := dr.work(1); err != nil || i > 2000 {
					t.Fatal(i, err)
				}
			}
			// The call that failed did nothing; others of the kind fail too; reads, and what is written already, go on.
			for range 20 {
				tx := begin(t, pc)
				if err := h.now.holds(pc, tx); err != nil {
					t.Fatal(err)
				}
				_, _, err := pc.Allocate(tx, make([]byte, 15000))
				if !errors.Is(err, ErrNoSpace) || !errors.Is(err, errno) {
					t.Fatalf("allocate: %v", err)
				}
				tx.End()
			}
			for len(dr.open) > 0 {
				if err := dr.sealAt(0); errors.Is(err, ErrNoSpace) {
					break // and it can be tried again, below
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if len(dr.open) == 0 {
				if _, err := pc.Flush(); err != nil {
					t.Fatalf("flush on a full disk: %v", err)
				}
			}
			failOn(d, simdisk.OpAllocate, 1, nil)
			before := dr.noSpace
			if err := dr.work(500); err != nil || dr.noSpace != before {
				t.Fatalf("once there is room: %v, %d times no space", err, dr.noSpace-before)
			}
			for len(dr.open) > 0 {
				if err := dr.sealAt(0); err != nil {
					t.Fatal(err)
				}
			}
			dr.end()
			closeTest(t, pc)
			pc = openSim(t, d)
			if err := h.check(pc); err != nil {
				t.Fatal(err)
			}
			closeTest(t, pc)
		})
	}
}

// An I/O error while the file grows stops the log as a failed write does: a sync that failed once says nothing the second time.
// Lack of room does not. Proves rules 8 and 9; trap 13.
func TestFailureToGrowStopsTheLog(t *testing.T) {
	for _, kind := range []simdisk.Kind{simdisk.OpAllocate, simdisk.OpSync} {
		t.Run(fmt.Sprintf("kind=%d", kind), func(t *testing.T) {
			d := simdisk.New(3, simdisk.Options{})
			pc := openSim(t, d)
			tx := begin(t, pc)
			pid, _, err := pc.Allocate(tx, []byte("durable"))
			if err == nil {
				_, err = pc.Flush()
			}
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			failed := false // once
			d.SetFault(func(o simdisk.Op) error {
				mu.Lock()
				defer mu.Unlock()
				if o.Kind != kind || failed {
					return nil
				}
				failed = true
				return syscall.EIO
			})
			for i := 0; err == nil; i++ {
				if _, _, err = pc.Allocate(tx, make([]byte, 4000)); i > 1000 {
					t.Fatal("the file grows though it cannot")
				}
			}
			for range 3 {
				if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) || errors.Is(err, ErrNoSpace) {
					t.Fatal(err)
				}
				_, _, err = pc.Allocate(tx, nil)
			}
			if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "durable" {
				t.Errorf("reads do not go on: %q %v", p.Value, err)
			}
			tx.End()
			if err := pc.Close(); !errors.Is(err, ErrFailed) {
				t.Errorf("close: %v", err)
			}
		})
	}
}

// A disk of fixed size: writing to its end, reopening, more room. Proves rule 9.
func TestFullDisk(t *testing.T) {
	d := simdisk.New(4, simdisk.Options{Capacity: 10 * 16 << 10})
	h := newHistory()
	pc := openSim(t, d)
	dr, err := newDriver(pc, rand.New(rand.NewPCG(4, 4)), h)
	if err != nil {
		t.Fatal(err)
	}
	dr.max = 4000
	if err := dr.work(2000); err != nil || dr.noSpace == 0 {
		t.Fatal(err, dr.noSpace)
	}
	d.SetCapacity(0)
	if err := dr.work(200); err != nil {
		t.Fatal(err)
	}
	for len(dr.open) > 0 {
		if err := dr.sealAt(0); err != nil {
			t.Fatal(err)
		}
	}
	dr.end()
	closeTest(t, pc)
	pc = openSim(t, d)
	defer closeTest(t, pc)
	if err := h.check(pc); err != nil {
		t.Fatal(err)
	}
}

// dirtyStore leaves a store on d that was not closed cleanly, with one durable page, and returns the disk after the crash.
func dirtyStore(t *testing.T, d *simdisk.Disk) (*simdisk.Disk, PageID) {
	t.Helper()
	pc := openSim(t, d)
	tx := begin(t, pc)
	pid, _, err := pc.Allocate(tx, []byte("durable"))
	if err == nil {
		_, err = pc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	next := d.Crash(1)
	_ = pc.Close()
	return next, pid
}

// files returns what all files of the store hold.
func files(t *testing.T, fsys vfs.FS) map[string]string {
	t.Helper()
	names, err := fsys.ReadDir("/store")
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, n := range names {
		f, err := fsys.Open(filepath.Join("/store", n), vfs.FlagRead)
		if err != nil {
			t.Fatal(err)
		}
		size, _ := f.Size()
		b := make([]byte, size)
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		m[n] = string(b)
		f.Close()
	}
	return m
}

// A log that cannot be synced is not opened, and nothing of it is changed. Proves rule 11.
func TestOpenRefusesWhatItCannotSync(t *testing.T) {
	d, pid := dirtyStore(t, simdisk.New(5, simdisk.Options{}))
	before := files(t, d)
	failOn(d, simdisk.OpSync, 1, syscall.EIO)
	if _, err := Open("/store", Bytes{}, simOptions(d)); !errors.Is(err, syscall.EIO) {
		t.Fatalf("opened a log that cannot be synced: %v", err)
	}
	if after := files(t, d); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Error("a refused opening changed files")
	}
	failOn(d, simdisk.OpSync, 1, nil)
	pc := openSim(t, d)
	defer closeTest(t, pc)
	tx := begin(t, pc)
	defer tx.End()
	if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "durable" {
		t.Errorf("%q %v", p.Value, err)
	}
}

// After a failed sync the page cache shows bytes that the disk does not have, and the next sync says that all is well. What such a
// store shows after reopening is on the disk. Proves rule 11.
func TestForgottenWritesAreNotShown(t *testing.T) {
	for seed := range uint64(40) {
		d := simdisk.New(seed, simdisk.Options{ForgetOnFailedSync: true})
		pc := openSim(t, d)
		tx := begin(t, pc)
		pid, ptr, err := pc.Allocate(tx, []byte("durable"))
		if err == nil {
			_, err = pc.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		// The write of the delta reaches the page cache only, and the process dies: its locks go, the page cache stays.
		failOn(d, simdisk.OpDeviceWrite, 1, syscall.EIO)
		ptr = must(t)(pc.Link(tx, pid, ptr, []byte(" forgotten")))
		if _, err := pc.MakeStable(ptr.LastLSN()); !errors.Is(err, ErrFailed) {
			t.Fatal(err)
		}
		tx.End()
		_ = pc.Close()
		failOn(d, simdisk.OpSync, 1, syscall.EIO)
		if _, err := Open("/store", Bytes{}, simOptions(d)); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		failOn(d, simdisk.OpSync, 1, nil)

		pc = openSim(t, d)
		tx = begin(t, pc)
		shown, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		want := string(shown.Value)
		tx.End()
		d2 := d.Crash(seed) // right after it was shown
		_ = pc.Close()
		pc = openSim(t, d2)
		tx = begin(t, pc)
		if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != want {
			t.Fatalf("seed %d: shown %q, after a power cut %q (%v)", seed, want, p.Value, err)
		}
		tx.End()
		closeTest(t, pc)
	}
}

// A device that answers no more: nobody is told that anything is stable, and Close comes back, whoever has been leading: a waiter, or Close itself. Trap 20.
func TestCloseWithADeviceThatHangs(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until Close loses its patience")
	}
	for _, alone := range []bool{false, true} {
		t.Run(fmt.Sprintf("alone=%v", alone), func(t *testing.T) {
			t.Parallel()
			closeHanging(t, alone)
		})
	}
}

func closeHanging(t *testing.T, alone bool) {
	d := simdisk.New(6, simdisk.Options{})
	pc := openSim(t, d)
	tx := begin(t, pc)
	_, ptr, err := pc.Allocate(tx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	d.Hang(true)
	waiter := make(chan error, 1)
	if !alone {
		go func() {
			_, err := pc.MakeStable(ptr.LastLSN())
			waiter <- err
		}()
		time.Sleep(10 * time.Millisecond)
	}
	soon(t, "closing", func() {
		if err := pc.Close(); err == nil {
			t.Error("closed without an error")
		}
	})
	d.Hang(false)
	if alone {
		return
	}
	soon(t, "the waiter", func() {
		if err := <-waiter; err == nil {
			t.Error("the waiter was told that its write is stable after Close had given up")
		}
	})
}

// A crash at each operation of the very first opening leaves something that opens as an empty store. Proves rule 11.
func TestCrashDuringFirstOpening(t *testing.T) {
	for at := 1; ; at++ {
		for seed := range uint64(8) {
			d := simdisk.New(seed, simdisk.Options{})
			d.CrashAfter(at)
			pc, err := Open("/store", Bytes{}, simOptions(d))
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
			pc = openSim(t, d)
			if err := newHistory().check(pc); err != nil {
				t.Fatalf("crash at %d, seed %d: %v", at, seed, err)
			}
			closeTest(t, pc)
		}
	}
}

// An opening that fails leaves the data as it was, and the next one finds all of it (O8).
func TestFailedOpeningLeavesTheStore(t *testing.T) {
	first, pid := dirtyStore(t, simdisk.New(8, simdisk.Options{}))
	for _, kind := range []simdisk.Kind{simdisk.OpOpen, simdisk.OpRead, simdisk.OpSync, simdisk.OpWrite, simdisk.OpRename, simdisk.OpSyncDir,
		simdisk.OpDeviceWrite, simdisk.OpAllocate} {
		for n := 1; ; n++ {
			d := first.Crash(1) // a copy
			failOn(d, kind, n, syscall.EIO)
			pc, err := Open("/store", Bytes{}, simOptions(d))
			failOn(d, kind, n, nil)
			if err == nil {
				closeTest(t, pc)
				break
			}
			if !errors.Is(err, syscall.EIO) {
				t.Fatalf("operation %d of kind %d fails: %v", n, kind, err)
			}
			if n > 20 {
				t.Fatalf("opening never gets past kind %d", kind)
			}
			pc = openSim(t, d)
			tx := begin(t, pc)
			if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "durable" {
				t.Fatalf("after operation %d of kind %d failed: %q %v", n, kind, p.Value, err)
			}
			tx.End()
			closeTest(t, pc)
		}
	}
}

// The superblock says what the log cannot: without it, or with a corrupt one, or one of another version, a store is not opened, and
// not changed. Proves rule 12.
func TestSuperblockDamage(t *testing.T) {
	first, _ := dirtyStore(t, simdisk.New(9, simdisk.Options{}))
	const super = "/store/superblock"
	good := first.ReadDurable(super)
	for name, c := range map[string]struct {
		do   func(*simdisk.Disk)
		want error
	}{
		"missing":   {func(d *simdisk.Disk) { _ = d.Remove(super) }, ErrCorrupt},
		"truncated": {func(d *simdisk.Disk) { d.WriteFile(super, good[:40]) }, ErrCorrupt},
		"empty":     {func(d *simdisk.Disk) { d.WriteFile(super, nil) }, ErrCorrupt},
		"too long":  {func(d *simdisk.Disk) { d.WriteFile(super, make([]byte, 1<<20)) }, ErrCorrupt},
		"flipped":   {func(d *simdisk.Disk) { d.FlipBit(super, 33, 2) }, ErrCorrupt},
	} {
		d := first.Crash(1)
		c.do(d)
		before := files(t, d)
		_, err := Open("/store", Bytes{}, simOptions(d))
		ce := (*CorruptError)(nil)
		if !errors.Is(err, c.want) || !errors.As(err, &ce) || ce.File != super {
			t.Errorf("%s: %v", name, err)
		}
		if fmt.Sprint(before) != fmt.Sprint(files(t, d)) {
			t.Errorf("%s: files were changed", name)
		}
	}
}

// One bit flipped anywhere in what is durable: the right values or a typed error, never anything else, and no panic. Proves rules 10
// and 12.
func TestBitFlips(t *testing.T) {
	d := simdisk.New(10, simdisk.Options{Block: 512})
	h := newHistory()
	pc := openSim(t, d)
	dr, err := newDriver(pc, rand.New(rand.NewPCG(10, 10)), h)
	if err != nil {
		t.Fatal(err)
	}
	dr.syncs = false
	for i := range 40 {
		if err := dr.step(); err != nil {
			t.Fatal(err)
		}
		for i == 20 && len(dr.open) > 0 {
			if err := dr.sealAt(0); err != nil {
				t.Fatal(err)
			}
		}
		if i == 20 {
			if _, err := pc.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	dr.end()
	for len(dr.open) > 0 {
		if err := dr.sealAt(0); err != nil {
			t.Fatal(err)
		}
	}
	closeTest(t, pc)
	end, _, err := scanEnd(d, "/store")
	if err == nil {
		err = h.cut(end)
	}
	if err != nil {
		t.Fatal(err)
	}
	step := 7
	if testing.Short() {
		step = 61
	}
	refused, right := 0, 0
	for bit := 0; bit < int(end)*8; bit += step {
		c := d.Crash(1)
		c.FlipBit("/store/log", int64(bit/8), uint(bit))
		pc, err := Open("/store", Bytes{}, simOptions(c))
		if err == nil {
			tx := begin(t, pc)
			err = h.now.holds(pc, tx)
			tx.End()
			_ = pc.Close()
		}
		ce := (*CorruptError)(nil)
		switch {
		case err == nil:
			right++
		case errors.Is(err, ErrCorrupt) && errors.As(err, &ce) && ce.File == "/store/log":
			refused++
		default:
			t.Fatalf("bit %d of byte %d: %v", bit%8, bit/8, err)
		}
	}
	t.Logf("%d refused, %d of no consequence", refused, right)
	if refused == 0 {
		t.Error("no flipped bit was found")
	}
}
