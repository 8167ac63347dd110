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

// From a moment on, writes to a range are acknowledged and lost, by a device and by WriteAt; their bytes outside of the
// range arrive. The restarted disk loses no writes.
func TestLoseWrites(t *testing.T) {
	d, f := made(t, Options{Depth: 1})
	dev, _, err := f.OpenDevice(vfs.DeviceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	put := func(fill byte, blocks int, off int64) {
		t.Helper()
		w := vfs.Write{Off: off, Buf: bytes.Repeat([]byte{fill}, blocks*4096)}
		if comps, err := dev.Do([]vfs.Write{w}, 1, nil); err != nil || len(comps) != 1 || comps[0].Err != nil {
			t.Fatal(comps, err)
		}
	}
	put(1, 4, 0)
	lost := d.LoseWrites("/d/f", 4096, 8192, 1)
	put(2, 1, 4096) // still made
	put(3, 4, 0)    // its middle is lost
	write(t, f, []byte{4, 4}, 4095)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if n := lost(); n != 2 {
		t.Errorf("%d writes were lost, want 2", n)
	}
	want := bytes.Repeat([]byte{3}, 4*4096)
	copy(want[4096:], bytes.Repeat([]byte{2}, 4096))
	copy(want[8192:], bytes.Repeat([]byte{1}, 4096))
	want[4095] = 4
	if got := contents(t, d, "/d/f"); !bytes.Equal(got, want) {
		t.Error("the file shows other bytes")
	}
	next := d.Crash(1)
	if got := contents(t, next, "/d/f"); !bytes.Equal(got, want) {
		t.Error("the disk holds other bytes")
	}
	f, err = next.Open("/d/f", writable)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f, []byte{5}, 5000)
	if got := contents(t, next, "/d/f"); got[5000] != 5 {
		t.Error("a write is lost after the restart")
	}
}
