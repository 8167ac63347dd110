package engine_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

var crashDeep = flag.Bool("crash.deep", false,
	"TestCrashSequences tries all sequences of three operations instead of two")

// sweepOps are the operations of the swept sequences.
var sweepOps = []struct {
	name string
	do   func(*enginetest.Driver, *engine.Tx[[]byte]) error
}{
	{"allocate", (*enginetest.Driver).Allocate},
	{"link", (*enginetest.Driver).Link},
	{"replace", (*enginetest.Driver).Replace},
	{"free", (*enginetest.Driver).Free},
	{"root", (*enginetest.Driver).Root},
	{"batch", func(d *enginetest.Driver, tx *engine.Tx[[]byte]) error {
		if err := d.Pin(); err != nil {
			return err
		}
		if err := errors.Join(d.Link(tx), d.Allocate(tx)); err != nil {
			return err
		}
		return d.SealAt(len(d.Batches) - 1)
	}},
	{"open batch", func(d *enginetest.Driver, tx *engine.Tx[[]byte]) error {
		if err := d.Pin(); err != nil {
			return err
		}
		return d.Link(tx)
	}},
	{"flush", func(d *enginetest.Driver, _ *engine.Tx[[]byte]) error {
		if len(d.Batches) > 0 {
			return nil
		}
		return d.Flush()
	}},
	{"id", func(d *enginetest.Driver, _ *engine.Tx[[]byte]) error { return d.ID() }},
}

// sweepNames returns the names of operations.
func sweepNames(ops []int) string {
	var s []string
	for _, i := range ops {
		s = append(s, sweepOps[i].name)
	}
	return strings.Join(s, ", ")
}

// sweep opens a store, does the operations and closes it, and the disk crashes at its operation number at. Then sweep
// opens the store again, and the disk crashes at its operation number inside, and asks the oracles. sweep reports
// whether each crash was reached.
func sweep(ops []int, at, inside int, seed uint64) (hit, hitInside bool, err error) {
	r := &crashRun{rng: rand.New(rand.NewPCG(seed, 1)), h: enginetest.NewHistory()}
	r.disk = simdisk.New(seed, simdisk.Options{Block: 512, Depth: 2})
	r.o = engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, ConsolidateAfter: 2, FlushEvery: -1, IDPersistInterval: 2}
	r.disk.CrashAfter(at)
	err = sweepWork(r, ops)
	hit = r.disk.Crashed()
	if v := enginetest.Violation(""); errors.As(err, &v) || err != nil && !hit {
		return hit, false, err
	}
	r.crash()
	r.disk.CrashAfter(inside)
	for {
		err := sweepReopen(r)
		if err == nil || !r.disk.Crashed() || errors.As(err, new(enginetest.Violation)) {
			return hit, hitInside, err
		}
		hitInside = true
		r.crash()
	}
}

// sweepWork opens a store with two pages, does the operations, and closes the store.
func sweepWork(r *crashRun, ops []int) error {
	pc, err := r.open(false)
	if err != nil {
		return err
	}
	d, err := r.drive(pc)
	var tx *engine.Tx[[]byte]
	if err == nil {
		tx, err = d.Tx()
	}
	for range 2 {
		if err == nil {
			err = d.Allocate(tx)
		}
	}
	for _, i := range ops {
		if err == nil && len(d.Alive) > 0 {
			err = sweepOps[i].do(d, tx)
		}
	}
	d.End()
	return errors.Join(err, d.Changed, r.h.Closed(pc.Close()))
}

// sweepReopen opens the store, compares it with the history, closes it and checks it.
func sweepReopen(r *crashRun) error {
	end, _, err := enginetest.LogEnd(r.disk, "/store")
	if err != nil {
		return err
	}
	if err := r.h.Cut(end); err != nil {
		return err
	}
	pc, err := r.open(false)
	if err != nil {
		return err
	}
	if err := errors.Join(r.h.Check(pc), pc.Close()); err != nil {
		return err
	}
	r.disk.CrashAfter(0)
	return enginetest.Problems("/store", &r.o)
}

// The store survives a crash at every operation of the disk, from its first opening to its closing, for all sequences
// of two operations (three with -crash.deep). Short exhaustive sequences find more than long random ones. Proves rule
// 10; traps 1, 5 and 13.
func TestCrashSequences(t *testing.T) {
	t.Parallel()
	n := len(sweepOps)
	count := n * n
	if *crashDeep {
		count *= n
	}
	runs := 0
	for i := range count {
		ops := []int{i % n, i / n % n}
		if *crashDeep {
			ops = append(ops, i/n/n)
		}
		for at := 1; ; at++ {
			runs++
			hit, _, err := sweep(ops, at, 0, uint64(i))
			if err != nil {
				t.Fatalf("%s, crash at operation %d: %v", sweepNames(ops), at, err)
			}
			if !hit {
				break
			}
		}
	}
	t.Logf("%d crashes", runs)
}

