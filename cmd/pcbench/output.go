package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
	"pagecache/cmd/pcbench/internal/report"
	"pagecache/internal/htmlpage"
)

// output is where a report goes. A regular file appears under its name when the report is complete.
type output struct {
	io.Writer
	f            *os.File // nil: standard output
	option, name string
}

// newOutput makes the output of a run that an option names. Without a name it is out.
func newOutput(option, name string, out io.Writer) (*output, error) {
	if name == "" {
		return &output{Writer: out}, nil
	}
	o := &output{option: option, name: name}
	var err error
	if info, statErr := os.Stat(name); statErr == nil && !info.Mode().IsRegular() {
		o.f, err = os.OpenFile(name, os.O_WRONLY, 0) // a terminal, a pipe or /dev/null
	} else {
		o.f, err = os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", option, err)
	}
	o.Writer = o.f
	return o, nil
}

// close completes the output, or removes it if there was no report.
func (o *output) close(written bool) error {
	if o.f == nil {
		return nil
	}
	temporary := o.f.Name() != o.name
	if !temporary {
		if err := o.f.Close(); err != nil {
			return fmt.Errorf("%s: %w", o.option, err)
		}
		return nil
	}
	if !written {
		return errors.Join(o.f.Close(), os.Remove(o.f.Name()))
	}
	const mode = 0o644
	err := errors.Join(o.f.Chmod(mode), o.f.Close())
	if err == nil {
		err = os.Rename(o.f.Name(), o.name)
	}
	if err != nil {
		_ = os.Remove(o.f.Name()) // the first error counts
		return fmt.Errorf("%s: %w", o.option, err)
	}
	return nil
}

// write writes a result in all formats of a run.
func write(out io.Writer, r *load.Result, o *job.Run) error { return writeAll(out, r, o, nil) }

// writeAll writes a result with a comparison, unless that is nil. Terse has no place for it.
func writeAll(out io.Writer, r *load.Result, o *job.Run, c *htmlpage.Comparison) error {
	var errs []error
	for _, f := range o.Formats {
		switch f {
		case "normal":
			if c != nil {
				errs = append(errs, report.Against(out, r, c))
				continue
			}
			errs = append(errs, report.Normal(out, r))
		case "json":
			errs = append(errs, report.JSONAgainst(out, r, time.Now(), report.DetailPercentiles, c))
		case "json+":
			errs = append(errs, report.JSONAgainst(out, r, time.Now(), report.DetailBins, c))
		case "terse":
			errs = append(errs, report.Terse(out, r, o.TerseVersion))
		}
	}
	return errors.Join(errs...)
}
