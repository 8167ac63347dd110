//go:build !abtest

package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"
)

// flags adds the options that name the outputs.
func (o *outputs) flags(f *pflag.FlagSet) {
	f.StringVar(&o.markdown, "markdown", "", "write the tables as Markdown to this `FILE` (-: standard output)")
	f.StringVar(&o.html, "html", "", "write a web page to this `FILE`")
	f.StringVar(&o.picture, "picture", "", "write a picture of the ratios as SVG to this `FILE`")
}

// runReport is the command compare report: it makes tables and pictures of one or more JSON documents. The comparisons
// of several, which must be of the same commit and machine, are put together.
func runReport(args []string, stdout io.Writer) error {
	o := &outputs{}
	f := pflag.NewFlagSet("compare report", pflag.ContinueOnError)
	o.flags(f)
	f.StringVar(&o.json, "json", "", "write the document to this `FILE`")
	f.StringVar(&o.docs, "docs", "", "write the tables into this `FILE`, between its markers")
	f.Usage = func() {
		fmt.Fprintf(os.Stderr, "usage: compare report FILE.json… [options]\n%s", f.FlagUsages())
	}
	if err := f.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil
		}
		return err
	}
	if f.NArg() == 0 {
		return errors.New("report: want the name of a JSON document")
	}
	var r *record
	for _, name := range f.Args() {
		next, err := readRecord(name)
		if err != nil {
			return err
		}
		if r == nil {
			r = next
			continue
		}
		if err := r.add(next); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := o.check(); err != nil {
		return err
	}
	if o.markdown == "" && o.html == "" && o.picture == "" && o.json == "" && o.docs == "" {
		return writeFile(stdoutName, append([]byte(r.head()+"\n"), r.text()...), stdout)
	}
	return o.write(r, stdout)
}

// add adds the comparisons of another run under the same conditions.
func (r *record) add(other *record) error {
	if r.Commit != other.Commit || r.Machine != other.Machine || r.Rounds != other.Rounds ||
		r.Seconds != other.Seconds || r.Divide != other.Divide {
		return errors.New("it is of another commit, machine, number of rounds or length")
	}
	have := map[string]bool{}
	for i := range r.Lines {
		have[r.Lines[i].Name] = true
	}
	for _, l := range other.Lines {
		if have[l.Name] {
			return fmt.Errorf("both have the comparison %s", l.Name)
		}
		r.Lines = append(r.Lines, l)
	}
	r.Busy, r.Interrupted = max(r.Busy, other.Busy), r.Interrupted || other.Interrupted
	return nil
}
