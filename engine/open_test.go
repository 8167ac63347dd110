package engine

import (
	"bytes"
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
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/seam"
	"pagecache/internal/osfs"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

// The ends of each range are good values, and so is every value of a field without a limit. Nil options are the
// defaults.
func TestOptionEdges(t *testing.T) {
	for _, o := range []*Options{nil, {}, {SegmentSize: 16 << 10}, {SegmentSize: 20 << 10}, {SegmentSize: 16 << 20},
		{IOBuffers: 2}, {IOBuffers: 32},
		{CacheCapacity: 1}, {CacheCapacity: math.MaxInt64}, {ConsolidateAfter: 1}, {ConsolidateAfter: 1 << 20},
		{FlushEvery: 1}, {FlushEvery: math.MaxInt64}, {FlushEvery: math.MinInt64}, {SnapshotEvery: 1},
		{SnapshotEvery: math.MaxInt},
		{CleanupThreshold: 0.01}, {CleanupThreshold: 1}, {CleanupSkew: 1}, {CleanupSkew: 98},
		{SegmentMode: SegmentModeLinear},
		{CompressionLevel: 1}, {CompressionLevel: 22},
		{IDPersistInterval: 1}, {IDPersistInterval: 1 << 32}, {IO: IOUring}, {IO: IOSyscall},
		{Direct: DirectOn}, {Direct: DirectOff}} {
		if err := o.Validate(); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// A bad value is blamed on its own field, with the value, and on no other; many bad values on all of theirs.
func TestOptionsNameTheBadField(t *testing.T) {
	var all Options
	names := map[string]bool{}
	for _, c := range []struct {
		field string
		value any
	}{
		{"SegmentSize", -4096}, {"SegmentSize", 1}, {"SegmentSize", 12 << 10}, {"SegmentSize", 16<<20 + 4096},
		{"SegmentSize", 18 << 10}, {"IOBuffers", -2}, {"CacheCapacity", int64(math.MinInt64)},
		{"ConsolidateAfter", math.MinInt},
		{"SnapshotEvery", -1},
		{"CleanupThreshold", 0.001}, {"CleanupThreshold", math.Inf(1)}, {"CleanupThreshold", math.NaN()},
		{"CleanupSkew", -1}, {"SegmentMode", SegmentMode(-1)}, {"Compression", Compression(-1)},
		{"CompressionLevel", -1},
		{"IDPersistInterval", uint64(1<<32 + 1)}, {"IO", IO(-1)}, {"Direct", Direct(3)},
	} {
		var o Options
		for _, o := range []*Options{&o, &all} {
			reflect.ValueOf(o).Elem().FieldByName(c.field).Set(reflect.ValueOf(c.value))
		}
		names[c.field] = true
		err := o.Validate()
		shown := c.value
		if v := reflect.ValueOf(c.value); v.CanInt() { // not the name of an enum's value
			shown = v.Int()
		}
		want := fmt.Sprintf("bad options: %s %v: want ", c.field, shown)
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s %v: %v", c.field, c.value, err)
		}
	}
	err := all.Validate()
	for name := range names {
		if err == nil || !strings.Contains(err.Error(), name+" ") {
			t.Errorf("%s is not among the bad fields: %v", name, err)
		}
	}
}

// failFS is a file system on which opening one file fails. It notes the name.
type failFS struct {
	vfs.FS
	file, asked string
}

func (f *failFS) Open(name string, flag vfs.Flag) (vfs.File, error) {
	if filepath.Base(name) == f.file {
		f.asked = name
		return nil, syscall.EMFILE
	}
	return f.FS.Open(name, flag)
}

// An opening of a temporary store that fails removes the files that it made, and no file that was there before. O8.
func TestTemporaryThatFails(t *testing.T) {
	for _, file := range []string{logstore.LogName, logstore.SuperName, "superblock.tmp"} {
		f := &failFS{FS: osfs.OS, file: file}
		o := &Options{Temporary: true, SegmentSize: 16 << 10, seam: seam.Options{FS: f}}
		if _, err := Open("", Bytes{}, o); !errors.Is(err, syscall.EMFILE) {
			t.Fatalf("%s: %v", file, err)
		}
		if left, err := os.ReadDir(filepath.Dir(f.asked)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: left %v in %s, %v", file, left, filepath.Dir(f.asked), err)
		}
	}
	d := simdisk.New(1, simdisk.Options{NoRing: true})
	o := simOptions(d)
	o.Temporary, o.IO = true, IOUring
	if _, err := Open("/store", Bytes{}, o); err == nil {
		t.Error("opened with a ring that does not work")
	}
	if names, err := d.ReadDir("/store"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left %v, %v", names, err)
	}
	first, pid := dirtyStore(t, simdisk.New(2, simdisk.Options{NoRing: true}))
	before := fmt.Sprint(files(t, first))
	for name, bad := range map[string]Options{"segment size": {SegmentSize: 32 << 10}, "device": {IO: IOUring}} {
		bad.Temporary, bad.seam.FS = true, first
		if _, err := Open("/store", Bytes{}, &bad); err == nil {
			t.Errorf("%s: opened", name)
		}
		_, err := OpenLog("/store", &Options{Temporary: true, seam: seam.Options{FS: first}})
		if !errors.Is(err, ErrKind) {
			t.Error(err)
		}
		if now := fmt.Sprint(files(t, first)); now != before {
			t.Fatalf("%s: a refused opening that was to be temporary has changed the store that was there", name)
		}
	}
	pc := openSim(t, first)
	defer closeTest(t, pc)
	tx := begin(t, pc)
	defer tx.End()
	if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "durable" {
		t.Errorf("%q %v", p.Value, err)
	}
}

// If no directory is named, a temporary store lies in memory.
func TestTemporaryPlace(t *testing.T) {
	pc := openTest(t, "", &Options{Temporary: true, SegmentSize: 16 << 10})
	defer closeTest(t, pc)
	want := os.TempDir()
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		want = "/dev/shm"
	}
	if dir := pc.Stats().Dir; filepath.Dir(dir) != want {
		t.Errorf("%s, want it in %s", dir, want)
	}
}

// The other half of TestLockHolds: it opens a store in a process of its own.
func TestOpenerChild(t *testing.T) {
	dir := os.Getenv("PAGECACHE_OPENER_CHILD")
	if dir == "" {
		t.Skip("is started by TestLockHolds")
	}
	pc, err := Open(dir, Bytes{}, nil)
	if err != nil {
		fmt.Println("refused:", errors.Is(err, ErrLocked), err)
		return
	}
	closeTest(t, pc)
	fmt.Println("opened")
}

// An open store is locked against another process and a temporary opening, neither of which harms it. A log is locked
// too. Close releases the lock. Trap 19.
func TestLockHolds(t *testing.T) {
	t.Parallel()
	dir, logDir := t.TempDir(), t.TempDir()
	o := &Options{SegmentSize: 16 << 10, IO: IOSyscall}
	pc := openTest(t, dir, o)
	l, err := OpenLog(logDir, o)
	if err != nil {
		t.Fatal(err)
	}
	child := func() string {
		cmd := exec.Command(os.Args[0], "-test.run=^TestOpenerChild$", "-test.count=1")
		cmd.Env = append(os.Environ(), "PAGECACHE_OPENER_CHILD="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return string(out)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if out := child(); !strings.Contains(out, "refused: true") {
			t.Errorf("another process: %s", out)
		}
	})
	wg.Go(func() {
		_, err := Open(dir, Bytes{}, &Options{Temporary: true})
		if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
			t.Errorf("a temporary opening: %v", err)
		}
	})
	wg.Go(func() {
		if _, err := OpenLog(logDir, nil); !errors.Is(err, ErrLocked) {
			t.Errorf("a second log: %v", err)
		}
	})
	wg.Wait()
	tx := begin(t, pc)
	if _, _, err := pc.Allocate(tx, []byte("mine")); err != nil {
		t.Fatal(err)
	}
	tx.End()
	closeTest(t, l)
	closeTest(t, pc)
	if out := child(); !strings.Contains(out, "opened") {
		t.Errorf("another process after Close: %s", out)
	}
	pc = openTest(t, dir, o)
	defer closeTest(t, pc)
	if s := pc.Stats(); s.Pages.InUse != 1 {
		t.Errorf("%d pages are left", s.Pages.InUse)
	}
}

