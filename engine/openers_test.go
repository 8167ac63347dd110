package engine_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
)

var openersSeeds = flag.Int("openers.seeds", 300, "the number of seeds of the tests that compare openings")

// A ReadOnly opening and Check of a store that was crashed at any moment accept it as an opening for writing does: with
// the same contents, and without a problem. Proves rule 10; trap 31.
func TestOpenersAgreeOnCrashedStore(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= uint64(*openersSeeds); seed++ {
		r := newCrashRun(seed, planted{})
		if r.limited {
			continue // an opening for writing may lack space
		}
		for range 2 {
			if err := r.life(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if err := openersAgree(t, r); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
}

// openersAgree compares openings of the store on r's disk.
func openersAgree(t *testing.T, r *crashRun) error {
	contents := func(d *simdisk.Disk, readOnly, alone bool) (string, error) {
		o := r.o
		o.ReadOnly = readOnly
		pc, err := engine.Open("/store", engine.Bytes{}, enginetest.WithSeam(&o, seam.Options{FS: d, LogAlone: alone}))
		if err != nil {
			return "", err
		}
		all := enginetest.Contents(t, pc)
		return all, pc.Close()
	}
	if names, err := r.disk.ReadDir("/store"); err != nil || len(names) < 2 {
		return nil // the first opening was cut off
	}
	want, err := contents(r.disk.Copy(), false, false)
	if err != nil {
		return fmt.Errorf("open for writing: %w", err)
	}
	for _, alone := range []bool{false, true} {
		got, err := contents(r.disk, true, alone)
		if err != nil || got != want {
			return fmt.Errorf("open ReadOnly, log alone %v: contents agree %v, error %w", alone, got == want, err)
		}
	}
	o := r.o
	if err := enginetest.Problems("/store", enginetest.WithSeam(&o, seam.Options{FS: r.disk})); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return nil
}

// The same holds for a standalone log whose last segments were torn in any way. Trap 31.
func TestOpenersAgreeOnTornLog(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= uint64(*openersSeeds); seed++ {
		rng := rand.New(rand.NewPCG(seed, 31))
		d := simdisk.New(seed, simdisk.Options{})
		l, err := engine.OpenLog("/store", enginetest.SimOptions(d))
		if err != nil {
			t.Fatal(err)
		}
		d.CrashAfter(1 + rng.IntN(40))
		for err == nil {
			var lsn engine.LSN
			lsn, _, err = l.Write(bytes.Repeat([]byte{byte(rng.IntN(3))}, rng.IntN(3000)))
			if err == nil && rng.IntN(2) == 0 {
				_, err = l.MakeStable(lsn)
			}
		}
		after := d.Crash(seed)
		_ = l.Close()
		cut := rng.IntN(3) == 0
		if cut { // the file ends inside a slot, in zeros
			b := after.ReadDurable("/store/log")
			after.WriteFile("/store/log", bytes.TrimRight(b, "\x00"))
		}
		records := func(d *simdisk.Disk, readOnly bool) []string {
			o := enginetest.SimOptions(d)
			o.ReadOnly = readOnly
			l, err := engine.OpenLog("/store", o)
			if cut && errors.Is(err, engine.ErrCorrupt) {
				return nil
			}
			if err != nil {
				t.Fatalf("seed %d: open, ReadOnly %v: %v", seed, readOnly, err)
			}
			_, bodies := enginetest.Records(t, l, 0)
			if err := l.Close(); err != nil {
				t.Fatalf("seed %d: close, ReadOnly %v: %v", seed, readOnly, err)
			}
			return bodies
		}
		want := fmt.Sprint(records(after.Copy(), false))
		if got := fmt.Sprint(records(after, true)); got != want {
			t.Fatalf("seed %d: ReadOnly shows other records", seed)
		}
		if err := enginetest.Problems("/store", enginetest.SimOptions(after)); err != nil && !cut {
			t.Fatalf("seed %d: check: %v", seed, err)
		}
	}
}

// If any bit of the header of a pad, or of an aborted record, is flipped while a log is open, Records returns every
// record or an error with the place. It never goes on behind a record that it has skipped. Trap 32.
func TestRecordsVerifiesEveryHeader(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	enginetest.NoCheck(t, l)
	var headers []int64 // offsets of the headers of pads and of aborted records
	for i := range 40 { // each is a commit of its own, a record and a pad
		if i%4 == 0 {
			r, err := l.Reserve(1000)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Abort(); err != nil {
				t.Fatal(err)
			}
		}
		_, ptr, err := l.Write(fmt.Appendf(nil, "%100d", i))
		if err == nil {
			_, err = l.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		if i < 10 { // in segments that are sealed by now
			if headers = append(headers, int64(ptr.Off)+24+104); i%4 == 0 {
				headers = append(headers, int64(ptr.Off)-1024)
			}
		}
	}
	_, want := enginetest.Records(t, l, 0)
	if len(want) != 40 {
		t.Fatalf("%d records", len(want))
	}
	reported := 0
	for _, at := range headers {
		for bit := range int64(24 * 8) {
			d.FlipBit("/store/log", at+bit/8, uint(bit%8))
			n := 0
			var failed error
			for r, err := range l.Records(0) {
				if failed = err; err != nil {
					break
				}
				if string(r.Bytes) != want[n] {
					t.Fatalf("bit %d at %d flipped: record %d is skipped", bit, at, n)
				}
				n++
			}
			d.FlipBit("/store/log", at+bit/8, uint(bit%8))
			ce := (*engine.CorruptError)(nil)
			if failed == nil && n != len(want) || failed != nil && !errors.As(failed, &ce) {
				t.Fatalf("bit %d at %d flipped: %d records, error %v", bit, at, n, failed)
			}
			if failed == nil {
				continue
			}
			reported++
			if off, known := ce.Place.Offset(); !known || int64(off) != at {
				t.Errorf("bit %d at %d flipped: %v", bit, at, failed)
			}
		}
	}
	if reported != len(headers)*24*8 {
		t.Errorf("%d of %d flipped bits were reported", reported, len(headers)*24*8)
	}
}

// A page and a record that the disk does not return are reported as corrupt, with the place and the cause. All others
// are read. O7.
func TestUnreadableMessageHasPlaceAndCause(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	enginetest.NoCheck(t, pc)
	pids := enginetest.AllocateMany(t, pc, 40, 2000)
	enginetest.Flush(t, pc)
	places, err := engine.Places(pc, pids[3])
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.EvictAll(pc, pids); err != nil {
		t.Fatal(err)
	}
	d.SetUnreadable("/store/log", int64(places[0].Off)+600, 1)
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	for _, pid := range pids {
		_, err := pc.Get(tx, pid)
		if pid != pids[3] {
			if err != nil {
				t.Errorf("page %d: %v", pid, err)
			}
			continue
		}
		ce := (*engine.CorruptError)(nil)
		if !errors.Is(err, engine.ErrCorrupt) || !errors.Is(err, syscall.EIO) || !errors.As(err, &ce) {
			t.Fatalf("page %d in an unreadable sector: %v", pid, err)
		}
		off, _ := ce.Place.Offset()
		if page, known := ce.Place.Page(); !known || page != pid || off != places[0].Off {
			t.Errorf("page %d at %v: the error has page %d, offset %v", pid, places[0].Off, page, off)
		}
	}
}

// One slot whose header the disk does not return keeps the store shut only if the log may need it and no snapshot
// covers it. Then the error has the slot and the cause, and the files are as they were. After a clean close nothing is
// needed that the snapshot does not cover. Trap 30.
func TestUnreadableHeaderOfFreeSlot(t *testing.T) {
	t.Parallel()
	for _, clean := range []bool{true, false} {
		d := simdisk.New(1, simdisk.Options{})
		pc := enginetest.OpenSim(t, d)
		pids := enginetest.AllocateMany(t, pc, 20, 2000)
		enginetest.Flush(t, pc)
		used := map[int64]bool{}
		for i := range 4 {
			used[int64(i)] = true
		}
		if !clean {
			d = d.Copy()
		}
		want := enginetest.Contents(t, pc)
		enginetest.Close(t, pc)
		opened, refused := 0, 0
		for slot := int64(0); slot < int64(len(d.ReadDurable("/store/log")))>>14; slot++ {
			hurt := d.Copy()
			hurt.SetUnreadable("/store/log", slot<<14, 64)
			before := fmt.Sprint(hurt.ReadDurable("/store/log"), hurt.ReadDurable("/store/superblock"))
			o := enginetest.SimOptions(hurt)
			pc, err := engine.Open("/store", engine.Bytes{}, o)
			if err == nil {
				opened++
				if got := enginetest.Contents(t, pc); got != want {
					t.Errorf("slot %d unreadable: other contents", slot)
				}
				enginetest.AllocateMany(t, pc, 30, 2000)
				enginetest.Flush(t, pc)
				if err := pc.Close(); err != nil {
					t.Errorf("slot %d unreadable: close: %v", slot, err)
				}
				continue
			}
			refused++
			ce := (*engine.CorruptError)(nil)
			if !errors.As(err, &ce) || !errors.Is(err, syscall.EIO) {
				t.Fatalf("slot %d unreadable: %v", slot, err)
			}
			if id, known := ce.Place.Slot(); !known || int64(id) != slot || !used[slot] {
				t.Errorf("slot %d unreadable: %v", slot, err)
			}
			if before != fmt.Sprint(hurt.ReadDurable("/store/log"), hurt.ReadDurable("/store/superblock")) {
				t.Errorf("slot %d unreadable: the refused Open changed files", slot)
			}
		}
		if clean {
			clear(used)
		}
		if opened == 0 || refused != len(used) {
			t.Errorf("clean %v: %d openings and %d refusals with %d pages", clean, opened, refused, len(pids))
		}
	}
}
