//go:build linux

package mmapread

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	mmap "github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"
)

// If there is no address space for a window, views are copies, until there is.
func TestNoAddressSpace(t *testing.T) {
	_, m, _ := coldFile(t, 4*testWindow, testWindow)
	real := m.mapRegion
	m.mapRegion = func(*os.File, int, int, int, int64) (mmap.MMap, error) { return nil, unix.ENOMEM }
	const at = testWindow + 100
	want := noise(4 * testWindow)[at : at+3*testWindow/2]
	check := func(held bool) {
		t.Helper()
		if _, err := m.Warm([]Range{{at, len(want)}}); err != nil {
			t.Error(err)
		}
		v, err := m.View(at, 5000)
		if err != nil || !bytes.Equal(v, want[:5000]) || m.Holds(at, v) != held {
			t.Errorf("%v; in the map: %v", err, m.Holds(at, v))
		}
		if v, err = m.View(at, len(want)); err != nil || !bytes.Equal(v, want) {
			t.Errorf("over windows: %v", err)
		}
	}
	check(false)
	m.mapRegion = real
	check(false)
	m.refused.Store(int64(time.Since(m.opened)))
	check(true)
	m.mapRegion = func(*os.File, int, int, int, int64) (mmap.MMap, error) { return nil, unix.EACCES }
	if _, err := m.View(3*testWindow+5000, 10); !errors.Is(err, unix.EACCES) {
		t.Errorf("%v", err)
	}
	if err := roomFor(1 << 50); err == nil {
		t.Error("room for a petabyte")
	}
}

// A view of a protected range faults, and can be read again after Unprotect.
func TestProtect(t *testing.T) {
	_, m, _ := coldFile(t, 4*testWindow, testWindow)
	v, err := m.View(4096, 100)
	if err != nil {
		t.Fatal(err)
	}
	var sum byte
	touch := func() error { return Guard(func() error { sum += v[50]; return nil }) }
	if err := m.Protect(4096, 2*testWindow); err != nil { // one of its windows is not mapped
		t.Fatal(err)
	}
	if err := touch(); !errors.Is(err, ErrFault) {
		t.Errorf("protected: %v", err)
	}
	if _, err := m.Warm([]Range{{4096, 4096}}); err != nil { // neither mincore nor Fetch touches the map
		t.Errorf("%v", err)
	}
	if err := errors.Join(m.Unprotect(4096, 2*testWindow), touch()); err != nil {
		t.Errorf("not protected any more: %v", err)
	}
}

// View of a map by OpenWhole warms the range, in pieces. Proves trap 23: a huge record is not read by page faults.
func TestWholeIsWarm(t *testing.T) {
	const size = 5<<20 + 123
	_, m, fetched := coldFile(t, size, 0)
	v, err := m.View(0, size)
	if err != nil || !bytes.Equal(v, noise(size)) {
		t.Fatalf("%v", err)
	}
	if c := m.Counts(); c.Fetched < size || len(fetched.take()) != 1 {
		t.Errorf("%+v", c)
	}
	if _, err := m.View(0, size); err != nil || fetched.take() != nil {
		t.Errorf("fetched twice: %v", err)
	}
}
