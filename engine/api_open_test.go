package engine_test

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

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/logstore"
)

// One error names every option that is out of range. Open then makes no directory.
func TestOptionsOutOfRange(t *testing.T) {
	bad := map[string]engine.Options{
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
		if _, err := engine.Open(dir, engine.Bytes{}, &o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open: error %v, want it to name %s", err, want)
		}
		if _, err := engine.OpenLog(dir, &o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("OpenLog: error %v, want it to name %s", err, want)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: Open was refused and made the directory", want)
		}
	}
	all := engine.Options{IOBuffers: 1, CleanupSkew: -1, IO: 9}
	if err := all.Validate(); err == nil || strings.Count(err.Error(), "want") != 3 {
		t.Errorf("three options out of range: error %v", err)
	}
	if _, err := engine.Open[[]byte](t.TempDir(), nil, nil); err == nil {
		t.Error("Open without a Materializer: no error")
	}
	if _, err := engine.Open("", engine.Bytes{}, nil); err == nil {
		t.Error("Open without a directory: no error")
	}
}

// All options except the segment size may change from one Open to the next. Nil options are the defaults.
func TestReopenWithOtherOptions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "on", "the", "way")
	var want []string
	for i, o := range []*engine.Options{
		{SegmentSize: 64 << 10},
		nil,
		{IO: engine.IOSyscall, FlushEvery: -1},
		{Direct: engine.DirectOff, IOBuffers: 7},
		{IO: engine.IOSyscall, Direct: engine.DirectOff},
		{SegmentSize: 64 << 10, IDPersistInterval: 3, ConsolidateAfter: 1},
		{SegmentMode: engine.SegmentModeLinear, CacheCapacity: 1},
	} {
		pc := enginetest.Open(t, dir, o)
		if pc.WasRecovered() != (i > 0) {
			t.Errorf("opening %d: WasRecovered is %v", i, pc.WasRecovered())
		}
		tx := enginetest.Begin(t, pc)
		for pid, v := range want {
			p, err := pc.Get(tx, engine.FirstUserPage+engine.PageID(pid))
			if err != nil || string(p.Value) != v || p.Kind != engine.KindMaterialized {
				t.Fatalf("opening %d: page %d: %q, want %q, error %v", i, pid, p.Value, v, err)
			}
		}
		want = append(want, fmt.Sprintf("opening %d", i))
		if pid, _, err := pc.Allocate(tx, []byte(want[i])); err != nil || pid != engine.FirstUserPage+engine.PageID(i) {
			t.Fatalf("opening %d: Allocate returns page %d, %v", i, pid, err)
		}
		tx.End()
		s := pc.Stats()
		if s.Dir != dir || s.Pages.InUse != int64(i+1) || s.Generation != uint64(i+1) ||
			o != nil && o.IO == engine.IOSyscall && !strings.Contains(s.Log.Device, "system calls") {
			t.Errorf("opening %d: stats %+v", i, s)
		}
		enginetest.Close(t, pc)
	}
	for _, size := range []int{16 << 10, 128 << 10} {
		if _, err := engine.Open(dir, engine.Bytes{}, &engine.Options{SegmentSize: size}); err == nil ||
			!strings.Contains(err.Error(), fmt.Sprint(size)) || !strings.Contains(err.Error(), "65536") {
			t.Errorf("Open with segment size %d: error %v", size, err)
		}
	}
	if _, err := engine.OpenLog(dir, nil); !errors.Is(err, engine.ErrKind) {
		t.Errorf("OpenLog of a page store: error %v, want ErrKind", err)
	}
	if pc := enginetest.Open(t, dir, nil); pc.Stats().Pages.InUse != int64(len(want)) {
		t.Error("a refused Open changed the number of pages")
	} else {
		enginetest.Close(t, pc)
	}
}

// Close of a temporary store removes the store's files and, if it made the directory, the directory. Other files stay.
func TestTemporaryRemovesItsFiles(t *testing.T) {
	mine := t.TempDir()
	if err := os.WriteFile(filepath.Join(mine, "notes"), []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", filepath.Join(t.TempDir(), "new"), mine} {
		pc := enginetest.Open(t, dir, &engine.Options{Temporary: true, SegmentSize: 16 << 10})
		where := pc.Stats().Dir
		tx := enginetest.Begin(t, pc)
		if _, _, err := pc.Allocate(tx, []byte("x")); err != nil {
			t.Fatal(err)
		}
		tx.End()
		enginetest.Close(t, pc)
		left, err := os.ReadDir(where)
		if dir == mine {
			if err != nil || len(left) != 1 || left[0].Name() != "notes" {
				t.Errorf("files left %v, want notes, error %v", left, err)
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: files left %v, error %v", dir, left, err)
		}
	}
}

// Files in the directory that do not belong to the store are not changed.
func TestStrayFilesAreKept(t *testing.T) {
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
		enginetest.Close(t, enginetest.Open(t, dir, &engine.Options{SegmentSize: 16 << 10}))
	}
	for _, n := range stray {
		if b, err := os.ReadFile(filepath.Join(dir, n)); err != nil || string(b) != n {
			t.Errorf("%s holds %q, error %v", n, b, err)
		}
	}
}

