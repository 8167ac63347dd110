package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// run is the command pcbench run. A load that fails or is interrupted is still reported.
func run(ctx context.Context, args []string, out io.Writer, pr *progress) (err error) {
	s, help, err := parse(args)
	if err != nil {
		return &usageError{err}
	}
	if help {
		_, err := fmt.Fprint(out, helpText())
		return err
	}
	if s.Output != "" {
		f, err := os.Create(s.Output)
		if err != nil {
			return fmt.Errorf("--output: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		out = f
	}
	s.Engine.Events = pr.events()
	ses, err := open(s)
	if err != nil {
		return err
	}
	r, err := ses.run(ctx, s, pr)
	err = errors.Join(err, ses.close())
	if r == nil || len(r.jobs) == 0 {
		return err
	}
	if s.JSON {
		err = errors.Join(err, writeJSON(out, []*result{r}, time.Now()))
	} else {
		err = errors.Join(err, writeNormal(out, []*result{r}))
	}
	return errors.Join(r.summary(), err)
}
