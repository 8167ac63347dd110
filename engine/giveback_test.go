package engine_test

import (
	"errors"
	"syscall"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

const givenValue = 3000 // bytes of a page

// sparseStore makes a store on d of many pages, and frees most of them. It returns those that are left, and the others.
func sparseStore(t *testing.T, d *simdisk.Disk) (pc *engine.PageCache[[]byte], kept, freed []engine.PageID) {
	t.Helper()
	pc = enginetest.OpenSim(t, d)
	tx := enginetest.Begin(t, pc)
	for i, pid := range enginetest.AllocateMany(t, pc, 150, givenValue) {
		if i%30 == 0 {
			kept = append(kept, pid)
			continue
		}
		p, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		enginetest.Must(t)(pc.Free(tx, pid, p.Ptr))
		freed = append(freed, pid)
	}
	tx.End()
	enginetest.Flush(t, pc)
	return pc, kept, freed
}

// giveBack cleans until nothing is left to do.
func giveBack(pc *engine.PageCache[[]byte]) error {
	for idle := 0; idle < 3; {
		did, err := pc.AttemptGC()
		if err != nil {
			return err
		}
		if idle++; did {
			idle = 0
		}
	}
	return nil
}

// writePages allocates n pages, or as many as there is room for, and returns the error of the one that failed.
func writePages(pc *engine.PageCache[[]byte], n int) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for range n {
		if _, _, err := pc.Allocate(tx, make([]byte, givenValue)); err != nil {
			return err
		}
	}
	_, err = pc.Flush()
	return err
}

// A power cut at any operation while space is given back, and taken again, loses nothing and brings nothing back,
// whichever blocks of the holes survive it. Proves rules 4, 14 and 17; trap 45.
func TestPowerCutWhileSpaceIsGivenBack(t *testing.T) {
	t.Parallel()
	step := 1
	if testing.Short() || enginetest.Raced {
		step = 5
	}
	for at := 1; ; at += step {
		seed := uint64(at)
		d := simdisk.New(seed, simdisk.Options{Garbage: at%2 == 0})
		pc, kept, freed := sparseStore(t, d)
		punched := 0
		d.SetFault(func(o simdisk.Op) error {
			if o.Kind == simdisk.OpPunch {
				punched++
			}
			return nil
		})
		d.CrashAfter(at)
		err := giveBack(pc)
		if err == nil {
			err = writePages(pc, 100)
		}
		if err == nil {
			err = giveBack(pc)
		}
		_ = pc.Close()
		if done := !d.Crashed(); done && (err != nil || punched < 2) {
			t.Fatalf("%d slots were given back, %v", punched, err)
		} else if done {
			return
		}
		for again := range uint64(3) { // the first opening crashes, too
			d = d.Crash(seed + again)
			if again == 0 {
				d.CrashAfter(1 + at%30)
			}
			pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
			if again == 0 {
				if err == nil {
					_, _ = writePages(pc, 10), pc.Close()
				}
				continue
			}
			if err != nil {
				t.Fatalf("crash at %d: %v", at, err)
			}
			for _, pid := range kept {
				if p := enginetest.Get(t, pc, pid); len(p.Value) != givenValue {
					t.Fatalf("crash at %d: page %d has %d bytes", at, pid, len(p.Value))
				}
			}
			for _, pid := range freed {
				if p := enginetest.Get(t, pc, pid); p.Kind != engine.KindFree && len(p.Value) != givenValue {
					t.Fatalf("crash at %d: page %d is %v with %d bytes", at, pid, p.Kind, len(p.Value))
				}
			}
			if err := errors.Join(writePages(pc, 40), giveBack(pc)); err != nil {
				t.Fatalf("crash at %d: %v", at, err)
			}
			if err := pc.Close(); err != nil {
				t.Fatalf("crash at %d: %v", at, err)
			}
			enginetest.Check(t, "/store", enginetest.SimOptions(d))
		}
	}
}

// If others have taken the space that was given back, writes fail with ErrNoSpace and the log goes on. Frees work, an
// opening works, and so do writes once there is room. Proves rule 9.
func TestSpaceGivenBackIsTakenByOthers(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	pc, kept, _ := sparseStore(t, d)
	before := pc.Stats().Space
	if err := giveBack(pc); err != nil {
		t.Fatal(err)
	}
	after := pc.Stats().Space
	times := float64(after.FileBytes) / float64(after.LiveBytes)
	if after.FileBytes > before.FileBytes/3 || after.Amplification != times {
		t.Errorf("%+v, before %+v", after, before)
	}
	full := after.FileBytes + 8<<10
	for range 3 {
		d.SetCapacity(full)
		if err := writePages(pc, 200); !errors.Is(err, engine.ErrNoSpace) {
			t.Fatalf("fill: %v", err)
		}
		if s := pc.Stats().Space; s.FileBytes > full {
			t.Errorf("%d bytes occupied of %d", s.FileBytes, full)
		}
		pid := kept[0]
		kept = kept[1:]
		tx := enginetest.Begin(t, pc)
		enginetest.Must(t)(pc.Free(tx, pid, enginetest.Get(t, pc, pid).Ptr))
		tx.End()
		enginetest.Flush(t, pc)
		_ = pc.Close() // a snapshot has no room
		d = d.Copy()
		d.SetCapacity(full)
		pc = enginetest.OpenSim(t, d)
		d.SetCapacity(0)
		if err := writePages(pc, 50); err != nil {
			t.Fatal(err)
		}
		full = pc.Stats().Space.FileBytes + 8<<10
	}
	for _, pid := range kept {
		if p := enginetest.Get(t, pc, pid); len(p.Value) != givenValue {
			t.Errorf("page %d has %d bytes", pid, len(p.Value))
		}
	}
	enginetest.Close(t, pc)
}

// A file system that cannot give space back is asked once. If giving back fails, nothing else does.
func TestSpaceCannotBeGivenBack(t *testing.T) {
	t.Parallel()
	for _, errno := range []syscall.Errno{syscall.EOPNOTSUPP, syscall.EIO} {
		d := simdisk.New(1, simdisk.Options{})
		pc, kept, _ := sparseStore(t, d)
		asked := 0
		d.SetFault(func(o simdisk.Op) error {
			if o.Kind != simdisk.OpPunch {
				return nil
			}
			asked++
			return errno
		})
		if err := giveBack(pc); (err == nil) != (errno == syscall.EOPNOTSUPP) || err != nil && !errors.Is(err, errno) {
			t.Errorf("%v: give back: %v", errno, err)
		}
		for range 2 {
			if err := errors.Join(giveBack(pc), writePages(pc, 100)); err != nil {
				t.Errorf("%v: %v", errno, err)
			}
		}
		if asked != 1 {
			t.Errorf("%v: asked %d times", errno, asked)
		}
		for _, pid := range kept {
			if p := enginetest.Get(t, pc, pid); len(p.Value) != givenValue {
				t.Errorf("page %d has %d bytes", pid, len(p.Value))
			}
		}
		enginetest.Close(t, pc)
		enginetest.Check(t, "/store", enginetest.SimOptions(d))
	}
}
