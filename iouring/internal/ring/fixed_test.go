//go:build linux

package ring

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	sys "github.com/iceber/iouring-go/syscall"
	"golang.org/x/sys/unix"
)

// registrations is a kernel that notes which operations register something, and refuses those in refuse.
func registrations(k Kernel, refuse map[uint8]unix.Errno) (Kernel, *[]uint8) {
	var ops []uint8
	inner := k.Register
	k.Register = func(fd int, op uint8, arg unsafe.Pointer, n uint32) error {
		ops = append(ops, op)
		if e := refuse[op]; e != 0 {
			return e
		}
		return inner(fd, op, arg, n)
	}
	return k, &ops
}

// mapped returns n bytes outside the Go heap.
func mapped(t *testing.T, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(b); err != nil {
			t.Error(err)
		}
	})
	return b
}

// writeThrough writes buf to r's file at off and waits until it is written.
func writeThrough(t *testing.T, r *Ring, off int64, buf []byte) {
	t.Helper()
	r.Push(1, off, buf)
	if err := r.answerTo(1, len(buf)); err != nil {
		t.Fatal(err)
	}
}

func (r *Ring) answerTo(id uint64, want int) error {
	if err := r.Enter(1); err != nil {
		return err
	}
	got, res, ok := r.Pop()
	if !ok || got != id {
		return ErrNoAnswer
	}
	return ProbeResult(res, want)
}

// A buffer is registered after its last part was written, and not before: until then registering would allocate its
// pages. The file gets the same bytes either way.
func TestBufferIsRegisteredOnceFilled(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const n, block = 64 << 10, 4096
	a, b := mapped(t, n), mapped(t, n)
	k, ops := registrations(Linux, nil)
	r := testRing(t, k, int(f.Fd()), 4)
	defer r.Close()
	probed := 0
	err = r.RegisterBuffers([][]byte{a, b}, block, func(p []byte) error {
		if probed++; r.fixedIndex(p) != 0 {
			t.Error("the probe's memory is not registered")
		}
		return nil
	})
	if err != nil || !slices.Equal(*ops, []uint8{registerBuffers2, registerBuffersUpdate, registerBuffersUpdate}) {
		t.Skipf("buffers cannot be registered one by one: %v, %v", *ops, err)
	}
	if probed != 1 || r.fixedIndex(a[:block]) != -1 {
		t.Errorf("%d probes; or a buffer is registered that was not filled", probed)
	}
	var want []byte
	for turn := range byte(3) {
		for off := 0; off < n; off += n / 4 {
			for i := range a[off : off+n/4] {
				a[off+i] = byte(off>>12) + turn
			}
			registered := r.fixed[0].registered
			writeThrough(t, r, int64(len(want)), a[off:off+n/4])
			want = append(want, a[off:off+n/4]...)
			if r.fixed[0].registered != (turn > 0) || registered != (turn > 1 || turn == 1 && off > 0) {
				t.Errorf("turn %d, offset %d: registered %v, then %v", turn, off, registered, r.fixed[0].registered)
			}
		}
	}
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file is wrong: %v", err)
	}
	if r.fixed[1].registered || r.fixed[1].filled || len(*ops) != 4 {
		t.Errorf("the other buffer: %+v; %d registrations", r.fixed[1].registered, len(*ops))
	}
}

// Kernels before 5.19 register all buffers at once. If the kernel refuses, no write uses a registration; if it refuses
// later, it is not asked again. Proves trap 18.
func TestRegistrationFallsBack(t *testing.T) {
	buf := mapped(t, 64<<10)
	works, fails := func([]byte) error { return nil }, func([]byte) error { return unix.EFAULT }
	open := func(refuse map[uint8]unix.Errno, probe func([]byte) error) (*Ring, *[]uint8, error) {
		k, ops := registrations(Kernel{Register: func(int, uint8, unsafe.Pointer, uint32) error { return nil }}, refuse)
		r := &Ring{k: k}
		return r, ops, r.RegisterBuffers([][]byte{buf}, 4096, probe)
	}
	old := map[uint8]unix.Errno{registerBuffers2: unix.EINVAL}
	if r, _, err := open(old, works); err != nil || r.fixedIndex(buf) != 0 {
		t.Errorf("an old kernel: %v", err)
	}
	for name, refuse := range map[string]map[uint8]unix.Errno{
		"table":  {registerBuffers2: unix.ENOMEM},
		"update": {registerBuffersUpdate: unix.ENOMEM},
		"old":    {registerBuffers2: unix.EINVAL, sys.IORING_REGISTER_BUFFERS: unix.ENOMEM},
	} {
		if r, _, err := open(refuse, works); !errors.Is(err, unix.ENOMEM) || r.fixedIndex(buf) != -1 {
			t.Errorf("%s refused: %v", name, err)
		}
	}
	for name, refuse := range map[string]map[uint8]unix.Errno{"new": nil, "old": old} {
		r, ops, err := open(refuse, fails)
		undone := slices.Contains(*ops, sys.IORING_UNREGISTER_BUFFERS)
		if !errors.Is(err, unix.EFAULT) || r.fixedIndex(buf) != -1 || !undone {
			t.Errorf("%s kernel, the probe fails: %v", name, err)
		}
	}
	refuse := map[uint8]unix.Errno{}
	r, ops, err := open(refuse, works)
	refuse[registerBuffersUpdate] = unix.ENOMEM
	for range 5 {
		if r.fixedIndex(buf) != -1 {
			t.Error("registered")
		}
	}
	if err != nil || len(*ops) != 4 {
		t.Errorf("%d registrations, %v; want 4", len(*ops), err)
	}
}
