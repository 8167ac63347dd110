package engine

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pagecache/engine/internal/idgen"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

var crashDeep = flag.Bool("crash.deep", false, "TestCrashSequences tries all sequences of three operations, not two")

// sweepOps are what the swept sequences consist of.
var sweepOps = []struct {
	name string
	do   func(*driver, *Tx) error
}{
	{"allocate", (*driver).allocate},
	{"link", (*driver).link},
	{"replace", (*driver).replace},
	{"free", (*driver).free},
	{"root", (*driver).root},
	{"batch", func(d *driver, tx *Tx) error {
		if err := d.pin(); err != nil {
			return err
		}
		if err := errors.Join(d.link(tx), d.allocate(tx)); err != nil {
			return err
		}
		return d.sealAt(len(d.open) - 1)
	}},
	{"open batch", func(d *driver, tx *Tx) error {
		if err := d.pin(); err != nil {
			return err
		}
		return d.link(tx)
	}},
	{"flush", func(d *driver, tx *Tx) error {
		if len(d.open) > 0 {
			return nil
		}
		if _, err := d.pc.Flush(); err != nil {
			return err
		}
		d.h.ack(d.h.effects[len(d.h.effects)-1].lsn + 1)
		return nil
	}},
	{"id", func(d *driver, tx *Tx) error {
		id, err := d.pc.GenerateID()
		if err != nil {
			return err
		}
		return d.h.seen(id)
	}},
}

// sequence opens a store, does the operations and closes it, with the disk crashing at operation at, and then reopens it, with the
// disk crashing at operation inside, and asks the oracles. It reports whether either crash was reached.
func sequence(ops []int, at, inside int, seed uint64) (hit, hitInside bool, err error) {
	r := &crashRun{rng: rand.New(rand.NewPCG(seed, 1)), h: newHistory()}
	r.disk = simdisk.New(seed, simdisk.Options{Block: 512, Depth: 2})
	r.o = Options{SegmentSize: 16 << 10, IOBuffers: 2, ConsolidateAfter: 2, FlushEvery: -1, IDPersistInterval: 2,
		seam: seam.Options{FS: r.disk}}
	r.disk.CrashAfter(at)
	err = func() error {
		pc, err := Open("/store", Bytes{}, &r.o)
		if err != nil {
			return err
		}
		d, err := newDriver(pc, r.rng, r.h)
		if err == nil {
			var tx *Tx
			if tx, err = d.tx(); err == nil {
				if err = d.allocate(tx); err == nil {
					err = d.allocate(tx)
				}
				for _, i := range ops {
					if err == nil && len(d.alive) > 0 {
						err = sweepOps[i].do(d, tx)
					}
				}
			}
		}
		d.end()
		return errors.Join(err, pc.Close())
	}()
	hit = r.disk.Crashed()
	if v := violation(""); errors.As(err, &v) || err != nil && !hit {
		return hit, false, err
	}
	r.crash()
	r.disk.CrashAfter(inside)
	for {
		end, _, err := scanEnd(r.disk, "/store")
		if err == nil {
			err = r.h.cut(end)
		}
		if err == simdisk.ErrCrashed {
			hitInside = true
			r.crash()
			continue
		}
		if err != nil {
			return hit, hitInside, err
		}
		r.o.seam.FS = r.disk
		pc, err := Open("/store", Bytes{}, &r.o)
		if err == nil {
			err = errors.Join(r.h.check(pc), pc.Close())
		}
		if err == nil || !r.disk.Crashed() {
			return hit, hitInside, err
		}
		hitInside = true
		r.crash()
	}
}

func names(ops []int) string {
	var s []string
	for _, i := range ops {
		s = append(s, sweepOps[i].name)
	}
	return strings.Join(s, ", ")
}

