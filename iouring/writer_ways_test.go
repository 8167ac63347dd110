//go:build linux

package iouring

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// way is one way of writing. The tests below run in all of them.
type way struct {
	name         string
	ring, direct Mode
}

var ways = []way{
	{"ring/direct", ModeOn, ModeOn}, {"ring/buffered", ModeOn, ModeOff},
	{"calls/direct", ModeOff, ModeOn}, {"calls/buffered", ModeOff, ModeOff},
}

// places are directories on different file systems.
func places(t testing.TB) map[string]string {
	p := map[string]string{"tmp": t.TempDir()}
	if dir, err := os.MkdirTemp("/dev/shm", "iouring"); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		p["shm"] = dir
	}
	return p
}

// logFile creates a file of size bytes and opens it for reading and writing.
func logFile(t testing.TB, dir string, size int64) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		t.Fatal(err)
	}
	return f
}

// memory returns n bytes for writes, with random contents.
func memory(t testing.TB, n int) []byte {
	t.Helper()
	b, err := AllocBuffer(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { FreeBuffer(b) })
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// open opens a Writer in one way. It skips the test if that does not work on this machine.
func open(t testing.TB, f *os.File, w way, bufs ...[]byte) *Writer {
	t.Helper()
	d, r, err := OpenWriter(int(f.Fd()), WriterOptions{Ring: w.ring, Direct: w.direct, Buffers: bufs})
	if err != nil {
		t.Skipf("not on this machine: %v", err)
	}
	if r.Ring != (w.ring == ModeOn) || r.Direct != (w.direct == ModeOn) || r.Block != d.Block() {
		t.Fatalf("opened as %+v", r)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

// eachWay runs a test over all ways and places.
func eachWay(t *testing.T, f func(t *testing.T, dir string, w way)) {
	for place, dir := range places(t) {
		for _, w := range ways {
			t.Run(w.name+"/"+place, func(t *testing.T) { f(t, dir, w) })
		}
	}
}

// do makes writes and waits for all of them.
func do(t testing.TB, d *Writer, writes ...Write) {
	t.Helper()
	comps, err := d.Do(writes, len(writes), nil)
	if err != nil || len(comps) != len(writes) {
		t.Fatalf("%d of %d writes completed: %v", len(comps), len(writes), err)
	}
	for _, c := range comps {
		if c.Err != nil {
			t.Fatalf("write %d: %v", c.Tag, c.Err)
		}
	}
}

// Many writes of many sizes, several in flight, each complete once, and the file holds what was written.
func TestWriterContents(t *testing.T) {
	const size = 4 << 20
	eachWay(t, func(t *testing.T, dir string, w way) {
		f := logFile(t, dir, size)
		buf := memory(t, size)
		d := open(t, f, w, buf[:size/2]) // half of it registered
		rng := rand.New(rand.NewPCG(7, 7))
		landed, inFlight, off, tag := map[uint64]bool{}, 0, 0, uint64(0)
		for off < size || inFlight > 0 {
			var writes []Write
			for range rng.IntN(d.Depth() - inFlight + 1) {
				if n := min((1+rng.IntN(16))*d.Block(), size-off); n > 0 {
					writes = append(writes, Write{Off: int64(off), Buf: buf[off : off+n], Tag: tag})
					off, tag = off+n, tag+1
				}
			}
			inFlight += len(writes)
			want := rng.IntN(inFlight + 1)
			comps, err := d.Do(writes, want, nil)
			if err != nil || len(comps) < want {
				t.Fatalf("%d completions, want %d: %v", len(comps), want, err)
			}
			for _, c := range comps {
				if c.Err != nil || landed[c.Tag] || c.Tag >= tag {
					t.Fatalf("completion %+v", c)
				}
				landed[c.Tag] = true
			}
			inFlight -= len(comps)
		}
		if len(landed) != int(tag) {
			t.Fatalf("%d of %d landed", len(landed), tag)
		}
		got := make([]byte, size)
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, buf) {
			t.Fatalf("the file does not hold what was written: %v", err)
		}
	})
}

// Close waits for the writes in flight; afterwards Do fails with os.ErrClosed. Proves trap 20: close drains.
func TestWriterCloseDrains(t *testing.T) {
	eachWay(t, func(t *testing.T, dir string, w way) {
		f := logFile(t, dir, 1<<20)
		buf := memory(t, 1<<20)
		d := open(t, f, w)
		n := len(buf) / d.Depth()
		var writes []Write
		for i := range d.Depth() {
			writes = append(writes, Write{Off: int64(i * n), Buf: buf[i*n : (i+1)*n]})
		}
		if _, err := d.Do(writes, 0, nil); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(buf))
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, buf) {
			t.Fatalf("after Close the file does not hold what was written: %v", err)
		}
		if _, err := d.Do(writes[:1], 1, nil); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a write after Close: %v", err)
		}
	})
}

