package simdisk

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"pagecache/internal/vfs"
)

// A hole reads as zeros, gives its space back, and takes it again: by Allocate, or by a device write, which fails if
// there is none (Y9).
func TestHoleGivesSpaceBack(t *testing.T) {
	d, f := made(t, Options{Capacity: 64 << 10})
	occupied := func(want int64) {
		t.Helper()
		if n, err := f.Occupied(); n != want || err != nil {
			t.Fatalf("%d bytes occupied, %v; want %d", n, err, want)
		}
	}
	full := bytes.Repeat([]byte{1}, 16<<10)
	must(t, f.Allocate(0, 64<<10))
	for off := int64(0); off < 64<<10; off += 16 << 10 {
		if _, err := f.WriteAt(full, off); err != nil {
			t.Fatal(err)
		}
	}
	must(t, f.Sync())
	occupied(64 << 10)
	must(t, f.Punch(16<<10, 16<<10))
	occupied(48 << 10)
	b := make([]byte, 64<<10)
	if _, err := f.ReadAt(b, 0); err != nil || bytes.Count(b, []byte{0}) != 16<<10 || b[16<<10] != 0 {
		t.Fatalf("%d zeros, %v", bytes.Count(b, []byte{0}), err)
	}
	if n, err := f.Size(); n != 64<<10 || err != nil {
		t.Fatalf("size %d, %v", n, err)
	}
	d.SetCapacity(52 << 10)
	if err := f.Allocate(16<<10, 16<<10); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("allocate: %v", err)
	}
	dev, _, err := f.OpenDevice(vfs.DeviceOptions{})
	must(t, err)
	write := func(off int64, n int) error {
		return vfs.WriteAll(dev, []vfs.Write{{Off: off, Buf: full[:n]}})
	}
	if err := write(20<<10, 8<<10); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write into a hole: %v", err)
	}
	d.SetCapacity(0)
	must(t, f.Allocate(16<<10, 16<<10))
	occupied(64 << 10)
	if err := f.Punch(100, 4096); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("punch inside a block: %v", err)
	}
}

// After a crash any block of a hole that was not synced is a hole or has its bytes. A later write that was durable is
// there in any case, and after Sync the hole is.
func TestHoleIsDurableAfterSync(t *testing.T) {
	half := 0
	for seed := range uint64(64) {
		d, f := made(t, Options{})
		full := bytes.Repeat([]byte{1}, 64<<10)
		must(t, f.Allocate(0, 64<<10))
		if _, err := f.WriteAt(full, 0); err != nil {
			t.Fatal(err)
		}
		must(t, f.Sync())
		must(t, f.Punch(0, 32<<10))
		if seed%2 == 0 {
			must(t, f.Sync())
		}
		must(t, f.Allocate(0, 64<<10))
		dev, _, err := f.OpenDevice(vfs.DeviceOptions{})
		must(t, err)
		must(t, vfs.WriteAll(dev, []vfs.Write{{Off: 8 << 10, Buf: bytes.Repeat([]byte{2}, 8<<10)}}))
		if seed%4 > 1 {
			must(t, f.Sync())
		}
		b := d.Crash(seed).ReadDurable(f.Name())
		zeros := bytes.Count(b[:32<<10], []byte{0})
		if !bytes.Equal(b[8<<10:16<<10], bytes.Repeat([]byte{2}, 8<<10)) || !bytes.Equal(b[32<<10:], full[32<<10:]) {
			t.Fatalf("seed %d: bytes that were durable are lost", seed)
		}
		if seed%4 != 1 && zeros != 24<<10 {
			t.Fatalf("seed %d: %d zeros after Sync", seed, zeros)
		}
		if zeros > 0 && zeros < 24<<10 {
			half++
		}
	}
	if half == 0 {
		t.Error("no hole was torn")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
