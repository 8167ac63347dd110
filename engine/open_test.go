package engine_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/seam"
	"pagecache/internal/apart"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

// TestOpenerChild is the child process of TestLockKeepsOthersOut: it tries to open a store.
func TestOpenerChild(t *testing.T) {
	dir := os.Getenv("PAGECACHE_OPENER_CHILD")
	if dir == "" {
		t.Skip("only TestLockKeepsOthersOut starts it")
	}
	pc, err := engine.Open(dir, engine.Bytes{}, nil)
	if err != nil {
		fmt.Println("refused:", errors.Is(err, engine.ErrLocked), err)
		return
	}
	enginetest.Watch(t, pc, nil)
	enginetest.Close(t, pc)
	fmt.Println("opened")
}

// An open store is locked against another process and a temporary opening, and neither harms it. A log is locked too.
// Close releases the lock. Trap 19.
func TestLockKeepsOthersOut(t *testing.T) {
	t.Parallel()
	dir, logDir := t.TempDir(), t.TempDir()
	o := &engine.Options{SegmentSize: 16 << 10, IO: engine.IOSyscall}
	pc := enginetest.Open(t, dir, o)
	l := enginetest.OpenLog(t, logDir, o)
	child := func() string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestOpenerChild$", "-test.count=1")
		cmd.Env = append(os.Environ(), "PAGECACHE_OPENER_CHILD="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("child process: %v: %s", err, out)
		}
		return string(out)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if out := child(); !strings.Contains(out, "refused: true") {
			t.Errorf("another process beside the open store: %s", out)
		}
	})
	wg.Go(func() {
		_, err := engine.Open(dir, engine.Bytes{}, &engine.Options{Temporary: true})
		if !errors.Is(err, engine.ErrLocked) || !strings.Contains(err.Error(), dir) {
			t.Errorf("a temporary opening: error %v, want ErrLocked with the directory", err)
		}
	})
	wg.Go(func() {
		if _, err := engine.OpenLog(logDir, nil); !errors.Is(err, engine.ErrLocked) {
			t.Errorf("a second opening of the log: error %v, want ErrLocked", err)
		}
	})
	enginetest.Soon(t, "openings of locked stores", wg.Wait)
	tx := enginetest.Begin(t, pc)
	if _, _, err := pc.Allocate(tx, []byte("mine")); err != nil {
		t.Fatal(err)
	}
	tx.End()
	enginetest.Close(t, l)
	enginetest.Close(t, pc)
	if out := child(); !strings.Contains(out, "opened") {
		t.Errorf("another process after Close: %s", out)
	}
	pc = enginetest.Open(t, dir, o)
	if s := pc.Stats(); s.Pages.InUse != 1 {
		t.Errorf("%d pages in use, want 1", s.Pages.InUse)
	}
}

// A store stays in the directory where it was opened if the working directory changes. A symbolic link to a directory
// serves as a directory.
func TestRelativeDirectory(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	t.Chdir(dir)
	pc := enginetest.Open(t, "store", &engine.Options{SegmentSize: 16 << 10})
	t.Chdir(other)
	tx := enginetest.Begin(t, pc)
	if _, _, err := pc.Allocate(tx, []byte("x")); err != nil {
		t.Fatal(err)
	}
	tx.End()
	enginetest.Close(t, pc)
	if left, err := os.ReadDir(other); err != nil || len(left) > 0 {
		t.Errorf("%v are in the new working directory, error %v", left, err)
	}
	if err := os.Symlink(filepath.Join(dir, "store"), "link"); err != nil {
		t.Fatal(err)
	}
	pc = enginetest.Open(t, "link", nil)
	if s := pc.Stats(); s.Pages.InUse != 1 || !filepath.IsAbs(s.Dir) {
		t.Errorf("%d pages in %s, want 1 and an absolute name", s.Pages.InUse, s.Dir)
	}
	enginetest.Close(t, pc)
}

