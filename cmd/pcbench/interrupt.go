package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
	"pagecache/cmd/pcbench/internal/units"
	"pagecache/segments/format"
)

// errNoStore reports that a directory holds no store.
var errNoStore = errors.New("no store here")

// wantStore returns an error that wraps errNoStore if dir holds nothing of a store or log, neither the log nor a
// superblock nor a snapshot.
func wantStore(doing, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	for _, e := range entries {
		if n := e.Name(); n == "log" || n == "superblock" || format.IsSnapshotName(n) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %w", doing, errNoStore, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "store", "superblock")); err == nil { // NAME.pcbench, as run leaves it
		return fmt.Errorf("%s: %w: %s; it is in %s", doing, errNoStore, dir, filepath.Join(dir, "store"))
	}
	return fmt.Errorf("%s: %w: %s", doing, errNoStore, dir)
}

// unfinishedError says what an interrupted command has not done.
type unfinishedError struct{ error }

// interruptible calls do, which cannot be stopped, in a goroutine of its own. When ctx is done it returns false at
// once, and the goroutine ends with the process. On a terminal it shows what state returns, the time, and what is done.
func interruptible(ctx context.Context, pr *load.Progress, what string, state func() string, do func() error) (
	finished bool, err error) {
	began := time.Now()
	if pr != nil && pr.Terminal {
		defer pr.Lines(func() string {
			return fmt.Sprintf("%s, %ds: %s", state(), int(time.Since(began).Seconds()), what)
		})()
	}
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return true, err
	case <-ctx.Done():
		return false, nil
	}
}

// reading returns a function that says how much the process has read since now, and how long the log in dir is.
func reading(dir string) func() string {
	began, total := bytesRead(), int64(0)
	if info, err := os.Stat(filepath.Join(dir, "log")); err == nil {
		total = info.Size()
	}
	return func() string {
		return fmt.Sprintf("%s read, log of %s", units.Bytes(bytesRead()-began), units.Bytes(total))
	}
}

// bytesRead returns the bytes that the process has read by system calls, or 0 if the kernel does not say.
func bytesRead() (n int64) {
	b, err := os.ReadFile("/proc/self/io")
	if err == nil {
		_, _ = fmt.Sscanf(string(b), "rchar: %d", &n) // 0 if it is no number
	}
	return n
}

// onlyUntil is a writer that writes nothing more once ended is set.
type onlyUntil struct {
	out   io.Writer
	ended atomic.Bool
}

var errEnded = errors.New("interrupted")

func (o *onlyUntil) Write(b []byte) (int, error) {
	if o.ended.Load() {
		return 0, errEnded
	}
	return o.out.Write(b)
}

// lister writes lines until it is ended. Safe for concurrent use: an interrupted command goes on in the background.
type lister struct {
	mu    sync.Mutex
	out   io.Writer
	n     int
	ended bool
}

func (l *lister) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.n++
		fmt.Fprintln(l.out, line)
	}
}

// count returns the number of lines.
func (l *lister) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// end ends the list and returns the number of lines.
func (l *lister) end() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	return l.n
}

// explainFlag adds to an error of pflag the option that was meant, or where the options are listed.
func explainFlag(f *pflag.FlagSet, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		meant := ""
		f.VisitAll(func(o *pflag.Flag) {
			if job.Distance(unknown.GetSpecifiedName(), o.Name) <= 2 {
				meant = o.Name
			}
		})
		if meant != "" {
			return fmt.Errorf("--%s: no such option; did you mean --%s?", unknown.GetSpecifiedName(), meant)
		}
	}
	return fmt.Errorf("%w (%s --help lists the options)", err, f.Name())
}