// Open refuses at once a log or superblock that is not a regular file, and a store directory that is not a directory.
// O8.
func TestOpenRefusesIrregularFiles(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"FIFO":      func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"symlink":   func(p string) error { return os.Symlink("/etc/hostname", p) },
		"dangling":  func(p string) error { return os.Symlink(filepath.Join(filepath.Dir(p), "nowhere"), p) },
		"device":    func(p string) error { return os.Symlink("/dev/null", p) },
	} {
		for _, file := range []string{logstore.LogName, logstore.SuperName} {
			dir := t.TempDir()
			if file == logstore.SuperName { // of an existing store
				enginetest.Close(t, enginetest.Open(t, dir, &engine.Options{SegmentSize: 16 << 10}))
				if err := os.Remove(filepath.Join(dir, file)); err != nil {
					t.Fatal(err)
				}
			}
			if err := put(filepath.Join(dir, file)); err != nil {
				t.Fatal(err)
			}
			enginetest.Soon(t, "Open with a "+name, func() {
				if pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{SegmentSize: 16 << 10}); err == nil {
					_ = pc.Close()
					t.Errorf("Open took a %s for the %s", name, file)
				}
			})
			if _, err := os.Lstat(filepath.Join(dir, "nowhere")); !errors.Is(err, fs.ErrNotExist) {
				t.Error("Open followed a symlink")
			}
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		if _, err := engine.Open(dir, engine.Bytes{}, nil); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("Open of %s: error %v, want ENOTDIR", dir, err)
		}
	}
}

// Close waits for open Txs. Every later call returns ErrClosed. Trap 20.
func TestCloseWaitsForTx(t *testing.T) {
	pc := enginetest.Open(t, t.TempDir(), &engine.Options{SegmentSize: 16 << 10})
	tx := enginetest.Begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	batch, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() {
		if err := batch.Seal(); err != nil {
			t.Errorf("Seal beside Close: %v", err)
		}
		tx.End()
	})
	enginetest.Close(t, pc)
	errs := map[string]error{"Close": pc.Close(), "Seal": batch.Seal()}
	_, errs["Begin"] = pc.Begin()
	_, errs["GenerateID"] = pc.GenerateID()
	_, errs["PinLog"] = pc.PinLog()
	_, errs["Flush"] = pc.Flush()
	_, errs["MakeStable"] = pc.MakeStable(ptr.LastLSN() + 1000)
	for what, err := range errs {
		if !errors.Is(err, engine.ErrClosed) {
			t.Errorf("%s after Close: error %v, want ErrClosed", what, err)
		}
	}
	if _, err := pc.Get(tx, pid); !errors.Is(err, engine.ErrTxEnded) {
		t.Errorf("Get with an ended Tx of a closed store: error %v, want ErrTxEnded", err)
	}
	pc.BumpReadTS(tx, pid, 7) // does nothing, does not panic
	_ = pc.Stats()
}

// Close does not wait for ever for a Tx that does not end. Values that the Tx has read stay valid. Trap 20.
func TestCloseGivesUpOnTx(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 5 s, in which Close waits for the Tx")
	}
	t.Parallel()
	pc := enginetest.Open(t, t.TempDir(), &engine.Options{SegmentSize: 16 << 10})
	tx := enginetest.Begin(t, pc)
	pid, _, err := pc.Allocate(tx, []byte("seen"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := pc.Get(tx, pid)
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Soon(t, "Close with an open Tx", func() {
		if err := pc.Close(); err == nil || !strings.Contains(err.Error(), "1 transactions") {
			t.Errorf("Close with an open Tx: %v", err)
		}
	})
	if _, err := pc.Get(tx, pid); !errors.Is(err, engine.ErrClosed) || string(p.Value) != "seen" {
		t.Errorf("Get in a closed store: error %v, want ErrClosed; value read before: %q", err, p.Value)
	}
	tx.End()
}

// Open of a standalone log returns ErrKind and changes nothing.
func TestOpenRefusesLog(t *testing.T) {
	dir := t.TempDir()
	l := enginetest.OpenLog(t, dir, &engine.Options{SegmentSize: 16 << 10})
	lsn, ptr, err := l.Write([]byte("record"))
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Close(t, l)
	if _, err := engine.Open(dir, engine.Bytes{}, nil); !errors.Is(err, engine.ErrKind) {
		t.Errorf("Open of a log: error %v, want ErrKind", err)
	}
	l = enginetest.OpenLog(t, dir, nil)
	defer enginetest.Close(t, l)
	if b, err := l.Read(lsn, ptr); err != nil || string(b) != "record" {
		t.Errorf("read %q, error %v", b, err)
	}
	names, err := os.ReadDir(dir)
	isLog := func(e fs.DirEntry) bool { return e.Name() == logstore.LogName }
	if err != nil || !slices.ContainsFunc(names, isLog) {
		t.Errorf("files %v, want a log, error %v", names, err)
	}
}
