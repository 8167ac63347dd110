package engine_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"pagecache/engine/internal/enginetest"
	"pagecache/internal/osfs"
)

var (
	powercutRounds = flag.Int("powercut.rounds", 5, "the number of rounds of TestPowerCut on each file system")
	powercutSeed   = flag.Uint64("powercut.seed", 1,
		"the seed of the options, the load and the times of the cuts of TestPowerCut")
)

// powercutMiB is the size of each file system in MiB.
var powercutMiB = map[string]int{"ext4": 160, "xfs": 400}

// loopMount is a file system in a file.
type loopMount struct {
	image, dir string
	kind       string
}

// newLoopMount makes and mounts a file system of mib MiB. If that is not possible, it skips the test.
func newLoopMount(t *testing.T, kind string, mib int) *loopMount {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a file system")
	}
	mkfs, err := exec.LookPath("mkfs." + kind)
	if err != nil {
		t.Skip("needs mkfs." + kind)
	}
	base := t.TempDir()
	m := &loopMount{image: filepath.Join(base, "image"), dir: filepath.Join(base, "mnt"), kind: kind}
	err = errors.Join(os.WriteFile(m.image, nil, 0o600), os.Truncate(m.image, int64(mib)<<20), os.Mkdir(m.dir, 0o755))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", m.image).CombinedOutput(); err != nil {
		t.Skipf("mkfs.%s: %v: %s", kind, err, out)
	}
	if err := m.mount(); err != nil {
		t.Skipf("cannot mount a file: %v", err)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", m.dir).Run() })
	return m
}

func (m *loopMount) mount() error {
	out, err := exec.Command("mount", "-t", m.kind, "-o", "loop", m.image, m.dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mount: %w: %s", err, out)
	}
	return nil
}

// umount unmounts the file system. It retries for 20 s, because the kernel uses the file system for a moment after a
// process was killed.
func (m *loopMount) umount() (err error) {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = unix.Unmount(m.dir, 0); err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return err
}

// cut shuts the file system down as a loss of power does: everything that is not on the disk is lost, including the
// file system's own log.
func (m *loopMount) cut() error {
	const goingDown, noLogFlush = 0x8004587d, 2
	d, err := os.Open(m.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	how := uint32(noLogFlush)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), goingDown, uintptr(unsafe.Pointer(&how))); e != 0 {
		return fmt.Errorf("shut down: %w", e)
	}
	return nil
}

// restore mounts the file system again.
func (m *loopMount) restore() error { return errors.Join(m.umount(), m.mount()) }

// The power of a real file system is cut while a process changes a store in it, closes it or recovers it. The oracles
// are those of TestKill. Everything is lost that was only in the page cache or in the file system's own log. O1 to O5;
// proves rules 1, 5, 8 and 11, traps 5, 12 and 13.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for kind, mib := range powercutMiB {
		t.Run(kind, func(t *testing.T) {
			if testing.Short() {
				t.Skip("takes seconds")
			}
			m := newLoopMount(t, kind, mib)
			base := filepath.Join(m.dir, "base")
			if err := errors.Join(os.Mkdir(base, 0o755), enginetest.SyncDir(osfs.OS, m.dir)); err != nil {
				t.Fatal(err)
			}
			r := &killRun{rng: rand.New(rand.NewPCG(*powercutSeed, 17)), base: base, copies: t.TempDir(),
				full: 24 << 20, cut: m.cut, restore: m.restore}
			start := time.Now()
			for i := range *powercutRounds {
				if err := r.round(i); err != nil {
					t.Logf("replay: go test ./engine -run 'TestPowerCut/%s' "+
						"-args -powercut.seed=%d -powercut.rounds=%d", kind, *powercutSeed, i+1)
					t.Fatalf("round %d, store %d, life %d, %+v: %v\nkept in %s",
						i, r.stores, r.s.life, r.last, err, r.save())
				}
			}
			t.Logf("%d rounds in %v on %d stores: %d changes, %d acknowledged, %d batches",
				*powercutRounds, time.Since(start), r.stores, r.ops, r.acks, r.batches)
		})
	}
}

// A store that the harness has removed does not come back after a power cut. Stores that came back filled the disk.
func TestPowerCutRemovedStays(t *testing.T) {
	t.Parallel()
	for kind, mib := range powercutMiB {
		t.Run(kind, func(t *testing.T) {
			if testing.Short() {
				t.Skip("takes seconds")
			}
			m := newLoopMount(t, kind, mib)
			r := &killRun{base: m.dir}
			if err := r.fresh(); err != nil {
				t.Fatal(err)
			}
			gone := r.s.dir
			err := errors.Join(os.Mkdir(gone, 0o755), enginetest.SyncDir(osfs.OS, m.dir), r.fresh(), m.cut(),
				m.restore())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(gone); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is back: %v", gone, err)
			}
		})
	}
}
