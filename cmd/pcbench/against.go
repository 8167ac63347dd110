package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"pagecache/cmd/pcbench/internal/against"
	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
)

// runAgainst compares the one job of a run with other programs, and reports the comparison. Rounds before a failure or
// an interrupt are reported too.
func runAgainst(ctx context.Context, p *job.Parsed, out io.Writer, pr *load.Progress) error {
	var pages *pictures // set below, before the first turn
	c, err := against.New(ctx, p, func(ctx context.Context) (*load.Result, error) {
		r := &load.Runner{Jobs: p.Jobs, Progress: pr, Settle: true}
		pages.watch(r)
		return r.Run(ctx)
	})
	if err != nil {
		return err
	}
	o, err := newOutput("--output", p.Run.Output, out)
	if err != nil {
		return err
	}
	if pages, err = newPictures(p); err != nil {
		return errors.Join(err, o.close(false))
	}
	pages.compare(c.Table)
	announce(pages, pr)
	failed := c.Run(ctx, func(round, rounds int, side string) {
		if pr != nil {
			pr.Print(fmt.Sprintf("pcbench: round %d of %d: %s", round, rounds, side))
		}
	})
	r := c.Last()
	if r == nil {
		return errors.Join(failed, o.close(false), pages.finish(nil))
	}
	r.Interrupted = ctx.Err() != nil
	if r.Err == nil {
		r.Err = failed
	}
	wrote := o.complete(out, func(w io.Writer) error { return writeAll(w, r, &p.Run, c.Table()) })
	return errors.Join(wrote, failed, pages.finish(r))
}
