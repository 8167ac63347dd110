//go:build linux

package mmapread

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/iouring"
)

// noted is a Fetcher that records the requested ranges.
type noted struct {
	r  *iouring.Reader
	mu sync.Mutex
	xs []Range
	// err, if not nil, is the error of Fetch, which then fetches nothing.
	err error
}

func (n *noted) Fetch(fd int, xs []Range) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.xs = append(n.xs, xs...)
	if n.err != nil {
		return n.err
	}
	return n.r.Fetch(fd, xs)
}

func (n *noted) ReadAhead(fd int, xs []Range) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.xs = append(n.xs, xs...)
	return n.r.ReadAhead(fd, xs)
}

// take returns the ranges requested since the last call.
func (n *noted) take() []Range {
	n.mu.Lock()
	defer n.mu.Unlock()
	xs := n.xs
	n.xs = nil
	return xs
}

// coldFile returns a file of which nothing is cached, and a map of it with windows of window bytes; 0: OpenWhole.
func coldFile(t testing.TB, size int, window int64) (*os.File, *Map, *noted) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := iouring.OpenReader(iouring.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(noise(size)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)); err != nil {
		t.Fatal(err)
	}
	n := &noted{r: r}
	openMap := func() *Map {
		m, err := OpenWhole(f, n)
		if window > 0 {
			m, err = open(f, window, n)
		}
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	t.Cleanup(func() {
		if err := errors.Join(r.Close(), f.Close()); err != nil {
			t.Error(err)
		}
	})
	probe := openMap()
	evict(t, probe, 0, int64(size))
	if _, err := probe.Warm([]Range{{0, 1}}); err != nil {
		t.Fatal(err)
	}
	if len(n.take()) == 0 {
		t.Skip("this file system does not evict what is cached, or does not reveal it")
	}
	evict(t, probe, 0, int64(size))
	m := openMap()
	t.Cleanup(func() {
		if err := errors.Join(probe.Close(), m.Close()); err != nil {
			t.Error(err)
		}
	})
	return f, m, n
}

// evict makes the kernel evict a range without the map knowing.
func evict(t testing.TB, m *Map, off, n int64) {
	t.Helper()
	err := m.eachMapped(off, n, func(b []byte) error { return unix.Madvise(b, unix.MADV_DONTNEED) })
	if err := errors.Join(err, unix.Fadvise(int(m.f.Fd()), off, n, unix.FADV_DONTNEED)); err != nil {
		t.Fatal(err)
	}
}

// Two adjacent ranges count as two, though they are fetched as one.
func TestWarmAdjacentRanges(t *testing.T) {
	_, m, n := coldFile(t, 16*blockSize, 0)
	cold, err := m.Warm([]Range{{0, blockSize}, {blockSize, blockSize}})
	if c := m.Counts(); err != nil || cold != 2 || c.Cold != 2 || c.Warm != 0 || len(n.take()) != 1 {
		t.Errorf("%d cold, %v, %+v", cold, err, c)
	}
}

