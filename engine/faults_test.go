package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// A failed write to the log stops it for good: every waiter and every later write gets ErrFailed with the cause. Reads
// go on. Everything that was durable before is there after reopening. Proves rule 8; trap 10.
func TestFailedWriteStopsTheLog(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	tx := enginetest.Begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("durable"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	stable := pc.StableLSN()
	d.FailFrom(simdisk.OpDeviceWrite, 1, syscall.EIO)
	ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte(" not")))
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
	enginetest.Soon(t, "waiters for a log that failed", wg.Wait)
	d.FailFrom(simdisk.OpDeviceWrite, 1, nil) // the disk works again, the log does not
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
		if !errors.Is(err, engine.ErrFailed) || !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v, want ErrFailed with EIO", what, err)
		}
	}
	if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "durable not" {
		t.Errorf("get after the log failed: %q, %v", p.Value, err)
	}
	if got := pc.StableLSN(); got != stable {
		t.Errorf("the stable LSN moved from %d to %d", stable, got)
	}
	tx.End()
	if err := pc.Close(); !errors.Is(err, engine.ErrFailed) {
		t.Errorf("close: %v, want ErrFailed", err)
	}
	// The write that failed may be there after reopening, or not.
	pc = enginetest.OpenSim(t, d.Crash(7))
	defer enginetest.Close(t, pc)
	tx = enginetest.Begin(t, pc)
	defer tx.End()
	if p, err := pc.Get(tx, pid); err != nil || !bytes.HasPrefix(p.Value, []byte("durable")) {
		t.Errorf("after reopening: %q, %v", p.Value, err)
	}
}

// A failure of the log also wakes writers that wait for a free io buffer. Proves rule 8; trap 10.
func TestFailureWakesWritersThatWaitForABuffer(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
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
	for start := time.Now(); pc.Stats().Log.BufferWaits < 1; time.Sleep(time.Millisecond) {
		if time.Since(start) > 30*time.Second {
			t.Fatal("no writer waits for an io buffer")
		}
	}
	d.FailFrom(simdisk.OpDeviceWrite, 1, syscall.EIO)
	d.Hang(false)
	enginetest.Soon(t, "writers to a log that failed", wg.Wait)
	for i, err := range errs {
		if !errors.Is(err, engine.ErrFailed) || !errors.Is(err, syscall.EIO) {
			t.Errorf("writer %d: %v, want ErrFailed with EIO", i, err)
		}
	}
	if err := pc.Close(); !errors.Is(err, engine.ErrFailed) {
		t.Errorf("close: %v, want ErrFailed", err)
	}
}

// Begin and Get work for ever, and timestamps rise, after an I/O error and on a full disk, however many ids are drawn.
// A page that is written once there is room has a timestamp that no later opening draws. Proves rule 19, trap 46.
func TestReadsNeverDependOnWrites(t *testing.T) {
	for _, op := range []simdisk.OpKind{simdisk.OpDeviceWrite, simdisk.OpAllocate} {
		d := simdisk.New(9, simdisk.Options{})
		o := enginetest.SimOptions(d)
		o.IDPersistInterval = 20
		pc := enginetest.Open(t, "/store", o)
		tx := enginetest.Begin(t, pc)
		pid, _, err := pc.Allocate(tx, []byte("page"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		errno := syscall.ENOSPC
		if op == simdisk.OpDeviceWrite {
			errno = syscall.EIO
		}
		d.FailFrom(op, 1, errno)
		for err == nil {
			if _, _, err = pc.Allocate(tx, make([]byte, 4000)); err == nil {
				_, err = pc.Flush()
			}
		}
		last := tx.TS()
		tx.End()
		for range 5000 {
			tx, err := pc.Begin()
			if err != nil || tx.TS() <= last {
				t.Fatalf("%v fails: timestamp after %d: %v", op, last, err)
			}
			last = tx.TS()
			if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "page" {
				t.Fatalf("%v fails: get %q, %v", op, p.Value, err)
			}
			tx.End()
		}
		if _, err := pc.GenerateID(); err == nil {
			t.Errorf("%v fails: an id was handed out that cannot be noted", op)
		}
		if op == simdisk.OpDeviceWrite {
			if err := pc.Close(); !errors.Is(err, engine.ErrFailed) {
				t.Errorf("close: %v", err)
			}
			continue
		}
		d.FailFrom(op, 1, nil)
		tx = enginetest.Begin(t, pc)
		written := tx.TS()
		if _, _, err := pc.Allocate(tx, fmt.Append(nil, written)); err != nil {
			t.Fatal(err)
		}
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		tx.End()
		enginetest.NoCheck(t, pc)
		pc = enginetest.OpenSim(t, d.Crash(9))
		tx = enginetest.Begin(t, pc)
		if tx.TS() <= written {
			t.Errorf("timestamp %d was written, and %d drawn after a crash", written, tx.TS())
		}
		tx.End()
		enginetest.Close(t, pc)
	}
}

// On a full disk only the calls that need a new segment fail. Once there is space, all calls work again. Proves rule 9.
func TestNoSpaceFailsOnlyCallsThatNeedIt(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EFBIG, syscall.EDQUOT} {
		t.Run(errno.Error(), func(t *testing.T) {
			d := simdisk.New(3, simdisk.Options{})
			pc := enginetest.OpenSim(t, d)
			h := enginetest.NewHistory()
			dr, err := enginetest.NewDriver(pc, rand.New(rand.NewPCG(3, 3)), h)
			if err != nil {
				t.Fatal(err)
			}
			dr.Max, dr.Syncs = 8000, false
			if err := dr.Work(50); err != nil {
				t.Fatal(err)
			}
			d.FailFrom(simdisk.OpAllocate, 1, errno)
			for i := 0; dr.NoSpace == 0; i++ {
				if err := dr.Work(1); err != nil || i > 2000 {
					t.Fatal(i, err)
				}
			}
			// The call that failed changed nothing. Similar calls fail too. Reads go on, and so do flushes.
			for range 20 {
				tx := enginetest.Begin(t, pc)
				if err := h.Now.Holds(pc, tx); err != nil {
					t.Fatal(err)
				}
				_, _, err := pc.Allocate(tx, make([]byte, 15000))
				if !errors.Is(err, engine.ErrNoSpace) || !errors.Is(err, errno) {
					t.Fatalf("allocate on a full disk: %v, want ErrNoSpace with %v", err, errno)
				}
				tx.End()
			}
			if err := dr.SealAll(); err == nil {
				if _, err := pc.Flush(); err != nil {
					t.Fatalf("flush on a full disk: %v", err)
				}
			} else if !errors.Is(err, engine.ErrNoSpace) { // after which it is tried again below
				t.Fatal(err)
			}
			d.FailFrom(simdisk.OpAllocate, 1, nil)
			before := dr.NoSpace
			if err := dr.Work(500); err != nil || dr.NoSpace != before {
				t.Fatalf("with space again: %v, %d times ErrNoSpace", err, dr.NoSpace-before)
			}
			if err := dr.SealAll(); err != nil {
				t.Fatal(err)
			}
			dr.End()
			enginetest.Close(t, pc)
			pc = enginetest.OpenSim(t, d)
			if err := h.Check(pc); err != nil {
				t.Fatal(err)
			}
			enginetest.Close(t, pc)
		})
	}
}

// An I/O error while the file grows stops the log as a failed write does: after a failed sync, the success of the next
// one proves nothing. Lack of space does not stop the log. Proves rules 8 and 9; trap 13.
func TestFailureToGrowStopsTheLog(t *testing.T) {
	for _, kind := range []simdisk.OpKind{simdisk.OpAllocate, simdisk.OpSync} {
		t.Run(fmt.Sprintf("kind=%d", kind), func(t *testing.T) {
			d := simdisk.New(3, simdisk.Options{})
			pc := enginetest.OpenSim(t, d)
			tx := enginetest.Begin(t, pc)
			pid, _, err := pc.Allocate(tx, []byte("durable"))
			if err == nil {
				_, err = pc.Flush()
			}
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			failed := false // one operation fails, not the later ones
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
					t.Fatal("the file grew in spite of the fault")
				}
			}
			for range 3 {
				failed := errors.Is(err, engine.ErrFailed) && errors.Is(err, syscall.EIO)
				if !failed || errors.Is(err, engine.ErrNoSpace) {
					t.Fatalf("allocate: %v, want ErrFailed with EIO", err)
				}
				_, _, err = pc.Allocate(tx, nil)
			}
			if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "durable" {
				t.Errorf("get after the log failed: %q, %v", p.Value, err)
			}
			tx.End()
			if err := pc.Close(); !errors.Is(err, engine.ErrFailed) {
				t.Errorf("close: %v, want ErrFailed", err)
			}
		})
	}
}

