//go:build !abtest

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// stdoutName is the name of the standard output as a file.
const stdoutName = "-"

// outputs are the files that a run or a report writes; "": none, "-": the standard output.
type outputs struct{ json, markdown, html, picture, docs string }

// files returns the names of all files.
func (o *outputs) files() (names []string) {
	for _, name := range []string{o.json, o.markdown, o.html, o.picture} {
		if name != "" && name != stdoutName {
			names = append(names, name)
		}
	}
	return names
}

// check returns an error if a file cannot be written, so that a run does not fail at its end.
func (o *outputs) check() error {
	var all error
	for _, name := range o.files() {
		f, err := os.CreateTemp(filepath.Dir(name), ".compare.*")
		if err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
		if err != nil {
			all = errors.Join(all, fmt.Errorf("write %s: %w", name, err))
		}
	}
	if o.docs != "" {
		_, _, err := readDocs(o.docs)
		all = errors.Join(all, err)
	}
	return all
}

// write writes all outputs of r.
func (o *outputs) write(r *record, stdout io.Writer) error {
	text, err := r.json()
	if err != nil {
		return err
	}
	page := r.page()
	var html, picture bytes.Buffer
	if err := page.Write(&html); err != nil {
		return err
	}
	if err := page.WriteRatios(&picture); err != nil {
		return err
	}
	var all error
	for _, f := range []struct {
		name string
		text []byte
	}{{o.json, text}, {o.markdown, r.markdown()}, {o.html, html.Bytes()}, {o.picture, picture.Bytes()}} {
		all = errors.Join(all, writeFile(f.name, f.text, stdout))
	}
	if o.docs != "" {
		all = errors.Join(all, updateDocs(o.docs, r))
	}
	return all
}

// writeFile writes a file through a temporary one, so that it has the old contents or all of the new.
func writeFile(name string, text []byte, stdout io.Writer) (err error) {
	switch name {
	case "":
		return nil
	case stdoutName:
		if _, err := stdout.Write(text); err != nil {
			return fmt.Errorf("write the standard output: %w", err)
		}
		return nil
	}
	if s, err := os.Stat(name); err == nil && !s.Mode().IsRegular() { // a device, or a pipe
		return writeThrough(name, text)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".compare.*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", name, err), os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(text)
	const readable = 0o644
	if err = errors.Join(err, f.Chmod(readable), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// writeThrough writes to something that is no regular file.
func writeThrough(name string, text []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}
