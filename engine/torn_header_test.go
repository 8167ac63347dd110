package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
)

// headerWrite is a write of a segment's header, after some other operations of a run.
type headerWrite struct {
	before []simdisk.Op
	off, n int64
}

// watch returns the operations that run makes on d, without reads, and those of them that write a header, in a block of
// the given length.
func watch(d *simdisk.Disk, block int, run func()) (ops []simdisk.Op, headers []headerWrite) {
	d.SetFault(func(o simdisk.Op) error {
		if o.Kind == simdisk.OpRead { // not counted
			return nil
		}
		if o.Kind == simdisk.OpDeviceWrite && o.Off%crashSegment == 0 && o.Len <= block {
			headers = append(headers, headerWrite{slices.Clone(ops), o.Off, int64(o.Len)})
		}
		ops = append(ops, o)
		return nil
	})
	defer d.SetFault(nil)
	run()
	return ops, headers
}

// crashes makes d crash at w, the write of a header, in the run. It returns false if the run took another course.
func (w headerWrite) crashes(d *simdisk.Disk, run func()) bool {
	d.CrashAfter(len(w.before) + 1)
	ops, _ := watch(d, 0, run)
	return d.Crashed() && slices.Equal(ops, w.before)
}

// tear cuts the power of d and leaves garbage in some sectors of the header that was being written: in those that the
// bits of sectors name.
func tear(d *simdisk.Disk, seed uint64, w headerWrite, sectors uint32) *simdisk.Disk {
	const sector, name = 512, "/store/" + enginetest.LogName
	next := d.Crash(seed)
	log := next.ReadDurable(name)
	for i := range w.n / sector {
		if sectors>>i&1 == 1 {
			copy(log[w.off+i*sector:], enginetest.Random(sector, seed+uint64(i)))
		}
	}
	next.WriteFile(name, log)
	return next
}

// pagesOf returns pages that are durable, with their values.
func pagesOf(t *testing.T, pc *engine.PageCache[[]byte], n int) map[engine.PageID][]byte {
	t.Helper()
	pages := map[engine.PageID][]byte{}
	for i := range n {
		v := enginetest.Random(700, uint64(i))
		pid, _ := enginetest.Allocate(t, pc, v)
		pages[pid] = v
	}
	enginetest.Flush(t, pc)
	return pages
}

// checkPages opens the store and checks its pages.
func checkPages(t *testing.T, d *simdisk.Disk, pages map[engine.PageID][]byte) error {
	t.Helper()
	pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
	if err != nil {
		return err
	}
	for pid, v := range pages {
		if p := enginetest.Get(t, pc, pid); !bytes.Equal(p.Value, v) {
			err = errors.Join(err, fmt.Errorf("page %v: %v, %s", pid, p.Kind, enginetest.Brief(p.Value)))
		}
	}
	return errors.Join(err, pc.Close())
}

// The power fails while an opening, after a kill or a clean close, writes a header, such as that of the tail that it
// moves, and leaves garbage in it. The store opens, and has every page. Proves trap 33.
func TestTornHeaderOfMovedTailHurtsNoMessage(t *testing.T) {
	t.Parallel()
	torn := 0
	for seed := range uint64(64) {
		block := []int{512, 4096, 8192, 16384}[seed%4] // in long ones, messages lie beside the header
		d := simdisk.New(seed, simdisk.Options{Block: block})
		pc := enginetest.OpenSim(t, d)
		pages := pagesOf(t, pc, 5+int(seed%20))
		if seed%8 < 4 {
			enginetest.Close(t, pc)
		} else {
			enginetest.NoCheck(t, pc)
		}
		rng := rand.New(rand.NewPCG(seed, 1))
		open := func(d *simdisk.Disk) {
			pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
			if err == nil {
				_ = pc.Close()
			}
		}
		whole := d.Copy()
		_, headers := watch(whole, max(block, 4096), func() { open(whole) })
		for _, w := range headers {
			killed := d.Copy()
			if !w.crashes(killed, func() { open(killed) }) {
				continue
			}
			torn++
			for _, sectors := range []uint32{1<<32 - 1, 1, 0xfe, 0xffffff00, 0x4000, rng.Uint32(), rng.Uint32() &^ 1} {
				next := tear(killed, rng.Uint64(), w, sectors)
				if err := checkPages(t, next, pages); err != nil {
					t.Fatalf("seed %d, operation %d, garbage in sectors %b of the header at %d: %v", seed,
						len(w.before), sectors, w.off, err)
				}
			}
		}
	}
	if torn < 60 {
		t.Errorf("%d headers torn", torn)
	}
}

// The power fails while segments are recycled, and leaves garbage in a header that was being written. The store opens,
// and has every page. Proves trap 33.
func TestTornHeaderOfRecycledSlotHurtsNoMessage(t *testing.T) {
	t.Parallel()
	torn := 0
	for seed := range uint64(20) {
		var pages map[engine.PageID][]byte
		prepare := func() (*simdisk.Disk, *engine.PageCache[[]byte]) {
			d := simdisk.New(seed, simdisk.Options{Block: []int{512, 4096, 8192}[seed%3]})
			o := enginetest.WithSeam(enginetest.SimOptions(d), seam.Options{FS: d, Eager: true})
			pc := enginetest.Open(t, "/store", o)
			enginetest.NoCheck(t, pc)
			pages = pagesOf(t, pc, 4)
			enginetest.Churn(t, pc, enginetest.AllocateMany(t, pc, 5, 500), 2+int(seed%3))
			return d, pc
		}
		clean := func(pc *engine.PageCache[[]byte]) {
			for did, err := true, error(nil); did && err == nil; {
				did, err = pc.AttemptGC()
			}
		}
		whole, pc := prepare()
		_, headers := watch(whole, max([]int{512, 4096, 8192}[seed%3], 4096), func() { clean(pc) })
		for _, w := range headers {
			d, pc := prepare()
			if !w.crashes(d, func() { clean(pc) }) {
				continue
			}
			torn++
			for _, sectors := range []uint32{0, 0xfe, uint32(seed) &^ 1, 0xff00, 1<<32 - 1} {
				if err := checkPages(t, tear(d, seed, w, sectors), pages); err != nil {
					t.Fatalf("seed %d, operation %d, garbage in sectors %b of the header at %d: %v", seed,
						len(w.before), sectors, w.off, err)
				}
			}
		}
	}
	if torn < 20 {
		t.Errorf("%d headers torn", torn)
	}
}
