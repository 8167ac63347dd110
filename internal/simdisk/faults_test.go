package simdisk

import (
	"bytes"
	"testing"

	"pagecache/internal/vfs"
)

// With Garbage, the sectors of a write that was not made durable hold old or new bytes or garbage after a crash, and
// each of these happens. Sectors that were not written, and writes that are durable, keep their bytes. Proves Y8.
func TestGarbage(t *testing.T) {
	counts := map[string]int{}
	for seed := range uint64(300) {
		d, f := made(t, Options{Garbage: true})
		write(t, f, fill(1, 8), 0)
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		write(t, f, fill(2, 4), 2*sectorSize)
		b := contents(t, d.Crash(seed), "/d/f")
		if len(b) != 8*sectorSize {
			t.Fatalf("seed %d: %d bytes", seed, len(b))
		}
		for s := range 8 {
			sector := b[s*sectorSize : (s+1)*sectorSize]
			kind := "garbage"
			if bytes.Equal(sector, fill(1, 1)) {
				kind = "old"
			} else if bytes.Equal(sector, fill(2, 1)) {
				kind = "new"
			}
			if kind != "old" && (s < 2 || s >= 6) {
				t.Fatalf("seed %d: sector %d was not written and is %s", seed, s, kind)
			}
			counts[kind]++
		}
	}
	if counts["old"] == 0 || counts["new"] == 0 || counts["garbage"] < 50 {
		t.Errorf("sectors: %v", counts)
	}
}

// A device write for which a fault returns ErrLose is acknowledged and never made.
func TestLostDeviceWrite(t *testing.T) {
	d, f := made(t, Options{Depth: 1})
	write(t, f, fill(1, 16), 0)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	d.SetFault(func(o Op) error {
		if o.Kind == OpDeviceWrite && o.Off == 4096 {
			return ErrLose
		}
		return nil
	})
	dev, _, err := f.OpenDevice(vfs.DeviceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, 4096} {
		comps, err := dev.Do([]vfs.Write{{Off: off, Buf: fill(2, 8)}}, 1, nil)
		if err != nil || len(comps) != 1 || comps[0].Err != nil {
			t.Fatal(comps, err)
		}
	}
	want := append(fill(2, 8), fill(1, 8)...)
	if got := contents(t, d, "/d/f"); !bytes.Equal(got, want) {
		t.Error("the file shows other bytes")
	}
	if got := contents(t, d.Crash(1), "/d/f"); !bytes.Equal(got, want) {
		t.Error("the disk holds other bytes")
	}
}
