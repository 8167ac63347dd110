package simdisk

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"
	"testing"

	"pagecache/internal/vfs"
)

const writable = vfs.FlagWrite | vfs.FlagCreate

// made returns a disk with a durable, empty file /d/f.
func made(t *testing.T, o Options) (*Disk, vfs.File) {
	t.Helper()
	d := New(1, o)
	err := d.MkdirAll("/d")
	var f vfs.File
	if err == nil {
		f, err = d.Open("/d/f", writable)
	}
	if err == nil {
		err = d.SyncDir("/d")
	}
	if err != nil {
		t.Fatal(err)
	}
	return d, f
}

func write(t *testing.T, f vfs.File, b []byte, off int64) {
	t.Helper()
	if n, err := f.WriteAt(b, off); n != len(b) || err != nil {
		t.Fatal(n, err)
	}
}

// contents returns the contents of a file, nil if it does not exist.
func contents(t *testing.T, d *Disk, name string) []byte {
	t.Helper()
	f, err := d.Open(name, vfs.FlagRead)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	size, _ := f.Size()
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func fill(b byte, sectors int) []byte { return bytes.Repeat([]byte{b}, sectors*sectorSize) }

// Unsynced writes survive a crash in any part, by whole sectors, a later write without an earlier one; each of these
// happens. Proves Y1 and Y6.
func TestUnsyncedWrites(t *testing.T) {
	var whole, none, torn, laterOnly bool
	for seed := range uint64(300) {
		d, f := made(t, Options{})
		write(t, f, fill(1, 8), 0)
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		write(t, f, fill(2, 4), 0)
		write(t, f, fill(3, 4), 4*sectorSize)
		b := contents(t, d.Crash(seed), "/d/f")
		if len(b) != 8*sectorSize {
			t.Fatalf("seed %d: %d bytes", seed, len(b))
		}
		var counts [4]int
		for s := range 8 {
			sector := b[s*sectorSize : (s+1)*sectorSize]
			if !bytes.Equal(sector, fill(sector[0], 1)) {
				t.Fatalf("seed %d: sector %d is torn", seed, s)
			}
			if v := sector[0]; v != 1 && int(v) != 2+s/4 {
				t.Fatalf("seed %d: sector %d holds %d", seed, s, v)
			}
			counts[sector[0]]++
		}
		whole = whole || counts[2] == 4 && counts[3] == 4
		none = none || counts[1] == 8
		torn = torn || counts[2] > 0 && counts[2] < 4
		laterOnly = laterOnly || counts[2] == 0 && counts[3] == 4
	}
	if !whole || !none || !torn || !laterOnly {
		t.Errorf("of 300 crashes: whole %v, none %v, torn %v, later without earlier %v", whole, none, torn, laterOnly)
	}
}

// A device write is durable, with the size that it needs, once its completion was delivered and not before; completions
// come in any order. Proves Y2.
func TestDeviceWrites(t *testing.T) {
	var lost, kept, disorder bool
	for seed := range uint64(100) {
		d := New(seed, Options{})
		f, err := d.Open("/f", writable)
		if err == nil {
			err = d.SyncDir("/")
		}
		if err != nil {
			t.Fatal(err)
		}
		dev, report, err := f.OpenDevice(vfs.DeviceOptions{})
		if err != nil || !report.Ring || !report.Direct || report.Block != 4096 {
			t.Fatal(report, err)
		}
		var writes []vfs.Write
		for i := range 3 {
			writes = append(writes, vfs.Write{Off: int64(i) * 4096, Buf: fill(byte(i+1), 8), Tag: uint64(i + 1)})
		}
		comps, err := dev.Do(writes, 1, nil)
		if err != nil || len(comps) == 0 {
			t.Fatal(comps, err)
		}
		b := contents(t, d.Crash(seed), "/f")
		done := map[uint64]bool{}
		for i, c := range comps {
			if c.Err != nil {
				t.Fatal(c.Err)
			}
			done[c.Tag] = true
			disorder = disorder || int(c.Tag) != i+1
		}
		for tag := uint64(1); tag <= 3; tag++ {
			from, to := int(tag-1)*4096, int(tag)*4096
			there := len(b) >= to && bytes.Equal(b[from:to], fill(byte(tag), 8))
			if done[tag] && !there {
				t.Fatalf("seed %d: write %d was completed and is lost", seed, tag)
			}
			lost, kept = lost || !there, kept || there && !done[tag]
		}
	}
	if !lost || !kept || !disorder {
		t.Errorf("lost %v, kept without a completion %v, in disorder %v", lost, kept, disorder)
	}
}

// Sync makes writes and the size durable; without it a new size may be lost. Proves Y3.
func TestSyncDurability(t *testing.T) {
	sizes := map[int]bool{}
	for seed := range uint64(60) {
		d, f := made(t, Options{})
		write(t, f, fill(1, 3), 100)
		if err := f.Allocate(0, 10000); err != nil {
			t.Fatal(err)
		}
		if seed%2 == 0 {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		b := contents(t, d.Crash(seed), "/d/f")
		if seed%2 != 0 {
			sizes[len(b)] = true
		} else if len(b) != 10000 || !bytes.Equal(b[100:100+3*sectorSize], fill(1, 3)) {
			t.Fatalf("seed %d: %d bytes after Sync", seed, len(b))
		}
	}
	if !sizes[0] || !sizes[10000] {
		t.Errorf("sizes without Sync: %v", sizes)
	}
}

// Directory entries survive in order, a rename wholly or not at all, and all of them after SyncDir. Proves Y4.
func TestEntriesSurviveInOrder(t *testing.T) {
	found := map[string]bool{}
	for seed := range uint64(200) {
		d, f := made(t, Options{})
		write(t, f, []byte("old"), 0)
		tmp, err := d.Open("/d/tmp", writable)
		if err != nil {
			t.Fatal(err)
		}
		write(t, tmp, []byte("new"), 0)
		for _, h := range []vfs.File{f, tmp} {
			if err := h.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Rename("/d/tmp", "/d/f"); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Open("/d/g", writable); err != nil {
			t.Fatal(err)
		}
		if seed%4 == 0 {
			if err := d.SyncDir("/d"); err != nil {
				t.Fatal(err)
			}
		}
		c := d.Crash(seed)
		names, err := c.ReadDir("/d")
		if err != nil {
			t.Fatal(err)
		}
		state := fmt.Sprintf("%v %s", names, contents(t, c, "/d/f"))
		if seed%4 == 0 && state != "[f g] new" {
			t.Fatalf("seed %d, synced: %s", seed, state)
		}
		found[state] = true
	}
	for _, want := range []string{"[f] old", "[f tmp] old", "[f] new", "[f g] new"} {
		if !found[want] {
			t.Errorf("never found %s", want)
		}
	}
	if len(found) != 4 {
		t.Errorf("found %v", found)
	}
}

// After a failed Sync with ForgetOnFailedSync the bytes stay visible and another Sync succeeds, but a crash or
// DropCache shows that they were never written. Proves Y5.
func TestForgetOnFailedSync(t *testing.T) {
	d, f := made(t, Options{ForgetOnFailedSync: true})
	write(t, f, []byte("good"), 0)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	write(t, f, []byte("lost"), 0)
	d.SetFault(func(o Op) error {
		if o.Kind == OpSync {
			return syscall.EIO
		}
		return nil
	})
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	d.SetFault(nil)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if b := contents(t, d, "/d/f"); string(b) != "lost" {
		t.Errorf("seen: %q", b)
	}
	if err := f.DropCache(0, 4); err != nil {
		t.Fatal(err)
	}
	if b := contents(t, d, "/d/f"); string(b) != "good" {
		t.Errorf("without the cache: %q", b)
	}
	if b := d.ReadDurable("/d/f"); string(b) != "good" {
		t.Errorf("durable: %q", b)
	}
}

// CrashAfter crashes the disk at the planned operation. Afterwards every call fails, and the same seed leaves the same
// files.
func TestCrashAfter(t *testing.T) {
	run := func(n int) (*Disk, vfs.File, error) {
		d := New(9, Options{})
		d.CrashAfter(n)
		f, err := d.Open("/f", writable)
		for _, step := range []func() error{
			func() error { _, err := f.WriteAt(fill(1, 5), 0); return err },
			func() error { return f.Sync() },
			func() error { return d.SyncDir("/") },
			func() error { return d.Rename("/f", "/g") },
		} {
			if err == nil {
				err = step()
			}
		}
		return d, f, err
	}
	for n := 1; n <= 5; n++ {
		d, f, err := run(n)
		if !errors.Is(err, ErrCrashed) || !d.Crashed() {
			t.Fatalf("operation %d: %v", n, err)
		}
		if f != nil {
			if _, err := f.WriteAt(nil, 0); !errors.Is(err, ErrCrashed) {
				t.Error(err)
			}
			if _, err := f.ReadAt(nil, 0); !errors.Is(err, ErrCrashed) {
				t.Error(err)
			}
		}
		again, _, _ := run(n)
		a, b := d.Crash(4), again.Crash(4)
		namesA, _ := a.ReadDir("/")
		namesB, _ := b.ReadDir("/")
		if !slices.Equal(namesA, namesB) {
			t.Errorf("operation %d: %v and %v", n, namesA, namesB)
		}
		for _, name := range namesA {
			if !bytes.Equal(contents(t, a, "/"+name), contents(t, b, "/"+name)) {
				t.Errorf("operation %d: %s differs", n, name)
			}
		}
	}
	if d, _, err := run(6); err != nil || d.Ops() != 5 {
		t.Errorf("%d operations, %v", d.Ops(), err)
	}
}

// A full disk, locks, missing files and refused features are errors.
func TestLimits(t *testing.T) {
	d, f := made(t, Options{Capacity: 8192, Block: 512, NoRing: true})
	if err := f.Allocate(0, 8192); err != nil {
		t.Fatal(err)
	}
	if err := f.Allocate(8192, 1); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	d.SetCapacity(0)
	if err := f.Allocate(8192, 1); err != nil {
		t.Error(err)
	}
	other, err := d.Open("/d/f", vfs.FlagRead)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Lock(vfs.LockExclusive); err != nil {
		t.Fatal(err)
	}
	if err := other.Lock(vfs.LockShared); !errors.Is(err, vfs.ErrLocked) {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := other.Lock(vfs.LockShared); err != nil {
		t.Error(err)
	}
	if _, err := other.WriteAt([]byte("x"), 0); err == nil {
		t.Error("wrote to a file that is open for reading")
	}
	if _, err := d.Open("/d/none", vfs.FlagRead); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, _, err := other.OpenDevice(vfs.DeviceOptions{Ring: vfs.ModeOn}); err == nil {
		t.Error("a ring where there is none")
	}
	if err := d.MkdirAll("/d/f/below"); !errors.Is(err, syscall.ENOTDIR) {
		t.Error(err)
	}
}

// Bytes that were made unreadable cannot be read or viewed; those around them can.
func TestUnreadable(t *testing.T) {
	d, f := made(t, Options{})
	write(t, f, fill(1, 8), 0)
	d.SetUnreadable("/d/f", 2*sectorSize, sectorSize)
	m, err := f.OpenMap(vfs.PatternRandom, nil)
	if err != nil {
		t.Fatal(err)
	}
	for s := range int64(8) {
		b := make([]byte, sectorSize)
		_, err := f.ReadAt(b, s*sectorSize)
		_, viewErr := m.View(s*sectorSize, sectorSize)
		bad := errors.Is(err, syscall.EIO) && errors.Is(viewErr, vfs.ErrFault)
		if bad != (s == 2) || !bad && (err != nil || viewErr != nil) {
			t.Errorf("sector %d: %v, %v", s, err, viewErr)
		}
	}
	if n, err := f.ReadAt(make([]byte, 8*sectorSize), 0); n != 2*sectorSize || !errors.Is(err, syscall.EIO) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	d.SetUnreadable("/d/f", 0, 0)
	if _, err := f.ReadAt(make([]byte, 8*sectorSize), 0); err != nil {
		t.Error(err)
	}
}