// Open refuses directories that cannot be made, with the operating system's reason, and a log with a second hard link.
func TestOpenRefusesBadPlaces(t *testing.T) {
	dir := t.TempDir()
	bad := map[string]error{"nul\x00byte": syscall.EINVAL, strings.Repeat("n", 300): syscall.ENAMETOOLONG}
	for name, want := range bad {
		if _, err := engine.Open(filepath.Join(dir, name), engine.Bytes{}, nil); !errors.Is(err, want) {
			t.Errorf("%.20q: error %v, want %v", name, err, want)
		}
	}
	for _, no := range []string{"/proc/self/store", "/sys/kernel/store"} { // root cannot write there either
		if pc, err := engine.Open(no, engine.Bytes{}, nil); err == nil {
			_ = pc.Close()
			t.Errorf("made a store in %s", no)
		}
	}
	if os.Geteuid() != 0 {
		locked := filepath.Join(dir, "locked")
		if err := os.Mkdir(locked, 0o500); err != nil {
			t.Fatal(err)
		}
		if _, err := engine.Open(locked, engine.Bytes{}, nil); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("a directory without write permission: error %v, want ErrPermission", err)
		}
	}
	enginetest.Close(t, enginetest.Open(t, filepath.Join(dir, "store"), &engine.Options{SegmentSize: 16 << 10}))
	if err := os.Link(filepath.Join(dir, "store", enginetest.LogName), filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	_, err := engine.Open(filepath.Join(dir, "store"), engine.Bytes{}, nil)
	if err == nil || !strings.Contains(err.Error(), "2 hard links") {
		t.Errorf("a log with two hard links: error %v", err)
	}
}

// withVersion returns a superblock with another format version and good checksums.
func withVersion(superblock []byte, v uint16) []byte {
	b := slices.Clone(superblock)
	table := crc32.MakeTable(crc32.Castagnoli)
	for c := range slices.Chunk(b, format.SuperCopySize) {
		binary.LittleEndian.PutUint16(c[12:], v)
		binary.LittleEndian.PutUint32(c[8:], crc32.Update(crc32.Checksum(c[:8], table), table, c[12:]))
	}
	return b
}

// version1 returns the superblock of format version 1 that the current one corresponds to: it had 80 bytes.
func version1(superblock []byte) []byte { return withVersion(superblock[:80], 1) }

// Open distinguishes a superblock of another version from a corrupt one: the error is ErrFormat and names both
// versions. No file is changed. O8.
func TestOpenRefusesOtherVersions(t *testing.T) {
	d, _ := enginetest.DirtyStore(t, simdisk.New(3, simdisk.Options{}))
	good := d.ReadDurable("/store/superblock")
	for v, b := range map[uint16][]byte{0: withVersion(good, 0), 1: version1(good),
		format.Version + 1: withVersion(good, format.Version+1), math.MaxUint16: withVersion(good, math.MaxUint16)} {
		d.WriteFile("/store/superblock", b)
		before := fmt.Sprint(enginetest.Files(t, d))
		_, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
		if !errors.Is(err, engine.ErrFormat) || errors.Is(err, engine.ErrCorrupt) ||
			!strings.Contains(err.Error(), fmt.Sprintf("version %d", v)) ||
			!strings.Contains(err.Error(), fmt.Sprintf("knows %d", format.Version)) {
			t.Errorf("version %d: error %v, want ErrFormat with both versions", v, err)
		}
		if fmt.Sprint(enginetest.Files(t, d)) != before {
			t.Errorf("version %d: files were changed", v)
		}
	}
}

