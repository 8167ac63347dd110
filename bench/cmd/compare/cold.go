package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/bench"
	"pagecache/engine"
)

// The pages of cold reads. They are more than are read in the time, so that no page is read twice.
const (
	coldBytes = 2 << 30
	coldPage  = 4 << 10
	coldPages = coldBytes / coldPage
	// coldMessage is the length of such a page in the log, with its header. A message lies in two blocks.
	coldMessage = coldPage + 24
)

// coldStore opens a store of count pages, none of which is resident or in the file cache.
func coldStore(c *config, dir string, count, size int, o engine.Options) (*engine.PageCache[[]byte], error) {
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{CacheCapacity: 64 << 20})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(fillPages(pc, count, size), pc.Close(), c.forget()); err != nil {
		return nil, err
	}
	c.settle()
	return engine.Open(dir, engine.Bytes{}, &o)
}

// latencies are the times of reads, in nanoseconds.
type latencies []int64

// inParallel lets goroutines call read with numbers below count in a random order, each number once, for the time d
// or until no number is left. It returns the calls per second, and the time of each.
func inParallel(goroutines, count int, d time.Duration, read func(i int) error) (float64, latencies, error) {
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

// percentile sorts l and returns the time that p percent of the reads did not exceed.
func (l latencies) percentile(p float64) time.Duration {
	slices.Sort(l)
	return time.Duration(l[min(len(l)-1, int(p/100*float64(len(l))))])
}

// coldFigure chooses the figure of a cold run.
type coldFigure func(perSecond float64, l latencies) float64

func coldRate(perSecond float64, _ latencies) float64 { return perSecond }

func coldMedian(_ float64, l latencies) float64 { return float64(l.percentile(50)) / 1e3 }

// getOnce gets page i, which has size bytes, in a Tx of its own.
func getOnce(pc *engine.PageCache[[]byte], i, size int) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	p, err := pc.Get(tx, engine.FirstUserPage+engine.PageID(i))
	if err == nil && len(p.Value) != size {
		err = fmt.Errorf("page %d has %d bytes, want %d", i, len(p.Value), size)
	}
	return err
}

// coldGets measures Gets of pages that must be read from disk.
func coldGets(goroutines int, figure coldFigure) side {
	return func(_ context.Context, c *config, dir string) (float64, error) {
		pc, err := coldStore(c, dir, c.part(coldPages), coldPage, engine.Options{})
		if err != nil {
			return 0, err
		}
		read := func(i int) error { return getOnce(pc, i, coldPage) }
		r, l, err := inParallel(goroutines, c.part(coldPages), c.during(), read)
		st := pc.Stats()
		fmt.Fprintf(os.Stderr, "  %d cold Gets by %d goroutines: %.0f/s, median %v, 99 %% %v; %d of %d from disk\n",
			len(l), goroutines, r, l.percentile(50), l.percentile(99), st.Pages.FetchesCold, st.Pages.Fetches)
		return figure(r, l), errors.Join(err, pc.Close())
	}
}

// chainPages is the number of pages of 1 KiB that coldChains writes.
const chainPages = coldPages / 2

// coldChains returns the rate of cold Gets by 64 goroutines. Each page consists of a message and of deltas that lie
// far from it and from each other in the log.
func coldChains(deltas int) side {
	return func(_ context.Context, c *config, dir string) (float64, error) {
		pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{CacheCapacity: 16 << 20})
		if err != nil {
			return 0, err
		}
		count := c.part(chainPages)
		err = fillPages(pc, count, pageSize)
		values := bench.NewValues(2, deltaSize)
		ptrs := make([]engine.PagePtr[[]byte], count)
		for round := 0; round < deltas && err == nil; round++ {
			for i := 0; i < count && err == nil; i++ {
				err = linkOnce(pc, i, &ptrs[i], values.Next())
			}
		}
		if err := errors.Join(err, pc.Close(), c.forget()); err != nil {
			return 0, err
		}
		c.settle()
		if pc, err = engine.Open(dir, engine.Bytes{}, nil); err != nil {
			return 0, err
		}
		read := func(i int) error { return getOnce(pc, i, pageSize+deltas*deltaSize) }
		r, _, err := inParallel(64, count, c.during(), read)
		return r, errors.Join(err, pc.Close())
	}
}

