//go:build linux

package ring

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	sys "github.com/iceber/iouring-go/syscall"
	"golang.org/x/sys/unix"
)

// testRing is a ring on this machine's kernel, with depth entries.
func testRing(t *testing.T, k Kernel, fd, depth int) *Ring {
	t.Helper()
	r, err := New(k, fd, depth)
	if err != nil {
		t.Skipf("no io_uring here: %v", err)
	}
	return r
}

// If the kernel never takes an entry, Enter ends with an error after its patience.
func TestEnterStalled(t *testing.T) {
	for _, e := range []unix.Errno{0, unix.EINTR, unix.EAGAIN, unix.EBUSY} {
		k := Linux
		k.Enter = func(int, uint32, uint32, uint32) unix.Errno { return e }
		r := testRing(t, k, 0, 4)
		r.patience = 20 * time.Millisecond
		r.nop(1)
		if err := r.Enter(1); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%v: %v", e, err)
		}
		if err := r.Await(10 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v: %v", e, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// If the kernel refuses until completions are popped, Enter returns for them at once, and a later Enter submits the
// rest.
func TestEnterBusy(t *testing.T) {
	var r *Ring
	k := Linux
	k.Enter = func(fd int, submit, min, flags uint32) unix.Errno {
		if r.cqTail.Load() != r.cqHead.Load() {
			return unix.EBUSY
		}
		return Linux.Enter(fd, submit, min, flags)
	}
	r = testRing(t, k, 0, 4)
	defer r.Close()
	r.nop(1)
	if err := r.Enter(1); err != nil {
		t.Fatal(err)
	}
	r.nop(2)
	if err := r.Enter(2); err != nil || !r.Pending() {
		t.Fatalf("the kernel took an entry that it refused: %v", err)
	}
	for want := range uint64(2) {
		if id, res, ok := r.Pop(); id != want+1 || res != 0 || !ok {
			t.Fatalf("completion %d: id %d, result %d, %v", want, id, res, ok)
		}
		if err := r.Enter(1 - int(want)); err != nil {
			t.Fatal(err)
		}
	}
}

// If there are more completions than the queue holds, all of them arrive. Proves trap 20: a full completion queue loses
// nothing.
func TestCompletionOverflow(t *testing.T) {
	r := testRing(t, Linux, 0, 4)
	defer r.Close()
	const rounds = 16
	for i := range rounds * 4 {
		r.nop(uint64(i))
		if i%4 == 3 {
			if err := r.Enter(0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r.sqFlags.Load()&sys.IORING_SQ_CQ_OVERFLOW == 0 {
		t.Fatalf("%d completions did not overflow a queue of %d", rounds*4, len(r.cqes))
	}
	seen := map[uint64]bool{}
	for len(seen) < rounds*4 {
		id, res, ok := r.Pop()
		if !ok || res != 0 || seen[id] {
			t.Fatalf("after %d: id %d, result %d, %v", len(seen), id, res, ok)
		}
		seen[id] = true
	}
	if _, _, ok := r.Pop(); ok {
		t.Error("one completion too many")
	}
}

// Both layouts of the queues work: one mapping, and the two mappings of old kernels.
func TestQueueMappings(t *testing.T) {
	for _, single := range []bool{true, false} {
		k := Linux
		k.Setup = func(n uint, p *Params) (int, error) {
			fd, err := Linux.Setup(n, p)
			if !single {
				p.Features &^= sys.IORING_FEAT_SINGLE_MMAP
			}
			return fd, err
		}
		f, err := os.Create(filepath.Join(t.TempDir(), "file"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r := testRing(t, k, -1, 4)
		if want := map[bool]int{true: 2, false: 3}[single]; len(r.maps) != want {
			t.Errorf("%d mappings, want %d", len(r.maps), want)
		}
		buf := bytes.Repeat([]byte("content!"), 1<<10)
		if err := errors.Join(r.ProbeWrite(int(f.Fd()), buf), r.Close()); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, buf) {
			t.Errorf("the file holds something else: %v", err)
		}
	}
}

// New refuses a layout that does not fit its areas before it uses it.
func TestInvalidLayout(t *testing.T) {
	for name, spoil := range map[string]func(p *Params){
		"no entries":      func(p *Params) { p.SQEntries = 0 },
		"too few":         func(p *Params) { p.SQEntries = 2 },
		"few completions": func(p *Params) { p.CQEntries = 1 },
		"huge":            func(p *Params) { p.CQEntries = 1 << 31 },
		"masks":           func(p *Params) { p.CQEntries *= 2 },
		"head":            func(p *Params) { p.SQOffset.Head = 1 << 30 },
		"unaligned":       func(p *Params) { p.CQOffset.Tail++ },
		"flags":           func(p *Params) { p.SQOffset.Flags = ^uint32(0) - 3 },
		"events":          func(p *Params) { p.CQOffset.Cqes = ^uint32(0) },
	} {
		k := Linux
		k.Setup = func(n uint, p *Params) (int, error) {
			fd, err := Linux.Setup(n, p)
			if err == nil {
				spoil(p)
			}
			return fd, err
		}
		testRing(t, Linux, 0, 4).Close()
		if r, err := New(k, 0, 4); err == nil {
			t.Errorf("%s: accepted", name)
			r.Close()
		}
	}
}

// A write is WRITE_FIXED exactly if all of it lies in a registered buffer.
func TestFixedIndex(t *testing.T) {
	a, b := make([]byte, 8192), make([]byte, 8192)
	r := &Ring{fixed: fixed{{mem: a[:4096], registered: true}, {mem: b, registered: true}}}
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

// Await of a descriptor that is no longer open ends at once.
func TestAwaitOfClosedRing(t *testing.T) {
	r := testRing(t, Linux, 0, 4)
	if err := unix.Close(r.fd); err != nil {
		t.Fatal(err)
	}
	r.fd = 1 << 20 // which no other test opens meanwhile
	start := time.Now()
	if err := r.Await(10 * time.Second); !errors.Is(err, unix.EBADF) || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	for _, m := range r.maps {
		if err := unix.Munmap(m); err != nil {
			t.Error(err)
		}
	}
}
