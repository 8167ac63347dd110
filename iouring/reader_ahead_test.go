//go:build linux

package iouring

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/iouring/internal/ring"
)

// ReadAhead leaves half the ring to callers that wait, and has submitted everything before it returns (R2).
func TestReadAhead(t *testing.T) {
	f := newCachedFile(t, 8<<20)
	var taken atomic.Int64
	k := ring.Linux
	k.Enter = func(fd int, submit, min, flags uint32) unix.Errno {
		taken.Add(int64(submit))
		return ring.Linux.Enter(fd, submit, min, flags)
	}
	r := newReader(t, k, ReaderOptions{Ring: ModeOn, Depth: 8})
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	xs := make([]Range, 20)
	for i := range xs {
		xs[i] = Range{int64(i) << 16, 4096}
	}
	r.mu.Lock() // no completion is taken meanwhile
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
		t.Errorf("%d blocks of %d were read", got, n)
	}
	if n := r.ReadAhead(int(f.Fd()), []Range{{0, 0}}); n != 0 {
		t.Errorf("nothing at all: %d", n)
	}
}

// Settle waits until all read ahead has ended, for its limit at most, and no read ahead is started meanwhile.
func TestSettle(t *testing.T) {
	f := newCachedFile(t, 8<<20)
	var hold atomic.Bool
	k := ring.Linux
	k.Enter = func(fd int, submit, min, flags uint32) unix.Errno {
		if hold.Load() {
			return unix.EINTR // the kernel takes nothing
		}
		return ring.Linux.Enter(fd, submit, min, flags)
	}
	r := newReader(t, k, ReaderOptions{Ring: ModeOn, Depth: 16})
	if err := r.Settle(time.Second); err != nil {
		t.Fatal(err)
	}
	hold.Store(true)
	started := make(chan int)
	go func() { started <- r.ReadAhead(int(f.Fd()), []Range{{0, 4096}}) }()
	for busy := false; !busy; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		busy = r.ahead == 1
		r.mu.Unlock()
	}
	if err := r.Settle(5 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("settled with a read in flight: %v", err)
	}
	settled := make(chan error)
	go func() { settled <- r.Settle(10 * time.Second) }()
	for waits := false; !waits; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		waits = r.settling == 1
		r.mu.Unlock()
	}
	if n := r.ReadAhead(int(f.Fd()), []Range{{1 << 20, 4096}}); n != 0 {
		t.Error("read ahead was started while Settle waits")
	}
	hold.Store(false)
	if n, err := <-started, <-settled; n != 1 || err != nil {
		t.Errorf("%d started, %v", n, err)
	}
	r.mu.Lock()
	left := r.ahead
	r.mu.Unlock()
	if left != 0 || r.ReadAhead(int(f.Fd()), []Range{{1 << 20, 4096}}) != 1 {
		t.Error("no read ahead can be started after Settle")
	}
}

// If the ring fails with read ahead in flight, Settle waits for its limit, once.
func TestSettleAfterFailure(t *testing.T) {
	f := newCachedFile(t, 1<<20)
	var fail atomic.Bool
	k := ring.Linux
	k.Enter = func(fd int, submit, min, flags uint32) unix.Errno {
		if fail.Load() {
			return unix.EBADF
		}
		return ring.Linux.Enter(fd, submit, min, flags)
	}
	r, err := openReader(k, ReaderOptions{Ring: ModeOn, Depth: 8})
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
	_ = r.Close() // its error says that the ring failed
}

// A leader hands over after some turns, to the caller of a long request too, so that it does not wait until the long
// requests of others have ended.
func TestLeaderHandsOver(t *testing.T) {
	const size = 64 << 20 // all of it is cached, so reads complete at once
	f := logFile(t, t.TempDir(), size)
	if _, err := f.WriteAt(make([]byte, size), 0); err != nil {
		t.Fatal(err)
	}
	r := newReader(t, ring.Linux, ReaderOptions{Ring: ModeOn})
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
		if n := r.Counts().Submissions - before; n > leaderTurns+1 {
			t.Errorf("%d submissions by one leader", n)
		}
	}
	if leads < 2 {
		t.Errorf("led %d times", leads)
	}
}
