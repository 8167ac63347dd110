package main

import (
	"bytes"
	"io"
	"os"

	"pagecache/cmd/pcbench/internal/load"
)

// Terminals of fewer than foldBelow columns get folded lines, and those of fewer than foldFrom do not: they have no
// room for words.
const foldFrom, foldBelow = 20, 80

// folder writes to a terminal. If that is narrow, it breaks lines at spaces.
type folder struct {
	*os.File
	columns func() int
	rest    []byte // the beginning of a line
}

// fold returns a writer that folds the lines for f, or f if that is no terminal.
func fold(f *os.File) io.Writer {
	if !load.OnTerminal(f) {
		return f
	}
	return &folder{File: f, columns: func() int { return load.Columns(f) }}
}

// unfolded returns the writer below a folder, for output that other programs may read.
func unfolded(w io.Writer) io.Writer {
	if f, ok := w.(*folder); ok {
		return f.File
	}
	return w
}

// Write writes whole lines, and keeps the beginning of the last one.
func (f *folder) Write(b []byte) (int, error) {
	f.rest = append(f.rest, b...)
	end := bytes.LastIndexByte(f.rest, '\n') + 1
	var out []byte
	for line := range bytes.Lines(f.rest[:end]) {
		out = appendFolded(out, line, f.columns())
	}
	f.rest = append(f.rest[:0], f.rest[end:]...)
	if _, err := f.File.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// appendFolded appends a line, broken at spaces if it has more columns and the terminal is narrow. Its later parts are
// indented by two more than the first. A word that is too long stays whole.
func appendFolded(dst, line []byte, columns int) []byte {
	if columns < foldFrom || columns >= foldBelow {
		return append(dst, line...)
	}
	skip := len(line) - len(bytes.TrimLeft(line, " "))
	indent := min(skip+2, columns/2)
	for skip++; ; skip = indent + 1 { // a part has one letter at least
		runes := bytes.Runes(bytes.TrimSuffix(line, []byte("\n")))
		if len(runes) <= columns {
			return append(dst, line...)
		}
		at, open := 0, 0
		for i := skip; i < len(runes); i++ {
			switch runes[i] { // numbers in brackets stay whole
			case '[':
				open++
			case ']':
				open--
			}
			if runes[i] == ' ' && open <= 0 && (i <= columns || at == 0) {
				at = i
			}
			if i >= columns && at > 0 {
				break
			}
		}
		if at == 0 {
			return append(dst, line...)
		}
		head := string(runes[:at])
		dst = append(append(dst, head...), '\n')
		rest := bytes.TrimLeft(line[len(head):], " ")
		line = append(bytes.Repeat([]byte(" "), indent), rest...)
	}
}
