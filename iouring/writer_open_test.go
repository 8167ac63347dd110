//go:build linux

package iouring

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"pagecache/iouring/internal/ring"
)

// openWith opens a Writer with a changed opener. It checks that the Writer writes, and that no descriptor leaks.
func openWith(t *testing.T, o WriterOptions, change func(p *writerOpener)) (WriterReport, error) {
	t.Helper()
	f := logFile(t, t.TempDir(), 1<<16)
	if o.Buffers == nil {
		o.Buffers = [][]byte{memory(t, 1<<16)}
	}
	before := descriptors(t)
	p := newWriterOpener(int(f.Fd()), o)
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

// refusals are the steps of setting up a ring, each of which the kernel may refuse.
var refusals = map[string]func(p *writerOpener, e unix.Errno){
	"setup": func(p *writerOpener, e unix.Errno) {
		p.kernel.Setup = func(uint, *ring.Params) (int, error) { return -1, os.NewSyscallError("iouring_setup", e) }
	},
	"first mmap": func(p *writerOpener, e unix.Errno) {
		p.kernel.Mmap = func(int, int64, int) ([]byte, error) { return nil, e }
	},
	"second mmap": func(p *writerOpener, e unix.Errno) {
		p.kernel.Mmap = func(fd int, off int64, n int) ([]byte, error) {
			if off == ring.OffEntries {
				return nil, e
			}
			return ring.Linux.Mmap(fd, off, n)
		}
	},
	"enter": func(p *writerOpener, e unix.Errno) {
		p.kernel.Enter = func(int, uint32, uint32, uint32) unix.Errno { return e }
	},
}

// Proves trap 20: if any step of setting up the ring fails, ModeAuto falls back and reports why, ModeOn is an error,
// and nothing hangs or leaks.
func TestWriterRingRefused(t *testing.T) {
	for step, refuse := range refusals {
		for _, e := range []unix.Errno{unix.ENOSYS, unix.EPERM, unix.EACCES, unix.ENOMEM, unix.EMFILE, unix.EINVAL,
			unix.EOPNOTSUPP} {
			r, err := openWith(t, WriterOptions{}, func(p *writerOpener) { refuse(p, e) })
			line := strings.Contains(r.Reason, e.Error()) && !strings.Contains(r.Reason, "\n")
			if err != nil || r.Ring || r.FixedBuffer || r.FixedFile || !line {
				t.Errorf("%s, %v: %+v, %v", step, e, r, err)
			}
			_, err = openWith(t, WriterOptions{Ring: ModeOn}, func(p *writerOpener) { refuse(p, e) })
			if !errors.Is(err, e) {
				t.Errorf("%s, %v, insisting: %v", step, e, err)
			}
		}
	}
}

// If memory for the ring is short, its depth is halved, repeatedly.
func TestWriterDepthHalved(t *testing.T) {
	r, err := openWith(t, WriterOptions{Depth: 16}, func(p *writerOpener) {
		p.kernel.Setup = func(n uint, params *ring.Params) (int, error) {
			if n > 4 {
				return -1, os.NewSyscallError("iouring_setup", unix.ENOMEM)
			}
			return ring.Linux.Setup(n, params)
		}
	})
	if err != nil || !r.Ring || !strings.Contains(r.Reason, "4 writes in flight instead of 16") {
		t.Errorf("%+v, %v", r, err)
	}
}

// Proves trap 18: if registration is refused, the ring works without it.
func TestRegistrationRefused(t *testing.T) {
	r, err := openWith(t, WriterOptions{}, func(p *writerOpener) {
		p.kernel.Register = func(int, uint8, unsafe.Pointer, uint32) error { return unix.ENOMEM }
	})
	if err != nil || !r.Ring || r.FixedFile || r.FixedBuffer || !strings.Contains(r.Reason, "RLIMIT_MEMLOCK") {
		t.Errorf("%+v, %v", r, err)
	}
}

// Proves trap 18: the same with the kernel's own limit on locked memory, which applies to ordinary users.
func TestRegistrationPastMemlock(t *testing.T) {
	runtime.LockOSThread() // capabilities belong to a thread
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
		r, err := openWith(t, WriterOptions{Buffers: [][]byte{big}}, func(*writerOpener) {})
		if err != nil || r.FixedBuffer || r.Reason == "" {
			t.Errorf("%+v, %v", r, err)
		}
		if r.Ring && !strings.Contains(r.Reason, "RLIMIT_MEMLOCK") {
			t.Errorf("the reason does not name the limit: %s", r.Reason)
		}
		t.Log(r.Reason)
	})
}

// If O_DIRECT cannot be opened, or opens and cannot write, the Writer works without it.
func TestWriterWithoutDirect(t *testing.T) {
	for name, refuse := range map[string]func(p *writerOpener){
		"open": func(p *writerOpener) { p.openDirect = func(int) (*os.File, error) { return nil, unix.EINVAL } },
		"write": func(p *writerOpener) {
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
		for _, mode := range []Mode{ModeAuto, ModeOff} {
			r, err := openWith(t, WriterOptions{Ring: mode}, refuse)
			if err != nil || r.Direct || !strings.Contains(r.Reason, "no O_DIRECT") || r.Block < minBlock {
				t.Errorf("%s: %+v, %v", name, r, err)
			}
			if _, err := openWith(t, WriterOptions{Ring: mode, Direct: ModeOn}, refuse); !errors.Is(err, unix.EINVAL) {
				t.Errorf("%s, insisting: %v", name, err)
			}
		}
	}
}

// If no scratch file can be created, the Writer opens nevertheless.
func TestWriterWithoutScratch(t *testing.T) {
	for _, mode := range []Mode{ModeAuto, ModeOff} {
		if r, err := openWith(t, WriterOptions{Ring: mode}, func(p *writerOpener) {
			p.newScratch = func(int, bool, int) (*scratch, error) { return nil, unix.EROFS }
		}); err != nil || mode == ModeOff && r.Ring {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// On a full disk, ways of writing are tried all the same.
func TestScratchOnFullDisk(t *testing.T) {
	f := logFile(t, t.TempDir(), 1<<16)
	withLimit(t, unix.RLIMIT_FSIZE, 0, func() {
		s, err := newScratch(int(f.Fd()), false, 4096)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.tryCalls(newCalls(int(f.Fd()), 1)); err != nil {
			t.Error(err)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
}

// If few descriptors are left, the Writer works with those that it gets, and nothing leaks.
func TestWriterFewDescriptors(t *testing.T) {
	f := logFile(t, t.TempDir(), 1<<16)
	buf := memory(t, 4096)
	for spare := range 5 {
		before := descriptors(t)
		withLimit(t, unix.RLIMIT_NOFILE, uint64(nextDescriptor(t)+spare), func() {
			d, _, err := OpenWriter(int(f.Fd()), WriterOptions{})
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

// Opening changes no byte of the file and leaves no name behind.
func TestOpenWriterChangesNothing(t *testing.T) {
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

// The report names the ways that the options disable.
func TestReportDisabled(t *testing.T) {
	f := logFile(t, t.TempDir(), 1<<16)
	d, r, err := OpenWriter(int(f.Fd()), WriterOptions{Ring: ModeOff, Direct: ModeOff})
	const want = "no O_DIRECT: disabled by the options; no io_uring: disabled by the options"
	if err != nil || !strings.Contains(r.Reason, want) {
		t.Errorf("%+v, %v", r, err)
	}
	if d.Close() != nil {
		t.Error("close")
	}
}
