package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
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
	return fmt.Errorf("%s: %w: %s", doing, errNoStore, dir)
}

// unfinishedError says what an interrupted command has not done.
type unfinishedError struct{ error }

// interruptible calls do, which cannot be stopped, in a goroutine of its own. When ctx is done it returns false at
// once,
// and the goroutine ends with the process.
func interruptible(ctx context.Context, pr *load.Progress, what string, do func() error) (finished bool, err error) {
	began := time.Now()
	if pr != nil && pr.Terminal {
		defer pr.Lines(func() string { return fmt.Sprintf("%s: %ds", what, int(time.Since(began).Seconds())) })()
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