// The store survives a crash at every operation of a run, followed by a crash at every operation of the recovery.
// Proves rule 11.
func TestCrashInRecovery(t *testing.T) {
	t.Parallel()
	ops := []int{0, 1, 5, 7, 3, 8, 8, 2, 4, 7, 1, 6, 0, 1}
	runs := 0
	for at := 1; ; at++ {
		var hit bool
		for inside := 1; ; inside++ {
			var hitInside bool
			var err error
			runs++
			if hit, hitInside, err = sweep(ops, at, inside, uint64(at*1000+inside)); err != nil {
				t.Fatalf("crash at operation %d, then at %d of recovery: %v", at, inside, err)
			}
			if !hitInside {
				break
			}
		}
		if !hit {
			break
		}
	}
	t.Logf("%d crashes", runs)
}

// cachingDevice reports writes as durable that are only in the page cache.
type cachingDevice struct {
	vfs.Device
	f vfs.File
}

func (d cachingDevice) Do(writes []vfs.Write, min int, dst []vfs.Completion) ([]vfs.Completion, error) {
	for _, w := range writes {
		_, err := d.f.WriteAt(w.Buf, w.Off)
		dst = append(dst, vfs.Completion{Tag: w.Tag, Err: err})
	}
	return dst, nil
}

// strayDevice writes one of seven blocks to the place of the next block.
type strayDevice struct {
	vfs.Device
	n *int
}

func (d strayDevice) Do(writes []vfs.Write, min int, dst []vfs.Completion) ([]vfs.Completion, error) {
	for i := range writes {
		if *d.n++; *d.n%7 == 0 {
			writes[i].Off += int64(d.Block())
		}
	}
	return d.Device.Do(writes, min, dst)
}

// hastyDevice reports all writes in flight as complete when the first of them is.
type hastyDevice struct {
	vfs.Device
	tags *[]uint64
}

func (d hastyDevice) Do(writes []vfs.Write, min int, dst []vfs.Completion) ([]vfs.Completion, error) {
	for _, w := range writes {
		*d.tags = append(*d.tags, w.Tag)
	}
	dst, err := d.Device.Do(writes, min, dst)
	if len(dst) > 0 && err == nil {
		dst = dst[:0]
		for _, tag := range *d.tags {
			dst = append(dst, vfs.Completion{Tag: tag})
		}
		*d.tags = nil
	}
	return dst, err
}

// The harness finds faults that are planted.
func TestCrashFindsPlantedFaults(t *testing.T) {
	t.Parallel()
	lying := func(l enginetest.LyingFS) planted {
		return planted{fs: func(d *simdisk.Disk) vfs.FS { l.Disk = d; return l }}
	}
	device := func(f func(vfs.File, vfs.Device) vfs.Device) planted { return lying(enginetest.LyingFS{Device: f}) }
	for name, p := range map[string]planted{
		"a device that loses writes": {disk: func(d *simdisk.Disk, rng *rand.Rand) {
			n := 0
			d.SetFault(func(o simdisk.Op) error {
				if o.Kind == simdisk.OpDeviceWrite {
					if n++; n%9 == 0 {
						return simdisk.ErrLose
					}
				}
				return nil
			})
		}},
		"a device that acknowledges what is cached": device(func(f vfs.File, d vfs.Device) vfs.Device {
			return cachingDevice{d, f}
		}),
		"a device that writes to the wrong place": device(func(_ vfs.File, d vfs.Device) vfs.Device {
			return strayDevice{d, new(int)}
		}),
		"a device that completes too much": device(func(_ vfs.File, d vfs.Device) vfs.Device {
			return hastyDevice{d, new([]uint64)}
		}),
		"directories that are not synced": lying(enginetest.LyingFS{NoSyncDir: true}),
		"files that are not synced":       lying(enginetest.LyingFS{NoSync: true}),
		"blobs that are not synced":       lying(enginetest.LyingFS{NoSyncOf: "/blobs/"}),
		"ids that are not noted":          {pc: engine.SkipIDNotes},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed < 500; seed++ {
				if err := crashSeedRun(seed, p, new(crashCounts), nil); err != nil {
					t.Logf("found by seed %d: %.200s", seed, fmt.Sprint(err))
					runtime.GC() // finds what the run left open, with the invariants tag
					return
				}
			}
			t.Error("not found by 499 seeds")
		})
	}
}
