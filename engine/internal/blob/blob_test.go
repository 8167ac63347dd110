package blob

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"pagecache/internal/osfs"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/mmapread"
	"pagecache/recovery"
	"pagecache/segments/format"
)

const simDir = "/store/blobs"

var storeID = format.StoreID{1, 2, 3}

func random(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n+7)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, rng.Uint64())
	}
	return b[:n]
}

// config returns the configuration of a Store whose blobs lie in dir.
func config(t testing.TB, fs vfs.FS, dir string) Config {
	t.Helper()
	err := fs.MkdirAll(filepath.Dir(dir))
	if err != nil {
		t.Fatal(err)
	}
	in, err := fs.OpenDir(filepath.Dir(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	return Config{In: in, Name: filepath.Base(dir), Store: storeID}
}

func open(t testing.TB, fs vfs.FS, dir string) *Store {
	t.Helper()
	s := New(config(t, fs, dir))
	t.Cleanup(s.Close)
	return s
}

// write writes a blob of n bytes whose contents follow from its id.
func write(t testing.TB, s *Store, id format.BlobID, n int) format.BlobPtr {
	t.Helper()
	ptr, err := s.Write(id, random(n, uint64(id)))
	if err != nil {
		t.Fatal(err)
	}
	return ptr
}

// check reads a blob of write.
func check(t testing.TB, s *Store, ptr format.BlobPtr) (contents []byte, view bool) {
	t.Helper()
	contents, view, err := s.Read(ptr)
	if err != nil || !bytes.Equal(contents, random(int(ptr.Len), uint64(ptr.ID))) {
		t.Errorf("blob %v: %d bytes, want %d: %v", ptr.ID, len(contents), ptr.Len, err)
	}
	return contents, view
}

// names returns the names in the directory of the blobs.
func names(t testing.TB, s *Store) []string {
	t.Helper()
	names, err := s.Names()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return names
}

func wantBlobs(t testing.TB, s *Store, want ...format.BlobID) {
	t.Helper()
	found := names(t, s)
	ok := len(found) == len(want)
	for i := range want {
		ok = ok && found[i] == want[i].String()
	}
	if !ok {
		t.Errorf("blobs %v, want %v", found, want)
	}
}

// Blobs of all lengths come back, from the Store that wrote them and from the next one that adopts them. Holds knows
// which contents lie in a map, and Count counts headers too.
func TestWriteThenRead(t *testing.T) {
	for name, fs := range map[string]vfs.FS{"simdisk": simdisk.New(1, simdisk.Options{}), "os": osfs.OS} {
		dir := simDir
		if name == "os" {
			dir = filepath.Join(t.TempDir(), "deep", "blobs")
		}
		s := open(t, fs, dir)
		var ptrs []format.BlobPtr
		total := int64(0)
		lengths := []int{0, 1, 4096, longBlob - 1, longBlob, pieceSize - format.BlobHeaderSize,
			pieces*pieceSize - format.BlobHeaderSize, pieces*pieceSize + 12345}
		for i, n := range lengths {
			ptrs = append(ptrs, write(t, s, format.BlobID(i+1), n))
			total += format.BlobHeaderSize + int64(n)
		}
		for _, adopted := range []bool{false, true} {
			if adopted {
				s.Close()
				s = open(t, fs, dir)
			}
			for _, ptr := range ptrs {
				s.Adopt(ptr)
				s.Adopt(ptr)
				s.ReadAhead(ptr)
				contents, view := check(t, s, ptr)
				if view != (len(contents) > 0) || view && (!s.Holds(contents) || !s.Holds(contents[len(contents)-1:])) {
					t.Errorf("%s: %d bytes of a blob are not in its map", name, len(contents))
				}
			}
			if name == "os" && s.Holds(make([]byte, 10)) {
				t.Error("memory of the heap is in the map of a blob")
			}
			if n, bytes := s.Count(); n != len(ptrs) || bytes != total {
				t.Errorf("%s: %d blobs of %d bytes, want %d of %d", name, n, bytes, len(ptrs), total)
			}
		}
		if s.Close(); s.mapped.Load() != 0 || s.Holds(make([]byte, 10)) {
			t.Errorf("%s: %d maps are open after Close", name, s.mapped.Load())
		}
		s.Remove()
		if _, err := fs.OpenDir(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the directory is there after Remove: %v", name, err)
		}
	}
	(*Store)(nil).Close()
	(*Store)(nil).Remove()
}

// newFiles is a disk on which Open does not truncate. Blobs are new files, so that changes nothing on a real disk. A
// simulated one would apply the truncation at the next Sync, to the writes of a Device that followed it.
type newFiles struct{ *simdisk.Disk }

func (fs newFiles) OpenDir(path string) (vfs.Dir, error) {
	w := &simdisk.Wrap{FS: fs.Disk, File: func(d vfs.Dir, name string, flag vfs.Flag) (vfs.File, error) {
		return d.Open(name, flag&^vfs.FlagTrunc)
	}}
	return w.OpenDir(path)
}

// Once Write has returned, a power cut at any time takes nothing of the blob away. B1; proves trap 5.
func TestWrittenBlobSurvivesACrash(t *testing.T) {
	for seed := range uint64(6) {
		d := newFiles{simdisk.New(seed, simdisk.Options{})}
		s := open(t, d, simDir)
		ptrs := []format.BlobPtr{write(t, s, 1, 5000), write(t, s, 2, longBlob+777)}
		after := open(t, d.Crash(seed), simDir)
		for _, ptr := range ptrs {
			after.Adopt(ptr)
			check(t, after, ptr)
		}
	}
}

// A crash in the middle of Write, at every step, leaves earlier blobs as they are, and at most a stray, which goes.
// B1, B3.
func TestCrashAtEveryStep(t *testing.T) {
	for _, n := range []int{5000, longBlob + 777} {
		for step := 1; ; step++ { // ends: a Write has a finite number of steps
			d := simdisk.New(uint64(step), simdisk.Options{})
			s := open(t, d, simDir)
			first := write(t, s, 1, 4097)
			d.CrashAfter(step)
			_, err := s.Write(2, random(n, 2))
			if !d.Crashed() {
				if err != nil || step < 4 {
					t.Errorf("%d steps, %v", step, err)
				}
				break
			}
			after := open(t, d.Crash(uint64(step)), simDir)
			after.Adopt(first)
			if err := removeStrays(after); err != nil {
				t.Fatal(err)
			}
			wantBlobs(t, after, 1)
			check(t, after, first)
		}
	}
}

// A blob stays until the LSN of its retirement is stable and the readers of its time have left. B2; proves rule 4.
func TestReap(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	s := open(t, d, simDir)
	ptr := write(t, s, 1, 5000)
	write(t, s, 2, 5000)
	write(t, s, 3, 5000)
	s.Retire(1, 1000, 7)
	s.Retire(2, 2000, 8)
	for _, c := range []struct {
		stable format.LSN
		oldest uint64
		n      int
		want   []format.BlobID
	}{
		{999, math.MaxUint64, 0, []format.BlobID{1, 2, 3}},
		{1000, 6, 0, []format.BlobID{1, 2, 3}},
		{1000, 7, 1, []format.BlobID{2, 3}},
		{5000, 7, 0, []format.BlobID{2, 3}},
		{1999, 9, 0, []format.BlobID{2, 3}},
		{5000, math.MaxUint64, 1, []format.BlobID{3}},
		{5000, math.MaxUint64, 0, []format.BlobID{3}},
	} {
		if c.n == 0 && c.stable < 1000 {
			check(t, s, ptr)
		}
		if n := s.Reap(c.stable, c.oldest); n != c.n {
			t.Errorf("stable %v, oldest %d: %d blobs were removed, want %d", c.stable, c.oldest, n, c.n)
		}
		wantBlobs(t, s, c.want...)
		if n, bytes := s.Count(); n != len(c.want) || bytes != int64(n)*(5000+format.BlobHeaderSize) {
			t.Errorf("stable %v, oldest %d: count %d, %d bytes", c.stable, c.oldest, n, bytes)
		}
	}
	s.Discard(3)
	wantBlobs(t, s)
	if n, bytes := s.Count(); n != 0 || bytes != 0 || s.mapped.Load() != 0 {
		t.Errorf("count %d, %d bytes, %d maps", n, bytes, s.mapped.Load())
	}
}

// removeStrays removes all blobs that nothing refers to.
func removeStrays(s *Store) error {
	ids, err := s.FindStrays()
	if err != nil {
		return err
	}
	return s.RemoveStrays(ids)
}

// FindStrays finds blobs that nothing refers to, and no other file; Strays counts them, and RemoveStrays removes them.
// B3; proves trap 4.
func TestStrays(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	if err := removeStrays(open(t, d, simDir)); err != nil {
		t.Errorf("no directory yet: %v", err)
	}
	s := open(t, d, simDir)
	ptr := write(t, s, 1, 5000)
	write(t, s, 2, 5000)
	write(t, s, 3, 5000)
	d.WriteFile(simDir+"/README", []byte("hello"))
	d.WriteFile(simDir+"/000000000000000Z", nil)
	d.WriteFile(simDir+"/4", nil)
	s = open(t, d, simDir)
	s.Adopt(ptr)
	n, err := s.Strays(func(id format.BlobID) bool { return id == 3 })
	if n != 2 || err != nil || len(names(t, s)) != 6 {
		t.Errorf("%d strays, want 2: %v, %v", n, names(t, s), err)
	}
	d.SetFault(func(o simdisk.Op) error {
		if o.Kind == simdisk.OpRemove {
			return os.ErrPermission
		}
		return nil
	})
	if err := removeStrays(s); !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
	d.SetFault(nil)
	if err := removeStrays(s); err != nil {
		t.Fatal(err)
	}
	if got := names(t, s); len(got) != 4 || got[0] != ptr.ID.String() {
		t.Errorf("files %v", got)
	}
	check(t, s, ptr)
}

// A value that is too long, or cannot be written, leaves no file behind, and the Store goes on. Proves rule 9.
func TestWriteFails(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	c := config(t, d, simDir)
	c.MaxLen = 1 << 20
	s := New(c)
	ptr := write(t, s, 1, 1<<20)
	ops := d.Ops()
	if _, err := s.Write(2, make([]byte, 1<<20+1)); !errors.Is(err, ErrTooLarge) || d.Ops() != ops {
		t.Errorf("%v after %d operations", err, d.Ops()-ops)
	}
	d.SetCapacity(1<<20 + 256<<10)
	if _, err := s.Write(3, make([]byte, 1<<20)); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	d.SetCapacity(0)
	id := format.BlobID(4)
	for _, n := range []int{5000, 1 << 20} {
		kinds := []simdisk.OpKind{
			simdisk.OpOpen, simdisk.OpAllocate, simdisk.OpSync, simdisk.OpSyncDir, simdisk.OpWrite,
		}
		if n >= longBlob {
			kinds[4] = simdisk.OpDeviceWrite
		}
		for _, kind := range kinds {
			d.SetFault(func(o simdisk.Op) error {
				if o.Kind == kind {
					return os.ErrPermission
				}
				return nil
			})
			if _, err := s.Write(id, make([]byte, n)); !errors.Is(err, os.ErrPermission) {
				t.Errorf("%d bytes, operation %v: %v", n, kind, err)
			}
			d.SetFault(nil)
			wantBlobs(t, s, 1)
			id++
		}
	}
	if n, bytes := s.Count(); n != 1 || bytes != 1<<20+format.BlobHeaderSize {
		t.Errorf("count %d, %d bytes", n, bytes)
	}
	check(t, s, ptr)
	check(t, s, write(t, s, id, 5000))
}

// lostDevice fails for good, with writes in flight.
type lostDevice struct {
	vfs.Device
	buf *[]byte // of the first write
}

func (d lostDevice) Do(writes []vfs.Write, _ int, dst []vfs.Completion) ([]vfs.Completion, error) {
	*d.buf = writes[0].Buf
	return dst, syscall.EBADF
}

func (d lostDevice) Close() error { return errors.Join(d.Device.Close(), vfs.ErrInFlight) }

type lostFile struct {
	vfs.File
	buf *[]byte
}

func (f lostFile) OpenDevice(o vfs.DeviceOptions) (vfs.Device, vfs.DeviceReport, error) {
	dev, r, err := f.File.OpenDevice(o)
	return lostDevice{dev, f.buf}, r, err
}

type lostFS struct {
	*simdisk.Disk
	buf *[]byte
}

func (fs lostFS) OpenDir(path string) (vfs.Dir, error) {
	w := &simdisk.Wrap{FS: fs.Disk, File: func(d vfs.Dir, name string, flag vfs.Flag) (vfs.File, error) {
		f, err := d.Open(name, flag)
		return lostFile{f, fs.buf}, err
	}}
	return w.OpenDir(path)
}

// Memory that the kernel may still read is not freed.
func TestBufferOfWritesInFlightIsKept(t *testing.T) {
	var buf []byte
	s := open(t, lostFS{simdisk.New(1, simdisk.Options{}), &buf}, simDir)
	contents := random(longBlob, 1)
	if _, err := s.Write(1, contents); !errors.Is(err, vfs.ErrInFlight) || !errors.Is(err, syscall.EBADF) {
		t.Error(err)
	}
	err := mmapread.Guard(func() error {
		if !bytes.Contains(buf, contents[:1000]) {
			return errors.New("the buffer was overwritten")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	wantBlobs(t, s)
}

// A blob that is missing, has another length, or was changed, and another's file, are errors with the name of the
// file, mapped or not. Proves rule 12.
func TestCorruptBlob(t *testing.T) {
	dir := t.TempDir()
	s := open(t, osfs.OS, dir)
	ptr, other := write(t, s, 1, 70000), write(t, s, 2, 70000)
	name := filepath.Join(dir, ptr.ID.String())
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(filepath.Join(dir, other.ID.String()))
	if err != nil {
		t.Fatal(err)
	}
	flipped := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 4
		return b
	}
	for what, b := range map[string][]byte{"missing": nil, "empty": {}, "short": good[:len(good)-1],
		"long": append(bytes.Clone(good), 0), "magic": flipped(0), "header": flipped(50),
		"first": flipped(format.BlobHeaderSize), "last": flipped(len(good) - 1), "another": foreign} {
		_ = os.Remove(name)
		if b != nil {
			if err := os.WriteFile(name, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, adopted := range []bool{false, true} { // what is not adopted is read into the heap
			s := open(t, osfs.OS, dir)
			if adopted {
				s.Adopt(ptr)
			}
			s.ReadAhead(ptr)
			_, _, err := s.Read(ptr)
			ce := (*recovery.CorruptError)(nil)
			if !errors.Is(err, recovery.ErrCorrupt) || !errors.As(err, &ce) || ce.File != name {
				t.Errorf("%s, adopted %v: %v", what, adopted, err)
			}
			check(t, s, other)
			s.Close()
		}
	}
	s = open(t, osfs.OS, dir)
	s.c.Store = format.StoreID{9}
	if _, _, err := s.Read(other); !errors.Is(err, recovery.ErrCorrupt) {
		t.Errorf("a blob of another store: %v", err)
	}
}

// An error of reading that is not corruption is passed on as it is.
func TestReadError(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	s := open(t, d, simDir)
	ptr := write(t, s, 1, 5000)
	d.SetFault(func(o simdisk.Op) error {
		if o.Kind == simdisk.OpOpen {
			return os.ErrPermission
		}
		return nil
	})
	if _, _, err := s.Read(ptr); !errors.Is(err, os.ErrPermission) || errors.Is(err, recovery.ErrCorrupt) {
		t.Error(err)
	}
	d.SetFault(nil)
	check(t, s, ptr)
}

// Few blobs are mapped at a time. The others are read into the heap.
func TestMapsAreLimited(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	s := open(t, d, simDir)
	var ptrs []format.BlobPtr
	for i := range maxMaps + 10 {
		ptrs = append(ptrs, write(t, s, format.BlobID(i+1), 100+i))
	}
	for i, ptr := range ptrs {
		if _, view := check(t, s, ptr); view != (i < maxMaps) {
			t.Errorf("blob %d of %d is mapped: %v", i+1, maxMaps, view)
		}
	}
	s.Discard(1)
	if _, view := check(t, s, ptrs[maxMaps]); !view || s.mapped.Load() != maxMaps {
		t.Errorf("mapped %v, %d maps", view, s.mapped.Load())
	}
}

// Goroutines write, read, retire and reap at once: each finds its own blobs until it has retired them.
func TestConcurrentUse(t *testing.T) {
	s := open(t, osfs.OS, t.TempDir())
	var ids atomic.Uint64
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 40 {
				n := 1000*g + i
				id := format.BlobID(ids.Add(1))
				ptr, err := s.Write(id, random(n, uint64(id)))
				if err != nil {
					t.Error(err)
					return
				}
				s.ReadAhead(ptr)
				contents, view := check(t, s, ptr)
				if view && !s.Holds(contents) {
					t.Error("a view is not held")
				}
				s.Retire(id, 10, 1)
				s.Reap(9, 1)
				if n := len(contents); n > 0 && contents[0] != random(n, uint64(id))[0] {
					t.Error("contents changed")
				}
				if i%8 == 7 {
					s.Discard(format.BlobID(ids.Add(1))) // a write that failed before it had a file
				}
			}
		})
	}
	wg.Wait()
	if n := s.Reap(10, 1); n != 160 {
		t.Errorf("%d blobs were removed", n)
	}
	if n, bytes := s.Count(); n != 0 || bytes != 0 || s.mapped.Load() != 0 || len(names(t, s)) != 0 {
		t.Errorf("count %d, %d bytes, %d maps, files %v", n, bytes, s.mapped.Load(), names(t, s))
	}
}
