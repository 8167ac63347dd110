package osfs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/internal/vfs"
	"pagecache/iouring"
)

const writable = vfs.FlagWrite | vfs.FlagCreate

// open opens the file with this path.
func open(name string, flag vfs.Flag) (vfs.File, error) {
	d, err := OS.OpenDir(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Open(filepath.Base(name), flag)
}

func mustOpen(t *testing.T, name string, flag vfs.Flag) vfs.File {
	t.Helper()
	f, err := open(name, flag)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// within fails the test if f does not return within 5 s.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatalf("%s hangs", what)
	}
}

// Open refuses everything but a regular file of one name, at once, and does not change it.
func TestOpenRefusesSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.WriteFile(at("file"), []byte("contents"), 0o600),
		os.Symlink("file", at("symlink")),
		os.Symlink("nothing", at("dangling")),
		os.Link(at("file"), at("hardlink")),
		os.Mkdir(at("dir"), 0o700),
		unix.Mkfifo(at("fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	names := []string{at("symlink"), at("dangling"), at("dir"), at("fifo"), "/dev/null", "/dev/zero"}
	if err := unix.Mknod(at("socket"), unix.S_IFSOCK|0o600, 0); err == nil {
		names = append(names, at("socket"))
	}
	for _, name := range names {
		for _, flag := range []vfs.Flag{vfs.FlagRead, vfs.FlagWrite, writable, writable | vfs.FlagTrunc} {
			within(t, name, func() {
				if f, err := open(name, flag); err == nil {
					t.Errorf("%s was opened with %d", name, flag)
					f.Close()
				}
			})
		}
	}
	for _, name := range []string{at("file"), at("hardlink")} {
		f, err := open(name, vfs.FlagWrite|vfs.FlagTrunc)
		if err == nil || !strings.Contains(err.Error(), "hard link") {
			t.Errorf("%s with two names was opened for writing: %v, %v", name, f, err)
		}
		mustOpen(t, name, vfs.FlagRead)
	}
	if b, err := os.ReadFile(at("file")); err != nil || string(b) != "contents" {
		t.Errorf("the file changed: %q, %v", b, err)
	}
	if _, err := os.Lstat(at("nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link's target was made: %v", err)
	}
}

// Open creates, empties and protects files as its flags say.
func TestOpenFlags(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	// Creating a file takes FlagWrite and FlagCreate.
	for _, flag := range []vfs.Flag{vfs.FlagRead, vfs.FlagWrite, vfs.FlagCreate, vfs.FlagTrunc} {
		if _, err := open(name, flag); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("flag %d of a missing file: %v", flag, err)
		}
	}
	f := mustOpen(t, name, writable)
	if _, err := f.WriteAt([]byte("hello"), 3); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Size(); n != 8 || err != nil || f.Sync() != nil || f.Name() != name {
		t.Errorf("size %d, %v", n, err)
	}
	ro := mustOpen(t, name, vfs.FlagRead)
	if _, err := ro.WriteAt([]byte("x"), 0); err == nil {
		t.Error("written through a file opened for reading")
	}
	if n, err := mustOpen(t, name, vfs.FlagWrite|vfs.FlagTrunc).Size(); n != 0 || err != nil {
		t.Errorf("size %d after emptying, %v", n, err)
	}
}

// An exclusive lock excludes all others; shared locks exclude only exclusive ones.
func TestLockKinds(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	a, b := mustOpen(t, name, writable), mustOpen(t, name, vfs.FlagWrite)
	if err := a.Lock(vfs.LockExclusive); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []vfs.LockKind{vfs.LockExclusive, vfs.LockShared} {
		within(t, "lock", func() {
			if err := b.Lock(kind); !errors.Is(err, vfs.ErrLocked) {
				t.Errorf("kind %v beside an exclusive lock: %v", kind, err)
			}
		})
	}
	a.Close()
	c := mustOpen(t, name, vfs.FlagRead)
	if err := errors.Join(b.Lock(vfs.LockShared), c.Lock(vfs.LockShared)); err != nil {
		t.Errorf("two shared locks: %v", err)
	}
	if err := mustOpen(t, name, vfs.FlagWrite).Lock(vfs.LockExclusive); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("exclusive beside shared: %v", err)
	}
}

// Closing the device and the map does not release the lock: they have descriptors of their own.
func TestLockOutlivesDeviceAndMap(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	f := mustOpen(t, name, writable)
	if err := errors.Join(f.Lock(vfs.LockExclusive), f.Allocate(0, 1<<16)); err != nil {
		t.Fatal(err)
	}
	d, _, err := f.OpenDevice(vfs.DeviceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.OpenMap(vfs.PatternRandom, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Close(), m.Close()); err != nil {
		t.Fatal(err)
	}
	if err := mustOpen(t, name, vfs.FlagWrite).Lock(vfs.LockExclusive); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("the lock went with the device or the map: %v", err)
	}
}

