package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/bench"
	"pagecache/engine"
)

// What cold reads are measured with: more than is read in the time, so that nothing is read twice.
const (
	coldBytes = 2 << 30
	coldPage  = 4 << 10
	coldPages = coldBytes / coldPage
	// coldMessage is what such a page takes in the log, one after another: it lies in two blocks.
	coldMessage = coldPage + 24
)

// coldStore opens a store of that many pages of which nothing is cached.
func coldStore(dir string, count, size int, o engine.Options) (*engine.PageCache[[]byte], error) {
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{CacheCapacity: 64 << 20})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(fillPages(pc, count, size), pc.Close(), forget()); err != nil {
		return nil, err
	}
	settle()
	return engine.Open(dir, engine.Bytes{}, &o)
}

// latencies are what the reads of one goroutine took, in nanoseconds.
type latencies []int64

// inParallel has goroutines read one thing after another of a random order that they share, for a time, and returns how many were read in a second, and
// what each took.
func inParallel(goroutines, count int, d time.Duration, read func(i int) error) (perSecond float64, _ latencies, _ error) {
	order := rand.New(rand.NewPCG(7, uint64(count))).Perm(count)
	var next atomic.Int64
	var wg sync.WaitGroup
	took, failed := make([]latencies, goroutines), make([]error, goroutines)
	start := time.Now()
	for g := range goroutines {
		wg.Go(func() {
			for time.Since(start) < d && failed[g] == nil {
				at := next.Add(1) - 1
				if at >= int64(count) {
					return
				}
				begin := time.Now()
				failed[g] = read(order[at])
				took[g] = append(took[g], int64(time.Since(begin)))
			}
		})
	}
	wg.Wait()
	all := slices.Concat(took...)
	return float64(len(all)) / time.Since(start).Seconds(), all, errors.Join(failed...)
}

func (l latencies) percentile(p float64) time.Duration {
	slices.Sort(l)
	return time.Duration(l[min(len(l)-1, int(p/100*float64(len(l))))])
}

// coldFigure is what of a cold run is wanted.
type coldFigure func(perSecond float64, l latencies) float64

func coldRate(perSecond float64, _ latencies) float64 { return perSecond }

func coldMedian(_ float64, l latencies) float64 { return float64(l.percentile(50)) / 1e3 }

func getOnce(pc *engine.PageCache[[]byte], i, size int) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	p, err := pc.Get(tx, engine.FirstUserPage+engine.PageID(i))
	if err == nil && len(p.Value) != size {
		err = fmt.Errorf("page %d: %d bytes", i, len(p.Value))
	}
	return err
}

func coldGets(goroutines int, figure coldFigure) side {
	return func(_ context.Context, c *config, dir string) (float64, error) {
		pc, err := coldStore(dir, coldPages, coldPage, engine.Options{})
		if err != nil {
			return 0, err
		}
		r, l, err := inParallel(goroutines, coldPages, c.during(), func(i int) error { return getOnce(pc, i, coldPage) })
		st := pc.Stats()
		fmt.Fprintf(os.Stderr, "  %d cold Gets by %d: %.0f/s, median %v, 99 %% %v, pulls %d of them cold %d\n", len(l), goroutines, r, l.percentile(50),
			l.percentile(99), st.Pulls, st.PullsCold)
		return figure(r, l), errors.Join(err, pc.Close())
	}
}

// chainPages are as many pages of 1 KiB as coldPages, all of which are written several times.
const chainPages = coldPages / 2

