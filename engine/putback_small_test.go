package engine_test

import (
	"errors"
	"fmt"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// A slot of a standalone log holds what it held before its segment was dropped, and all later writes to it were lost.
// Such a log is refused, or all records are there that were not dropped. Once, the stale segment was taken in place of
// the missing one, and records of other slots were gone. Proves rule 14; trap 26.
func TestStaleSlotOfClosedLog(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	write := func(n int) (last engine.LSN) {
		for range n {
			lsn, _, err := l.Write(enginetest.Random(1000, uint64(last)))
			if err != nil {
				t.Fatal(err)
			}
			last = lsn
		}
		enginetest.Flush(t, l)
		return last
	}
	at := write(60)
	old := enginetest.TakeImage(d, "/store")
	if err := l.DropBelow(at - 20000); err != nil {
		t.Fatal(err)
	}
	write(120)
	lsns, _ := enginetest.Records(t, l, 0)
	want := fmt.Sprint(lsns)
	enginetest.Close(t, l)
	now := enginetest.TakeImage(d, "/store")
	changes := now.Changes([]enginetest.Image{old}, []string{"the dropping"}, crashSegment)
	refused := 0
	for _, c := range changes {
		if c.File != enginetest.LogName || c.Len == 0 {
			continue
		}
		o := enginetest.SimOptions(now.With(c).Disk())
		o.ReadOnly = true
		l, err := engine.OpenLog("/store", o)
		if errors.Is(err, engine.ErrCorrupt) {
			refused++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		lsns, _ := enginetest.Records(t, l, 0)
		if got := fmt.Sprint(lsns); got != want {
			t.Errorf("slot %d: %d records from LSN %d on, and no error", c.Off/c.Len, len(lsns), l.FirstLSN())
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if refused == 0 {
		t.Errorf("none of %d old parts was refused", len(changes))
	}
}

// The superblock of another store lies beside a log whose acknowledged pages fill less than a segment, or more. Open
// and Check report corruption. Once, that opened as an empty store. Proves rule 14; trap 27.
func TestSuperblockOfOtherStore(t *testing.T) {
	for _, pages := range []int{1, 3, 40} {
		var images []enginetest.Image // of two stores
		for seed := range uint64(2) {
			d := simdisk.New(seed, simdisk.Options{})
			pc := enginetest.OpenSim(t, d)
			enginetest.AllocateMany(t, pc, pages, 1000)
			enginetest.Flush(t, pc)
			images = append(images, enginetest.TakeImage(d, "/store"))
			enginetest.Close(t, pc)
			images = append(images, enginetest.TakeImage(d, "/store"))
		}
		super := enginetest.Place{File: enginetest.SuperName}
		for i, im := range images {
			for k, other := range images {
				if i/2 == k/2 {
					continue
				}
				o := enginetest.SimOptions(im.With(enginetest.Change{Place: super, Part: other.Part(super)}).Disk())
				if pc, err := engine.Open("/store", engine.Bytes{}, o); !errors.Is(err, engine.ErrCorrupt) {
					if err == nil {
						err = pc.Close()
					}
					t.Errorf("%d pages, image %d with the superblock of %d: open: %v", pages, i, k, err)
				}
				if err := enginetest.Problems("/store", o); !errors.Is(err, engine.ErrCorrupt) {
					t.Errorf("%d pages, image %d with the superblock of %d: check: %v", pages, i, k, err)
				}
			}
		}
	}
}
