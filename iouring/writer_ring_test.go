//go:build linux

package iouring

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pagecache/iouring/internal/ring"
)

// testRing returns a ring on this machine's kernel, with depth entries.
func testRing(t *testing.T, k ring.Kernel, fd, depth int) *ring.Ring {
	t.Helper()
	r, err := ring.New(k, fd, depth)
	if err != nil {
		t.Skipf("no io_uring here: %v", err)
	}
	return r
}

// If io_uring_enter is interrupted, refuses, or takes only a part, no write is lost or completed twice.
func TestWriterInterrupted(t *testing.T) {
	const size, n = 1 << 20, 256
	f := logFile(t, t.TempDir(), size)
	buf := memory(t, size)
	rng := rand.New(rand.NewPCG(5, 6))
	k, refused := ring.Linux, 0
	k.Enter = func(fd int, submit, min, flags uint32) unix.Errno {
		switch rng.IntN(8) {
		case 0:
			refused++
			return unix.EINTR
		case 1:
			refused++
			return unix.EAGAIN
		case 2:
			refused++
			return unix.EBUSY
		case 3:
			if submit > 1 { // the kernel takes a part, and does not wait then
				return ring.Linux.Enter(fd, submit-1, 0, flags)
			}
		case 4:
			ring.Linux.Enter(fd, submit, min, flags) // everything is done, and the call is interrupted nevertheless
			return unix.EINTR
		}
		return ring.Linux.Enter(fd, submit, min, flags)
	}
	w := newWriter(testRing(t, k, int(f.Fd()), 8), nil, 4096, 8)
	landed := map[uint64]bool{}
	for next, inFlight := 0, 0; next < n || inFlight > 0; {
		var writes []Write
		for range rng.IntN(8 - inFlight + 1) {
			if next < n {
				block := buf[next*4096 : (next+1)*4096]
				writes = append(writes, Write{Off: int64(next) * 4096, Buf: block, Tag: uint64(next)})
				next++
			}
		}
		inFlight += len(writes)
		want := rng.IntN(inFlight + 1)
		comps, err := w.Do(writes, want, nil)
		if err != nil || len(comps) < want {
			t.Fatalf("%d completions, want %d: %v", len(comps), want, err)
		}
		if w.q.Pending() {
			t.Fatal("Do left writes that the kernel does not know of")
		}
		for _, c := range comps {
			if c.Err != nil || landed[c.Tag] {
				t.Fatalf("completion %+v", c)
			}
			landed[c.Tag] = true
		}
		inFlight -= len(comps)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, buf) || len(landed) != n || refused == 0 {
		t.Fatalf("%d landed, %d refused, %v", len(landed), refused, err)
	}
}

// Writes complete under a storm of signals to the waiting thread.
func TestWriterSignalStorm(t *testing.T) {
	f := logFile(t, t.TempDir(), 1<<20)
	buf := memory(t, 1<<20)
	w := newWriter(testRing(t, ring.Linux, int(f.Fd()), 4), nil, 4096, 4)
	stop := make(chan struct{})
	var storm sync.WaitGroup
	storm.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Kill(unix.Getpid(), unix.SIGURG) // the runtime ignores its own signal
			}
		}
	})
	for i := range 200 {
		do(t, w, Write{Off: int64(i) * 4096, Buf: buf[i*4096 : (i+1)*4096]})
	}
	close(stop)
	storm.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// An errno of io_uring_enter that is not transient is the error of Do.
func TestWriterEnterFails(t *testing.T) {
	k := ring.Linux
	k.Enter = func(int, uint32, uint32, uint32) unix.Errno { return unix.EBADF }
	w := newWriter(testRing(t, k, 0, 4), nil, 4096, 4)
	if _, err := w.Do([]Write{{Buf: memory(t, 4096)}}, 1, nil); !errors.Is(err, syscall.EBADF) {
		t.Errorf("%v", err)
	}
	if err := w.q.Close(); err != nil {
		t.Error(err)
	}
}

// After a ring has failed, Close still waits for the writes that the kernel has, and is woken by their completions
// (rule 18).
func TestCloseAwaitsWritesOfFailedRing(t *testing.T) {
	f := logFile(t, t.TempDir(), 4<<20)
	buf := memory(t, 4<<20)
	failed := false
	k := ring.Linux
	k.Enter = func(fd int, submit, min, flags uint32) unix.Errno {
		if failed {
			return unix.EINVAL
		}
		return ring.Linux.Enter(fd, submit, min, flags)
	}
	w := newWriter(testRing(t, k, int(f.Fd()), 4), nil, 4096, 4)
	if _, err := w.Do([]Write{{Buf: buf[:2<<20]}, {Off: 2 << 20, Buf: buf[2<<20:]}}, 0, nil); err != nil {
		t.Fatal(err)
	}
	failed = true
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	got := make([]byte, len(buf))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, buf) {
		t.Errorf("the file does not hold what was written: %v", err)
	}
}
