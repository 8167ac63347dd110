package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/bench"
	"pagecache/engine"
)

// forget drops the file cache of the kernel. With --divide it does nothing.
func (c *config) forget() error {
	if c.small() {
		return nil
	}
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return errSkip("only root can drop the file cache")
	}
	return nil
}

// opening measures the time in ms from Open to the first Get of a store of count small pages that was closed cleanly.
func opening(count int) side {
	return func(_ context.Context, c *config, dir string) (ms float64, err error) {
		count := c.part(count)
		pc, err := engine.Open(dir, engine.Bytes{}, nil)
		if err != nil {
			return 0, err
		}
		if err := errors.Join(fillPages(pc, count, deltaSize), pc.Close(), c.forget()); err != nil {
			return 0, err
		}
		c.settle()
		before := heapBytes()
		start := time.Now()
		if pc, err = engine.Open(dir, engine.Bytes{}, nil); err != nil {
			return 0, err
		}
		tx, err := pc.Begin()
		if err == nil {
			_, err = pc.Get(tx, engine.PageID(count/2))
			tx.End()
		}
		took := time.Since(start)
		perPage := (heapBytes() - before) / float64(count)
		fmt.Fprintf(os.Stderr, "  opening %d pages: %v, %.2f heap bytes a page\n", count, took, perPage)
		return took.Seconds() * 1e3, errors.Join(err, pc.Close())
	}
}

// heapBytes collects the garbage and returns the bytes left on the heap.
func heapBytes() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// fillPages allocates count pages of size bytes.
func fillPages(pc *engine.PageCache[[]byte], count, size int) error {
	const perTx = 1000
	values := bench.NewValues(1, size)
	for i := 0; i < count; {
		tx, err := pc.Begin()
		if err != nil {
			return err
		}
		for end := min(count, i+perTx); i < end && err == nil; i++ {
			_, _, err = pc.Allocate(tx, values.Next())
		}
		tx.End()
		if err != nil {
			return err
		}
	}
	return nil
}

// killedBytes is the length of the log that an opening after a kill reads.
const killedBytes = 1 << 30

// openingKilled returns how fast, in MB of log a second, a store opens that was killed with 1 GiB of log since its
// snapshot.
func openingKilled(_ context.Context, c *config, dir string) (mb float64, err error) {
	alive, dead := filepath.Join(dir, "alive"), filepath.Join(dir, "dead")
	pc, err := engine.Open(alive, engine.Bytes{}, nil)
	if err != nil {
		return 0, err
	}
	bytes := c.part(killedBytes)
	err = fillPages(pc, bytes/overwritePage, overwritePage)
	if err == nil {
		_, err = pc.Flush()
	}
	// The files are now as a kill would leave them.
	if err = errors.Join(err, copyStore(dead, alive), pc.Close(), os.RemoveAll(alive), c.forget()); err != nil {
		return 0, err
	}
	c.settle()
	start := time.Now()
	if pc, err = engine.Open(dead, engine.Bytes{}, nil); err != nil {
		return 0, err
	}
	took := time.Since(start)
	return float64(bytes) / 1e6 / took.Seconds(), pc.Close()
}

// copyStore copies the files of a store, without its snapshots.
func copyStore(to, from string) error {
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"log", "superblock"} {
		src, err := os.Open(filepath.Join(from, name))
		if err != nil {
			return err
		}
		dst, err := os.Create(filepath.Join(to, name))
		if err == nil {
			_, err = io.Copy(dst, src)
			err = errors.Join(err, dst.Sync(), dst.Close())
		}
		if err = errors.Join(err, src.Close()); err != nil {
			return err
		}
	}
	return nil
}

// fioRead lets fio read the same number of bytes from a file that is not cached.
func fioRead(ctx context.Context, c *config, dir string) (float64, error) {
	bytes := c.space(killedBytes)
	if _, err := fio(ctx, dir, bytes, "--bs=8m", "--ioengine=io_uring", "--iodepth=2"); err != nil {
		return 0, err
	}
	if err := c.forget(); err != nil {
		return 0, err
	}
	job, err := fioAgain(ctx, dir, bytes, "--rw=read", "--bs=1m", "--ioengine=io_uring", "--iodepth=4")
	if err != nil {
		return 0, err
	}
	return job.Read.BWBytes / 1e6, nil
}
