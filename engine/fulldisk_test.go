package engine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A file system is full: writes say so and nothing is half done, reads go on, and once there is room again writes work without reopening. Reopening finds
// everything. O1, O5. Proves rule 9.
func TestFullFileSystem(t *testing.T) {
	t.Run("ext4", func(t *testing.T) { fillDisk(t, newLoopMount(t, "ext4", 64).dir) })
	t.Run("tmpfs", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("needs root, to mount a file system")
		}
		dir := t.TempDir()
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", dir).CombinedOutput(); err != nil {
			t.Skipf("no mounts here: %v: %s", err, out)
		}
		t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
		fillDisk(t, dir)
	})
}

func fillDisk(t *testing.T, mount string) {
	ballast := filepath.Join(mount, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 12<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(mount, "store")
	o := &Options{SegmentSize: 256 << 10}
	pc := openTest(t, dir, o)
	want := map[PageID]byte{}
	write := func(least int) (n int) {
		t.Helper()
		for i := 0; ; i++ {
			tx := begin(t, pc)
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
			case !errors.Is(err, ErrNoSpace):
				t.Fatal(err)
			case n >= least:
				return n
			default:
				time.Sleep(time.Millisecond) // the cleaner is at it
			}
			if i > 200_000 {
				t.Fatalf("%d written, want %d or no room", n, least)
			}
		}
	}
	check := func() {
		t.Helper()
		tx := begin(t, pc)
		defer tx.End()
		for pid, last := range want {
			p, err := pc.Get(tx, pid)
			if err != nil || p.Kind != KindMaterialized || p.Value[len(p.Value)-1] != last {
				t.Fatalf("page %d: %v, %v", pid, p.Kind, err)
			}
		}
	}
	first := write(1)
	check()
	for i := range 20 { // still full, and still nothing breaks
		tx := begin(t, pc)
		_, _, err := pc.Allocate(tx, make([]byte, 2000))
		tx.End()
		if err != nil && !errors.Is(err, ErrNoSpace) {
			t.Fatal(i, err)
		}
	}
	// Pages can be freed, and that makes room.
	freed := 0
	tx := begin(t, pc)
	for pid := range want {
		p, err := pc.Get(tx, pid)
		if err == nil {
			_, _, err = pc.Free(tx, pid, p.Ptr)
		}
		if err != nil {
			t.Fatalf("free with the disk full: %v", err)
		}
		delete(want, pid)
		if freed++; freed == first/2 {
			break
		}
	}
	tx.End()
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
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
	pc = openTest(t, dir, o)
	check()
	closeTest(t, pc)
	t.Logf("%d pages filled the disk, half were freed, %d went in, and %d more once there was room", first, again, more)
}