// An opening that waits for a temporary store to close does not get the rest of it: its file has no name any more.
func TestOpenAsATemporaryStoreGoes(t *testing.T) {
	for _, n := range []int{0, 1} { // nothing written, something written
		dir := t.TempDir()
		first := openTest(t, dir, &Options{Temporary: true, SegmentSize: 16 << 10, IO: IOSyscall})
		tx := begin(t, first)
		for range n {
			if _, _, err := first.Allocate(tx, []byte("gone")); err != nil {
				t.Fatal(err)
			}
		}
		tx.End()
		time.AfterFunc(30*time.Millisecond, func() { _ = first.Close() })
		pc := openTest(t, dir, &Options{SegmentSize: 32 << 10, IO: IOSyscall})
		if pc.WasRecovered() {
			t.Error("recovered what was removed")
		}
		tx = begin(t, pc)
		pid, _, err := pc.Allocate(tx, []byte("stays"))
		if err != nil {
			t.Fatal(err)
		}
		tx.End()
		closeTest(t, pc)
		pc = openTest(t, dir, nil)
		tx = begin(t, pc)
		if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "stays" {
			t.Errorf("%q %v", p.Value, err)
		}
		tx.End()
		closeTest(t, pc)
	}
}

// A store stays where it was opened if the working directory changes. A link to a directory serves as a directory.
func TestRelativeDirectory(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	t.Chdir(dir)
	pc := openTest(t, "store", &Options{SegmentSize: 16 << 10})
	t.Chdir(elsewhere)
	tx := begin(t, pc)
	if _, _, err := pc.Allocate(tx, []byte("x")); err != nil {
		t.Fatal(err)
	}
	tx.End()
	closeTest(t, pc)
	if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
		t.Errorf("%v in the new working directory, %v", left, err)
	}
	if err := os.Symlink(filepath.Join(dir, "store"), "link"); err != nil {
		t.Fatal(err)
	}
	pc = openTest(t, "link", nil)
	if s := pc.Stats(); s.Pages.InUse != 1 || !filepath.IsAbs(s.Dir) {
		t.Errorf("%d pages in %s", s.Pages.InUse, s.Dir)
	}
	closeTest(t, pc)
}

