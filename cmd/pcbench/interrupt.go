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

// interruptibleReader is a reader whose Read returns when ctx is done, even if the one below it waits for bytes. Bytes
// that arrive afterwards are lost. Only one goroutine uses it.
type interruptibleReader struct {
	ctx context.Context
	r   *os.File
	buf []byte // of the goroutine that reads
}

// Name returns the name of the file, for errors.
func (r *interruptibleReader) Name() string { return r.r.Name() }

func (r *interruptibleReader) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil { // the buffer may be in use
		return 0, r.ctx.Err()
	}
	if len(r.buf) < len(b) {
		r.buf = make([]byte, len(b))
	}
	buf := r.buf[:len(b)]
	n, err := unlessDone(r.ctx, func() (int, error) { return r.r.Read(buf) })
	return copy(b, buf[:n]), err
}

// interruptibleWriter is a writer whose Write returns when ctx is done, even if the one below it waits for a reader.
// How much that writes then is not known. Only one goroutine uses it.
type interruptibleWriter struct {
	ctx context.Context
	w   io.Writer
	buf []byte // of the goroutine that writes
}

func (w *interruptibleWriter) Write(b []byte) (int, error) {
	if w.ctx.Err() != nil { // the buffer may be in use
		return 0, w.ctx.Err()
	}
	w.buf = append(w.buf[:0], b...)
	return unlessDone(w.ctx, func() (int, error) { return w.w.Write(w.buf) })
}

// unlessDone calls do in a goroutine of its own and returns its results. When ctx is done it returns the error of ctx
// at once, and the goroutine ends with the process: the system call of a blocking descriptor cannot be ended. The
// caller must not use what do uses after that.
func unlessDone[T any](ctx context.Context, do func() (T, error)) (v T, err error) {
	type results struct {
		v   T
		err error
	}
	done := make(chan results, 1)
	go func() {
		v, err := do()
		done <- results{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		return v, ctx.Err()
	}
}