// coldChains is the rate of cold Gets by 64 goroutines of pages that consist of one message, or of that and three deltas that were written much later each.
func coldChains(deltas int) side {
	return func(_ context.Context, c *config, dir string) (float64, error) {
		pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{CacheCapacity: 16 << 20})
		if err != nil {
			return 0, err
		}
		err = fillPages(pc, chainPages, pageSize)
		values := bench.NewValues(2, deltaSize)
		ptrs := make([]engine.PagePtr[[]byte], chainPages)
		for round := 0; round < deltas && err == nil; round++ {
			for i := 0; i < chainPages && err == nil; i++ {
				err = linkOnce(pc, i, &ptrs[i], values.Next())
			}
		}
		if err := errors.Join(err, pc.Close(), forget()); err != nil {
			return 0, err
		}
		settle()
		if pc, err = engine.Open(dir, engine.Bytes{}, nil); err != nil {
			return 0, err
		}
		r, _, err := inParallel(64, chainPages, c.during(), func(i int) error { return getOnce(pc, i, pageSize+deltas*deltaSize) })
		return r, errors.Join(err, pc.Close())
	}
}

// linkOnce links a delta to page i, without reading it, once its state is known.
func linkOnce(pc *engine.PageCache[[]byte], i int, ptr *engine.PagePtr[[]byte], delta []byte) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for won := false; !won && err == nil; {
		*ptr, won, err = pc.Link(tx, engine.FirstUserPage+engine.PageID(i), *ptr, delta) // losing tells the state
	}
	return err
}

// fioRandom is fio's rate of random reads past the page cache.
func fioRandom(ctx context.Context, c *config, dir string) (float64, error) {
	if _, err := fio(ctx, dir, coldBytes, "--bs=8m", "--ioengine=io_uring", "--iodepth=2"); err != nil {
		return 0, err
	}
	if err := forget(); err != nil {
		return 0, err
	}
	job, err := fioAgain(ctx, dir, coldBytes, "--rw=randread", "--bs=4k", "--ioengine=io_uring", "--iodepth=64", "--runtime="+c.during().String())
	if err != nil {
		return 0, err
	}
	return job.Read.IOPS, nil
}

// coldFile is a file of so many bytes that are not cached.
func coldFile(ctx context.Context, dir string) (*os.File, error) {
	if _, err := fio(ctx, dir, coldBytes, "--bs=8m", "--ioengine=io_uring", "--iodepth=2"); err != nil {
		return nil, err
	}
	if err := forget(); err != nil {
		return nil, err
	}
	return os.Open(filepath.Join(dir, "fio"))
}

