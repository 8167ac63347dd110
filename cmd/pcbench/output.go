package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	failed       bool // a Write has failed
}

// Write writes a part of the report.
func (o *output) Write(b []byte) (int, error) {
	n, err := o.Writer.Write(b)
	if err != nil && o.f != nil {
		o.failed = true
		err = fmt.Errorf("write %s: %w", o.name, cause(err))
	}
	return n, err
}

// cause returns the error of a call without the name of the file, which may be a temporary one.
func cause(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	if l := (*os.LinkError)(nil); errors.As(err, &l) {
		return l.Err
	}
	return err
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
		if to, linkErr := filepath.EvalSymlinks(name); linkErr == nil {
			o.name = to // the link stays
		}
		o.f, err = os.CreateTemp(filepath.Dir(o.name), "."+filepath.Base(o.name)+".*")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: make %s: %w", option, o.name, cause(err))
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
			return fmt.Errorf("%s: write %s: %w", o.option, o.name, cause(err))
		}
		return nil
	}
	if !written || o.failed {
		return errors.Join(o.f.Close(), os.Remove(o.f.Name()))
	}
	const mode = 0o644
	err := errors.Join(o.f.Chmod(mode), o.f.Close())
	if err == nil {
		err = os.Rename(o.f.Name(), o.name)
	}
	if err != nil {
		_ = os.Remove(o.f.Name()) // the first error counts
		return fmt.Errorf("%s: write %s: %w", o.option, o.name, cause(err))
	}
	return nil
}

// complete writes a report and closes the output. If the file cannot be written, an older file of that name stays, and
// the report goes to standard output instead, so that it is not lost.
func (o *output) complete(standard io.Writer, report func(io.Writer) error) error {
	err := report(o)
	if o.f == nil {
		return err
	}
	if o.failed {
		err = errors.Join(fmt.Errorf("%s: %w", o.option, err), o.close(false))
	} else if closed := o.close(true); closed != nil {
		o.failed, err = true, errors.Join(err, closed)
	}
	if !o.failed {
		return err
	}
	return errors.Join(fmt.Errorf("%w; the report is on standard output", err), report(standard))
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
