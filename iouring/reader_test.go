//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"pagecache/iouring/internal/ring"
	"pagecache/iouring/internal/ringtest"
)

// cachedFile is a file on the disk and a map of it, which shows what is cached and is never touched.
type cachedFile struct {
	*os.File
	m []byte
}

func newCachedFile(t testing.TB, size int) cachedFile {
	t.Helper()
	f := logFile(t, t.TempDir(), int64(size))
	if _, err := f.WriteAt(memory(t, size), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)); err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(m) })
	c := cachedFile{f, m}
	if c.drop(t); c.cached(t, Range{0, size}) != 0 {
		t.Skip("this file system does not evict what is cached")
	}
	return c
}

func (c cachedFile) drop(t testing.TB) {
	t.Helper()
	if err := unix.Fadvise(int(c.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

// cached returns the number of blocks of a range that are in the page cache.
func (c cachedFile) cached(t testing.TB, x Range) (n int) {
	t.Helper()
	first := int(x.Off) &^ (blockBytes - 1)
	b := c.m[first : int(x.Off)+x.Len]
	vec := make([]byte, (len(b)+blockBytes-1)/blockBytes)
	at, out := uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&vec[0]))
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, at, uintptr(len(b)), out); errno != 0 {
		t.Fatal(errno)
	}
	for _, v := range vec {
		n += int(v & 1)
	}
	return n
}

func touched(x Range) int { return int((x.Off+int64(x.Len)-1)/blockBytes-x.Off/blockBytes) + 1 }

