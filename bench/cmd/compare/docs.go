//go:build !abtest

package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// The part of docs/BENCHMARKS.md that is written by compare report.
const (
	docsBegin = "<!-- begin: results, written by go -C bench run ./cmd/compare report -->\n"
	docsEnd   = "<!-- end: results -->\n"
)

// readDocs returns the document and the part of it that is generated.
func readDocs(file string) (doc, part string, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", "", err
	}
	_, rest, ok := strings.Cut(string(b), docsBegin)
	part, _, ok2 := strings.Cut(rest, docsEnd)
	if !ok || !ok2 {
		return "", "", fmt.Errorf("%s has no part between %q and %q", file, strings.TrimSpace(docsBegin),
			strings.TrimSpace(docsEnd))
	}
	return string(b), part, nil
}

// docsPart returns the generated part of the document.
func docsPart(r *record) string {
	var b bytes.Buffer
	b.WriteString("\n")
	b.Write(r.markdown())
	b.WriteString("\n![The ratios of all comparisons](benchmarks/ratios.svg)\n\n")
	return b.String()
}

// updateDocs writes the generated part of the document anew.
func updateDocs(file string, r *record) error {
	doc, part, err := readDocs(file)
	if err != nil {
		return err
	}
	doc = strings.Replace(doc, docsBegin+part+docsEnd, docsBegin+docsPart(r)+docsEnd, 1)
	return writeFile(file, []byte(doc), nil)
}
