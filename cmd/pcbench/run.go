package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
)

// run is the command pcbench run. A load that fails or is interrupted is still reported.
func run(ctx context.Context, args []string, out io.Writer, pr *load.Progress) error {
	p, err := job.Parse(args)
	if err != nil {
		return &usageError{err}
	}
	switch {
	case p.Help:
		_, err := fmt.Fprint(out, helpText())
		return err
	case p.Run.ShowCmd:
		// One command, so that the jobs share a store and wait for each other.
		_, err := fmt.Fprintln(unfolded(out), "pcbench run "+job.Commands(p.Jobs))
		return err
	case p.Run.ParseOnly:
		return nil
	}
	return runJobs(ctx, p, out, pr)
}

// runJobs runs parsed jobs and reports them. Warnings and errors of a store are shown even if progress is not.
func runJobs(ctx context.Context, p *job.Parsed, out io.Writer, pr *load.Progress) error {
	warn := pr
	if pr = pr.With(&p.Run); pr != nil {
		warn = pr
		for _, note := range p.Notes {
			fmt.Fprintf(pr.Out, "pcbench: %s\n", note)
		}
	}
	for _, s := range p.Jobs {
		s.Engine.Events = warn.Events()
	}
	if len(p.Run.Against) > 0 {
		return runAgainst(ctx, p, out, pr)
	}
	if !slices.Equal(p.Run.Formats, []string{"normal"}) {
		out = unfolded(out)
	}
	o, err := newOutput("--output", p.Run.Output, out)
	if err != nil {
		return err
	}
	pages, err := newPictures(p)
	if err != nil {
		return errors.Join(err, o.close(false))
	}
	announce(pages, warn)
	var mu sync.Mutex // one report at a time
	runner := &load.Runner{Jobs: p.Jobs, Progress: pr, Status: func(r *load.Result) {
		mu.Lock()
		defer mu.Unlock()
		if err := write(o, r, &p.Run); err != nil && pr != nil {
			fmt.Fprintf(pr.Out, "pcbench: %v\n", err)
		}
	}}
	pages.watch(runner)
	endStatus := status(ctx, runner, p.Run.StatusInterval)
	r, err := runner.Run(ctx)
	endStatus()
	if r == nil {
		return errors.Join(err, o.close(false), pages.finish(nil))
	}
	mu.Lock()
	defer mu.Unlock()
	wrote := o.complete(out, func(w io.Writer) error { return write(w, r, &p.Run) })
	return errors.Join(wrote, r.Err, err, pages.finish(r))
}

// status asks for reports, at the interval if it is not 0 and at SIGUSR1, until the caller calls end.
func status(ctx context.Context, r *load.Runner, interval time.Duration) (end func()) {
	signals, quit, done := make(chan os.Signal, 1), make(chan struct{}), make(chan struct{})
	signal.Notify(signals, syscall.SIGUSR1)
	var tick <-chan time.Time
	if interval > 0 {
		t := time.NewTicker(interval)
		tick = t.C
	}
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case <-signals:
			case <-tick:
			}
			r.Ask(ctx)
		}
	}()
	return func() { signal.Stop(signals); close(quit); <-done }
}