// A superblock without its log, or with a log that is shorter than it was after a clean close, is corruption. Open
// changes no file. Proves rule 10.
func TestMissingLogIsCorruption(t *testing.T) {
	dirty, _ := enginetest.DirtyStore(t, simdisk.New(4, simdisk.Options{}))
	clean := dirty.Crash(1)
	enginetest.Close(t, enginetest.OpenSim(t, clean))
	for name, c := range map[string]struct {
		from *simdisk.Disk
		do   func(d *simdisk.Disk) error
	}{
		"removed, clean":     {clean, func(d *simdisk.Disk) error { return d.Remove("/store/log") }},
		"removed, not clean": {dirty, func(d *simdisk.Disk) error { return d.Remove("/store/log") }},
		"emptied, clean":     {clean, func(d *simdisk.Disk) error { d.WriteFile("/store/log", nil); return nil }},
		"cut, clean": {clean, func(d *simdisk.Disk) error {
			d.WriteFile("/store/log", d.ReadDurable("/store/log")[:100])
			return nil
		}},
	} {
		d := c.from.Crash(1)
		if err := c.do(d); err != nil {
			t.Fatal(err)
		}
		before := fmt.Sprint(enginetest.Files(t, d))
		_, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
		ce := (*engine.CorruptError)(nil)
		if !errors.Is(err, engine.ErrCorrupt) || !errors.As(err, &ce) || ce.File != "/store/log" {
			t.Errorf("%s: error %v, want a CorruptError about the log", name, err)
		}
		if fmt.Sprint(enginetest.Files(t, d)) != before {
			t.Errorf("%s: files were changed", name)
		}
	}
}

// An Open after a crash syncs the log before it reads it. An Open after a clean close trusts what it reads, and syncs
// the log only once it is about to move the tail. Proves rule 11.
func TestCrashedLogIsSyncedBeforeReading(t *testing.T) {
	d, pid := enginetest.DirtyStore(t, simdisk.New(5, simdisk.Options{}))
	for i := range 3 {
		var synced, read int
		d.SetFault(func(o simdisk.Op) error {
			switch {
			case o.Name != "/store/log":
			case o.Kind == simdisk.OpSync:
				if synced++; i > 0 && read == 0 {
					t.Error("the log of a store that was closed cleanly was synced before it was read")
				}
			case o.Kind == simdisk.OpRead:
				if read++; i == 0 && synced == 0 {
					t.Error("the log of a crashed store was read before it was synced")
				}
			}
			return nil
		})
		pc := enginetest.OpenSim(t, d)
		if i > 0 && synced > 1 || i == 0 && synced == 0 || read == 0 || !pc.WasRecovered() {
			t.Errorf("opening %d: %d syncs, %d reads of the log, WasRecovered %v", i, synced, read, pc.WasRecovered())
		}
		d.SetFault(nil)
		tx := enginetest.Begin(t, pc)
		if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "durable" {
			t.Errorf("page holds %q, want \"durable\", error %v", p.Value, err)
		}
		tx.End()
		enginetest.Close(t, pc)
	}
}

