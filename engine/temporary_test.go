package engine_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/seam"
	"pagecache/internal/osfs"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

// If Open of a temporary store fails, it removes the files that it made, and no file that existed before. O8.
func TestFailedTemporaryOpenRemovesItsFilesOnly(t *testing.T) {
	for _, file := range []string{enginetest.LogName, enginetest.SuperName, "superblock.tmp"} {
		var dir string
		f := &simdisk.Wrap{FS: osfs.OS, File: func(d vfs.Dir, name string, flag vfs.Flag) (vfs.File, error) {
			if name == file {
				dir = d.Name()
				return nil, syscall.EMFILE
			}
			return d.Open(name, flag)
		}}
		o := &engine.Options{Temporary: true, SegmentSize: 16 << 10}
		enginetest.WithSeam(o, seam.Options{FS: f})
		if _, err := engine.Open("", engine.Bytes{}, o); !errors.Is(err, syscall.EMFILE) {
			t.Fatalf("opening of %s fails: error %v, want EMFILE", file, err)
		}
		if left, err := os.ReadDir(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("opening of %s fails: %v are left in %s, error %v", file, left, dir, err)
		}
	}
	d := simdisk.New(1, simdisk.Options{NoRing: true})
	o := enginetest.SimOptions(d)
	o.Temporary, o.IO = true, engine.IOUring
	if _, err := engine.Open("/store", engine.Bytes{}, o); err == nil {
		t.Error("opened although the required ring does not work")
	}
	if names, err := d.ReadDir("/store"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v are left, error %v", names, err)
	}
	first, pid := enginetest.DirtyStore(t, simdisk.New(2, simdisk.Options{NoRing: true}))
	before := fmt.Sprint(enginetest.Files(t, first))
	for name, bad := range map[string]engine.Options{
		"segment size": {SegmentSize: 32 << 10},
		"device":       {IO: engine.IOUring},
	} {
		bad.Temporary = true
		enginetest.WithSeam(&bad, seam.Options{FS: first})
		if _, err := engine.Open("/store", engine.Bytes{}, &bad); err == nil {
			t.Errorf("opened with a bad %s", name)
		}
		o := &engine.Options{Temporary: true}
		_, err := engine.OpenLog("/store", enginetest.WithSeam(o, seam.Options{FS: first}))
		if !errors.Is(err, engine.ErrKind) {
			t.Errorf("opening a page store as a log: error %v, want ErrKind", err)
		}
		if now := fmt.Sprint(enginetest.Files(t, first)); now != before {
			t.Fatalf("bad %s: a refused temporary opening has changed the existing store", name)
		}
	}
	pc := enginetest.OpenSim(t, first)
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "durable" {
		t.Errorf("page holds %q, want \"durable\", error %v", p.Value, err)
	}
}

// If no directory is named, a temporary store lies in memory.
func TestTemporaryStoreLiesInMemory(t *testing.T) {
	pc := enginetest.Open(t, "", &engine.Options{Temporary: true, SegmentSize: 16 << 10})
	want := os.TempDir()
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		want = "/dev/shm"
	}
	if dir := pc.Stats().Dir; filepath.Dir(dir) != want {
		t.Errorf("the store lies in %s, want a directory in %s", dir, want)
	}
}

// An Open that waits until a temporary store is closed makes a new store: it does not recover the removed files, whose
// lock it got.
func TestOpenWhileTemporaryStoreCloses(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1} { // nothing written, something written
		dir := t.TempDir()
		first := enginetest.Open(t, dir, &engine.Options{Temporary: true, SegmentSize: 16 << 10, IO: engine.IOSyscall})
		tx := enginetest.Begin(t, first)
		for range n {
			if _, _, err := first.Allocate(tx, []byte("gone")); err != nil {
				t.Fatal(err)
			}
		}
		tx.End()
		time.AfterFunc(30*time.Millisecond, func() { enginetest.Close(t, first) })
		pc := enginetest.Open(t, dir, &engine.Options{SegmentSize: 32 << 10, IO: engine.IOSyscall})
		if pc.WasRecovered() {
			t.Error("recovered the store that was removed")
		}
		tx = enginetest.Begin(t, pc)
		pid, _, err := pc.Allocate(tx, []byte("stays"))
		if err != nil {
			t.Fatal(err)
		}
		tx.End()
		enginetest.Close(t, pc)
		pc = enginetest.Open(t, dir, nil)
		tx = enginetest.Begin(t, pc)
		if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "stays" {
			t.Errorf("page holds %q, want \"stays\", error %v", p.Value, err)
		}
		tx.End()
		enginetest.Close(t, pc)
	}
}

