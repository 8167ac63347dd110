//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cachedFile is a file of size bytes on the disk, and a map of it that is never touched.
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
		t.Skip("this file system does not give up what is cached")
	}
	return c
}

func (c cachedFile) drop(t testing.TB) {
	t.Helper()
	if err := unix.Fadvise(int(c.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

// cached returns how many blocks of a range are in the page cache.
func (c cachedFile) cached(t testing.TB, x Range) (n int) {
	t.Helper()
	first := int(x.Off) &^ (blockBytes - 1)
	b := c.m[first : int(x.Off)+x.Len]
	vec := make([]byte, (len(b)+blockBytes-1)/blockBytes)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&vec[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for _, v := range vec {
		n += int(v & 1)
	}
	return n
}

func touched(x Range) int { return int((x.Off+int64(x.Len)-1)/blockBytes-x.Off/blockBytes) + 1 }

func newReader(t testing.TB, k kernel, o Options) *Reader {
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

// What is fetched is in the page cache, and nothing else is: by the ring and by system calls, short ranges and long ones.
func TestFetch(t *testing.T) {
	const size = 8 << 20
	f := newCachedFile(t, size)
	fd := int(f.Fd())
	for name, o := range map[string]Options{"ring": {Ring: ModeOn}, "tiny ring": {Ring: ModeOn, Depth: 2}, "calls": {Ring: ModeOff}} {
		t.Run(name, func(t *testing.T) {
			r := newReader(t, linux, o)
			if r.Report().Ring != (o.Ring == ModeOn) || (r.Report().Reason == "") != (o.Ring == ModeOn) {
				t.Errorf("%+v", r.Report())
			}
			rng := rand.New(rand.NewPCG(1, 2))
			for range 60 {
				n := 1 + rng.IntN([]int{10, 5000, 3 << 20}[rng.IntN(3)])
				x := Range{rng.Int64N(int64(size - n)), n}
				var got, all int
				for range 3 { // the kernel may take something back meanwhile
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
			// Many at once, empty ones, beyond the end, partly beyond it, nothing at all.
			f.drop(t)
			xs := []Range{{0, 1}, {5, 0}, {size + 4096, 10}, {4095, 2}, {size - 1, 5000}, {1 << 20, 1 << 20}, {-1, 10}, {size - 5, 1 << 20}}
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

// least names the same blocks.
func TestLeast(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 10000 {
		x := Range{rng.Int64N(20000), 1 + rng.IntN(20000)}
		off, n := least(x.Off, x.Len)
		y := Range{off, n}
		if n <= 0 || touched(y) != touched(x) || off/blockBytes != x.Off/blockBytes || off < x.Off&^(blockBytes-1) || n > max(1, x.Len) && touched(x) > 1 && n > (touched(x)-2)*blockBytes+2 {
			t.Fatalf("%v became %v", x, y)
		}
	}
}

// crowd reads at random from many goroutines, and then checks that all of it is cached.
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
					for again := 0; n != touched(x) && again < 3; again++ { // the kernel may have taken something back
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

// Many goroutines, few and many processors, rings of all sizes: everybody gets what they asked for. Proves trap 23: long reads go through the ring.
func TestCrowd(t *testing.T) {
	f := newCachedFile(t, 8<<20)
	for _, procs := range []int{1, 2, 8} {
		for _, depth := range []int{1, 4, 128} {
			t.Run(fmt.Sprintf("procs=%d/depth=%d", procs, depth), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				r := newReader(t, linux, Options{Ring: ModeOn, Depth: depth})
				crowd(t, f, r, 24, 20)
				if c := r.Counts(); c.Reads == 0 || c.Calls != 0 {
					t.Errorf("%+v", c)
				}
			})
		}
	}
}

// io_uring_enter is interrupted, refuses, or takes a part at random; nobody waits for ever, and all is read.
func TestFetchInterrupted(t *testing.T) {
	f := newCachedFile(t, 8<<20)
	var refused atomic.Int64
	k := linux
	k.enter = func(fd int, submit, min, flags uint32) unix.Errno {
		switch refused.Add(1); rand.IntN(6) {
		case 0:
			return unix.EINTR
		case 1:
			return unix.EAGAIN
		case 2:
			return unix.EBUSY
		case 3:
			if submit > 1 {
				return linux.enter(fd, submit-1, 0, flags)
			}
		case 4:
			linux.enter(fd, submit, min, flags)
			return unix.EINTR
		}
		return linux.enter(fd, submit, min, flags)
	}
	crowd(t, f, newReader(t, k, Options{Ring: ModeOn, Depth: 8}), 16, 30)
}

// scripted is a reader whose kernel answers at once, as a function says.
func scripted(t *testing.T, answer func(fd int32, off int64, n int) int32) *Reader {
	t.Helper()
	var r *Reader
	k := linux
	k.enter = func(fd int, submit, min, flags uint32) unix.Errno {
		if r == nil { // the probe
			return linux.enter(fd, submit, min, flags)
		}
		for ring, head := r.ring, r.ring.sqHead.Load(); head != r.ring.sqTail.Load(); head++ {
			e := (*struct {
				op, flags byte
				prio      uint16
				fd        int32
				off, addr uint64
				n, _      uint32
				id        uint64
			})(unsafe.Pointer(&ring.sqes[ring.array[head&ring.sqMask]]))
			fakeAnswer(ring, e.id, answer(e.fd, int64(e.off), int(e.n))) // which takes all
		}
		return 0
	}
	r = newReader(t, k, Options{Ring: ModeOn})
	return r
}

// Short reads are read on, those that ask for it again; the end of the file ends them; other errors are returned.
func TestFetchAnswers(t *testing.T) {
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
			tries = -1000 // it never works: system calls
			if err := r.Fetch(fd, []Range{{0, 1}}); err != nil || r.Counts().Calls != 1 || tries > -900 {
				t.Errorf("%d tries, %+v: %v", tries+1000, r.Counts(), err)
			}
			tries = -1000 // nobody waits: its descriptor may be gone
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

// Proves trap 20: whatever step of setting the ring up is refused, the Reader makes system calls and says why; nothing leaks.
func TestReaderRefused(t *testing.T) {
	f := newCachedFile(t, 1<<20)
	for step, refuse := range refusals {
		for _, e := range []unix.Errno{unix.ENOSYS, unix.EPERM, unix.ENOMEM, unix.EMFILE} {
			p := &opener{kernel: linux}
			refuse(p, e)
			before := descriptors(t)
			if _, err := openReader(p.kernel, Options{Ring: ModeOn}); !errors.Is(err, e) {
				t.Errorf("%s, %v, insisting: %v", step, e, err)
			}
			r, err := openReader(p.kernel, Options{})
			if err != nil || r.Report().Ring || !strings.Contains(r.Report().Reason, e.Error()) {
				t.Fatalf("%s, %v: %v", step, e, err)
			}
			f.drop(t)
			if err := r.Fetch(int(f.Fd()), []Range{{100, 5000}}); err != nil || f.cached(t, Range{0, 1 << 20}) != 2 {
				t.Errorf("%s, %v: %v", step, e, err)
			}
			if n := r.ReadAhead(int(f.Fd()), []Range{{1 << 19, 1}}); n != 0 {
				t.Errorf("%d started by system calls", n)
			}
			if err := errors.Join(r.Close(), r.Close()); err != nil {
				t.Error(err)
			}
			if err := r.Fetch(int(f.Fd()), []Range{{0, 1}}); !errors.Is(err, os.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
			if after := descriptors(t); after != before {
				t.Errorf("%s, %v: %d descriptors before, %d after", step, e, before, after)
			}
		}
	}
}

// A ring that stops to work in the middle: everybody is woken, and goes on with system calls.
func TestRingBreaks(t *testing.T) {
	f := newCachedFile(t, 8<<20)
	var n atomic.Int64
	k := linux
	k.enter = func(fd int, submit, min, flags uint32) unix.Errno {
		if n.Add(1) > 20 {
			return unix.EBADF
		}
		return linux.enter(fd, submit, min, flags)
	}
	r, err := openReader(k, Options{Ring: ModeOn, Depth: 8})
	if err != nil {
		t.Skip(err)
	}
	crowd(t, f, r, 16, 20)
	if rep := r.Report(); rep.Ring || !strings.Contains(rep.Reason, unix.EBADF.Error()) || r.Counts().Calls == 0 {
		t.Errorf("%+v", rep)
	}
	if err := r.Close(); err == nil {
		t.Error("closed as if nothing had happened")
	}
}

// Close while reads are in flight and queued: everybody returns, and no descriptor is left.
func TestCloseInFlight(t *testing.T) {
	f := newCachedFile(t, 8<<20)
	before := descriptors(t)
	for round := range 20 {
		r, err := openReader(linux, Options{Ring: ModeOn, Depth: 4})
		if err != nil {
			t.Skip(err)
		}
		f.drop(t)
		var wg sync.WaitGroup
		var closed atomic.Int64
		for g := range 32 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(round), uint64(g)))
				for closed.Load() == 0 {
					r.ReadAhead(int(f.Fd()), []Range{{rng.Int64N(4 << 20), 8192}})
					err := r.Fetch(int(f.Fd()), []Range{{rng.Int64N(4 << 20), 1 << uint(rng.IntN(22))}, {rng.Int64N(4 << 20), 100}})
					if err != nil {
						if closed.Add(1); !errors.Is(err, os.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(round) * 300 * time.Microsecond)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// A completion that never comes: Close ends in bounded time and wakes everybody.
func TestReadNeverEnds(t *testing.T) {
	f := newCachedFile(t, 1<<20)
	var swallow atomic.Bool
	var ring *ring
	k := linux
	k.enter = func(fd int, submit, min, flags uint32) unix.Errno {
		if swallow.Load() {
			ring.sqHead.Store(ring.sqTail.Load())
			return 0
		}
		return linux.enter(fd, submit, min, flags)
	}
	r, err := openReader(k, Options{Ring: ModeOn, Depth: 4})
	if err != nil {
		t.Skip(err)
	}
	ring, r.drainLimit = r.ring, 30*time.Millisecond
	swallow.Store(true)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if err := r.Fetch(int(f.Fd()), []Range{{0, 1}, {1 << 19, 1}}); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%v", err)
			}
		})
	}
	time.Sleep(5 * time.Millisecond)
	start := time.Now()
	if err := r.Close(); !errors.Is(err, unix.ETIMEDOUT) || time.Since(start) > 2*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	wg.Wait()
	_ = unix.Close(ring.fd)
}

// ReadAhead is bounded, leaves half the ring to those who wait, and hands everything over before it returns (R2).
func TestReadAhead(t *testing.T) {
	f := newCachedFile(t, 8<<20)
	var taken atomic.Int64
	k := linux
	k.enter = func(fd int, submit, min, flags uint32) unix.Errno {
		taken.Add(int64(submit))
		return linux.enter(fd, submit, min, flags)
	}
	r := newReader(t, k, Options{Ring: ModeOn, Depth: 8})
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	xs := make([]Range, 20)
	for i := range xs {
		xs[i] = Range{int64(i) << 16, 4096}
	}
	r.mu.Lock() // nothing is taken out meanwhile
	n := 0
	for n < len(xs) && r.startRange(fd, xs[n]) {
		n++
	}
	r.mu.Unlock()
	if n != 4 {
		t.Errorf("%d of a ring of 8", n)
	}
	if m := r.ReadAhead(fd, xs[n:n+1]); m > 1 {
		t.Errorf("%d started", m)
	}
	r.mu.Lock()
	r.leading.Store(true)
	r.mu.Unlock()
	r.lead()
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); f.cached(t, Range{0, 8 << 20}) < n && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got := f.cached(t, Range{0, 8 << 20}); got < n {
		t.Errorf("%d blocks of %d came in", got, n)
	}
	if n := r.ReadAhead(int(f.Fd()), []Range{{0, 0}}); n != 0 {
		t.Errorf("nothing at all: %d", n)
	}
}

// R3: nothing is allocated for a read.
func TestFetchAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has pools forget")
	}
	f := newCachedFile(t, 1<<20)
	r := newReader(t, linux, Options{Ring: ModeOn})
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

// A reader that nobody uses costs nothing: no system call is made while it waits.
func TestIdle(t *testing.T) {
	f := newCachedFile(t, 1<<20)
	var enters atomic.Int64
	k := linux
	k.enter = func(fd int, submit, min, flags uint32) unix.Errno {
		enters.Add(1)
		return linux.enter(fd, submit, min, flags)
	}
	r := newReader(t, k, Options{Ring: ModeOn})
	if err := r.Fetch(int(f.Fd()), []Range{{0, 1}}); err != nil {
		t.Fatal(err)
	}
	var before, after unix.Rusage
	n := enters.Load()
	_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
	time.Sleep(200 * time.Millisecond)
	_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
	used := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	if enters.Load() != n || used > 100*time.Millisecond {
		t.Errorf("%d system calls, %v of processor time", enters.Load()-n, used)
	}
}

// Settle waits for what ReadAhead has begun, for so long at most, and nothing is begun meanwhile.
func TestSettle(t *testing.T) {
	f := newCachedFile(t, 8<<20)
	var hold atomic.Bool
	k := linux
	k.enter = func(fd int, submit, min, flags uint32) unix.Errno {
		if hold.Load() {
			return unix.EINTR // nothing is taken by the kernel
		}
		return linux.enter(fd, submit, min, flags)
	}
	r := newReader(t, k, Options{Ring: ModeOn, Depth: 16})
	if err := r.Settle(time.Second); err != nil {
		t.Fatal(err)
	}
	hold.Store(true)
	started := make(chan int)
	go func() { started <- r.ReadAhead(int(f.Fd()), []Range{{0, 4096}}) }()
	for busy := false; !busy; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		busy = r.started == 1
		r.mu.Unlock()
	}
	if err := r.Settle(5 * time.Millisecond); !errors.Is(err, unix.ETIMEDOUT) {
		t.Errorf("settled with a read under way: %v", err)
	}
	settled := make(chan error)
	go func() { settled <- r.Settle(10 * time.Second) }()
	for waits := false; !waits; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		waits = r.settle == 1
		r.mu.Unlock()
	}
	if n := r.ReadAhead(int(f.Fd()), []Range{{1 << 20, 4096}}); n != 0 {
		t.Error("something was begun meanwhile")
	}
	hold.Store(false)
	if n, err := <-started, <-settled; n != 1 || err != nil {
		t.Errorf("%d started, %v", n, err)
	}
	r.mu.Lock()
	left := r.started
	r.mu.Unlock()
	if left != 0 || r.ReadAhead(int(f.Fd()), []Range{{1 << 20, 4096}}) != 1 {
		t.Error("nothing can be begun afterwards")
	}
}

// Whoever leads hands over after some turns, to a long request too, so that its own short one is not kept until others' long ones have ended.
func TestLeadIsHandedOver(t *testing.T) {
	const size = 64 << 20 // all of it cached: what is submitted completes at once
	f := logFile(t, t.TempDir(), size)
	if _, err := f.WriteAt(make([]byte, size), 0); err != nil {
		t.Fatal(err)
	}
	r := newReader(t, linux, Options{Ring: ModeOn})
	q := &request{fd: int(f.Fd()), ranges: []Range{{0, size}}, long: true, wake: make(chan bool, 2)}
	r.mu.Lock()
	r.queue(q)
	r.leading.Store(true)
	r.mu.Unlock()
	r.users.Add(1)
	defer r.users.Add(-1)
	leads := 0
	for done := false; !done; done = <-q.wake {
		before := r.Counts().Submissions
		r.lead()
		leads++
		if n := r.Counts().Submissions - before; n > leadTurns+1 {
			t.Errorf("%d submissions by one who leads", n)
		}
	}
	if leads < 2 {
		t.Errorf("led %d times", leads)
	}
}

// What was being read ahead when the ring failed is given its time by Settle, once.
func TestSettleAfterFailure(t *testing.T) {
	f := newCachedFile(t, 1<<20)
	var fail atomic.Bool
	k := linux
	k.enter = func(fd int, submit, min, flags uint32) unix.Errno {
		if fail.Load() {
			return unix.EBADF
		}
		return linux.enter(fd, submit, min, flags)
	}
	r, err := openReader(k, Options{Ring: ModeOn, Depth: 8})
	if err != nil {
		t.Skip(err)
	}
	fail.Store(true)
	start := time.Now()
	if n := r.ReadAhead(int(f.Fd()), []Range{{0, 4096}}); n != 1 {
		t.Fatalf("%d started", n)
	}
	const limit = 100 * time.Millisecond
	if err := r.Settle(limit); err != nil || time.Since(start) < limit {
		t.Errorf("settled after %v: %v", time.Since(start), err)
	}
	if start = time.Now(); r.Settle(limit) != nil || time.Since(start) > limit/2 {
		t.Errorf("a second time after %v", time.Since(start))
	}
	_ = r.Close() // which says that the ring failed
}