// Do refuses writes that are not whole blocks, or too many, before it starts any.
func TestDoRefusesInvalidWrites(t *testing.T) {
	f := logFile(t, t.TempDir(), 1<<20)
	buf := memory(t, 1<<20)
	for _, w := range ways {
		d := open(t, f, w)
		good := Write{Off: 0, Buf: buf[:d.Block()]}
		for name, writes := range map[string][]Write{
			"offset":   {good, {Off: 1, Buf: buf[:d.Block()]}},
			"negative": {good, {Off: -int64(d.Block()), Buf: buf[:d.Block()]}},
			"length":   {good, {Off: 0, Buf: buf[:d.Block()+1]}},
			"empty":    {good, {Off: 0}},
			"many":     make([]Write, d.Depth()+1),
		} {
			if comps, err := d.Do(writes, 1, nil); err == nil || len(comps) != 0 {
				t.Errorf("%s: %s: %v, %v", w.name, name, comps, err)
			}
		}
		do(t, d, good) // the refused writes left nothing in flight
		if comps, err := d.Do(nil, 5, nil); err != nil || len(comps) != 0 {
			t.Errorf("waiting for nothing: %v, %v", comps, err)
		}
	}
}

// withLimit runs f with a lower soft limit.
func withLimit(t *testing.T, resource int, limit uint64, f func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(resource, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(resource, &old); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// A write that crosses the file-size limit is short: the part that fits is written, the rest fails with EFBIG, and the
// Writer continues to work. Proves rule 9 as far as the device goes.
func TestFileSizeLimit(t *testing.T) {
	eachWay(t, func(t *testing.T, dir string, w way) {
		f := logFile(t, dir, 0+1<<16)
		buf := memory(t, 1<<16)
		d := open(t, f, w)
		withLimit(t, unix.RLIMIT_FSIZE, 1<<16, func() {
			comps, err := d.Do([]Write{{Off: 1 << 15, Buf: buf, Tag: 9}}, 1, nil)
			if err != nil || len(comps) != 1 || comps[0].Tag != 9 || !errors.Is(comps[0].Err, unix.EFBIG) {
				t.Fatalf("%v, %v", comps, err)
			}
		})
		got := make([]byte, 1<<15)
		if _, err := f.ReadAt(got, 1<<15); err != nil || !bytes.Equal(got, buf[:1<<15]) {
			t.Errorf("the part that fits was not written: %v", err)
		}
		do(t, d, Write{Off: 1 << 15, Buf: buf})
	})
}

// If the descriptor is not open for writing, each write fails with its own errno, and the Writer continues to work.
func TestWriterReadOnlyFile(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			f := logFile(t, t.TempDir(), 1<<16)
			ro, err := os.Open(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			defer ro.Close()
			buf := memory(t, 1<<16)
			d := open(t, ro, w)
			block := buf[:d.Block()]
			comps, err := d.Do([]Write{{Off: 0, Buf: block, Tag: 3}, {Off: 0, Buf: block, Tag: 4}}, 2, nil)
			if err != nil || len(comps) != 2 {
				t.Fatalf("%v, %v", comps, err)
			}
			for _, c := range comps {
				if !errors.Is(c.Err, unix.EBADF) {
					t.Errorf("completion %+v", c)
				}
			}
		})
	}
}

