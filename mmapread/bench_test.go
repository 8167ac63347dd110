//go:build linux

package mmapread

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/iouring"
)

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

// BenchmarkCold reads messages of one page that are not cached, headers included, from several goroutines. Run it as
// root on a real file system: TMPDIR=… go test ./mmapread -run xxx -bench Cold -benchtime 50000x -cpu 2, and compare
// with fio --rw=randread --bs=4k --direct=1 --ioengine=io_uring --iodepth=64.
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
				r, err := iouring.OpenReader(iouring.ReaderOptions{})
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

// BenchmarkBeside reads cold messages in 64 goroutines while another goroutine reads memory in steps of some
// microseconds, and reports how long the slowest of these steps take. Run it like BenchmarkCold.
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
			r, err := iouring.OpenReader(iouring.ReaderOptions{})
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