// linkOnce links a delta to page i. It does not read the page: ptr is its version after the last call, or zero at
// first.
func linkOnce(pc *engine.PageCache[[]byte], i int, ptr *engine.PagePtr[[]byte], delta []byte) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for won := false; !won && err == nil; {
		*ptr, won, err = pc.Link(tx, engine.FirstUserPage+engine.PageID(i), *ptr, delta) // a loss returns the version
	}
	return err
}

// fioRandom returns fio's rate of random reads that bypass the file cache.
func fioRandom(ctx context.Context, c *config, dir string) (float64, error) {
	size := c.space(coldBytes)
	if _, err := fio(ctx, dir, size, "--bs=8m", "--ioengine=io_uring", "--iodepth=2"); err != nil {
		return 0, err
	}
	if err := c.forget(); err != nil {
		return 0, err
	}
	job, err := fioAgain(ctx, dir, size, "--rw=randread", "--bs=4k", "--ioengine=io_uring", "--iodepth=64",
		"--runtime="+c.during().String())
	if err != nil {
		return 0, err
	}
	return job.Read.IOPS, nil
}

// coldFile returns a file of coldBytes bytes, or the part of them, that are not cached.
func coldFile(ctx context.Context, c *config, dir string) (*os.File, error) {
	size := c.space(coldBytes)
	if _, err := fio(ctx, dir, size, "--bs=8m", "--ioengine=io_uring", "--iodepth=2"); err != nil {
		return nil, err
	}
	if err := c.forget(); err != nil {
		return nil, err
	}
	return os.Open(filepath.Join(dir, "fio"))
}

// coldFaults returns how often 64 goroutines read the first and last byte of such a message per second through a
// memory map.
func coldFaults(ctx context.Context, c *config, dir string) (float64, error) {
	f, err := coldFile(ctx, c, dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size := int(c.space(coldBytes))
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(m)
	if err := unix.Madvise(m, unix.MADV_RANDOM); err != nil {
		return 0, err
	}
	var sum atomic.Int64
	r, _, err := inParallel(64, c.part(coldPages), c.during(), func(i int) error {
		at := i * coldMessage % (size - coldMessage)
		sum.Add(int64(m[at]) + int64(m[at+coldMessage-1]))
		return nil
	})
	return r, err
}

// coldReads returns the median latency of reading such a message with pread.
func coldReads(ctx context.Context, c *config, dir string) (float64, error) {
	f, err := coldFile(ctx, c, dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		return 0, err
	}
	b := make([]byte, coldMessage)
	_, l, err := inParallel(1, c.part(coldPages), c.during(), func(i int) error {
		_, err := f.ReadAt(b, int64(i)*coldMessage%(c.space(coldBytes)-coldMessage))
		return err
	})
	return coldMedian(0, l), err
}

// coldBeside returns the 99th percentile, in µs, of Gets of one resident page while 64 goroutines read from disk.
func coldBeside(_ context.Context, c *config, dir string) (float64, error) {
	pc, err := coldStore(c, dir, c.part(coldPages), coldPage, engine.Options{})
	if err != nil {
		return 0, err
	}
	done := make(chan error, 1)
	go func() {
		read := func(i int) error { return getOnce(pc, i+1, coldPage) }
		_, _, err := inParallel(64, c.part(coldPages)-1, c.during(), read)
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
				fmt.Fprintf(os.Stderr, "  %d Gets of a resident page: median %v, 99 %% %v, 99.9 %% %v, slowest %v\n",
					len(l), l.percentile(50), p, l.percentile(99.9), l.percentile(100))
				return float64(p) / 1e3, errors.Join(err, pc.Close())
			default:
			}
		}
	}
	return 0, errors.Join(err, pc.Close())
}
