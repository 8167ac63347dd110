package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pagecache/engine/internal/logstore"
)

// Every field that is out of its bounds is named, all in one error, and nothing is made.
func TestOptionsBounds(t *testing.T) {
	bad := map[string]Options{
		"SegmentSize":          {SegmentSize: 16<<10 + 1},
		"SegmentSize 4096":     {SegmentSize: 4096},
		"SegmentSize 33554432": {SegmentSize: 32 << 20},
		"IOBuffers 1":          {IOBuffers: 1},
		"IOBuffers 33":         {IOBuffers: 33},
		"CacheCapacity":        {CacheCapacity: -1},
		"ConsolidateAfter -1":  {ConsolidateAfter: -1},
		"ConsolidateAfter":     {ConsolidateAfter: 1<<20 + 1},
		"SnapshotEvery":        {SnapshotEvery: -5},
		"CleanupThreshold":     {CleanupThreshold: 1.5},
		"CleanupThreshold -":   {CleanupThreshold: -1},
		"CleanupSkew":          {CleanupSkew: 99},
		"SegmentMode":          {SegmentMode: 7},
		"Compression 9":        {Compression: 9},
		"CompressionLevel":     {CompressionLevel: 23},
		"IDPersistInterval":    {IDPersistInterval: 1 << 63},
		"IO 4":                 {IO: 4},
		"Direct":               {Direct: -1},
		"ReadOnly and Temp":    {ReadOnly: true, Temporary: true},
	}
	for want, o := range bad {
		dir := filepath.Join(t.TempDir(), "store")
		if _, err := Open(dir, Bytes{}, &o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		if _, err := OpenLog(dir, &o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("log: %s: %v", want, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: refused, and the directory was made", want)
		}
	}
	all := Options{IOBuffers: 1, CleanupSkew: -1, IO: 9}
	if err := all.Validate(); err == nil || strings.Count(err.Error(), "want") != 3 {
		t.Errorf("three bad fields: %v", err)
	}
	if _, err := Open[[]byte](t.TempDir(), nil, nil); err == nil {
		t.Error("opened without a Materializer")
	}
	if _, err := Open("", Bytes{}, nil); err == nil {
		t.Error("opened without a directory")
	}
}

// Everything but the segment size may change from one opening to the next; nil options are the defaults.
func TestReopenWithOtherOptions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "on", "the", "way")
	var want []string
	for i, o := range []*Options{{SegmentSize: 64 << 10}, nil, {IO: IOSyscall, FlushEvery: -1}, {Direct: DirectOff, IOBuffers: 7}, {IO: IOSyscall, Direct: DirectOff},
		{SegmentSize: 64 << 10, IDPersistInterval: 3, ConsolidateAfter: 1}, {SegmentMode: SegmentModeLinear, CacheCapacity: 1}} {
		pc := openTest(t, dir, o)
		if pc.WasRecovered() != (i > 0) {
			t.Errorf("opening %d: WasRecovered is %v", i, pc.WasRecovered())
		}
		tx := begin(t, pc)
		for pid, v := range want {
			if p, err := pc.Get(tx, FirstUserPage+PageID(pid)); err != nil || string(p.Value) != v || p.Kind != KindMaterialized {
				t.Fatalf("opening %d: page %d: %q %v", i, pid, p.Value, err)
			}
		}
		want = append(want, fmt.Sprintf("opening %d", i))
		if pid, _, err := pc.Allocate(tx, []byte(want[i])); err != nil || pid != FirstUserPage+PageID(i) {
			t.Fatalf("page %d, %v", pid, err)
		}
		tx.End()
		s := pc.Stats()
		if s.Dir != dir || s.Pages.InUse != int64(i+1) || s.Generation != uint64(i+1) || o != nil && o.IO == IOSyscall && !strings.Contains(s.Log.Device, "system calls") {
			t.Errorf("%+v", s)
		}
		closeTest(t, pc)
	}
	for _, size := range []int{16 << 10, 128 << 10} {
		if _, err := Open(dir, Bytes{}, &Options{SegmentSize: size}); err == nil || !strings.Contains(err.Error(), fmt.Sprint(size)) ||
			!strings.Contains(err.Error(), "65536") {
			t.Errorf("segments of another size: %v", err)
		}
	}
	if _, err := OpenLog(dir, nil); !errors.Is(err, ErrKind) {
		t.Errorf("a page store opened as a log: %v", err)
	}
	if pc := openTest(t, dir, nil); pc.Stats().Pages.InUse != int64(len(want)) {
		t.Error("a refused opening changed something")
	} else {
		closeTest(t, pc)
	}
}

