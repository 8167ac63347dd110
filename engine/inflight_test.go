package engine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/logstore"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// lostDevice fails for good once it is lost, with writes on their way.
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

// losing has devices be lost: the log's own, the one beside it, or those of blobs.
func losing(o *Options, d *simdisk.Disk, which string) *atomic.Bool {
	var lost atomic.Bool
	var ofLog atomic.Int32
	o.seam.FS = lyingFS{Disk: d, device: func(f vfs.File, dev vfs.Device) vfs.Device {
		is := "blob"
		if strings.HasSuffix(f.Name(), logstore.LogName) {
			is = [...]string{"log", "side"}[ofLog.Add(1)-1]
		}
		if is != which {
			return dev
		}
		return lostDevice{dev, &lost}
	}}
	return &lost
}

// mapped is how much address space the process has.
func mapped(t testing.TB) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(b), &n); err != nil {
		t.Fatal(err)
	}
	return n * os.Getpagesize()
}

// A store whose device was lost with writes on their way keeps the lock after Close: what comes late must not meet what the next opening
// writes. The next process finds all that was acknowledged. Proves rule 8.
func TestLateWritesHoldTheLock(t *testing.T) {
	for _, which := range []string{"log", "side"} {
		d := simdisk.New(1, simdisk.Options{})
		o := simOptions(d)
		o.seam.Eager = true
		lost := losing(o, d, which)
		pc := openTest(t, "/store", o)
		pids := some(t, pc, 5, 100)
		churn(t, pc, pids, 8)
		if cleanAll(t, pc) == 0 {
			t.Fatal("nothing recycled: there is no device beside the log yet")
		}
		want := get1(t, pc, pids[0])
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		lost.Store(true)
		tx := begin(t, pc)
		_, _, err := pc.Replace(tx, pids[1], get1(t, pc, pids[1]).Ptr, []byte("late"))
		tx.End()
		if _, ferr := pc.Flush(); which == "log" && (err != nil || !errors.Is(ferr, ErrFailed)) {
			t.Errorf("%v; flushing to a lost device: %v", err, ferr)
		}
		if err := pc.Close(); which == "log" && err == nil {
			t.Error("closed without an error")
		}
		if _, err := Open("/store", Bytes{}, simOptions(d)); !errors.Is(err, ErrLocked) {
			t.Errorf("%s: opened beside late writes: %v", which, err)
		}
		pc = openSim(t, d.Crash(2))
		if p := get1(t, pc, pids[0]); !bytes.Equal(p.Value, want.Value) {
			t.Errorf("%s: %q, want %q", which, p.Value, want.Value)
		}
		closeTest(t, pc)
	}
}

// Headers that are being written when their device is lost stay as they are: a late write writes them, not zeros. Else they leave zeros behind for
// the next ones. Proves rule 4.
func TestLateHeaders(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	o := simOptions(d)
	lost := losing(o, d, "side")
	pc := openTest(t, "/store", o)
	for _, late := range []bool{false, true} {
		lost.Store(late)
		err := pc.core.store.Beside(func(dev vfs.Device, zeros []byte) error {
			slot, err := pc.core.store.Space.Append()
			if err != nil {
				return err
			}
			err = pc.core.store.MarkSlots(dev, zeros, []format.SegmentID{slot}, format.SegmentHeader{State: format.SegmentStateFree})
			if dirty := slices.ContainsFunc(zeros, func(b byte) bool { return b != 0 }); dirty != late {
				t.Errorf("late %v: a header in the buffer: %v", late, dirty)
			}
			return err
		})
		if errors.Is(err, vfs.ErrInFlight) != late || !late && err != nil {
			t.Errorf("late %v: %v", late, err)
		}
	}
	lost.Store(false)
	closeTest(t, pc)
}

// A long blob that cannot be written leaves no memory behind, whatever fails, but where the kernel may still be reading that.
func TestFailedBlobLeavesNothing(t *testing.T) {
	const blobs, buffer = 100, blob.PieceSize * blob.Pieces
	d := simdisk.New(1, simdisk.Options{})
	o := simOptions(d)
	lost := losing(o, d, "blob")
	pc := openTest(t, "/store", o)
	contents := make([]byte, blob.LongBlob)
	fails := func(what string) int {
		before := mapped(t)
		for range blobs {
			tx := begin(t, pc)
			if _, _, err := pc.Allocate(tx, contents); err == nil {
				t.Fatalf("%s: written", what)
			}
			tx.End()
		}
		if names := blobNames(t, pc); len(names) != 0 {
			t.Errorf("%s: left are %v", what, names)
		}
		return mapped(t) - before
	}
	failOn(d, simdisk.OpDeviceWrite, 1, syscall.EIO)
	if n := fails("EIO"); !raced && n > blobs*buffer*3/4 { // the collector's heap grows, too
		t.Errorf("%d MiB are still mapped", n>>20)
	}
	d.SetFault(nil)
	lost.Store(true)
	if n := fails("lost"); !raced && n < blobs*buffer { // the race detector's buffers are the collector's
		t.Errorf("the kernel may write from memory that is gone: %d MiB are still mapped", n>>20)
	}
	lost.Store(false)
	tx := begin(t, pc)
	if _, _, err := pc.Allocate(tx, contents); err != nil {
		t.Error(err)
	}
	tx.End()
	closeTest(t, pc)
}

// shortFS has no address space for maps while short.
type shortFS struct {
	*simdisk.Disk
	short *atomic.Bool
}

func (s shortFS) Open(name string, flag vfs.Flag) (vfs.File, error) {
	f, err := s.Disk.Open(name, flag)
	return shortFile{f, s.short}, err
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

// Pages that cannot be mapped for want of address space are told as that, not as corruption, and come back with it. Proves rule 10.
func TestShortIsNotCorrupt(t *testing.T) {
	var short atomic.Bool
	o := simOptions(simdisk.New(1, simdisk.Options{}))
	o.seam.FS = shortFS{o.seam.FS.(*simdisk.Disk), &short}
	pc := openTest(t, "/store", o)
	pids := append(some(t, pc, 40, 1000), some(t, pc, 1, 2*blob.LongBlob)...)
	flushTest(t, pc)
	evictAll(t, pc, pids)
	short.Store(true)
	tx := begin(t, pc)
	told := 0
	for _, pid := range pids {
		if _, err := pc.Get(tx, pid); err != nil {
			if told++; !errors.Is(err, syscall.ENOMEM) || errors.Is(err, ErrCorrupt) {
				t.Errorf("page %d: %v", pid, err)
			}
		}
	}
	if told < len(pids)/4 {
		t.Errorf("%d of %d pages had to be mapped", told, len(pids))
	}
	short.Store(false)
	for _, pid := range pids {
		if _, err := pc.Get(tx, pid); err != nil {
			t.Error(err)
		}
	}
	tx.End()
	closeTest(t, pc)
}
