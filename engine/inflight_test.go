package engine_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/seam"
	"pagecache/internal/apart"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// lostDevice fails for good once it is lost, with writes in flight.
type lostDevice struct {
	vfs.Device
	lost *atomic.Bool
}

func (d lostDevice) Do(writes []vfs.Write, min int, dst []vfs.Completion) ([]vfs.Completion, error) {
	if d.lost.Load() {
		return dst, syscall.EBADF
	}
	return d.Device.Do(writes, min, dst)
}

func (d lostDevice) Close() error {
	err := d.Device.Close()
	if d.lost.Load() {
		err = errors.Join(err, vfs.ErrInFlight)
	}
	return err
}

// losing returns options for a store on d, and a switch that makes devices fail: that of the log, the side device, or
// those of blobs. With eager, the cleaner cleans every segment that it can.
func losing(d *simdisk.Disk, which string, eager bool) (*engine.Options, *atomic.Bool) {
	var lost atomic.Bool
	var ofLog atomic.Int32
	device := func(f vfs.File, dev vfs.Device) vfs.Device {
		is := "blob"
		if strings.HasSuffix(f.Name(), logstore.LogName) {
			is = [...]string{"log", "side"}[ofLog.Add(1)-1]
		}
		if is != which {
			return dev
		}
		return lostDevice{dev, &lost}
	}
	o := enginetest.SimOptions(d)
	return enginetest.WithSeam(o, seam.Options{FS: enginetest.LyingFS{Disk: d, Device: device}, Eager: eager}), &lost
}

// A store whose device fails with writes in flight keeps the lock after Close, so that late writes cannot mix with
// those of the next Open. The next process finds all that was acknowledged. Proves rule 8.
func TestWritesInFlightKeepTheLock(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"log", "side"} {
		d := simdisk.New(1, simdisk.Options{})
		o, lost := losing(d, which, true)
		pc := enginetest.Open(t, "/store", o)
		pids := enginetest.AllocateMany(t, pc, 5, 100)
		enginetest.Churn(t, pc, pids, 8)
		if enginetest.CleanAll(t, pc) == 0 {
			t.Fatal("nothing was recycled: the store has no side device yet")
		}
		want := enginetest.Get(t, pc, pids[0])
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		lost.Store(true)
		tx := enginetest.Begin(t, pc)
		_, _, err := pc.Replace(tx, pids[1], enginetest.Get(t, pc, pids[1]).Ptr, []byte("late"))
		tx.End()
		if _, ferr := pc.Flush(); which == "log" && (err != nil || !errors.Is(ferr, engine.ErrFailed)) {
			t.Errorf("replace: %v; flush to a lost device: %v, want ErrFailed", err, ferr)
		}
		if err := pc.Close(); which == "log" && err == nil {
			t.Error("Close with a lost device succeeded")
		}
		_, err = engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
		if !errors.Is(err, engine.ErrLocked) {
			t.Errorf("%s: open beside writes in flight: %v, want ErrLocked", which, err)
		}
		pc = enginetest.OpenSim(t, d.Crash(2))
		if p := enginetest.Get(t, pc, pids[0]); !bytes.Equal(p.Value, want.Value) {
			t.Errorf("%s: after the crash %q, want %q", which, p.Value, want.Value)
		}
		enginetest.Close(t, pc)
	}
}

// If the side device fails while it writes headers, their buffer stays unchanged, so that a late write writes headers
// and not zeros. After a write that ended, the buffer is zero again. Proves rule 4.
func TestHeadersInFlightStayInTheirBuffer(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	o, lost := losing(d, "side", false)
	pc := enginetest.Open(t, "/store", o)
	for _, late := range []bool{false, true} {
		lost.Store(late)
		err := engine.StoreOf(pc).Beside(func(dev vfs.Device, zeros []byte) error {
			slot, err := engine.StoreOf(pc).Space.Append()
			if err != nil {
				return err
			}
			free := format.SegmentHeader{State: format.SegmentStateFree, Stable: pc.StableLSN()}
			err = engine.StoreOf(pc).MarkSlots(dev, zeros, []format.SegmentID{slot}, free)
			if dirty := slices.ContainsFunc(zeros, func(b byte) bool { return b != 0 }); dirty != late {
				t.Errorf("device lost %v: the buffer holds a header: %v", late, dirty)
			}
			return err
		})
		if errors.Is(err, vfs.ErrInFlight) != late || !late && err != nil {
			t.Errorf("device lost %v: mark slots: %v", late, err)
		}
	}
	lost.Store(false)
	enginetest.Close(t, pc)
}

