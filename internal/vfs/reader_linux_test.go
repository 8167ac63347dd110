package vfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pagecache/iouring"
)

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// A reader costs no descriptor until something cold is read, and none after Close; what insists on a ring that does not work reads all the same.
func TestReader(t *testing.T) {
	f := mustOpen(t, filepath.Join(t.TempDir(), "file"), Write|Create)
	if _, err := f.WriteAt(make([]byte, 1<<20), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []Pattern{Sequential, Random} {
		if err := f.Advise(p); err != nil {
			t.Error(err)
		}
	}
	before := descriptors(t)
	for _, broken := range []bool{false, true} {
		r := OS.OpenReader(iouring.Options{Ring: iouring.On})
		if broken {
			r.(*osReader).open = func(o iouring.Options) (*iouring.Reader, error) {
				if o.Ring == iouring.On {
					return nil, unix.ENOSYS
				}
				return iouring.OpenReader(o)
			}
		}
		m, err := f.OpenMap(false, r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.View(0, 100); err != nil {
			t.Fatal(err)
		}
		if n := descriptors(t); n != before {
			t.Errorf("%d descriptors, %d before", n, before)
		}
		if rep, c := r.Report(); rep != (iouring.Report{}) || c != (iouring.ReaderCounts{}) {
			t.Errorf("%+v, %+v", rep, c)
		}
		if err := errors.Join(m.Drop(0, 1<<20), f.DropCache(0, 1<<20)); err != nil {
			t.Fatal(err)
		}
		cold, err := m.Warm([]Range{{Off: 0, Len: 5000}, {Off: 1 << 19, Len: 1}})
		if err != nil {
			t.Fatal(err)
		}
		rep, c := r.Report()
		if broken && cold > 0 && (rep.Ring || !strings.Contains(rep.Reason, unix.ENOSYS.Error()) || c.Calls == 0) {
			t.Errorf("%+v, %+v", rep, c)
		}
		if mc := m.Counts(); int(mc.Cold) != cold || mc.Fetched > 3*4096 {
			t.Errorf("%d cold, %+v", cold, mc)
		}
		if err := errors.Join(m.Close(), r.Close(), r.Close()); err != nil {
			t.Error(err)
		}
		if n := descriptors(t); n != before {
			t.Errorf("%d descriptors, %d before", n, before)
		}
		if err := r.(*osReader).Fetch(0, []Range{{Len: 1}}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	unused := OS.OpenReader(iouring.Options{})
	if err := unused.Close(); err != nil {
		t.Error(err)
	}
	if err := unused.(*osReader).Fetch(0, []Range{{Len: 1}}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed unused: %v", err)
	}
}