// If no directory is named, and the file system in memory is missing, too small, full or read only, a temporary store
// lies in os.TempDir.
func TestTemporaryStoreFallsBack(t *testing.T) {
	tmp, shm := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", tmp)
	for _, c := range []struct {
		name, dir string
		free      int64
		want      string
	}{
		{"room", shm, 16 * 16 << 10, shm},
		{"too small, or full", shm, 16*16<<10 - 1, tmp},
		{"missing", filepath.Join(shm, "missing"), 1 << 40, tmp},
		{"no directory can be made", "/proc", 1 << 40, tmp},
	} {
		restore := logstore.SetMemoryDir(c.dir, c.free)
		pc := enginetest.Open(t, "", &engine.Options{Temporary: true, SegmentSize: 16 << 10})
		restore()
		if dir := filepath.Dir(pc.Stats().Dir); dir != c.want {
			t.Errorf("%s: the store lies in %s, want %s", c.name, dir, c.want)
		}
		enginetest.Close(t, pc)
	}
	for _, dir := range []string{tmp, shm} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, error %v", dir, left, err)
		}
	}
}

// The file systems of TestTemporaryStoreFallsBack are real ones here: too small, full, read only, and one with room.
func TestTemporaryStoreFallsBackOnRealFileSystems(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a file system")
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	for name, options := range map[string]string{
		"too small": "size=128k", "full": "size=1m", "read only": "size=1m,ro", "no names left": "size=1m,nr_inodes=1",
		"room": "size=1m",
	} {
		shm := t.TempDir()
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", shm).CombinedOutput(); err != nil {
			t.Skipf("cannot mount a file system: %v: %s", err, out)
		}
		t.Cleanup(func() { _ = exec.Command("umount", "-l", shm).Run() })
		want := tmp
		switch name {
		case "full":
			if err := os.WriteFile(filepath.Join(shm, "ballast"), make([]byte, 900<<10), 0o600); err != nil {
				t.Fatal(err)
			}
		case "room":
			want = shm
		}
		restore := logstore.SetMemoryDir(shm, -1)
		pc := enginetest.Open(t, "", &engine.Options{Temporary: true, SegmentSize: 16 << 10})
		restore()
		enginetest.AllocateMany(t, pc, 10, 1000)
		enginetest.Flush(t, pc)
		if dir := filepath.Dir(pc.Stats().Dir); dir != want {
			t.Errorf("%s: the store lies in %s, want %s", name, dir, want)
		}
		enginetest.Close(t, pc)
	}
}

// temporaryEnv holds the directory of a child for its temporary stores.
const temporaryEnv = "PAGECACHE_TEMPORARY_CHILD"

