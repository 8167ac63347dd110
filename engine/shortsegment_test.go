package engine_test

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
)

// occupiedTree returns how many bytes of disk space a directory occupies.
func occupiedTree(t *testing.T, dir string) (space int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err = errors.Join(err, unix.Lstat(path, &st)); err == nil {
			space += st.Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return space
}

// A store with default options and one small page occupies at most 2 MiB, open, closed, and opened again and again.
// Once it grows, it has its reserve. Proves rule 9.
func TestNewStoreIsSmall(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	small := func(when string) {
		t.Helper()
		if n := occupiedTree(t, dir); n > 2<<20 {
			t.Errorf("%s: %d KiB occupied", when, n>>10)
		}
	}
	var pid engine.PageID
	for i := range 4 {
		pc := enginetest.Open(t, dir, nil)
		if i == 0 {
			pid, _ = enginetest.Allocate(t, pc, []byte("small"))
			enginetest.Flush(t, pc)
		}
		small("open")
		if p := enginetest.Get(t, pc, pid); string(p.Value) != "small" {
			t.Errorf("page %d: %q", pid, p.Value)
		}
		enginetest.Close(t, pc)
		small("closed")
	}
	pc := enginetest.Open(t, dir, nil)
	pids := enginetest.AllocateMany(t, pc, 3000, 4000)
	enginetest.Flush(t, pc)
	if s := pc.Stats().Space; s.SegmentsInUse < 3 || s.FileBytes < 12<<20+keptSlots*8<<20 {
		t.Errorf("%+v", s)
	}
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, dir, nil)
	for _, pid := range pids {
		if p := enginetest.Get(t, pc, pid); len(p.Value) != 4000 {
			t.Fatalf("page %d has %d bytes", pid, len(p.Value))
		}
	}
	enginetest.Close(t, pc)
}

// shortOptions are those of a store on a simulated disk whose first segment is short.
func shortOptions(d *simdisk.Disk) *engine.Options {
	return enginetest.WithSeam(&engine.Options{SegmentSize: 64 << 10, IOBuffers: 2, FlushEvery: -1},
		seam.Options{FS: d, FirstStep: 24 << 10})
}

// writeNumbers allocates pages with the numbers from len(pids) on until there are n, each of them durable, and returns
// them all.
func writeNumbers(pc *engine.PageCache[[]byte], pids []engine.PageID, n int) ([]engine.PageID, error) {
	tx, err := pc.Begin()
	if err != nil {
		return pids, err
	}
	defer tx.End()
	for len(pids) < n {
		v := binary.LittleEndian.AppendUint64(make([]byte, 1000), uint64(len(pids)))
		pid, ptr, err := pc.Allocate(tx, v)
		if err == nil {
			_, err = pc.MakeStable(ptr.LastLSN())
		}
		if err != nil {
			return pids, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

func checkNumbers(t *testing.T, pc *engine.PageCache[[]byte], pids []engine.PageID) {
	t.Helper()
	for i, pid := range pids {
		p := enginetest.Get(t, pc, pid)
		if len(p.Value) != 1008 || binary.LittleEndian.Uint64(p.Value[1000:]) != uint64(i) {
			t.Fatalf("page %d of %d has %d bytes", i, len(pids), len(p.Value))
		}
	}
}

// A power cut at any operation while a new store grows beyond its first, short, segment loses nothing that is durable,
// also if the store was opened in between. Proves rules 1, 9, 11 and 17.
func TestPowerCutWhileNewStoreGrows(t *testing.T) {
	t.Parallel()
	for _, garbage := range []bool{false, true} {
		for at := 1; ; at++ {
			d := simdisk.New(uint64(at), simdisk.Options{Garbage: garbage})
			d.CrashAfter(at)
			var pids []engine.PageID
			for round := 0; ; round++ {
				pc, err := engine.Open("/store", engine.Bytes{}, shortOptions(d))
				if err != nil && !d.Crashed() {
					t.Fatalf("crash at %d, opening %d: %v", at, round, err)
				}
				if err == nil {
					if !d.Crashed() {
						checkNumbers(t, pc, pids)
					}
					pids, _ = writeNumbers(pc, pids, []int{2, 4, 24, 60}[min(round, 3)])
					_ = pc.Close()
				}
				if round > 3 && len(pids) >= 60 {
					break
				}
				if d.Crashed() {
					d = d.Crash(uint64(at))
				}
				if round > 8 {
					t.Fatalf("crash at %d: %d pages after %d openings", at, len(pids), round)
				}
			}
			enginetest.Check(t, "/store", shortOptions(d))
			if at > 400 {
				break
			}
		}
	}
}

// If the disk is full when a new store needs its second segment, writes fail with ErrNoSpace, nothing is lost, and
// they work again once there is room, also after reopening. Proves rule 9.
func TestFullDiskBeyondShortSegment(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{Capacity: 100 << 10})
	pc := enginetest.Open(t, "/store", shortOptions(d))
	pids, err := writeNumbers(pc, nil, 100)
	if !errors.Is(err, engine.ErrNoSpace) || len(pids) < 2 {
		t.Fatalf("%d pages, %v", len(pids), err)
	}
	checkNumbers(t, pc, pids)
	d.SetCapacity(0)
	more, err := writeNumbers(pc, pids, 100)
	if err != nil {
		t.Fatal(err)
	}
	checkNumbers(t, pc, more)
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, "/store", shortOptions(d))
	checkNumbers(t, pc, more)
	enginetest.Close(t, pc)
}