// coldFaults is how many of as many bytes in the same places goroutines read in a second by looking at them through a map.
func coldFaults(ctx context.Context, c *config, dir string) (float64, error) {
	f, err := coldFile(ctx, dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, coldBytes, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(m)
	if err := unix.Madvise(m, unix.MADV_RANDOM); err != nil {
		return 0, err
	}
	var sum atomic.Int64
	r, _, err := inParallel(64, coldPages, c.during(), func(i int) error {
		at := i * coldMessage % (coldBytes - coldMessage)
		sum.Add(int64(m[at]) + int64(m[at+coldMessage-1]))
		return nil
	})
	return r, err
}

// coldReads is the median latency of reading as many bytes in the same places.
func coldReads(ctx context.Context, c *config, dir string) (float64, error) {
	f, err := coldFile(ctx, dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		return 0, err
	}
	b := make([]byte, coldMessage)
	_, l, err := inParallel(1, coldPages, c.during(), func(i int) error {
		_, err := f.ReadAt(b, int64(i)*coldMessage%(coldBytes-coldMessage))
		return err
	})
	return coldMedian(0, l), err
}

// coldBeside is the 99th percentile, in µs, of Gets of one resident page while others read cold.
func coldBeside(_ context.Context, c *config, dir string) (float64, error) {
	pc, err := coldStore(dir, coldPages, coldPage, engine.Options{})
	if err != nil {
		return 0, err
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := inParallel(64, coldPages-1, c.during(), func(i int) error { return getOnce(pc, i+1, coldPage) })
		done <- err
	}()
	var l latencies
	for err == nil {
		begin := time.Now()
		if gerr := getOnce(pc, 0, coldPage); gerr != nil {
			err = gerr
		}
		if l = append(l, int64(time.Since(begin))); len(l)%1024 == 0 {
			select {
			case err = <-done:
				p := l.percentile(99)
				fmt.Fprintf(os.Stderr, "  %d Gets of a resident page: median %v, 99 %% %v, 99.9 %% %v, slowest %v\n", len(l), l.percentile(50), p, l.percentile(99.9),
					l.percentile(100))
				return float64(p) / 1e3, errors.Join(err, pc.Close())
			default:
			}
		}
	}
	return 0, errors.Join(err, pc.Close())
}

// What warm pulls are measured with: pages that the page cache holds. Some are paged out again and again while others are pulled (churn); or all are, and then each is pulled
// once. As few as with Get fit the processor's caches; of the many nothing does, so that the memory's latency shows beside a pull's own cost.
const (
	warmPages    = 10_000
	widePages    = 200_000
	warmCapacity = 1 << 20
)

// warmFigure is what of a run of warm pulls is wanted.
type warmFigure func(pulls int64, took time.Duration, allocs uint64) float64

func nanosOf(pulls int64, took time.Duration, _ uint64) float64 {
	return float64(took.Nanoseconds()) / float64(pulls)
}

func allocsOf(pulls int64, _ time.Duration, allocs uint64) float64 {
	return float64(allocs) / float64(pulls)
}

func warmGets(count int, figure warmFigure, churn bool) side {
	return func(_ context.Context, c *config, dir string) (float64, error) {
		pc, err := coldStore(dir, count, pageSize, engine.Options{})
		if err != nil {
			return 0, err
		}
		for i := range count { // brings all in
			err = errors.Join(err, getOnce(pc, i, pageSize))
		}
		if churn {
			err = errors.Join(err, pc.SetCacheCapacity(warmCapacity))
		}
		var took time.Duration
		var allocs uint64
		first := pc.Stats().Pulls
		for start := time.Now(); err == nil && (took == 0 || time.Since(start) < c.during()); {
			if !churn {
				err = pageOutAll(pc)
			}
			if err == nil {
				took, allocs, err = warmRound(pc, count, took, allocs)
			}
		}
		st := pc.Stats()
		fmt.Fprintf(os.Stderr, "  %d warm pulls, %d of all cold, in %v; %d evictions\n", st.Pulls-first, st.PullsCold, took, st.Evictions)
		return figure(st.Pulls-first, took, allocs), errors.Join(err, pc.Close())
	}
}

// warmRound gets each page once, and adds what that took and allocated.
func warmRound(pc *engine.PageCache[[]byte], count int, took time.Duration, allocs uint64) (time.Duration, uint64, error) {
	const step = 7919 // neighbours in the log are not read one after another
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	for i := 0; i < count; {
		tx, err := pc.Begin()
		if err != nil {
			return 0, 0, err
		}
		for range 256 {
			p, err := pc.Get(tx, engine.FirstUserPage+engine.PageID(i*step%count))
			if err != nil || len(p.Value) != pageSize {
				tx.End()
				return 0, 0, fmt.Errorf("%d bytes: %w", len(p.Value), err)
			}
			if i++; i == count {
				break
			}
		}
		tx.End()
	}
	took += time.Since(start)
	runtime.ReadMemStats(&after)
	return took, allocs + after.Mallocs - before.Mallocs, nil
}

// pageOutAll has all pages paged out, and leaves room for them.
func pageOutAll(pc *engine.PageCache[[]byte]) error {
	if err := pc.SetCacheCapacity(1); err != nil {
		return err
	}
	for n := 0; n < 1000; n++ {
		if st := pc.Stats(); st.HeapResident+st.MappedResident < warmCapacity {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := pc.SetCacheCapacity(4 << 30); err != nil {
		return err
	}
	for n := 0; n < 1000 && pc.Stats().Cache.Active; n++ { // the policy ends its work
		time.Sleep(time.Millisecond)
	}
	return nil
}
