//go:build linux

package iouring

import (
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/iouring/internal/ring"
	"pagecache/iouring/internal/ringtest"
)

// If io_uring_enter is interrupted, refuses, or takes only a part, every Fetch still ends with its ranges read.
func TestFetchInterrupted(t *testing.T) {
	f := newCachedFile(t, 8<<20)
	var refused atomic.Int64
	k := ring.Linux
	k.Enter = func(fd int, submit, min, flags uint32) unix.Errno {
		switch refused.Add(1); rand.IntN(6) {
		case 0:
			return unix.EINTR
		case 1:
			return unix.EAGAIN
		case 2:
			return unix.EBUSY
		case 3:
			if submit > 1 {
				return ring.Linux.Enter(fd, submit-1, 0, flags)
			}
		case 4:
			ring.Linux.Enter(fd, submit, min, flags)
			return unix.EINTR
		}
		return ring.Linux.Enter(fd, submit, min, flags)
	}
	crowd(t, f, newReader(t, k, ReaderOptions{Ring: ModeOn, Depth: 8}), 16, 30)
}

// Proves trap 20: if any step of setting up the ring is refused, the Reader makes system calls and reports why, and
// nothing leaks. It calls Degraded once, unless the ring is switched off.
func TestReaderRefused(t *testing.T) {
	f := newCachedFile(t, 1<<20)
	for step, refuse := range refusals {
		for _, e := range []unix.Errno{unix.ENOSYS, unix.EPERM, unix.ENOMEM, unix.EMFILE} {
			p := &writerOpener{kernel: ring.Linux}
			refuse(p, e)
			before := descriptors(t)
			if _, err := openReader(p.kernel, ReaderOptions{Ring: ModeOn}); !errors.Is(err, e) {
				t.Errorf("%s, %v, insisting: %v", step, e, err)
			}
			var reasons []string
			note := func(reason string) { reasons = append(reasons, reason) }
			off, err := openReader(p.kernel, ReaderOptions{Ring: ModeOff, Degraded: note})
			if err != nil || reasons != nil {
				t.Fatalf("switched off: %q, %v", reasons, err)
			}
			_ = off.Close()
			r, err := openReader(p.kernel, ReaderOptions{Degraded: note})
			if err != nil || r.Report().Ring || !strings.Contains(r.Report().Reason, e.Error()) {
				t.Fatalf("%s, %v: %v", step, e, err)
			}
			if len(reasons) != 1 || reasons[0] != r.Report().Reason {
				t.Errorf("%s, %v: reasons %q, want %q", step, e, reasons, r.Report().Reason)
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

// If the ring fails while callers wait, all of them are woken and go on with system calls. Degraded is called once.
func TestRingFailsInUse(t *testing.T) {
	f := newCachedFile(t, 8<<20)
	var n atomic.Int64
	k := ring.Linux
	k.Enter = func(fd int, submit, min, flags uint32) unix.Errno {
		if n.Add(1) > 20 {
			return unix.EBADF
		}
		return ring.Linux.Enter(fd, submit, min, flags)
	}
	var calls atomic.Int64
	degraded := func(reason string) {
		if calls.Add(1); !strings.Contains(reason, unix.EBADF.Error()) {
			t.Errorf("reason %q", reason)
		}
	}
	r, err := openReader(k, ReaderOptions{Ring: ModeOn, Depth: 8, Degraded: degraded})
	if err != nil {
		t.Skip(err)
	}
	crowd(t, f, r, 16, 20)
	if calls.Load() != 1 {
		t.Errorf("Degraded was called %d times, want once", calls.Load())
	}
	if rep := r.Report(); rep.Ring || !strings.Contains(rep.Reason, unix.EBADF.Error()) || r.Counts().Calls == 0 {
		t.Errorf("%+v", rep)
	}
	if err := r.Close(); err == nil {
		t.Error("closed as if nothing had happened")
	}
}

// Close with reads in flight and queued wakes all callers and leaves no descriptor open.
func TestReaderCloseInFlight(t *testing.T) {
	f := newCachedFile(t, 8<<20)
	before := descriptors(t)
	for round := range 20 {
		r, err := openReader(ring.Linux, ReaderOptions{Ring: ModeOn, Depth: 4})
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
					long := Range{rng.Int64N(4 << 20), 1 << uint(rng.IntN(22))}
					err := r.Fetch(int(f.Fd()), []Range{long, {rng.Int64N(4 << 20), 100}})
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

// If a completion never comes, Close ends in bounded time and wakes all callers (R5).
func TestReaderCloseWithoutCompletion(t *testing.T) {
	f := newCachedFile(t, 1<<20)
	var swallow atomic.Bool
	k, side := ringtest.Watch(ring.Linux)
	k.Enter = func(fd int, submit, min, flags uint32) unix.Errno {
		if swallow.Load() {
			side.Take(func(*ringtest.Entry) {})
			return 0
		}
		return ring.Linux.Enter(fd, submit, min, flags)
	}
	r, err := openReader(k, ReaderOptions{Ring: ModeOn, Depth: 4})
	if err != nil {
		t.Skip(err)
	}
	r.drainLimit = 30 * time.Millisecond
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
	if err := r.Close(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > 2*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	wg.Wait()
	_ = r.ring.Close()
}