// A store that has filled a disk of fixed size works again once there is more space, and holds all that was written.
// Proves rule 9.
func TestFullDiskGetsMoreSpace(t *testing.T) {
	d := simdisk.New(4, simdisk.Options{Capacity: 10 * 16 << 10})
	h := enginetest.NewHistory()
	pc := enginetest.OpenSim(t, d)
	dr, err := enginetest.NewDriver(pc, rand.New(rand.NewPCG(4, 4)), h)
	if err != nil {
		t.Fatal(err)
	}
	dr.Max = 4000
	if err := dr.Work(2000); err != nil || dr.NoSpace == 0 {
		t.Fatalf("%d times ErrNoSpace, then %v", dr.NoSpace, err)
	}
	d.SetCapacity(0)
	if err := dr.Work(200); err != nil {
		t.Fatal(err)
	}
	if err := dr.SealAll(); err != nil {
		t.Fatal(err)
	}
	dr.End()
	enginetest.Close(t, pc)
	pc = enginetest.OpenSim(t, d)
	defer enginetest.Close(t, pc)
	if err := h.Check(pc); err != nil {
		t.Fatal(err)
	}
}

// If the device hangs, no waiter is told that its write is stable. Close returns, whether a waiter was the leader or
// Close itself. Trap 20.
func TestCloseWithHungDevice(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits until Close gives up")
	}
	for _, alone := range []bool{false, true} {
		t.Run(fmt.Sprintf("alone=%v", alone), func(t *testing.T) {
			t.Parallel()
			closeHung(t, alone)
		})
	}
}

// closeHung closes a store whose device hangs. Unless alone, another goroutine waits for the device then.
func closeHung(t *testing.T, alone bool) {
	d := simdisk.New(6, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	enginetest.NoCheck(t, pc)
	_, lsn := enginetest.Allocate(t, pc, []byte("x"))
	d.Hang(true)
	waiter := make(chan error, 1)
	if !alone {
		ops := d.Ops()
		go func() {
			_, err := pc.MakeStable(lsn)
			waiter <- err
		}()
		for start := time.Now(); d.Ops() == ops; time.Sleep(time.Millisecond) { // until the waiter leads
			if time.Since(start) > 30*time.Second {
				t.Fatal("the waiter does not write")
			}
		}
	}
	enginetest.Soon(t, "closing", func() {
		if err := pc.Close(); err == nil {
			t.Error("Close with a hung device succeeded")
		}
	})
	d.Hang(false)
	if alone {
		return
	}
	enginetest.Soon(t, "the waiter", func() {
		if err := <-waiter; err == nil {
			t.Error("MakeStable succeeded after Close had given up")
		}
	})
}