// Stats report how the log is written, and why not in a faster way. If a required way does not work, Open fails.
func TestStatsReportDevice(t *testing.T) {
	for _, c := range []struct {
		disk   simdisk.Options
		io     engine.IO
		direct engine.Direct
		want   string // empty: Open fails
	}{
		{simdisk.Options{}, engine.IOAuto, engine.DirectAuto, "io_uring, O_DIRECT with RWF_DSYNC, blocks of 4096"},
		{simdisk.Options{}, engine.IOUring, engine.DirectOn, "io_uring, O_DIRECT with RWF_DSYNC, blocks of 4096"},
		{simdisk.Options{Block: 512}, engine.IOSyscall, engine.DirectOff,
			"system calls, through the page cache with RWF_DSYNC, blocks of 512 (simulated)"},
		{simdisk.Options{NoRing: true}, engine.IOAuto, engine.DirectOn,
			"system calls, O_DIRECT with RWF_DSYNC, blocks of 4096 (simulated)"},
		{simdisk.Options{NoDirect: true}, engine.IOUring, engine.DirectAuto,
			"io_uring, through the page cache with RWF_DSYNC, blocks of 4096 (simulated)"},
		{simdisk.Options{NoRing: true}, engine.IOUring, engine.DirectAuto, ""},
		{simdisk.Options{NoDirect: true}, engine.IOAuto, engine.DirectOn, ""},
	} {
		var logs bytes.Buffer
		o := enginetest.SimOptions(simdisk.New(6, c.disk))
		o.IO, o.Direct, o.Logger = c.io, c.direct, slog.New(slog.NewTextHandler(&logs, nil))
		pc, err := engine.Open("/store", engine.Bytes{}, o)
		if c.want == "" {
			if err == nil || !strings.Contains(err.Error(), "open device") {
				t.Errorf("%+v: error %v, want one about the device", c, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		enginetest.Watch(t, pc, o)
		logged := strings.Contains(logs.String(), "log device")
		if got := pc.Stats().Log.Device; got != c.want || strings.Contains(c.want, "simulated") != logged {
			t.Errorf("device %q, want %q; logged %q", got, c.want, logs.String())
		}
		enginetest.Close(t, pc)
	}
}

// With PrintProfileOnClose, Close logs the counts once. Without it, Close logs nothing.
func TestProfileOnClose(t *testing.T) {
	for _, print := range []bool{false, true} {
		var logs bytes.Buffer
		o := enginetest.SimOptions(simdisk.New(7, simdisk.Options{}))
		o.PrintProfileOnClose, o.Logger = print, slog.New(slog.NewTextHandler(&logs, nil))
		pc := enginetest.Open(t, "/store", o)
		enginetest.Close(t, pc)
		_ = pc.Close()
		if n := strings.Count(logs.String(), "LiveBytes"); n > 1 || (n == 1) != print || !print && logs.Len() > 0 {
			t.Errorf("PrintProfileOnClose %v: logged %q", print, logs.String())
		}
	}
}

// Open refuses a log file with more segments than the format allows, and a device whose block does not divide the
// segment size, before it writes anything. Proves rule 12.
func TestOpenRefusesBadSizes(t *testing.T) {
	dir := t.TempDir()
	pc := enginetest.Open(t, dir, &engine.Options{SegmentSize: 16 << 10})
	enginetest.AllocateMany(t, pc, 10, 100)
	enginetest.Close(t, pc)
	if err := os.Truncate(filepath.Join(dir, enginetest.LogName), (segments.MaxSlots+5)*16<<10); err != nil {
		t.Skipf("the file system has no files of that length: %v", err)
	}
	for _, readOnly := range []bool{true, false} {
		_, err := engine.Open(dir, engine.Bytes{}, &engine.Options{ReadOnly: readOnly})
		if !errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("ReadOnly %v: error %v, want ErrCorrupt", readOnly, err)
		}
	}
	d := simdisk.New(1, simdisk.Options{Block: 32 << 10})
	_, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
	if err == nil || !strings.Contains(err.Error(), "block of 32768 bytes") {
		t.Errorf("blocks longer than segments: error %v", err)
	}
}

// An Open that fails releases its io buffers.
func TestFailedOpenReleasesBuffers(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const opens, size, buffers = 20, 16 << 20, 4
	before := 0
	for i := range opens + 1 {
		o := enginetest.SimOptions(simdisk.New(1, simdisk.Options{NoRing: true}))
		o.IO, o.SegmentSize, o.IOBuffers = engine.IOUring, size, buffers
		if _, err := engine.Open("/store", engine.Bytes{}, o); err == nil {
			t.Fatal("opened without a ring")
		}
		runtime.GC() // with the race detector the buffers lie on the heap, and garbage would count as mapped
		if i == 0 {
			before = enginetest.Mapped(t) // the heap has grown to the size that one Open needs
		}
	}
	if n := enginetest.Mapped(t) - before; n > opens*buffers*size/2 {
		t.Errorf("%d MiB are still mapped", n>>20)
	}
}

// bulkFS is a simulated disk that records the offsets of bulk reads, until the store is open. A second bulk read of an
// offset fails.
type bulkFS struct {
	*simdisk.Disk
	read *bulkReads
}

// bulkReads are the offsets that were read in bulk.
type bulkReads struct {
	at     sync.Map // int64: true
	opened atomic.Bool
}

func (s bulkFS) OpenDir(path string) (vfs.Dir, error) {
	w := &simdisk.Wrap{FS: s.Disk, File: func(d vfs.Dir, name string, flag vfs.Flag) (vfs.File, error) {
		f, err := d.Open(name, flag)
		return bulkFile{f, s.read}, err
	}}
	return w.OpenDir(path)
}

type bulkFile struct {
	vfs.File
	read *bulkReads
}

func (f bulkFile) OpenBulk() vfs.Bulk { return countedBulk{f.File.OpenBulk(), f.read} }

type countedBulk struct {
	vfs.Bulk
	read *bulkReads
}

func (b countedBulk) ReadAt(p []byte, off int64) (int, error) {
	if len(p) < logstore.BulkSegment { // a header
		return b.Bulk.ReadAt(p, off)
	}
	if _, again := b.read.at.Swap(off, true); again && !b.read.opened.Load() {
		return 0, fmt.Errorf("read again at %d", off)
	}
	return b.Bulk.ReadAt(p, off)
}

// Open reads the segments of a store that was not closed cleanly in bulk, bypassing the page cache, each once. After a
// clean close it uses the page cache. Short segments are read ahead through the page cache. Proves rule 11.
func TestScanBypassesPageCache(t *testing.T) {
	t.Parallel()
	for _, size := range []int{logstore.BulkSegment / 2, logstore.BulkSegment} {
		d := simdisk.New(1, simdisk.Options{})
		open := func() (pc *engine.PageCache[[]byte], read int) {
			var reads bulkReads
			o := &engine.Options{SegmentSize: size, IOBuffers: 2, FlushEvery: -1}
			pc = enginetest.Open(t, "/store", enginetest.WithSeam(o, seam.Options{FS: bulkFS{d, &reads}}))
			reads.opened.Store(true) // the check after Close reads too
			for range reads.at.Range {
				read++
			}
			return pc, read
		}
		pc, _ := open()
		enginetest.AllocateMany(t, pc, 50, 100_000)
		enginetest.Close(t, pc)
		pc, read := open()
		if read != 0 {
			t.Errorf("%d segments were read in bulk after a clean close", read)
		}
		before := pc.Stats().Space.SegmentsInUse
		enginetest.AllocateMany(t, pc, 50, 100_000)
		enginetest.Flush(t, pc)
		written := pc.Stats().Space.SegmentsInUse - before
		crashed := d.Crash(1)
		if err := pc.Close(); err == nil {
			t.Error("closed without an error on a disk that has crashed")
		}
		d = crashed
		pc, read = open()
		if bulk := size >= logstore.BulkSegment; bulk && read < written || !bulk && read > 0 || written < 5 {
			t.Errorf("%d segments of %d bytes were read in bulk, %d had been written", read, size, written)
		}
		enginetest.Close(t, pc)
	}
}

// Open makes directories with mode 0755 and files with mode 0644, less the umask, and leaves the mode of a directory
// that exists.
func TestUmaskLimitsModes(t *testing.T) {
	for umask, want := range map[int][2]fs.FileMode{0o022: {0o755, 0o644}, 0o077: {0o700, 0o600}, 0: {0o755, 0o644}} {
		parent := t.TempDir()
		if err := os.Chmod(parent, 0o711); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(parent, "a", "b")
		before := syscall.Umask(umask)
		pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{SegmentSize: 64 << 10, IOBuffers: 2})
		if err == nil {
			enginetest.Watch(t, pc, nil)
			enginetest.AllocateMany(t, pc, 3, 40_000) // blobs
			if err = pc.Snapshot(); err == nil {
				enginetest.Close(t, pc) // it writes a snapshot
			}
		}
		syscall.Umask(before)
		if err != nil {
			t.Fatal(err)
		}
		files := 0
		err = filepath.WalkDir(parent, func(name string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			mode, right := info.Mode().Perm(), want[1]
			if files++; name == parent {
				right = 0o711
			} else if e.IsDir() {
				right = want[0]
			}
			if mode != right {
				t.Errorf("umask %03o: %s has mode %03o, want %03o", umask, name, mode, right)
			}
			return nil
		})
		if err != nil || files < 9 {
			t.Errorf("%d files and directories, error %v", files, err)
		}
	}
}