// TestTemporaryChild is the process that TestKilledTemporaryStoreIsRemoved kills.
func TestTemporaryChild(t *testing.T) {
	shm := os.Getenv(temporaryEnv)
	if shm == "" {
		t.Skip("a child process of another test")
	}
	logstore.SetMemoryDir(shm, -1)
	pc, err := engine.Open("", engine.Bytes{}, &engine.Options{Temporary: true, SegmentSize: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	enginetest.AllocateMany(t, pc, 5, 20_000) // blobs
	if err := pc.Snapshot(); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("store: %s\n", pc.Stats().Dir)
	select {}
}

// A temporary store of a process that was killed is removed by the next such opening, and not while the process lives.
func TestKilledTemporaryStoreIsRemoved(t *testing.T) {
	shm := t.TempDir()
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv(temporaryEnv, shm)
	defer logstore.SetMemoryDir(shm, -1)()
	child := exec.Command(os.Args[0], "-test.run=^TestTemporaryChild$", "-test.timeout=1m")
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := ""
	for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); {
		_, dir, _ = strings.Cut(lines.Text(), "store: ")
	}
	open := func() {
		enginetest.Close(t, enginetest.Open(t, "", &engine.Options{Temporary: true, SegmentSize: 16 << 10}))
	}
	open()
	if _, err := os.Stat(filepath.Join(dir, enginetest.LogName)); err != nil || dir == "" {
		t.Errorf("the store %q of a process that lives: %v", dir, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	for end := time.Now().Add(10 * time.Second); ; { // the kernel may hold its lock a little longer: trap 19
		open()
		left, err := os.ReadDir(shm)
		if err == nil && len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left: %v, error %v", left, err)
		}
	}
}

// A temporary store without a directory removes those that dead processes have left, in memory and in os.TempDir, and
// nothing else: not those that are open, are just being made, or hold other files.
func TestTemporaryStoreRemovesDeadOnes(t *testing.T) {
	tmp, shm := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", tmp)
	defer logstore.SetMemoryDir(shm, 1<<40)()
	o := &engine.Options{Temporary: true, SegmentSize: 16 << 10}
	live := enginetest.Open(t, "", o)
	enginetest.AllocateMany(t, live, 5, 20_000) // blobs
	if err := live.Snapshot(); err != nil {
		t.Fatal(err)
	}
	place := func(parent, name string) string { return filepath.Join(parent, "pagecache.tmp."+name) }
	long := time.Now().Add(-2 * time.Hour)
	var dead, stay []string
	for _, parent := range []string{tmp, shm} {
		for _, name := range []string{"dead", "mixed", "making", "unfinished", "other"} {
			dir := place(parent, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			var err error
			switch name {
			case "dead":
				err = os.CopyFS(dir, os.DirFS(live.Stats().Dir))
				dead = append(dead, dir)
			case "mixed": // of which the store goes, and the other file stays
				err = errors.Join(os.CopyFS(dir, os.DirFS(live.Stats().Dir)),
					os.WriteFile(filepath.Join(dir, "mine"), nil, 0o644))
				dead = append(dead, filepath.Join(dir, enginetest.LogName))
				stay = append(stay, filepath.Join(dir, "mine"))
			case "making":
				err = os.WriteFile(filepath.Join(dir, enginetest.LogName), nil, 0o644)
				stay = append(stay, filepath.Join(dir, enginetest.LogName))
			case "unfinished":
				err = errors.Join(os.WriteFile(filepath.Join(dir, enginetest.LogName), nil, 0o644),
					os.WriteFile(filepath.Join(dir, "superblock.tmp"), []byte("PC"), 0o644),
					os.Chtimes(dir, long, long))
				dead = append(dead, dir)
			case "other":
				err = errors.Join(os.WriteFile(filepath.Join(dir, enginetest.LogName), []byte("a log"), 0o644),
					os.Chtimes(dir, long, long))
				stay = append(stay, filepath.Join(dir, enginetest.LogName))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	kept := enginetest.Open(t, t.TempDir(), &engine.Options{SegmentSize: 16 << 10}) // a link to it is not followed
	enginetest.Close(t, kept)
	if err := os.Symlink(kept.Stats().Dir, place(tmp, "link")); err != nil {
		t.Fatal(err)
	}
	stay = append(stay, filepath.Join(kept.Stats().Dir, enginetest.LogName), live.Stats().Dir)
	enginetest.Close(t, enginetest.Open(t, "", o))
	for _, name := range dead {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left, error %v", name, err)
		}
	}
	for _, name := range stay {
		if _, err := os.Lstat(name); err != nil {
			t.Errorf("%s was removed: %v", name, err)
		}
	}
	enginetest.Get(t, live, engine.FirstUserPage)
	enginetest.Close(t, live)
}