// A long blob that cannot be written leaves no file, and its buffers are freed, except if the kernel may still read
// them.
func TestFailedBlobFreesItsBuffers(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const blobs, buffer = 100, blob.PieceSize * blob.Pieces
	d := simdisk.New(1, simdisk.Options{})
	o, lost := losing(d, "blob", false)
	pc := enginetest.Open(t, "/store", o)
	contents := make([]byte, blob.LongBlob)
	fails := func(what string) int {
		before := enginetest.Mapped(t)
		for range blobs {
			tx := enginetest.Begin(t, pc)
			if _, _, err := pc.Allocate(tx, contents); err == nil {
				t.Fatalf("%s: Allocate succeeded", what)
			}
			tx.End()
		}
		if names := enginetest.BlobNames(t, d, "/store"); len(names) != 0 {
			t.Errorf("%s: blob files are left: %v", what, names)
		}
		return enginetest.Mapped(t) - before
	}
	d.FailFrom(simdisk.OpDeviceWrite, 1, syscall.EIO)
	fails("EIO") // the collector's heap grows, once
	if n := fails("EIO"); !enginetest.Raced && n > blobs*buffer*3/4 {
		t.Errorf("%d MiB of buffers are still mapped", n>>20)
	}
	d.SetFault(nil)
	lost.Store(true)
	if n := fails("lost"); !enginetest.Raced && n < blobs*buffer { // the race detector's buffers are the collector's
		t.Errorf("only %d MiB are still mapped: buffers were freed that the kernel may still read", n>>20)
	}
	lost.Store(false)
	tx := enginetest.Begin(t, pc)
	if _, _, err := pc.Allocate(tx, contents); err != nil {
		t.Errorf("allocate after the failures: %v", err)
	}
	tx.End()
	enginetest.Close(t, pc)
}

// shortFS is a disk whose maps find no address space while short is true.
type shortFS struct {
	*simdisk.Disk
	short *atomic.Bool
}

func (s shortFS) OpenDir(path string) (vfs.Dir, error) {
	w := &simdisk.Wrap{FS: s.Disk, File: func(d vfs.Dir, name string, flag vfs.Flag) (vfs.File, error) {
		f, err := d.Open(name, flag)
		return shortFile{f, s.short}, err
	}}
	return w.OpenDir(path)
}

type shortFile struct {
	vfs.File
	short *atomic.Bool
}

func (f shortFile) OpenMap(p vfs.Pattern, r vfs.Reader) (vfs.Map, error) {
	m, err := f.File.OpenMap(p, r)
	return shortMap{m, f.short}, err
}

type shortMap struct {
	vfs.Map
	short *atomic.Bool
}

func (m shortMap) View(off int64, n int) ([]byte, error) {
	if m.short.Load() {
		return nil, os.NewSyscallError("mmap", syscall.ENOMEM)
	}
	return m.Map.View(off, n)
}

// If there is no address space to map pages, Get returns ENOMEM and not ErrCorrupt. With address space it works again.
// Proves rule 10.
func TestNoAddressSpaceIsNotCorruption(t *testing.T) {
	var short atomic.Bool
	d := simdisk.New(1, simdisk.Options{})
	o := enginetest.WithSeam(enginetest.SimOptions(d), seam.Options{FS: shortFS{d, &short}})
	pc := enginetest.Open(t, "/store", o)
	pids := append(enginetest.AllocateMany(t, pc, 40, 1000), enginetest.AllocateMany(t, pc, 1, 2*blob.LongBlob)...)
	enginetest.Flush(t, pc)
	if err := engine.EvictAll(pc, pids); err != nil {
		t.Fatal(err)
	}
	short.Store(true)
	tx := enginetest.Begin(t, pc)
	failed := 0
	for _, pid := range pids {
		if _, err := pc.Get(tx, pid); err != nil {
			if failed++; !errors.Is(err, syscall.ENOMEM) || errors.Is(err, engine.ErrCorrupt) {
				t.Errorf("page %d: %v, want ENOMEM", pid, err)
			}
		}
	}
	if failed < len(pids)/4 {
		t.Errorf("only %d of %d Gets failed", failed, len(pids))
	}
	short.Store(false)
	for _, pid := range pids {
		if _, err := pc.Get(tx, pid); err != nil {
			t.Errorf("page %d, with address space again: %v", pid, err)
		}
	}
	tx.End()
	enginetest.Close(t, pc)
}
