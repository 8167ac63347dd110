//go:build linux

package mmapread

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

const testWindow = 16 << 10

func openTest(t testing.TB, content []byte) (*os.File, *Map) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	m, err := open(f, testWindow, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(m.Close(), f.Close()); err != nil {
			t.Error(err)
		}
	})
	return f, m
}

func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// View returns exactly the bytes of ranges within the file, and ErrBounds for others.
func TestViewBounds(t *testing.T) {
	content := noise(3*testWindow + 100)
	_, m := openTest(t, content)
	n := len(content)
	for _, c := range []struct {
		off  int64
		n    int
		want error
	}{
		{0, 0, nil}, {0, 1, nil}, {0, n, nil}, {int64(n), 0, nil}, {int64(n - 1), 1, nil},
		{testWindow - 1, 2, nil}, {testWindow, testWindow, nil}, {testWindow - 8, 2*testWindow + 16, nil},
		{-1, 1, ErrBounds}, {0, -1, ErrBounds}, {int64(n), 1, ErrBounds}, {int64(n - 1), 2, ErrBounds},
		{1 << 62, 1 << 62, ErrBounds}, {1<<63 - 1, 1<<63 - 1, ErrBounds}, {0, n + 1, ErrBounds},
	} {
		got, err := m.View(c.off, c.n)
		if !errors.Is(err, c.want) {
			t.Errorf("View(%d, %d): error %v, want %v", c.off, c.n, err, c.want)
		}
		if err == nil && !bytes.Equal(got, content[c.off:c.off+int64(c.n)]) {
			t.Errorf("View(%d, %d): wrong bytes", c.off, c.n)
		}
		if err == nil && c.n > 0 && cap(got) != len(got) {
			t.Errorf("View(%d, %d): capacity reaches past the view", c.off, c.n)
		}
	}
}

// Views cover the file as it grows.
func TestViewSeesGrowth(t *testing.T) {
	f, m := openTest(t, nil)
	if _, err := m.View(0, 1); !errors.Is(err, ErrBounds) {
		t.Fatalf("view of an empty file: %v", err)
	}
	var content []byte
	for i := range 20 {
		part := bytes.Repeat([]byte{byte(i + 1)}, testWindow/3)
		if _, err := f.WriteAt(part, int64(len(content))); err != nil {
			t.Fatal(err)
		}
		content = append(content, part...)
		got, err := m.View(0, len(content))
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("after growth %d: %v", i, err)
		}
	}
	// After the file has grown by Truncate, bytes that are written there show in windows that were mapped before.
	if err := f.Truncate(int64(len(content)) + 4096); err != nil {
		t.Fatal(err)
	}
	v, err := m.View(int64(len(content)), 10)
	if err != nil || !bytes.Equal(v, make([]byte, 10)) {
		t.Fatalf("grown by zeros: %x, %v", v, err)
	}
	if _, err := f.WriteAt([]byte("hello"), int64(len(content))); err != nil {
		t.Fatal(err)
	}
	if string(v[:5]) != "hello" {
		t.Fatalf("a view does not follow the file: %q", v[:5])
	}
}

// If the file is truncated under the map, the call that reads it returns an error, and the process lives (X2).
func TestTruncatedUnderMap(t *testing.T) {
	f, m := openTest(t, noise(3*testWindow))
	var sum byte
	load := func() error {
		v, err := m.View(2*testWindow, 5000)
		if err != nil {
			return err
		}
		return Guard(func() error { sum += v[0]; return nil })
	}
	if err := load(); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(2 * testWindow); err != nil {
		t.Fatal(err)
	}
	if err := load(); !errors.Is(err, ErrFault) {
		t.Fatalf("guarded load from beyond the end: %v", err)
	}
	if _, err := m.View(testWindow+1, testWindow); !errors.Is(err, ErrFault) {
		t.Fatalf("View across windows from beyond the end: %v", err)
	}
	if err := Guard(func() error { return os.ErrExist }); err != os.ErrExist {
		t.Fatalf("Guard changed an error: %v", err)
	}
	defer func() {
		if p := recover(); p != "mine" {
			t.Fatalf("Guard swallowed a panic: %v", p)
		}
	}()
	_ = Guard(func() error { panic("mine") })
}

// Many goroutines view random ranges while the file grows.
func TestConcurrentViews(t *testing.T) {
	content := noise(16 * testWindow)
	f, m := openTest(t, content[:testWindow])
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 0))
			for range 2000 {
				off, n := r.Int64N(int64(len(content))), r.IntN(2000)
				got, err := m.View(off, n)
				wrong := err == nil && !bytes.Equal(got, content[off:off+int64(n)])
				if wrong || err != nil && !errors.Is(err, ErrBounds) {
					t.Errorf("View(%d, %d): wrong bytes or %v", off, n, err)
					return
				}
			}
		})
	}
	for i := 1; i < 16; i++ {
		if _, err := f.WriteAt(content[i*testWindow:(i+1)*testWindow], int64(i*testWindow)); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if got, err := m.View(15*testWindow, testWindow); err != nil || !bytes.Equal(got, content[15*testWindow:]) {
		t.Errorf("the end of the grown file: %v", err)
	}
}

// Drop and Close work on a map with views; afterwards every call fails with ErrClosed.
func TestCloseAndDrop(t *testing.T) {
	f, m := openTest(t, noise(2*testWindow))
	if _, err := m.View(0, 10); err != nil {
		t.Fatal(err)
	}
	if err := m.Drop(4096, 2*testWindow-4096); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
	if _, err := m.View(0, 10); !errors.Is(err, ErrClosed) {
		t.Fatalf("View after Close: %v", err)
	}
	if _, err := m.View(0, 10*testWindow); !errors.Is(err, ErrClosed) {
		t.Fatalf("View after Close: %v", err)
	}
	if err := m.Drop(0, 4096); !errors.Is(err, ErrClosed) {
		t.Fatalf("Drop after Close: %v", err)
	}
	if _, err := f.Stat(); err != nil {
		t.Fatalf("Close closed the file: %v", err)
	}
	// A window of the default size maps past the end of a small file.
	d, err := Open(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.View(0, 2*testWindow); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
