//go:build linux

package iouring

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	sys "github.com/iceber/iouring-go/syscall"
	"golang.org/x/sys/unix"
)

// openWith opens with a changed opener, and checks that the device writes, and that no descriptor is left over.
func openWith(t *testing.T, o Options, change func(p *opener)) (Report, error) {
	t.Helper()
	f := logFile(t, t.TempDir(), 1<<16)
	if o.Buffers == nil {
		o.Buffers = [][]byte{memory(t, 1<<16)}
	}
	before := descriptors(t)
	p := newOpener(int(f.Fd()), o)
	change(p)
	w, err := p.open()
	if err == nil {
		for i := range 3 * w.Depth() {
			do(t, w, Write{Off: int64(i%4) * 4096, Buf: o.Buffers[0][:4096]})
		}
		if err := w.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	return p.report, err
}

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// refusals are the steps of setting a ring up, each of which may be refused.
var refusals = map[string]func(p *opener, e unix.Errno){
	"setup": func(p *opener, e unix.Errno) {
		p.kernel.setup = func(uint, *sys.IOURingParams) (int, error) { return -1, os.NewSyscallError("iouring_setup", e) }
	},
	"first mmap": func(p *opener, e unix.Errno) {
		p.kernel.mmap = func(int, int64, int) ([]byte, error) { return nil, e }
	},
	"second mmap": func(p *opener, e unix.Errno) {
		p.kernel.mmap = func(fd int, off int64, n int) ([]byte, error) {
			if off == int64(sys.IORING_OFF_SQES) {
				return nil, e
			}
			return linux.mmap(fd, off, n)
		}
	},
	"enter": func(p *opener, e unix.Errno) {
		p.kernel.enter = func(int, uint32, uint32, uint32) unix.Errno { return e }
	},
}

// Proves trap 20: whatever step of setting up fails, Auto falls back and says why, and On is an error; nothing hangs or leaks.
func TestRefused(t *testing.T) {
	for step, refuse := range refusals {
		for _, e := range []unix.Errno{unix.ENOSYS, unix.EPERM, unix.EACCES, unix.ENOMEM, unix.EMFILE, unix.EINVAL, unix.EOPNOTSUPP} {
			r, err := openWith(t, Options{}, func(p *opener) { refuse(p, e) })
			if err != nil || r.Ring || r.FixedBuffer || r.FixedFile || !strings.Contains(r.Reason, e.Error()) || strings.Contains(r.Reason, "\n") {
				t.Errorf("%s, %v: %+v, %v", step, e, r, err)
			}
			if _, err := openWith(t, Options{Ring: ModeOn}, func(p *opener) { refuse(p, e) }); !errors.Is(err, e) {
				t.Errorf("%s, %v, insisting: %v", step, e, err)
			}
		}
	}
}

// Proves trap 20: a ring that takes the probe's write and never answers, or answers nonsense, is not used.
func TestProbeFails(t *testing.T) {
	f := logFile(t, t.TempDir(), 1<<16)
	for name, enter := range map[string]func(r *ring) unix.Errno{
		"silence": func(r *ring) unix.Errno { r.sqHead.Store(r.sqTail.Load()); return 0 },
		"error":   func(r *ring) unix.Errno { return fakeAnswer(r, probeID, -int32(unix.EIO)) },
		"short":   func(r *ring) unix.Errno { return fakeAnswer(r, probeID, 512) },
		"other":   func(r *ring) unix.Errno { return fakeAnswer(r, 1, 4096) },
	} {
		var r *ring
		k := linux
		k.enter = func(int, uint32, uint32, uint32) unix.Errno { return enter(r) }
		r = testRing(t, k, int(f.Fd()), 4)
		r.nop(probeID)
		start := time.Now()
		if name == "silence" {
			if err := r.enter(0); err != nil {
				t.Error(err)
			}
			if err := r.await(30 * time.Millisecond); !errors.Is(err, unix.ETIMEDOUT) {
				t.Errorf("silence: %v", err)
			}
		} else if err := answered(r, 4096); err == nil {
			t.Errorf("%s: taken for a good answer", name)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("%s: took %v", name, d)
		}
		r.close()
	}
	if err := probed(true, -int32(unix.ENOSPC), 4096); err != nil {
		t.Errorf("a full file system is taken for a broken ring: %v", err)
	}
}

// fakeAnswer puts a completion into the queue as the kernel would.
func fakeAnswer(r *ring, id uint64, res int32) unix.Errno {
	r.sqHead.Store(r.sqTail.Load())
	tail := r.cqTail.Load()
	e := (*struct {
		id         uint64
		res, flags int32
	})(unsafe.Pointer(&r.cqes[tail&r.cqMask]))
	e.id, e.res = id, res
	r.cqTail.Store(tail + 1)
	return 0
}

// Where memory is short for the ring, half as many entries are tried, and half again.
func TestHalved(t *testing.T) {
	r, err := openWith(t, Options{Depth: 16}, func(p *opener) {
		p.kernel.setup = func(n uint, params *sys.IOURingParams) (int, error) {
			if n > 4 {
				return -1, os.NewSyscallError("iouring_setup", unix.ENOMEM)
			}
			return linux.setup(n, params)
		}
	})
	if err != nil || !r.Ring || !strings.Contains(r.Reason, "4 writes in flight instead of 16") {
		t.Errorf("%+v, %v", r, err)
	}
}

// Proves trap 18: a refusal to register leaves a ring that works without.
func TestRegistrationRefused(t *testing.T) {
	r, err := openWith(t, Options{}, func(p *opener) {
		p.kernel.register = func(int, uint8, unsafe.Pointer, uint32) error { return unix.ENOMEM }
	})
	if err != nil || !r.Ring || r.FixedFile || r.FixedBuffer || !strings.Contains(r.Reason, "RLIMIT_MEMLOCK") {
		t.Errorf("%+v, %v", r, err)
	}
}

// Proves trap 18: the same with the kernel's own limit, as an ordinary user meets it.
func TestMemlock(t *testing.T) {
	runtime.LockOSThread() // capabilities are a thread's
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		t.Skipf("cannot read capabilities: %v", err)
	}
	without := caps
	without[0].Effective &^= 1 << unix.CAP_IPC_LOCK
	if err := unix.Capset(&header, &without[0]); err != nil {
		t.Skipf("cannot drop CAP_IPC_LOCK: %v", err)
	}
	defer func() {
		if err := unix.Capset(&header, &caps[0]); err != nil {
			t.Fatal(err)
		}
	}()
	big := memory(t, 8<<20)
	withLimit(t, unix.RLIMIT_MEMLOCK, 64<<10, func() {
		r, err := openWith(t, Options{Buffers: [][]byte{big}}, func(*opener) {})
		if err != nil || r.FixedBuffer || r.Reason == "" {
			t.Errorf("%+v, %v", r, err)
		}
		if r.Ring && !strings.Contains(r.Reason, "RLIMIT_MEMLOCK") {
			t.Errorf("the reason does not name the limit: %s", r.Reason)
		}
		t.Log(r.Reason)
	})
}