// Every sequence of two operations (three with -crash.deep), crashed at every operation of the disk from its making to its closing. Short
// exhaustive sequences find more than long random ones. Proves rule 10; traps 1, 5 and 13.
func TestCrashSequences(t *testing.T) {
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
			hit, _, err := sequence(ops, at, 0, uint64(i))
			if err != nil {
				t.Fatalf("%s, crash at operation %d: %v", names(ops), at, err)
			}
			if !hit {
				break
			}
		}
	}
	t.Logf("%d crashes", runs)
}

// A crash at every operation of recovery after a crash at every operation of a run. Proves rule 11.
func TestCrashInRecovery(t *testing.T) {
	ops := []int{0, 1, 5, 7, 3, 8, 8, 2, 4, 7, 1, 6, 0, 1}
	runs := 0
	for at := 1; ; at++ {
		var hit bool
		for inside := 1; ; inside++ {
			var hitInside bool
			var err error
			runs++
			if hit, hitInside, err = sequence(ops, at, inside, uint64(at*1000+inside)); err != nil {
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

// lyingFS does not do what it says: the harness has to find out.
type lyingFS struct {
	noSyncOf string // of files whose names contain this
	*simdisk.Disk
	noSyncDir, noSync bool                                  // these say yes and do nothing
	device            func(vfs.File, vfs.Device) vfs.Device // nil: the disk's own
}

func (l lyingFS) SyncDir(dir string) error {
	if l.noSyncDir {
		return nil
	}
	return l.Disk.SyncDir(dir)
}

func (l lyingFS) Open(name string, flag vfs.Flag) (vfs.File, error) {
	f, err := l.Disk.Open(name, flag)
	return lyingFile{f, l}, err
}

type lyingFile struct {
	vfs.File
	l lyingFS
}

func (f lyingFile) Sync() error {
	if f.l.noSync || f.l.noSyncOf != "" && strings.Contains(f.Name(), f.l.noSyncOf) {
		return nil
	}
	return f.File.Sync()
}

func (f lyingFile) OpenDevice(o vfs.DeviceOptions) (vfs.Device, vfs.DeviceReport, error) {
	d, r, err := f.File.OpenDevice(o)
	if err == nil && f.l.device != nil {
		d = f.l.device(f.File, d)
	}
	return d, r, err
}

// cachingDevice says that a write is durable when it is in the page cache.
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

// strayDevice writes, now and then, a block too far.
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

// hastyDevice completes all writes with the first of them.
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

// noNotes has ids be handed out without notes of them.
func noNotes(pc *PageCache[[]byte]) {
	pc.ids.Start(idgen.Config{Next: pc.ids.Next(), Limit: 1 << 60, Closed: &pc.core.closed, Write: pc.noteID,
		MakeDurable: pc.core.store.Log.MakeDurable})
}

// A harness that finds nothing is worth nothing: it finds faults that are planted.
func TestCrashFindsPlantedFaults(t *testing.T) {
	lying := func(l lyingFS) planted {
		return planted{fs: func(d *simdisk.Disk) vfs.FS { l.Disk = d; return l }}
	}
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
		"a device that acknowledges what is cached": lying(lyingFS{device: func(f vfs.File, d vfs.Device) vfs.Device { return cachingDevice{d, f} }}),
		"a device that writes to the wrong place":   lying(lyingFS{device: func(_ vfs.File, d vfs.Device) vfs.Device { return strayDevice{d, new(int)} }}),
		"a device that completes too much":          lying(lyingFS{device: func(_ vfs.File, d vfs.Device) vfs.Device { return hastyDevice{d, new([]uint64)} }}),
		"directories that are not synced":           lying(lyingFS{noSyncDir: true}),
		"files that are not synced":                 lying(lyingFS{noSync: true}),
		"blobs that are not synced":                 lying(lyingFS{noSyncOf: "/blobs/"}),
		"ids that are not noted":                    {pc: noNotes},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed < 500; seed++ {
				if err := crashSeedRun(seed, p, nil); err != nil {
					t.Logf("found by seed %d: %.200s", seed, fmt.Sprint(err))
					return
				}
			}
			t.Error("not found by 500 seeds")
		})
	}
}