func newReader(t testing.TB, k ring.Kernel, o ReaderOptions) *Reader {
	t.Helper()
	r, err := openReader(k, o)
	if err != nil {
		t.Skipf("not on this machine: %v", err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return r
}

// Fetch reads its ranges into the page cache and nothing else: through the ring and by system calls, short ranges and
// long ones.
func TestFetch(t *testing.T) {
	const size = 8 << 20
	f := newCachedFile(t, size)
	fd := int(f.Fd())
	for name, o := range map[string]ReaderOptions{"ring": {Ring: ModeOn}, "tiny ring": {Ring: ModeOn, Depth: 2},
		"calls": {Ring: ModeOff}} {
		t.Run(name, func(t *testing.T) {
			r := newReader(t, ring.Linux, o)
			if r.Report().Ring != (o.Ring == ModeOn) || (r.Report().Reason == "") != (o.Ring == ModeOn) {
				t.Errorf("%+v", r.Report())
			}
			rng := rand.New(rand.NewPCG(1, 2))
			for range 60 {
				n := 1 + rng.IntN([]int{10, 5000, 3 << 20}[rng.IntN(3)])
				x := Range{rng.Int64N(int64(size - n)), n}
				var got, all int
				for range 3 { // the kernel may evict something meanwhile
					if f.drop(t); errors.Is(r.Fetch(fd, []Range{x}), nil) {
						got, all = f.cached(t, x), f.cached(t, Range{0, size})
					}
					if got == touched(x) && all == got {
						break
					}
				}
				if got != touched(x) || all != got {
					t.Fatalf("%v: %d of %d blocks are cached, and %d elsewhere", x, got, touched(x), all-got)
				}
			}
			// Several ranges at once: short, empty, beyond the end, partly beyond it; and no range at all.
			f.drop(t)
			xs := []Range{{0, 1}, {5, 0}, {size + 4096, 10}, {4095, 2}, {size - 1, 5000}, {1 << 20, 1 << 20}, {-1, 10},
				{size - 5, 1 << 20}}
			if name == "calls" {
				xs = append(xs[:6], xs[7])
			}
			if err := errors.Join(r.Fetch(fd, xs), r.Fetch(fd, nil), r.Fetch(fd, []Range{{0, 0}})); err != nil {
				t.Error(err)
			}
			if n := f.cached(t, Range{0, size}); n != 1+1+256+1 {
				t.Errorf("%d blocks are cached", n)
			}
			if err := r.Fetch(-1, xs[:1]); !errors.Is(err, unix.EBADF) {
				t.Errorf("no file: %v", err)
			}
		})
	}
}

// sameBlocks returns a range of the same blocks, and no byte more than necessary.
func TestSameBlocks(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 10000 {
		x := Range{rng.Int64N(20000), 1 + rng.IntN(20000)}
		off, n := sameBlocks(x.Off, x.Len)
		y := Range{off, n}
		same := touched(y) == touched(x) && off/blockBytes == x.Off/blockBytes && off >= x.Off&^(blockBytes-1)
		long := n > max(1, x.Len) && touched(x) > 1 && n > (touched(x)-2)*blockBytes+2
		if n <= 0 || !same || long {
			t.Fatalf("%v became %v", x, y)
		}
	}
}

// crowd reads random ranges from many goroutines, each of which checks that its ranges are cached afterwards.
func crowd(t *testing.T, f cachedFile, r *Reader, goroutines, rounds int) {
	t.Helper()
	size := len(f.m)
	f.drop(t)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(3, uint64(g)))
			xs := make([]Range, 1+g%5)
			for range rounds {
				for i := range xs {
					xs[i].Len = 1 + rng.IntN([]int{5000, 5000, 5000, 600 << 10}[g%4])
					xs[i].Off = rng.Int64N(int64(size - xs[i].Len))
				}
				if g%7 == 0 {
					r.ReadAhead(int(f.Fd()), xs)
				}
				if err := r.Fetch(int(f.Fd()), xs); err != nil {
					t.Error(err)
					return
				}
				for _, x := range xs {
					n := f.cached(t, x)
					for again := 0; n != touched(x) && again < 3; again++ { // the kernel may have evicted something
						_ = r.Fetch(int(f.Fd()), []Range{x})
						n = f.cached(t, x)
					}
					if n != touched(x) {
						t.Errorf("%v: %d blocks of %d", x, n, touched(x))
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// Many goroutines fetch at once, with few and many processors and rings of all sizes, and each gets its ranges. Proves
// trap 23: long reads go through the ring.
func TestFetchConcurrently(t *testing.T) {
	f := newCachedFile(t, 8<<20)
	for _, procs := range []int{1, 2, 8} {
		for _, depth := range []int{1, 4, 128} {
			t.Run(fmt.Sprintf("procs=%d/depth=%d", procs, depth), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				r := newReader(t, ring.Linux, ReaderOptions{Ring: ModeOn, Depth: depth})
				crowd(t, f, r, 24, 20)
				if c := r.Counts(); c.Reads == 0 || c.Calls != 0 {
					t.Errorf("%+v", c)
				}
			})
		}
	}
}

// scripted returns a reader whose kernel answers each read at once with the result that answer returns.
func scripted(t *testing.T, answer func(fd int32, off int64, n int) int32) *Reader {
	t.Helper()
	var r *Reader
	k, side := ringtest.Watch(ring.Linux)
	k.Enter = func(fd int, submit, min, flags uint32) unix.Errno {
		if r == nil { // the probe
			return ring.Linux.Enter(fd, submit, min, flags)
		}
		side.Take(func(e *ringtest.Entry) { side.Complete(e.ID, answer(e.FD, e.Off, int(e.Len))) })
		return 0
	}
	r = newReader(t, k, ReaderOptions{Ring: ModeOn})
	return r
}

// Fetch continues short reads, retries transient errors, stops at the end of the file, and returns other errors.
func TestFetchResults(t *testing.T) {
	f := newCachedFile(t, 1<<20)
	fd := int(f.Fd())
	t.Run("short", func(t *testing.T) {
		next := int64(4095)
		r := scripted(t, func(_ int32, off int64, n int) int32 {
			if off != next || int(off)+n != 65536-4096+1 {
				t.Errorf("%d bytes at %d", n, off)
			}
			next += int64(min(n, 1000))
			return int32(min(n, 1000))
		})
		if err := r.Fetch(fd, []Range{{0, 65536}}); err != nil || next != 65536-4096+1 {
			t.Errorf("ended at %d: %v", next, err)
		}
	})
	t.Run("end", func(t *testing.T) {
		n := 0
		r := scripted(t, func(int32, int64, int) int32 { n++; return int32(100 * (2 - n)) })
		if err := r.Fetch(fd, []Range{{0, 65536}}); err != nil || n != 2 {
			t.Errorf("%d reads: %v", n, err)
		}
	})
	for _, e := range []unix.Errno{unix.EINTR, unix.EAGAIN, unix.ECANCELED} {
		t.Run(e.Error(), func(t *testing.T) {
			tries := 0
			r := scripted(t, func(int32, int64, int) int32 {
				if tries++; tries < 10 {
					return -int32(e)
				}
				return 1
			})
			if err := r.Fetch(fd, []Range{{0, 1}}); err != nil || tries != 10 || r.Counts().Calls != 0 {
				t.Errorf("%d tries: %v", tries, err)
			}
			tries = -1000 // no try succeeds: Fetch falls back to a system call
			if err := r.Fetch(fd, []Range{{0, 1}}); err != nil || r.Counts().Calls != 1 || tries > -900 {
				t.Errorf("%d tries, %+v: %v", tries+1000, r.Counts(), err)
			}
			tries = -1000 // read ahead is not retried: its descriptor may be closed
			if n := r.ReadAhead(fd, []Range{{0, 1}}); n != 1 || tries != -999 {
				t.Errorf("started %d, %d tries", n, tries+1000)
			}
		})
	}
	t.Run("EINVAL", func(t *testing.T) {
		r := scripted(t, func(int32, int64, int) int32 { return -int32(unix.EINVAL) })
		f.drop(t)
		if err := r.Fetch(fd, []Range{{0, 5000}}); err != nil || f.cached(t, Range{0, 5000}) != 2 {
			t.Errorf("a kernel that does not know the operation: %v", err)
		}
	})
	t.Run("EIO", func(t *testing.T) {
		r := scripted(t, func(_ int32, off int64, _ int) int32 { return -int32(unix.EIO) })
		if err := r.Fetch(fd, []Range{{0, 5000}, {1 << 19, 1 << 19}}); !errors.Is(err, unix.EIO) {
			t.Errorf("%v", err)
		}
	})
}

// Fetch allocates nothing (R3).
func TestFetchAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has pools forget")
	}
	f := newCachedFile(t, 1<<20)
	r := newReader(t, ring.Linux, ReaderOptions{Ring: ModeOn})
	xs := []Range{{0, 5000}, {1 << 19, 10}}
	i := 0
	if n := testing.AllocsPerRun(200, func() {
		if i++; i%20 == 0 {
			f.drop(t)
		}
		if err := r.Fetch(int(f.Fd()), xs); err != nil {
			t.Error(err)
		}
	}); n >= 1 {
		t.Errorf("%v allocations", n)
	}
}

// An idle Reader costs nothing: it makes no system call while it waits.
func TestReaderIdle(t *testing.T) {
	f := newCachedFile(t, 1<<20)
	var enters atomic.Int64
	k := ring.Linux
	k.Enter = func(fd int, submit, min, flags uint32) unix.Errno {
		enters.Add(1)
		return ring.Linux.Enter(fd, submit, min, flags)
	}
	r := newReader(t, k, ReaderOptions{Ring: ModeOn})
	if err := r.Fetch(int(f.Fd()), []Range{{0, 1}}); err != nil {
		t.Fatal(err)
	}
	n, used := enters.Load(), time.Hour
	for try := 0; try < 10 && used > 100*time.Millisecond; try++ { // the garbage collector takes some, but not always
		var before, after unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
		time.Sleep(200 * time.Millisecond)
		_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
		used = time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	}
	if enters.Load() != n || used > 100*time.Millisecond {
		t.Errorf("%d system calls, %v of processor time", enters.Load()-n, used)
	}
}

// A long read beside short ones without end is done after a limited number of them. Proves R6, rule 18, trap 43.
func TestLongReadBesideShortOnes(t *testing.T) {
	const size, depth, readers = 64 << 20, 8, 200
	f, err := os.CreateTemp(t.TempDir(), "hole")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil { // a hole: no disk is in the way
		t.Fatal(err)
	}
	r := newReader(t, ring.Linux, ReaderOptions{Park: true, Depth: depth})
	if !r.Report().Ring {
		t.Skip("the queue is that of the ring")
	}
	var stop atomic.Bool
	var shorts atomic.Int64
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for !stop.Load() {
				x := []Range{{Off: int64(rand.IntN(size/blockBytes)) * blockBytes, Len: 100}}
				if err := r.Fetch(int(f.Fd()), x); err != nil {
					t.Error(err)
					return
				}
				shorts.Add(1)
			}
		})
	}
	for shorts.Load() < readers {
		runtime.Gosched()
	}
	const pieces = 4
	done := make(chan error, 1)
	before := shorts.Load()
	go func() { done <- r.Fetch(int(f.Fd()), []Range{{Off: 0, Len: pieces * pieceBytes}}) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the long read starves")
	}
	// Callers count a read somewhat after it was done, and this goroutine runs somewhat late.
	if n := shorts.Load() - before; n > 100*pieces*shortsFirst {
		t.Errorf("%d short reads went by, of which %d may go before", n, pieces*shortsFirst)
	}
	stop.Store(true)
	wg.Wait()
}