// Directories that cannot be made, and a log with a second name, are refused with the system's reason.
func TestPlacesThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	bad := map[string]error{"nul\x00byte": syscall.EINVAL, strings.Repeat("n", 300): syscall.ENAMETOOLONG}
	for name, want := range bad {
		if _, err := Open(filepath.Join(dir, name), Bytes{}, nil); !errors.Is(err, want) {
			t.Errorf("%.20q: %v", name, err)
		}
	}
	for _, no := range []string{"/proc/self/store", "/sys/kernel/store"} { // not for root either
		if pc, err := Open(no, Bytes{}, nil); err == nil {
			_ = pc.Close()
			t.Errorf("made a store in %s", no)
		}
	}
	if os.Geteuid() != 0 {
		locked := filepath.Join(dir, "locked")
		if err := os.Mkdir(locked, 0o500); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(locked, Bytes{}, nil); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("a directory that may not be written: %v", err)
		}
	}
	closeTest(t, openTest(t, filepath.Join(dir, "store"), &Options{SegmentSize: 16 << 10}))
	if err := os.Link(filepath.Join(dir, "store", logstore.LogName), filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	_, err := Open(filepath.Join(dir, "store"), Bytes{}, nil)
	if err == nil || !strings.Contains(err.Error(), "2 hard links") {
		t.Errorf("a log with two names: %v", err)
	}
}

// A superblock of another version is distinguished from a corrupt one. The error names both versions, and nothing is
// changed. O8.
func TestOtherVersions(t *testing.T) {
	d, _ := dirtyStore(t, simdisk.New(3, simdisk.Options{}))
	good := d.ReadDurable("/store/superblock")
	table := crc32.MakeTable(crc32.Castagnoli)
	for _, v := range []uint16{0, format.Version + 1, math.MaxUint16} {
		b := slices.Clone(good)
		binary.LittleEndian.PutUint16(b[12:], v)
		binary.LittleEndian.PutUint32(b[8:], crc32.Update(crc32.Checksum(b[:8], table), table, b[12:]))
		d.WriteFile("/store/superblock", b)
		before := fmt.Sprint(files(t, d))
		_, err := Open("/store", Bytes{}, simOptions(d))
		if !errors.Is(err, ErrFormat) || errors.Is(err, ErrCorrupt) ||
			!strings.Contains(err.Error(), fmt.Sprintf("version %d", v)) ||
			!strings.Contains(err.Error(), fmt.Sprintf("knows %d", format.Version)) {
			t.Errorf("version %d: %v", v, err)
		}
		if fmt.Sprint(files(t, d)) != before {
			t.Errorf("version %d: files were changed", v)
		}
	}
}

