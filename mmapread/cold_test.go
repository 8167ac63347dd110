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
	"sync/atomic"
	"testing"
	"time"

	mmap "github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"

	"pagecache/iouring"
)

// noted is a Fetcher that notes what it is asked for.
type noted struct {
	r  *iouring.Reader
	mu sync.Mutex
	xs []Range
	// err is what Fetch says instead of fetching
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

// take returns what was asked for since the last time.
func (n *noted) take() []Range {
	n.mu.Lock()
	defer n.mu.Unlock()
	xs := n.xs
	n.xs = nil
	return xs
}

// coldFile is a file of which nothing is cached, and a map of it with windows of so many bytes, 0: a whole map.
func coldFile(t testing.TB, size int, window int64) (*os.File, *Map, *noted) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := iouring.OpenReader(iouring.Options{})
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
		t.Skip("this file system does not give up what is cached, or does not tell")
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

// evict has the kernel give up a range, behind the map's back.
func evict(t testing.TB, m *Map, off, n int64) {
	t.Helper()
	err := m.eachMapped(off, n, func(b []byte) error { return unix.Madvise(b, unix.MADV_DONTNEED) })
	if err := errors.Join(err, unix.Fadvise(int(m.f.Fd()), off, n, unix.FADV_DONTNEED)); err != nil {
		t.Fatal(err)
	}
}

// Where one range after another is cold the kernel is asked about few, blocks that are known are not fetched again, nor long ranges unasked, and
// once what is met is there it is asked about all again.
func TestColdStreak(t *testing.T) {
	const count, long = 4096, 16 * coldMost
	f, m, n := coldFile(t, count*blockSize+long, 64*blockSize)
	warm := func(off, length int64) int {
		cold, err := m.Warm([]Range{{off, int(length)}})
		if err != nil {
			t.Fatal(err)
		}
		return cold
	}
	for i := range int64(count / 2) {
		warm(i*blockSize+blockSize/2, blockSize) // half of each of two blocks: the first is known from the second range on
	}
	c, xs := m.Counts(), n.take()
	if asked := int64(count / 2 / coldOdds); c.Mincores < asked/2+coldStreak || c.Mincores > 2*asked+coldStreak {
		t.Errorf("asked %d times", c.Mincores)
	}
	if want := int64(count/2+1) * blockSize; c.Fetched != want || c.Cold != count/2 {
		t.Errorf("%+v, want %d bytes fetched", c, want)
	}
	for _, x := range xs[1:] {
		if x.Len != blockSize {
			t.Fatalf("fetched %v", x)
		}
	}
	if _, err := f.ReadAt(make([]byte, (count/2-1)*blockSize+long), (count/2+1)*blockSize); err != nil { // and so it is cached
		t.Fatal(err)
	}
	if cold := warm(count*blockSize, long); cold != 0 {
		t.Error("a long range was fetched unasked")
	}
	m.cold.streak.Store(coldStreak) // as it was
	cold := 0
	for i := int64(count/2 + 1); i < count; i++ {
		cold += warm(i*blockSize, blockSize)
	}
	if cold > 20*coldOdds { // each is asked about with a chance of 1 in coldOdds
		t.Errorf("%d ranges were fetched though they were there", cold)
	}
}

// Two ranges that follow each other are two, though they are fetched as one.
func TestColdNeighbours(t *testing.T) {
	_, m, n := coldFile(t, 16*blockSize, 0)
	cold, err := m.Warm([]Range{{0, blockSize}, {blockSize, blockSize}})
	if c := m.Counts(); err != nil || cold != 2 || c.Cold != 2 || c.Warm != 0 || len(n.take()) != 1 {
		t.Errorf("%d cold, %v, %+v", cold, err, c)
	}
}

// Windows that are new to one are being made by another, while nothing is asked.
func TestColdStreakWindows(t *testing.T) {
	const count, window = 512, 16 * blockSize
	_, m, _ := coldFile(t, count*window, window)
	m.cold.streak.Store(1 << 40)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range int64(count) {
				if _, err := m.Warm([]Range{{i*window + window/2, window / 2}}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// The bits of blocks follow a slice of bools.
func TestBlocks(t *testing.T) {
	const window = 200 * blockSize
	b, model := newBlocks(window), make([]bool, 200)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		n := 1 + rng.Int64N([]int64{10, 9000, window}[rng.IntN(3)])
		at := rng.Int64N(window - n + 1)
		first, last := span(at, n)
		part := model[first : last+1]
		if got, want := b.all(at, n), !slices.Contains(part, false); got != want {
			t.Fatalf("all(%d, %d) = %v", at, n, got)
		}
		if set := b.any(); set >= 0 != slices.Contains(model, true) || set >= 0 && !model[set] {
			t.Fatalf("any() = %d", set)
		}
		set := rng.IntN(2) == 0
		if set {
			b.set(at, n)
		} else {
			b.clear(at, n)
		}
		for i := range part {
			part[i] = set
		}
	}
}

// What is cold is fetched once, in whole blocks and nothing else; what is known to be warm is not asked about.
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
	warm([]Range{{12288, 8192}, {32768, 4096}}, 2, Range{testWindow - 10, 20}, Range{33000, 1}) // over a window's edge
	warm([]Range{{8192, 4096}, {20480, 4096}}, 1, Range{0, 24576})                              // around what is there
	asked := m.Counts().Mincores
	warm(nil, 0, Range{0, 24576}, Range{33000, 1})
	if c := m.Counts(); c.Mincores != asked || c.Fetched != 7*4096 || c.Cold != 5 || c.Warm != 0 {
		t.Errorf("%+v", c)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = m.Warm([]Range{{0, 24576}, {33000, 1}}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}

	// Drop forgets a range and no more.
	if err := m.Drop(4096, 8192); err != nil {
		t.Fatal(err)
	}
	warm(nil, 0, Range{0, 4096}, Range{12288, 4096})
	asked = m.Counts().Mincores
	warm(nil, 0, Range{4096, 4096}) // it is still in the page cache: asked, not fetched
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
	for range 2 { // it does not count as warm
		if n, err := m.Warm([]Range{{100000, 1}}); n != 1 || !errors.Is(err, unix.EIO) {
			t.Errorf("%d, %v", n, err)
		}
	}
}

// The kernel takes blocks back: Doubt finds that out, and they are fetched again. Ones that are still there are not.
func TestDoubt(t *testing.T) {
	_, m, fetched := coldFile(t, 4*testWindow, testWindow)
	if m.Doubt() {
		t.Error("doubts with nothing warm")
	}
	all := []Range{{0, 4 * testWindow}}
	if _, err := m.Warm(all); err != nil {
		t.Fatal(err)
	}
	fetched.take()
	if m.Doubt() {
		t.Skip("the kernel has taken something back")
	}
	evict(t, m, 2*testWindow, 2*testWindow)
	if n, err := m.Warm(all); n != 0 || err != nil || fetched.take() != nil {
		t.Errorf("%d, %v", n, err)
	}
	m.cold.doubted.Store(time.Now().Add(-doubtEvery).UnixNano()) // it is time; one in some calls looks
	for i := 0; m.Counts().Doubts == 0; i++ {
		if _, err := m.Warm(all); err != nil || i > 100*doubtOdds {
			t.Fatalf("no doubts: %v", err)
		}
	}
	if n, err := m.Warm(all); n != 1 || err != nil || !slices.Equal(fetched.take(), []Range{{2 * testWindow, 2 * testWindow}}) {
		t.Errorf("%d, %v", n, err)
	}
}

// Ahead begins, and Warm finds it done.
func TestAhead(t *testing.T) {
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

// One cold message costs reading the blocks that it lies in, nothing before or after.
func TestOneRead(t *testing.T) {
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
		x := Range{int64(i)*500_000 + 4000, 4096 + 32} // of two blocks
		if _, err := m.Warm([]Range{x}); err != nil {
			t.Fatal(err)
		}
		_ = bytes.Clone(v[x.Off : x.Off+int64(x.Len)])
	}
	if n := read() - before; n < rounds*8192*9/10 || n > rounds*8192*11/10 {
		t.Errorf("%d bytes for %d messages", n, rounds)
	}
}

// A file cut short: fetching meets its end, touching is an error, and the process lives.
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

// Views of a whole map are warm, read in pieces. Proves trap 23: a huge record does not come in by page faults.
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

// Where there is no address space for a window views are copies, until there is.
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
		if err != nil || !bytes.Equal(v, want[:5000]) || m.Holds(v) != held {
			t.Errorf("%v; in the map: %v", err, m.Holds(v))
		}
		if v, err = m.View(at, len(want)); err != nil || !bytes.Equal(v, want) {
			t.Errorf("over windows: %v", err)
		}
	}
	check(false)
	m.mapRegion = real
	check(false)
	m.refused.Store(time.Now().Add(-1).UnixNano())
	check(true)
	m.mapRegion = func(*os.File, int, int, int, int64) (mmap.MMap, error) { return nil, unix.EACCES }
	if _, err := m.View(3*testWindow+5000, 10); !errors.Is(err, unix.EACCES) {
		t.Errorf("%v", err)
	}
	if err := roomFor(1 << 50); err == nil {
		t.Error("room for a petabyte")
	}
}

// A view of a protected range faults, and reads again afterwards.
func TestProtect(t *testing.T) {
	_, m, _ := coldFile(t, 4*testWindow, testWindow)
	v, err := m.View(4096, 100)
	if err != nil {
		t.Fatal(err)
	}
	var sum byte
	touch := func() error { return Guard(func() error { sum += v[50]; return nil }) }
	if err := m.Protect(4096, 2*testWindow); err != nil { // of which one window is not mapped
		t.Fatal(err)
	}
	if err := touch(); !errors.Is(err, ErrFault) {
		t.Errorf("protected: %v", err)
	}
	if _, err := m.Warm([]Range{{4096, 4096}}); err != nil { // asking and fetching need no access
		t.Errorf("%v", err)
	}
	if err := errors.Join(m.Unprotect(4096, 2*testWindow), touch()); err != nil {
		t.Errorf("not protected any more: %v", err)
	}
}

// Warm, ReadAhead, Drop, Doubt and View from all sides.
func TestColdCrowd(t *testing.T) {
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

func BenchmarkWarm(b *testing.B) {
	_, m, _ := coldFile(b, 4*testWindow, windowSize)
	xs := []Range{{4090, 4128}}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := m.Warm(xs); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkCold reads messages of a page, header included, that are on the disk alone, by so many goroutines. Run it as root on a real file system:
// TMPDIR=… go test ./mmapread -run xxx -bench Cold -benchtime 50000x -cpu 2; beside it
// fio --rw=randread --bs=4k --direct=1 --ioengine=io_uring --iodepth=64.
func BenchmarkCold(b *testing.B) {
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
		b.Skipf("the page cache cannot be dropped: %v", err)
	}
	const size, slot, n = 2 << 30, 12 << 10, 4096 + 32
	f, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	part := noise(1 << 20)
	for range size >> 20 {
		if _, err := f.Write(part); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)); err != nil {
		b.Fatal(err)
	}
	for _, way := range []string{"ring", "faults", "pread"} {
		for _, goroutines := range []int{1, 64} {
			b.Run(fmt.Sprintf("way=%s/goroutines=%d", way, goroutines), func(b *testing.B) {
				r, err := iouring.OpenReader(iouring.Options{})
				if err != nil {
					b.Fatal(err)
				}
				m, err := Open(f, r)
				if err != nil {
					b.Fatal(err)
				}
				read := func(off int64, buf []byte) error {
					if way == "pread" {
						_, err := f.ReadAt(buf, off)
						return err
					}
					if way == "ring" {
						xs := [1]Range{{off, n}}
						if _, err := m.Warm(xs[:]); err != nil {
							return err
						}
					}
					v, err := m.View(off, n)
					copy(buf, v)
					return err
				}
				if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
					b.Fatal(err)
				}
				places := rand.Perm(size / slot)
				took := make([]time.Duration, min(b.N, len(places)))
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for range goroutines {
					wg.Go(func() {
						buf := make([]byte, n)
						for i := next.Add(1) - 1; i < int64(len(took)); i = next.Add(1) - 1 {
							start := time.Now()
							if err := read(int64(places[i])*slot+i%4000, buf); err != nil {
								b.Error(err)
							}
							took[i] = time.Since(start)
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
				b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-µs")
				b.ReportMetric(float64(len(took))/b.Elapsed().Seconds(), "gets/s")
				if err := errors.Join(m.Close(), r.Close()); err != nil {
					b.Error(err)
				}
			})
		}
	}
}

// BenchmarkBeside has 64 goroutines read cold messages while another one reads memory, and reports how long the latter's steps of some
// microseconds take at worst. As BenchmarkCold otherwise.
func BenchmarkBeside(b *testing.B) {
	const size, slot, n = 1 << 30, 12 << 10, 4096 + 32
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
		b.Skipf("the page cache cannot be dropped: %v", err)
	}
	f, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	part := noise(1 << 20)
	for range size >> 20 {
		if _, err := f.Write(part); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)); err != nil {
		b.Fatal(err)
	}
	for _, way := range []string{"nothing", "ring", "faults"} {
		b.Run("way="+way, func(b *testing.B) {
			r, err := iouring.OpenReader(iouring.Options{})
			if err != nil {
				b.Fatal(err)
			}
			m, err := Open(f, r)
			if err != nil {
				b.Fatal(err)
			}
			if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
				b.Fatal(err)
			}
			places := rand.Perm(size / slot)
			var next, gets atomic.Int64
			var stop atomic.Bool
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					for i := next.Add(1); way != "nothing" && !stop.Load() && i < int64(len(places)); i = next.Add(1) {
						xs := [1]Range{{int64(places[i])*slot + i%4000, n}}
						if way == "ring" {
							_, _ = m.Warm(xs[:])
						}
						v, _ := m.View(xs[0].Off, n)
						_ = bytes.Clone(v)
						gets.Add(1)
					}
				})
			}
			var steps []time.Duration
			sum := 0
			for b.Loop() {
				start := time.Now()
				for range 2 {
					for _, c := range part[:4096] {
						sum += int(c)
					}
				}
				steps = append(steps, time.Since(start))
			}
			stop.Store(true)
			wg.Wait()
			slices.Sort(steps)
			at := func(p float64) float64 { return float64(steps[int(p*float64(len(steps)-1))].Nanoseconds()) / 1000 }
			b.ReportMetric(at(.5), "p50-µs")
			b.ReportMetric(at(.99), "p99-µs")
			b.ReportMetric(at(.999), "p99.9-µs")
			b.ReportMetric(at(1), "max-µs")
			b.ReportMetric(float64(gets.Load())/b.Elapsed().Seconds(), "gets/s")
			if err := errors.Join(m.Close(), r.Close()); err != nil || sum == 0 {
				b.Error(err)
			}
		})
	}
}
