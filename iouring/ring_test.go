//go:build linux

package iouring

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	sys "github.com/iceber/iouring-go/syscall"
	"golang.org/x/sys/unix"
)

// testRing is a ring on this machine's kernel, with depth entries.
func testRing(t *testing.T, k kernel, fd, depth int) *ring {
	t.Helper()
	r, err := newRing(k, fd, depth)
	if err != nil {
		t.Skipf("no io_uring here: %v", err)
	}
	return r
}

// io_uring_enter is interrupted, refuses, or takes a part at random; nothing is lost or done twice.
func TestInterrupted(t *testing.T) {
	const size, n = 1 << 20, 256
	f := logFile(t, t.TempDir(), size)
	buf := memory(t, size)
	rng := rand.New(rand.NewPCG(5, 6))
	k, refused := linux, 0
	k.enter = func(fd int, submit, min, flags uint32) unix.Errno {
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
			if submit > 1 { // a part is taken; the kernel does not wait then
				return linux.enter(fd, submit-1, 0, flags)
			}
		case 4:
			linux.enter(fd, submit, min, flags) // done, and interrupted all the same
			return unix.EINTR
		}
		return linux.enter(fd, submit, min, flags)
	}
	w := newWriter(testRing(t, k, int(f.Fd()), 8), nil, 4096, 8)
	landed := map[uint64]bool{}
	for next, inFlight := 0, 0; next < n || inFlight > 0; {
		var writes []Write
		for range rng.IntN(8 - inFlight + 1) {
			if next < n {
				writes = append(writes, Write{Off: int64(next) * 4096, Buf: buf[next*4096 : (next+1)*4096], Tag: uint64(next)})
				next++
			}
		}
		inFlight += len(writes)
		want := rng.IntN(inFlight + 1)
		comps, err := w.Do(writes, want, nil)
		if err != nil || len(comps) < want {
			t.Fatalf("%d completions, want %d: %v", len(comps), want, err)
		}
		if w.q.pending() {
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

// A storm of signals at the waiting thread.
func TestSignalStorm(t *testing.T) {
	f := logFile(t, t.TempDir(), 1<<20)
	buf := memory(t, 1<<20)
	w := newWriter(testRing(t, linux, int(f.Fd()), 4), nil, 4096, 4)
	stop := make(chan struct{})
	var storm sync.WaitGroup
	storm.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Kill(unix.Getpid(), unix.SIGURG) // the runtime's own; it does nothing with it
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

// A kernel that never takes anything makes the ring unusable after a time, and does not hang.
func TestStall(t *testing.T) {
	for _, e := range []unix.Errno{0, unix.EINTR, unix.EAGAIN, unix.EBUSY} {
		k := linux
		k.enter = func(int, uint32, uint32, uint32) unix.Errno { return e }
		r := testRing(t, k, 0, 4)
		r.patience = 20 * time.Millisecond
		r.nop(1)
		if err := r.enter(1); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%v: %v", e, err)
		}
		if err := r.await(10 * time.Millisecond); !errors.Is(err, unix.ETIMEDOUT) {
			t.Errorf("%v: %v", e, err)
		}
		if err := r.close(); err != nil {
			t.Error(err)
		}
	}
}

// A kernel that refuses until completions are taken: enter returns for them, at once, and what was refused goes in after.
func TestBusy(t *testing.T) {
	var r *ring
	k := linux
	k.enter = func(fd int, submit, min, flags uint32) unix.Errno {
		if r.cqTail.Load() != r.cqHead.Load() {
			return unix.EBUSY
		}
		return linux.enter(fd, submit, min, flags)
	}
	r = testRing(t, k, 0, 4)
	defer r.close()
	r.nop(1)
	if err := r.enter(1); err != nil {
		t.Fatal(err)
	}
	r.nop(2)
	if err := r.enter(2); err != nil || !r.pending() {
		t.Fatalf("refused, and yet taken: %v", err)
	}
	for want := range uint64(2) {
		if id, res, ok := r.pop(); id != want+1 || res != 0 || !ok {
			t.Fatalf("completion %d: id %d, result %d, %v", want, id, res, ok)
		}
		if err := r.enter(1 - int(want)); err != nil {
			t.Fatal(err)
		}
	}
}

// An errno of io_uring_enter that is not transient is the device's error.
func TestEnterFails(t *testing.T) {
	k := linux
	k.enter = func(int, uint32, uint32, uint32) unix.Errno { return unix.EBADF }
	w := newWriter(testRing(t, k, 0, 4), nil, 4096, 4)
	if _, err := w.Do([]Write{{Buf: memory(t, 4096)}}, 1, nil); !errors.Is(err, syscall.EBADF) {
		t.Errorf("%v", err)
	}
	if err := w.q.close(); err != nil {
		t.Error(err)
	}
}

// More completions than the queue holds all arrive. Proves trap 20: a full completion queue loses nothing.
func TestOverflow(t *testing.T) {
	r := testRing(t, linux, 0, 4)
	defer r.close()
	const rounds = 16
	for i := range rounds * 4 {
		r.nop(uint64(i))
		if i%4 == 3 {
			if err := r.enter(0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r.sqFlags.Load()&sys.IORING_SQ_CQ_OVERFLOW == 0 {
		t.Fatalf("%d completions did not overflow a queue of %d", rounds*4, len(r.cqes))
	}
	seen := map[uint64]bool{}
	for len(seen) < rounds*4 {
		id, res, ok := r.pop()
		if !ok || res != 0 || seen[id] {
			t.Fatalf("after %d: id %d, result %d, %v", len(seen), id, res, ok)
		}
		seen[id] = true
	}
	if _, _, ok := r.pop(); ok {
		t.Error("one completion too many")
	}
}

// The two layouts of the queues: in one mapping, and, as old kernels have it, in two.
func TestTwoMappings(t *testing.T) {
	for _, single := range []bool{true, false} {
		k := linux
		k.setup = func(n uint, p *sys.IOURingParams) (int, error) {
			fd, err := linux.setup(n, p)
			if !single {
				p.Features &^= sys.IORING_FEAT_SINGLE_MMAP
			}
			return fd, err
		}
		f := logFile(t, t.TempDir(), 1<<16)
		r := testRing(t, k, int(f.Fd()), 4)
		if want := map[bool]int{true: 2, false: 3}[single]; len(r.maps) != want {
			t.Errorf("%d mappings, want %d", len(r.maps), want)
		}
		w := newWriter(r, nil, 4096, 4)
		do(t, w, Write{Buf: memory(t, 1<<16)})
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A layout that does not fit its areas is refused before it is used.
func TestHostileLayout(t *testing.T) {
	for name, spoil := range map[string]func(p *sys.IOURingParams){
		"no entries":      func(p *sys.IOURingParams) { p.SQEntries = 0 },
		"too few":         func(p *sys.IOURingParams) { p.SQEntries = 2 },
		"few completions": func(p *sys.IOURingParams) { p.CQEntries = 1 },
		"huge":            func(p *sys.IOURingParams) { p.CQEntries = 1 << 31 },
		"masks":           func(p *sys.IOURingParams) { p.CQEntries *= 2 },
		"head":            func(p *sys.IOURingParams) { p.SQOffset.Head = 1 << 30 },
		"unaligned":       func(p *sys.IOURingParams) { p.CQOffset.Tail++ },
		"flags":           func(p *sys.IOURingParams) { p.SQOffset.Flags = ^uint32(0) - 3 },
		"events":          func(p *sys.IOURingParams) { p.CQOffset.Cqes = ^uint32(0) },
	} {
		k := linux
		k.setup = func(n uint, p *sys.IOURingParams) (int, error) {
			fd, err := linux.setup(n, p)
			if err == nil {
				spoil(p)
			}
			return fd, err
		}
		testRing(t, linux, 0, 4).close()
		if r, err := newRing(k, 0, 4); err == nil {
			t.Errorf("%s: accepted", name)
			r.close()
		}
	}
}

// A write is WRITE_FIXED exactly if all of it lies in a registered buffer.
func TestFixedIndex(t *testing.T) {
	a, b := memory(t, 8192), memory(t, 8192)
	r := &ring{fixed: [][]byte{a[:4096], b}}
	for want, buf := range map[int][]byte{0: a[:4096], 1: b[4096:], -1: a[2048:6144]} {
		if got := r.fixedIndex(buf); got != want {
			t.Errorf("index %d, want %d", got, want)
		}
	}
	if r.fixedIndex(a[4096:]) != -1 || r.fixedIndex(b[100:200]) != 1 {
		t.Error("wrong index")
	}
	if s := unsafe.Sizeof(sys.SubmissionQueueEntry64{}); s != 64 {
		t.Errorf("a submission entry has %d bytes", s)
	}
	if s := unsafe.Sizeof(sys.CompletionQueueEvent16{}); s != 16 {
		t.Errorf("a completion has %d bytes", s)
	}
}