// A temporary store leaves nothing behind, wherever it lies, and takes nothing along that is not its own.
func TestTemporary(t *testing.T) {
	mine := t.TempDir()
	if err := os.WriteFile(filepath.Join(mine, "notes"), []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", filepath.Join(t.TempDir(), "new"), mine} {
		pc := openTest(t, dir, &Options{Temporary: true, SegmentSize: 16 << 10})
		where := pc.Stats().Dir
		tx := begin(t, pc)
		if _, _, err := pc.Allocate(tx, []byte("x")); err != nil {
			t.Fatal(err)
		}
		tx.End()
		closeTest(t, pc)
		left, err := os.ReadDir(where)
		if dir == mine {
			if err != nil || len(left) != 1 || left[0].Name() != "notes" {
				t.Errorf("%v, %v", left, err)
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v, %v", dir, left, err)
		}
	}
}

// What lies in the directory beside the store is left alone.
func TestStrayFiles(t *testing.T) {
	dir := t.TempDir()
	stray := []string{"log.bak", "superblock.old", "core", ".hidden", "snap.tmp"}
	for _, n := range stray {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "superblock.tmp"), []byte("half a superblock"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		closeTest(t, openTest(t, dir, &Options{SegmentSize: 16 << 10}))
	}
	for _, n := range stray {
		if b, err := os.ReadFile(filepath.Join(dir, n)); err != nil || string(b) != n {
			t.Errorf("%s: %q %v", n, b, err)
		}
	}
}

// What is not a regular file in the place of one of the store's is refused at once, and so is a directory that is none. O8.
func TestPlacesOfFiles(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"FIFO":      func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"symlink":   func(p string) error { return os.Symlink("/etc/hostname", p) },
		"dangling":  func(p string) error { return os.Symlink(filepath.Join(filepath.Dir(p), "nowhere"), p) },
		"device":    func(p string) error { return os.Symlink("/dev/null", p) },
	} {
		for _, file := range []string{logstore.LogName, logstore.SuperName} {
			dir := t.TempDir()
			if file == logstore.SuperName { // of a store that there is
				closeTest(t, openTest(t, dir, &Options{SegmentSize: 16 << 10}))
				if err := os.Remove(filepath.Join(dir, file)); err != nil {
					t.Fatal(err)
				}
			}
			if err := put(filepath.Join(dir, file)); err != nil {
				t.Fatal(err)
			}
			soon(t, name, func() {
				if pc, err := Open(dir, Bytes{}, &Options{SegmentSize: 16 << 10}); err == nil {
					_ = pc.Close()
					t.Errorf("a %s in the place of the %s was taken for it", name, file)
				}
			})
			if _, err := os.Lstat(filepath.Join(dir, "nowhere")); !errors.Is(err, fs.ErrNotExist) {
				t.Error("a link was followed")
			}
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		if _, err := Open(dir, Bytes{}, nil); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// Closing waits for Txs, and every call after it says ErrClosed. A Tx that never ends does not hold it up for ever, and what it sees
// stays. Trap 20.
func TestClose(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 16 << 10})
	tx := begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	batch, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, tx.End)
	closeTest(t, pc)
	errs := map[string]error{"Close": pc.Close(), "Seal": batch.Seal()}
	_, errs["Begin"] = pc.Begin()
	_, errs["GenerateID"] = pc.GenerateID()
	_, errs["PinLog"] = pc.PinLog()
	_, errs["Flush"] = pc.Flush()
	_, errs["MakeStable"] = pc.MakeStable(ptr.LastLSN() + 1000)
	for what, err := range errs {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	if _, err := pc.Get(tx, pid); !errors.Is(err, ErrTxEnded) {
		t.Errorf("Get in an ended Tx of a closed store: %v", err)
	}
	pc.BumpReadTS(tx, pid, 7) // nothing, and no panic
	_ = pc.Stats()

	if testing.Short() {
		return
	}
	t.Parallel()
	pc = openTest(t, t.TempDir(), &Options{SegmentSize: 16 << 10})
	tx = begin(t, pc)
	if pid, _, err = pc.Allocate(tx, []byte("seen")); err != nil {
		t.Fatal(err)
	}
	p, err := pc.Get(tx, pid)
	if err != nil {
		t.Fatal(err)
	}
	soon(t, "closing under a Tx", func() {
		if err := pc.Close(); err == nil || !strings.Contains(err.Error(), "1 transactions") {
			t.Errorf("%v", err)
		}
	})
	if _, err := pc.Get(tx, pid); !errors.Is(err, ErrClosed) || string(p.Value) != "seen" {
		t.Errorf("%v, %q", err, p.Value)
	}
	tx.End()
}

// Two kinds of stores, one directory: whoever is second is told, and changes nothing.
func TestLogIsNoPageStore(t *testing.T) {
	dir := t.TempDir()
	l, err := OpenLog(dir, &Options{SegmentSize: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	lsn, ptr, err := l.Write([]byte("record"))
	if err != nil {
		t.Fatal(err)
	}
	closeTest(t, l)
	if _, err := Open(dir, Bytes{}, nil); !errors.Is(err, ErrKind) {
		t.Errorf("a log opened as a page store: %v", err)
	}
	if l, err = OpenLog(dir, nil); err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, l)
	if b, err := l.Read(lsn, ptr); err != nil || string(b) != "record" {
		t.Errorf("%q %v", b, err)
	}
	if names, err := os.ReadDir(dir); err != nil || !slices.ContainsFunc(names, func(e fs.DirEntry) bool { return e.Name() == logstore.LogName }) {
		t.Error(names, err)
	}
}