// Proves W3: nothing is allocated for a write.
func TestWriteAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			f := logFile(t, t.TempDir(), 1<<20)
			buf := memory(t, 1<<20)
			d := open(t, f, w, buf[:1<<19])
			writes := []Write{{Off: 0, Buf: buf[:4096]}, {Off: 4096, Buf: buf[1<<19 : 1<<19+4096]}}
			comps := make([]Completion, 0, 8)
			if n := testing.AllocsPerRun(100, func() {
				var err error
				if comps, err = d.Do(writes, len(writes), comps[:0]); err != nil || comps[0].Err != nil {
					t.Fatal(err, comps)
				}
			}); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct{ size, depth int }{{4 << 10, 1}, {1 << 20, 2}} {
		for _, w := range ways {
			b.Run(fmt.Sprintf("size=%d/depth=%d/%s", c.size, c.depth, w.name), func(b *testing.B) {
				benchmarkWrite(b, w, c.size, c.depth)
			})
		}
	}
}

func benchmarkWrite(b *testing.B, w way, size, depth int) {
	const span = 16 << 20
	f := logFile(b, b.TempDir(), span)
	buf := memory(b, size*depth)
	if _, err := f.WriteAt(make([]byte, span), 0); err != nil || f.Sync() != nil {
		b.Fatal(err)
	}
	d := open(b, f, w, buf)
	comps, free, off := make([]Completion, 0, depth), make([]uint64, 0, depth), 0
	for i := range depth {
		free = append(free, uint64(i))
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	var writes [1]Write
	for b.Loop() {
		tag := free[len(free)-1]
		free = free[:len(free)-1]
		writes[0] = Write{Off: int64(off), Buf: buf[int(tag)*size : int(tag+1)*size], Tag: tag}
		off = (off + size) % span
		wait := 0
		if len(free) == 0 {
			wait = 1
		}
		var err error
		if comps, err = d.Do(writes[:], wait, comps[:0]); err != nil {
			b.Fatal(err)
		}
		for _, c := range comps {
			if c.Err != nil {
				b.Fatal(c.Err)
			}
			free = append(free, c.Tag)
		}
	}
}

// A write that has completed is on the device: the page cache holds no dirty page of it. Proves rule 5; trap 12.
func TestBufferedWriteIsDurable(t *testing.T) {
	const size = 1 << 16
	dir := t.TempDir()
	for _, w := range ways {
		if w.direct == ModeOn {
			continue // it never was in the page cache
		}
		t.Run(w.name, func(t *testing.T) {
			f := logFile(t, dir, size)
			dirty := func() uint64 {
				var c unix.Cachestat_t
				err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Len: size}, &c, 0)
				if err != nil {
					t.Skipf("the kernel does not say which pages are dirty: %v", err)
				}
				return c.Dirty + c.Writeback
			}
			if _, err := f.WriteAt(make([]byte, size), 0); err != nil {
				t.Fatal(err)
			}
			if before, err := dirty(), f.Sync(); err != nil || before == 0 || dirty() > 0 {
				t.Skipf("this file system does not tell dirty pages: %d before the sync, %d after it, %v",
					before, dirty(), err)
			}
			buf := memory(t, size)
			d := open(t, f, w)
			do(t, d, Write{Off: 0, Buf: buf[:d.Block()]}, Write{Off: size / 2, Buf: buf[:size/2]})
			if n := dirty(); n > 0 {
				t.Errorf("%d pages are dirty after the writes have completed", n)
			}
		})
	}
}
