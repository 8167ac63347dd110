package simdisk

import (
	"bytes"
	"testing"
	"time"

	"pagecache/internal/vfs"
)

// lies makes every write and sync of a disk, except those that made has done, fail with err.
func lies(d *Disk, err error) { d.SetFault(func(Op) error { return err }) }

// sectors returns how many sectors of b hold bytes that are all x.
func sectors(b []byte, x byte) (n int) {
	for i := 0; i+sectorSize <= len(b); i += sectorSize {
		if bytes.Equal(b[i:i+sectorSize], fill(x, 1)) {
			n++
		}
	}
	return n
}

// A write that is torn or misdirected is acknowledged, by a device and by a file. Of a torn one, some sectors are
// written and some are not. A misdirected one is whole, at another place. Both are as durable as other writes.
func TestLyingWrites(t *testing.T) {
	const all, part = 64, 16 // sectors of the file and of a write
	for _, device := range []bool{false, true} {
		for seed := range uint64(50) {
			for _, lie := range []error{ErrTear, ErrMisdirect} {
				d := New(seed, Options{Depth: 1})
				d.WriteFile("/d/f", fill(1, all))
				f, err := d.Open("/d/f", writable)
				if err != nil {
					t.Fatal(err)
				}
				lies(d, lie)
				const off = 3 * 4096
				if device {
					dev, _, _ := f.OpenDevice(vfs.DeviceOptions{})
					comps, err := dev.Do([]vfs.Write{{Off: off, Buf: fill(2, part)}}, 1, nil)
					if err != nil || len(comps) != 1 || comps[0].Err != nil {
						t.Fatal(comps, err)
					}
				} else {
					write(t, f, fill(2, part), off)
				}
				d.SetFault(nil)
				if err := f.Sync(); err != nil {
					t.Fatal(err)
				}
				b := contents(t, d.Crash(seed), "/d/f")
				there, anywhere := sectors(b[off:off+part*sectorSize], 2), sectors(b, 2)
				if len(b) != all*sectorSize || sectors(b, 1)+anywhere != all {
					t.Fatalf("%v: %d bytes, %d old and %d new sectors", lie, len(b), sectors(b, 1), anywhere)
				}
				if lie == ErrTear && (there == 0 || there == part || anywhere != there) {
					t.Fatalf("torn: %d of %d sectors in place, %d in all", there, part, anywhere)
				}
				if lie == ErrMisdirect && (there == part || anywhere != part) {
					t.Fatalf("misdirected: %d of %d sectors in place, %d in all", there, part, anywhere)
				}
			}
		}
	}
}

// A lying sync makes nothing durable, and the next one does. Half of a torn write of one sector is made.
func TestLyingSyncs(t *testing.T) {
	d, f := made(t, Options{})
	write(t, f, fill(1, 1), 0)
	lies(d, ErrLose)
	if err := f.Sync(); err != nil || len(d.ReadDurable("/d/f")) != 0 {
		t.Fatalf("%v, %d bytes are durable", err, len(d.ReadDurable("/d/f")))
	}
	if _, err := d.Open("/d/g", writable); err != ErrLose {
		t.Fatal(err)
	}
	d.SetFault(nil)
	if _, err := d.Open("/d/g", writable); err != nil {
		t.Fatal(err)
	}
	lies(d, ErrLose)
	if err := d.SyncDir("/d"); err != nil || d.ReadDurable("/d/g") != nil {
		t.Fatalf("%v, the entry is durable", err)
	}
	lies(d, ErrTear)
	write(t, f, fill(2, 1), 0)
	d.SetFault(nil)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	want := append(fill(2, 1)[:sectorSize/2], fill(1, 1)[sectorSize/2:]...)
	if got := d.ReadDurable("/d/f"); !bytes.Equal(got, want) {
		t.Errorf("half of a torn sector: %d bytes are old", bytes.Count(got, []byte{1}))
	}
}

// With SetDelay, each write and sync takes that long, and does not hold up reads.
func TestDelay(t *testing.T) {
	d, f := made(t, Options{})
	const delay = 20 * time.Millisecond
	d.SetDelay(delay)
	start := time.Now()
	write(t, f, fill(1, 1), 0)
	if err := f.Sync(); err != nil || time.Since(start) < 2*delay {
		t.Errorf("a write and a sync took %v, %v", time.Since(start), err)
	}
	if sizes := d.Sizes(); sizes["/d/f"] != sectorSize || len(sizes) != 1 {
		t.Errorf("sizes: %v", sizes)
	}
}