// A superblock without its log, or with a log that is shorter than a clean close left it, is corruption, and nothing is
// changed. Proves rule 10.
func TestMissingLog(t *testing.T) {
	dirty, _ := dirtyStore(t, simdisk.New(4, simdisk.Options{}))
	clean := dirty.Crash(1)
	closeTest(t, openSim(t, clean))
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
		before := fmt.Sprint(files(t, d))
		_, err := Open("/store", Bytes{}, simOptions(d))
		ce := (*CorruptError)(nil)
		if !errors.Is(err, ErrCorrupt) || !errors.As(err, &ce) || ce.File != "/store/log" {
			t.Errorf("%s: %v", name, err)
		}
		if fmt.Sprint(files(t, d)) != before {
			t.Errorf("%s: files were changed", name)
		}
	}
}

// An opening after a crash syncs the log before it reads it; one after a clean close has no need. Proves rule 11.
func TestCleanOpeningSyncsNothing(t *testing.T) {
	d, pid := dirtyStore(t, simdisk.New(5, simdisk.Options{}))
	for i := range 3 {
		var synced, read int
		d.SetFault(func(o simdisk.Op) error {
			switch {
			case o.Name != "/store/log":
			case o.Kind == simdisk.OpSync:
				synced++
			case o.Kind == simdisk.OpRead:
				if read++; i == 0 && synced == 0 {
					t.Error("the log of a crashed store was read before it was synced")
				}
			}
			return nil
		})
		pc := openSim(t, d)
		if (i == 0) != (synced > 0) || read == 0 || !pc.WasRecovered() {
			t.Errorf("opening %d: %d syncs, %d reads, WasRecovered %v", i, synced, read, pc.WasRecovered())
		}
		d.SetFault(nil)
		tx := begin(t, pc)
		if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "durable" {
			t.Errorf("%q %v", p.Value, err)
		}
		tx.End()
		closeTest(t, pc)
	}
}