// O_DIRECT that cannot be opened, or that opens and cannot write.
func TestNoDirect(t *testing.T) {
	for name, refuse := range map[string]func(p *opener){
		"open": func(p *opener) { p.openDirect = func(int) (*os.File, error) { return nil, unix.EINVAL } },
		"write": func(p *opener) {
			p.newCalls = func(fd, depth int) *calls {
				c := newCalls(fd, depth)
				c.pwritev = func(int, []byte, int64) (int, unix.Errno) { return -1, unix.EINVAL }
				if p.file == nil {
					c = newCalls(fd, depth)
				}
				return c
			}
		},
	} {
		for _, ring := range []Mode{ModeAuto, ModeOff} {
			r, err := openWith(t, Options{Ring: ring}, refuse)
			if err != nil || r.Direct || !strings.Contains(r.Reason, "no O_DIRECT") || r.Block < fallbackBlock {
				t.Errorf("%s: %+v, %v", name, r, err)
			}
			if _, err := openWith(t, Options{Ring: ring, Direct: ModeOn}, refuse); !errors.Is(err, unix.EINVAL) {
				t.Errorf("%s, insisting: %v", name, err)
			}
		}
	}
}

// Where no scratch file can be made the device opens all the same.
func TestNoScratch(t *testing.T) {
	for _, ring := range []Mode{ModeAuto, ModeOff} {
		if r, err := openWith(t, Options{Ring: ring}, func(p *opener) {
			p.newScratch = func(int, bool, int) (*scratch, error) { return nil, unix.EROFS }
		}); err != nil || ring == ModeOff && r.Ring {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// Descriptors used up: no device that half works, and nothing leaks.
func TestNoDescriptors(t *testing.T) {
	f := logFile(t, t.TempDir(), 1<<16)
	buf := memory(t, 4096)
	for spare := range 5 {
		before := descriptors(t)
		withLimit(t, unix.RLIMIT_NOFILE, uint64(nextDescriptor(t)+spare), func() {
			d, _, err := OpenWriter(int(f.Fd()), Options{})
			if err != nil {
				t.Fatalf("%d to spare: %v", spare, err)
			}
			do(t, d, Write{Buf: buf})
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
		if after := descriptors(t); after != before {
			t.Errorf("%d to spare: %d descriptors before, %d after", spare, before, after)
		}
	}
}

func nextDescriptor(t *testing.T) int {
	t.Helper()
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	return fd
}

// Opening touches no byte of the log and leaves no name behind.
func TestOpenTouchesNothing(t *testing.T) {
	for _, w := range ways {
		dir := t.TempDir()
		f := logFile(t, dir, 1<<16)
		want := memory(t, 1<<16)
		if _, err := f.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		open(t, f, w)
		got, err := os.ReadFile(f.Name())
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: the log changed: %v", w.name, err)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
			t.Errorf("%s: %v, %v", w.name, names, err)
		}
	}
}

// The reasons say what to look for.
func TestReasons(t *testing.T) {
	for e, word := range map[unix.Errno]string{unix.ENOSYS: "seccomp", unix.EPERM: "io_uring_disabled", unix.EACCES: "sysctl",
		unix.ENOMEM: "MEMLOCK", unix.EMFILE: "descriptors", unix.ENFILE: "descriptors"} {
		if err := explain(e); !errors.Is(err, e) || !strings.Contains(err.Error(), word) {
			t.Errorf("%v: %v", e, err)
		}
	}
	f := logFile(t, t.TempDir(), 1<<16)
	d, r, err := OpenWriter(int(f.Fd()), Options{Ring: ModeOff, Direct: ModeOff})
	if err != nil || !strings.Contains(r.Reason, "no O_DIRECT: it is switched off; no io_uring: it is switched off") {
		t.Errorf("%+v, %v", r, err)
	}
	if d.Close() != nil {
		t.Error("close")
	}
}
