package engine_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// On a full file system, writes return ErrNoSpace and change nothing, and reads work. Once there is space, writes work
// without reopening. Reopening finds all pages. O1, O5. Proves rule 9.
func TestFullFileSystem(t *testing.T) {
	t.Parallel()
	t.Run("ext4", func(t *testing.T) { fillDisk(t, newLoopMount(t, "ext4", 64).dir) })
	t.Run("tmpfs", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("needs root, to mount a file system")
		}
		dir := t.TempDir()
		out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", dir).CombinedOutput()
		if err != nil {
			t.Skipf("cannot mount a file system: %v: %s", err, out)
		}
		t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
		fillDisk(t, dir)
	})
}

// fillDisk fills the file system, frees half of the pages, and removes a ballast file, and writes after each step.
func fillDisk(t *testing.T, mount string) {
	ballast := filepath.Join(mount, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 12<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(mount, "store")
	o := &engine.Options{SegmentSize: 256 << 10}
	pc := enginetest.Open(t, dir, o)
	want := map[engine.PageID]byte{}
	write := func(least int) (n int) {
		t.Helper()
		for i := 0; ; i++ {
			tx := enginetest.Begin(t, pc)
			size := 2000
			if i%50 == 49 {
				size = 100_000 // a blob
			}
			pid, _, err := pc.Allocate(tx, fmt.Appendf(make([]byte, 0, size), "%0*d", size, i))
			tx.End()
			switch {
			case err == nil:
				want[pid] = byte('0' + i%10)
				n++
			case !errors.Is(err, engine.ErrNoSpace):
				t.Fatal(err)
			case n >= least:
				return n
			default:
				time.Sleep(time.Millisecond) // for the cleaner to make space
			}
			if i > 200_000 {
				t.Fatalf("%d pages written in %d tries, want %d or more and then a full disk", n, i, least)
			}
		}
	}
	check := func() {
		t.Helper()
		tx := enginetest.Begin(t, pc)
		defer tx.End()
		for pid, last := range want {
			p, err := pc.Get(tx, pid)
			if err != nil || p.Kind != engine.KindMaterialized || p.Value[len(p.Value)-1] != last {
				t.Fatalf("page %d: %v with the wrong value, error %v", pid, p.Kind, err)
			}
		}
	}
	first := write(1)
	check()
	for i := range 20 { // the disk stays full
		tx := enginetest.Begin(t, pc)
		_, _, err := pc.Allocate(tx, make([]byte, 2000))
		tx.End()
		if err != nil && !errors.Is(err, engine.ErrNoSpace) {
			t.Fatalf("write %d on a full disk: error %v, want ErrNoSpace", i, err)
		}
	}
	// Freeing pages works on a full disk and makes space.
	freed := 0
	tx := enginetest.Begin(t, pc)
	for pid := range want {
		p, err := pc.Get(tx, pid)
		if err == nil {
			_, _, err = pc.Free(tx, pid, p.Ptr)
		}
		if err != nil {
			t.Fatalf("Free on a full disk: %v", err)
		}
		delete(want, pid)
		if freed++; freed == first/2 {
			break
		}
	}
	tx.End()
	enginetest.Flush(t, pc)
	again := write(first / 8)
	check()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	more := write(1000)
	check()
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	pc = enginetest.Open(t, dir, o)
	check()
	enginetest.Close(t, pc)
	t.Logf("%d pages filled the disk; %d more fit after half were freed, %d without the ballast", first, again, more)
}

// A store on a disk without a free block opens for writing, after a kill and after a clean close, and frees make room
// in it. Proves rules 9 and 16, trap 36.
func TestOpenOnFullDisk(t *testing.T) {
	t.Parallel()
	m := newLoopMount(t, "ext4", 32)
	dir, killed := filepath.Join(m.dir, "store"), filepath.Join(m.dir, "killed")
	o := &engine.Options{SegmentSize: 64 << 10, SnapshotDir: t.TempDir()} // on another file system
	pc := enginetest.Open(t, dir, o)
	pids := enginetest.AllocateMany(t, pc, 1000, 3000)
	enginetest.Flush(t, pc)
	if err := os.Mkdir(killed, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, b := range enginetest.TreeFiles(t, dir) { // as a kill would leave it
		if err := os.WriteFile(filepath.Join(killed, filepath.Base(name)), []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Close(t, pc)
	fillUp(t, filepath.Join(m.dir, "ballast"))
	for _, dir := range []string{dir, killed} {
		o := &engine.Options{SnapshotDir: t.TempDir()}
		pc := enginetest.Open(t, dir, o)
		freeAndWrite(t, pc, pids)
		enginetest.Close(t, pc)
	}
}

// The same on a simulated disk of exactly the size of the store. Proves rules 9 and 16, trap 36.
func TestOpenOnFullSimulatedDisk(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	o := enginetest.SimOptions(d)
	o.SnapshotEvery = 1 << 30
	pc := enginetest.Open(t, "/store", o)
	pids := enginetest.AllocateMany(t, pc, 300, 1000)
	enginetest.Flush(t, pc)
	killed := d.Copy()
	enginetest.Close(t, pc)
	for _, d := range []*simdisk.Disk{killed, d} {
		used := 0
		for _, b := range enginetest.Files(t, d) {
			used += len(b)
		}
		d.SetCapacity(int64(used))
		o := enginetest.SimOptions(d)
		o.SnapshotEvery = 1 << 30
		pc := enginetest.Open(t, "/store", o)
		freeAndWrite(t, pc, pids)
		enginetest.Close(t, pc)
	}
}

// fillUp writes to a file until the file system has no free block.
func fillUp(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for piece := 1 << 20; piece > 0; piece /= 2 {
		for {
			if _, err := f.Write(make([]byte, piece)); errors.Is(err, syscall.ENOSPC) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// freeAndWrite frees half of the pages of a store on a full disk, and then writes half as many new ones as it freed.
func freeAndWrite(t *testing.T, pc *engine.PageCache[[]byte], pids []engine.PageID) {
	t.Helper()
	tx := enginetest.Begin(t, pc)
	size := 0
	for _, pid := range pids[:len(pids)/2] {
		p, err := pc.Get(tx, pid)
		if err == nil {
			size = len(p.Value)
			_, _, err = pc.Free(tx, pid, p.Ptr)
		}
		if err != nil {
			t.Fatalf("free page %d on a full disk: %v", pid, err)
		}
	}
	tx.End()
	enginetest.Flush(t, pc)
	deadline := time.Now().Add(time.Minute)
	for n := 0; n < len(pids)/4; {
		tx := enginetest.Begin(t, pc)
		_, _, err := pc.Allocate(tx, make([]byte, size))
		tx.End()
		switch {
		case err == nil:
			n++
		case !errors.Is(err, engine.ErrNoSpace) || time.Now().After(deadline):
			t.Fatalf("page %d after frees on a full disk: %v", n, err)
		default: // the cleaner makes room, by itself or here
			if did, err := pc.AttemptGC(); err != nil && !errors.Is(err, engine.ErrNoSpace) {
				t.Fatal(err)
			} else if !did {
				time.Sleep(time.Millisecond)
			}
		}
	}
	enginetest.Flush(t, pc)
}