// While a device is open that may write to the file, nobody gets a lock, even if the owner of the lock has closed its
// descriptor: the kernel does that when it ends a process, and writes that are in flight go on. Trap 19.
func TestLockWaitsForDevice(t *testing.T) {
	for _, kind := range []vfs.LockKind{vfs.LockExclusive, vfs.LockShared} {
		name := filepath.Join(t.TempDir(), "file")
		f := mustOpen(t, name, writable)
		if err := errors.Join(f.Lock(vfs.LockExclusive), f.Allocate(0, 1<<16)); err != nil {
			t.Fatal(err)
		}
		d, report, err := f.OpenDevice(vfs.DeviceOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !report.Direct {
			t.Skip("the file system has no O_DIRECT: writes use the descriptor that has the lock")
		}
		f.Close()
		g := mustOpen(t, name, vfs.FlagWrite)
		if err := g.Lock(kind); !errors.Is(err, vfs.ErrLocked) {
			t.Errorf("kind %v beside an open device: %v", kind, err)
		}
		if err := mustOpen(t, name, vfs.FlagRead).Lock(vfs.LockShared); !errors.Is(err, vfs.ErrLocked) {
			t.Errorf("a lock that was refused beside an open device stays: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := g.Lock(kind); err != nil {
			t.Errorf("kind %v after the device is closed: %v", kind, err)
		}
	}
}

// The file and the map show what the device has written.
func TestDeviceAndMap(t *testing.T) {
	f := mustOpen(t, filepath.Join(t.TempDir(), "file"), writable)
	if err := errors.Join(f.Allocate(0, 1<<16), f.Sync()); err != nil {
		t.Fatal(err)
	}
	d, r, err := f.OpenDevice(vfs.DeviceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	buf, err := iouring.AllocBuffer(r.Block)
	if err != nil {
		t.Fatal(err)
	}
	defer iouring.FreeBuffer(buf)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	if comps, err := d.Do([]vfs.Write{{Off: int64(r.Block), Buf: buf}}, 1, nil); err != nil || comps[0].Err != nil {
		t.Fatal(comps, err)
	}
	if err := f.DropCache(0, 1<<16); err != nil {
		t.Error(err)
	}
	got := make([]byte, len(buf))
	if _, err := f.ReadAt(got, int64(r.Block)); err != nil || !bytes.Equal(got, buf) {
		t.Errorf("read something else: %v", err)
	}
	m, err := f.OpenMap(vfs.PatternRandom, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if v, err := m.View(int64(r.Block), len(buf)); err != nil || !bytes.Equal(v, buf) {
		t.Errorf("the map shows something else: %v", err)
	}
}

// Allocate reserves disk blocks and keeps the contents.
func TestAllocate(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	f := mustOpen(t, name, writable)
	if _, err := f.WriteAt([]byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	checkAllocated(t, f, name, f.Allocate(0, 1<<20))
}

// checkAllocated checks that the file is 1 MiB on reserved disk blocks, "kept" followed by zeros.
func checkAllocated(t *testing.T, f vfs.File, name string, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil || st.Size != 1<<20 || st.Blocks*512 < 1<<20 {
		t.Errorf("%d bytes in %d sectors, %v", st.Size, st.Blocks, err)
	}
	b := make([]byte, 1<<20)
	if _, err := f.ReadAt(b, 0); err != nil || string(b[:4]) != "kept" || bytes.Count(b[4:], []byte{0}) != len(b)-4 {
		t.Errorf("contents changed: %v", err)
	}
}

// On a file system without fallocate, Allocate writes zeros past the end of the file, and nothing below it.
func TestAllocateByWriting(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	f := mustOpen(t, name, writable)
	if _, err := f.WriteAt([]byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	unsupported(f)
	checkAllocated(t, f, name, f.Allocate(0, 1<<20))
	if err := f.Allocate(1<<20, 3<<20-5); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Size(); n != 4<<20-5 || err != nil {
		t.Errorf("size %d, %v", n, err)
	}
}

// unsupported makes f behave like a file on a file system without fallocate.
func unsupported(f vfs.File) vfs.File {
	f.(*osFile).fallocate = func(int, uint32, int64, int64) error { return unix.EOPNOTSUPP }
	return f
}

// Clone makes a file share the bytes of another one, or says that the file system cannot, and then changes nothing.
func TestClone(t *testing.T) {
	dir := t.TempDir()
	from, to := mustOpen(t, filepath.Join(dir, "from"), writable), mustOpen(t, filepath.Join(dir, "to"), writable)
	for _, f := range []vfs.File{from, to} {
		if err := f.Truncate(4 << 20); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := from.WriteAt(bytes.Repeat([]byte("x"), 1<<20), 1<<20); err != nil {
		t.Fatal(err)
	}
	want := byte('x')
	err := vfs.Clone(to, from, 1<<20, 1<<20)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Logf("%v", err)
		want = 0
	} else if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4<<20)
	if _, err := to.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	for i, c := range b {
		if in := i>>20 == 1; in && c != want || !in && c != 0 {
			t.Fatalf("byte %d is %d", i, c)
		}
	}
	if err := vfs.Clone(to, struct{ vfs.File }{from}, 0, 4096); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("clone of a file of another kind: %v", err)
	}
	if err := vfs.Clone(struct{ vfs.File }{to}, from, 0, 4096); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("clone to a file that cannot: %v", err)
	}
}

// Punch gives the space of a range back, which reads as zeros, and Allocate takes it again. The size stays. Without the
// call, the error says so.
func TestPunch(t *testing.T) {
	f := mustOpen(t, filepath.Join(t.TempDir(), "file"), writable)
	occupied := func(least, most int64) {
		t.Helper()
		size, err := f.Size()
		if n, oerr := f.Occupied(); n < least || n > most || size != 4<<20 || err != nil || oerr != nil {
			t.Fatalf("%d bytes occupied, want %d … %d; size %d, %v, %v", n, least, most, size, err, oerr)
		}
	}
	if err := f.Allocate(0, 4<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{1}, 4<<20), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	occupied(4<<20, 5<<20)
	if err := f.Punch(1<<20, 2<<20); err != nil {
		t.Fatal(err)
	}
	occupied(2<<20, 3<<20)
	b := make([]byte, 4<<20)
	if _, err := f.ReadAt(b, 0); err != nil || bytes.Count(b[1<<20:3<<20], []byte{0}) != 2<<20 ||
		bytes.Count(b, []byte{1}) != 2<<20 {
		t.Errorf("%d zeros, %v", bytes.Count(b, []byte{0}), err)
	}
	if err := f.Allocate(1<<20, 2<<20); err != nil {
		t.Fatal(err)
	}
	occupied(4<<20, 5<<20)
	if err := unsupported(f).Punch(0, 4096); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("without the call: %v", err)
	}
}

// On a full disk, or past a size limit, Allocate returns the errno and does not change the file. Proves rule 9 as far
// as files go.
func TestAllocateDiskFull(t *testing.T) {
	dir := t.TempDir()
	unchanged := func(f vfs.File, err error, want unix.Errno) {
		t.Helper()
		if n, serr := f.Size(); !errors.Is(err, want) || n != 4096 || serr != nil {
			t.Errorf("%v with size %d, want %v; %v", err, n, want, serr)
		}
	}
	open := func(dir, name string) vfs.File {
		f := mustOpen(t, filepath.Join(dir, name), writable)
		if err := f.Allocate(0, 4096); err != nil {
			t.Fatal(err)
		}
		return f
	}
	f, g := open(dir, "limit"), open(dir, "limit zeros")
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 16, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	byKernel := f.Allocate(4096, 1<<20)
	byWriting := unsupported(g).Allocate(4096, 1<<20)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	unchanged(f, byKernel, unix.EFBIG)
	unchanged(g, byWriting, unix.EFBIG)
	if err := f.Allocate(4096, 1<<20); err != nil {
		t.Errorf("with the limit lifted: %v", err)
	}

	for kind, small := range smallFileSystems(t) {
		for range 2 { // after the first failure a smaller allocation still fits
			f, g := open(small, "full"), open(small, "zeros")
			unchanged(f, f.Allocate(4096, 128<<20), unix.ENOSPC)
			unchanged(g, unsupported(g).Allocate(4096, 128<<20), unix.ENOSPC)
			for _, f := range []vfs.File{f, g} {
				if err := errors.Join(f.Allocate(4096, 1<<20), f.Truncate(4096)); err != nil {
					t.Errorf("%s: what fits: %v", kind, err)
				}
			}
		}
	}
}

// smallFileSystems mounts file systems of a few megabytes, if the process may.
func smallFileSystems(t *testing.T) map[string]string {
	t.Helper()
	dirs := map[string]string{}
	mount := func(kind string, args ...string) {
		dir := t.TempDir()
		if out, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
			t.Logf("without a small %s: %v: %s", kind, err, out)
			return
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		dirs[kind] = dir
	}
	mount("tmpfs", "-t", "tmpfs", "-o", "size=4m", "tmpfs")
	image := filepath.Join(t.TempDir(), "image")
	f := mustOpen(t, image, writable)
	if err := f.Truncate(16 << 20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", image).CombinedOutput(); err != nil {
		t.Logf("without a small ext4: %v: %s", err, out)
		return dirs
	}
	mount("ext4", "-o", "loop", image)
	return dirs
}

// MkdirAll makes a directory with its parents, and refuses to make one in place of a file or below one.
func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b", "c")
	for range 2 {
		if err := OS.MkdirAll(deep + "/"); err != nil {
			t.Fatal(err)
		}
	}
	mustOpen(t, filepath.Join(deep, "y"), writable)
	if err := OS.MkdirAll(filepath.Join(deep, "y")); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file in place of a directory: %v", err)
	}
	if err := OS.MkdirAll(filepath.Join(deep, "y", "w")); err == nil {
		t.Error("a directory below a file was made")
	}
}