// Warm fetches exactly the cold blocks, once, and asks nothing about ranges that are known to be warm (X3, X4).
func TestWarm(t *testing.T) {
	_, m, fetched := coldFile(t, 16*testWindow, testWindow)
	warm := func(want []Range, cold int, xs ...Range) {
		t.Helper()
		got, err := m.Warm(xs)
		if ys := fetched.take(); err != nil || got != cold || !slices.Equal(ys, want) {
			t.Errorf("%v: fetched %v, want %v; %d cold, want %d; %v", xs, ys, want, got, cold, err)
		}
	}
	warm(nil, 0)
	warm(nil, 0, Range{5, 0})
	warm([]Range{{0, 4096}}, 1, Range{10, 32})
	warm(nil, 0, Range{0, 4096})
	warm([]Range{{4096, 4096}}, 1, Range{4090, 32})
	// Across the edge of a window, and around warm blocks.
	warm([]Range{{12288, 8192}, {32768, 4096}}, 2, Range{testWindow - 10, 20}, Range{33000, 1})
	warm([]Range{{8192, 4096}, {20480, 4096}}, 1, Range{0, 24576})
	asked := m.Counts().Mincores
	warm(nil, 0, Range{0, 24576}, Range{33000, 1})
	if c := m.Counts(); c.Mincores != asked || c.Fetched != 7*4096 || c.Cold != 5 || c.Warm != 0 {
		t.Errorf("%+v", c)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = m.Warm([]Range{{0, 24576}, {33000, 1}}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}

	// Drop makes the map forget that range and no other.
	if err := m.Drop(4096, 8192); err != nil {
		t.Fatal(err)
	}
	warm(nil, 0, Range{0, 4096}, Range{12288, 4096})
	asked = m.Counts().Mincores
	warm(nil, 0, Range{4096, 4096}) // it is still in the page cache: the kernel is asked, and nothing is fetched
	if c := m.Counts(); c.Mincores != asked+1 || c.Warm != 1 {
		t.Errorf("%+v", c)
	}
	evict(t, m, 4096, 8192)
	if err := m.Drop(4096, 8192); err != nil {
		t.Fatal(err)
	}
	warm([]Range{{4096, 8192}}, 1, Range{4096, 8192})

	// Errors.
	for _, x := range []Range{{-1, 5}, {0, -1}, {16*testWindow - 1, 2}, {1 << 62, 1 << 62}} {
		if _, err := m.Warm([]Range{x}); !errors.Is(err, ErrBounds) {
			t.Errorf("%v: %v", x, err)
		}
	}
	fetched.err = unix.EIO
	for range 2 { // after an error the range does not count as warm
		if n, err := m.Warm([]Range{{100000, 1}}); n != 1 || !errors.Is(err, unix.EIO) {
			t.Errorf("%d, %v", n, err)
		}
	}
}

// ReadAhead starts reads, and Warm finds them done.
func TestReadAhead(t *testing.T) {
	_, m, fetched := coldFile(t, 4*testWindow, testWindow)
	m.ReadAhead([]Range{{0, 5000}, {-5, 10}, {1 << 40, 1}, {2 * testWindow, 1}})
	if xs := fetched.take(); !slices.Equal(xs, []Range{{0, 8192}, {2 * testWindow, 4096}}) {
		t.Errorf("fetched %v", xs)
	}
	if m.Counts().Ahead == 0 {
		t.Skip("no ring")
	}
	time.Sleep(20 * time.Millisecond)
	if n, err := m.Warm([]Range{{0, 5000}, {2 * testWindow, 1}}); err != nil || n != 0 {
		t.Errorf("%d are cold: %v", n, err)
	}
	m.ReadAhead([]Range{{0, 5000}})
	if xs := fetched.take(); xs != nil {
		t.Errorf("fetched %v", xs)
	}
}

// Warming one cold message reads its blocks, and none before or after them.
func TestWarmReadsOnlyItsBlocks(t *testing.T) {
	const size = 32 << 20
	_, m, _ := coldFile(t, size, windowSize)
	read := func() (n int64) {
		b, err := os.ReadFile("/proc/self/io")
		if err != nil {
			t.Skip(err)
		}
		for line := range strings.Lines(string(b)) {
			_, _ = fmt.Sscanf(line, "read_bytes: %d", &n)
		}
		return n
	}
	v, err := m.View(0, size)
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 50
	before := read()
	for i := range rounds {
		x := Range{int64(i)*500_000 + 4000, 4096 + 32} // in two blocks
		if _, err := m.Warm([]Range{x}); err != nil {
			t.Fatal(err)
		}
		_ = bytes.Clone(v[x.Off : x.Off+int64(x.Len)])
	}
	if n := read() - before; n < rounds*8192*9/10 || n > rounds*8192*11/10 {
		t.Errorf("%d bytes for %d messages", n, rounds)
	}
}

// If the file is truncated, Warm stops at its end, touching the view is an error, and the process lives.
func TestWarmTruncated(t *testing.T) {
	f, m, _ := coldFile(t, 4*testWindow, testWindow)
	v, err := m.View(3*testWindow, 5000)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(testWindow); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Warm([]Range{{3 * testWindow, 5000}}); err != nil {
		t.Errorf("%v", err)
	}
	var sum byte
	if err := Guard(func() error { sum += v[0]; return nil }); !errors.Is(err, ErrFault) {
		t.Errorf("%v", err)
	}
}

// Many goroutines call Warm, ReadAhead, Drop, Doubt and View at once, and every view shows the right bytes.
func TestWarmConcurrently(t *testing.T) {
	for _, procs := range []int{1, 2, 8} {
		t.Run(fmt.Sprintf("procs=%d", procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			const size = 64 * testWindow
			_, m, _ := coldFile(t, size, testWindow)
			content := noise(size)
			var wg sync.WaitGroup
			for g := range 16 {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(g), 0))
					xs := make([]Range, 3)
					for range 100 {
						for i := range xs {
							xs[i].Len = 1 + rng.IntN(10000)
							xs[i].Off = rng.Int64N(int64(size - xs[i].Len))
						}
						switch rng.IntN(8) {
						case 0:
							m.ReadAhead(xs)
						case 1:
							m.Doubt()
						case 2:
							if err := m.Drop(xs[0].Off&^4095, 8192); err != nil {
								t.Error(err)
							}
							_ = unix.Fadvise(m.cold.fd, xs[0].Off, 8192, unix.FADV_DONTNEED)
						}
						if _, err := m.Warm(xs); err != nil {
							t.Error(err)
						}
						for _, x := range xs {
							v, err := m.View(x.Off, x.Len)
							if err != nil || !bytes.Equal(v, content[x.Off:x.Off+int64(x.Len)]) {
								t.Errorf("%v: wrong bytes, or %v", x, err)
							}
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// Warm of a range that is known to be warm allocates nothing and asks the kernel nothing. Proves X4.
func TestWarmKnownRange(t *testing.T) {
	_, m, fetched := coldFile(t, 4*testWindow, testWindow)
	xs := []Range{{5, 5000}}
	if _, err := m.Warm(xs); err != nil {
		t.Fatal(err)
	}
	fetched.take()
	asked := m.Counts().Mincores
	m.cold.doubted.Store(int64(time.Since(m.opened) + time.Hour)) // no Doubt meanwhile
	allocs := testing.AllocsPerRun(2000, func() {
		if n, err := m.Warm(xs); n != 0 || err != nil || !m.IsWarm(xs[0]) {
			t.Errorf("%d cold, %v", n, err)
		}
	})
	if c := m.Counts(); allocs != 0 || c.Mincores != asked || len(fetched.take()) != 0 {
		t.Errorf("%v allocations, %+v", allocs, c)
	}
}