// Stats report how the log is written, and why not in a faster way. A way that is required and does not work is an
// error.
func TestDeviceLine(t *testing.T) {
	for _, c := range []struct {
		disk   simdisk.Options
		io     IO
		direct Direct
		want   string // empty: an error
	}{
		{simdisk.Options{}, IOAuto, DirectAuto, "io_uring, O_DIRECT with RWF_DSYNC, blocks of 4096"},
		{simdisk.Options{}, IOUring, DirectOn, "io_uring, O_DIRECT with RWF_DSYNC, blocks of 4096"},
		{simdisk.Options{Block: 512}, IOSyscall, DirectOff,
			"system calls, through the page cache with RWF_DSYNC, blocks of 512 (simulated)"},
		{simdisk.Options{NoRing: true}, IOAuto, DirectOn,
			"system calls, O_DIRECT with RWF_DSYNC, blocks of 4096 (simulated)"},
		{simdisk.Options{NoDirect: true}, IOUring, DirectAuto,
			"io_uring, through the page cache with RWF_DSYNC, blocks of 4096 (simulated)"},
		{simdisk.Options{NoRing: true}, IOUring, DirectAuto, ""},
		{simdisk.Options{NoDirect: true}, IOAuto, DirectOn, ""},
	} {
		var said bytes.Buffer
		o := simOptions(simdisk.New(6, c.disk))
		o.IO, o.Direct, o.Logger = c.io, c.direct, slog.New(slog.NewTextHandler(&said, nil))
		pc, err := Open("/store", Bytes{}, o)
		if c.want == "" {
			if err == nil || !strings.Contains(err.Error(), "open device") {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		logged := strings.Contains(said.String(), "log device")
		if got := pc.Stats().Log.Device; got != c.want || strings.Contains(c.want, "simulated") != logged {
			t.Errorf("%q, want %q; logged %q", got, c.want, said.String())
		}
		closeTest(t, pc)
	}
}

// With PrintProfileOnClose the counts are logged, once; without, nothing is.
func TestProfileOnClose(t *testing.T) {
	for _, print := range []bool{false, true} {
		var said bytes.Buffer
		o := simOptions(simdisk.New(7, simdisk.Options{}))
		o.PrintProfileOnClose, o.Logger = print, slog.New(slog.NewTextHandler(&said, nil))
		pc := openTest(t, "/store", o)
		closeTest(t, pc)
		_ = pc.Close()
		if n := strings.Count(said.String(), "LiveBytes"); n > 1 || (n == 1) != print || !print && said.Len() > 0 {
			t.Errorf("print %v: %s", print, said.String())
		}
	}
}

// A log file with more segments than there can be is refused, and so is a device whose block does not divide the
// segment size, before anything is written. Proves rule 12.
func TestRefusedSizes(t *testing.T) {
	dir := t.TempDir()
	pc := openTest(t, dir, &Options{SegmentSize: 16 << 10})
	some(t, pc, 10, 100)
	closeTest(t, pc)
	if err := os.Truncate(filepath.Join(dir, logstore.LogName), (segments.MaxSlots+5)*16<<10); err != nil {
		t.Skipf("no such long files here: %v", err)
	}
	for _, readOnly := range []bool{true, false} {
		if _, err := Open(dir, Bytes{}, &Options{ReadOnly: readOnly}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("read only %v: %v", readOnly, err)
		}
	}
	_, err := Open("/store", Bytes{}, simOptions(simdisk.New(1, simdisk.Options{Block: 32 << 10})))
	if err == nil || !strings.Contains(err.Error(), "block of 32768 bytes") {
		t.Errorf("blocks longer than segments: %v", err)
	}
}

// An opening that fails gives its io buffers back.
func TestFailedOpenLeavesNothing(t *testing.T) {
	const opens, size, buffers = 20, 16 << 20, 4
	before := 0
	for i := range opens + 1 {
		o := simOptions(simdisk.New(1, simdisk.Options{NoRing: true}))
		o.IO, o.SegmentSize, o.IOBuffers = IOUring, size, buffers
		if _, err := Open("/store", Bytes{}, o); err == nil {
			t.Fatal("opened without a ring")
		}
		runtime.GC() // with the race detector they lie on the heap, and garbage would count as mapped
		if i == 0 {
			before = mapped(t) // after the heap has grown to what one needs
		}
	}
	if n := mapped(t) - before; n > opens*buffers*size/2 {
		t.Errorf("%d MiB are still mapped", n>>20)
	}
}

type bulkFS struct {
	*simdisk.Disk
	read *sync.Map // of offset: true
}

func (s bulkFS) Open(name string, flag vfs.Flag) (vfs.File, error) {
	f, err := s.Disk.Open(name, flag)
	return bulkFile{f, s.read}, err
}

type bulkFile struct {
	vfs.File
	read *sync.Map
}

func (f bulkFile) OpenBulk() vfs.Bulk { return countedBulk{f.File.OpenBulk(), f.read} }

type countedBulk struct {
	vfs.Bulk
	read *sync.Map
}

func (b countedBulk) ReadAt(p []byte, off int64) (int, error) {
	if _, again := b.read.Swap(off, true); again {
		return 0, fmt.Errorf("read again at %d", off)
	}
	return b.Bulk.ReadAt(p, off)
}

// The segments of a store that was not closed cleanly are read past the page cache, each once. After a clean close the
// page cache is used. Short segments are read ahead. Proves rule 11.
func TestScanPassesTheCache(t *testing.T) {
	for _, size := range []int{logstore.BulkSegment / 2, logstore.BulkSegment} {
		d := simdisk.New(1, simdisk.Options{})
		open := func() (pc *PageCache[[]byte], read int) {
			var offs sync.Map
			pc = openTest(t, "/store", &Options{SegmentSize: size, IOBuffers: 2, FlushEvery: -1,
				seam: seam.Options{FS: bulkFS{d, &offs}}})
			for range offs.Range {
				read++
			}
			return pc, read
		}
		pc, _ := open()
		some(t, pc, 50, 100_000)
		closeTest(t, pc)
		pc, read := open()
		if read != 0 {
			t.Errorf("%d segments were read past the page cache after a clean close", read)
		}
		before := pc.Stats().Space.SegmentsInUse
		some(t, pc, 50, 100_000)
		flushTest(t, pc)
		written := pc.Stats().Space.SegmentsInUse - before
		crashed := d.Crash(1)
		if err := pc.Close(); err == nil {
			t.Error("closed on a disk that has crashed")
		}
		d = crashed
		pc, read = open()
		if past := size >= logstore.BulkSegment; past && read < written || !past && read > 0 || written < 5 {
			t.Errorf("%d segments of %d bytes were read past the page cache, %d had been written", read, size, written)
		}
		closeTest(t, pc)
	}
}
