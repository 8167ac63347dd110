package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"pagecache/segments/format"
)

// dump is the command pcbench dump: it writes the files of a store as annotated hex, as docs/FORMAT.md describes them. It reads only,
// and takes no lock: of a store that is open it shows what has reached the disk.
func dump(ctx context.Context, args []string, out io.Writer) error {
	f := pflag.NewFlagSet("pcbench dump", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	var d dumper
	f.IntVar(&d.body, "body", 32, "`bytes` shown of the body of each message")
	f.Int64Var(&d.slot, "slot", -1, "`number` of the only slot to show (default all)")
	f.BoolVar(&d.headers, "headers", false, "show the headers of segments only")
	pages := f.UintSlice("page", nil, "`numbers` of the pages of which messages are shown (default all)")
	kinds := f.StringSlice("kind", nil, "`kinds` of message that are shown: append, compact, free, counter, meta, batch-begin … (default all)")
	lsns := f.String("lsn", "", "`FROM..TO`: the LSNs, of which each may be left out, between which messages are shown (default all)")
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err := fmt.Fprintf(out, "pcbench dump OPTIONS DIR shows the files of a store as annotated hex.\n\n%s", f.FlagUsages())
		return err
	} else if err != nil {
		return &usageError{explain(f, err)}
	}
	switch {
	case f.NArg() != 1:
		return &usageError{errors.New("dump: name one directory, the one that a store was opened with")}
	case d.body < 0:
		return &usageError{fmt.Errorf("--body=%d: must be 0 or more", d.body)}
	case d.slot < -1:
		return &usageError{fmt.Errorf("--slot=%d: must be 0 or more", d.slot)}
	}
	if err := d.choose(*pages, *kinds, *lsns); err != nil {
		return &usageError{err}
	}
	return d.store(ctx, f.Arg(0), out)
}

// dumper is what is to be shown.
type dumper struct {
	body     int
	slot     int64 // −1: all
	headers  bool
	pages    map[format.PageID]bool // nil: all
	kinds    map[string]bool        // nil: all
	from, to format.LSN
}

// choose reads the filters.
func (d *dumper) choose(pages []uint, kinds []string, lsns string) error {
	d.to = math.MaxInt64
	for _, p := range pages {
		if d.pages == nil {
			d.pages = map[format.PageID]bool{}
		}
		d.pages[format.PageID(p)] = true
	}
	for _, k := range kinds {
		if d.kinds == nil {
			d.kinds = map[string]bool{}
		}
		known := false
		for kind := format.Kind(1); kind.Valid(); kind++ {
			known = known || kind.String() == k
		}
		if !known {
			return fmt.Errorf("--kind=%s: no such kind of message", k)
		}
		d.kinds[k] = true
	}
	if lsns == "" {
		return nil
	}
	from, to, ok := strings.Cut(lsns, "..")
	var err1, err2 error
	if from != "" {
		d.from, err1 = parseLSN(from)
	}
	if to != "" {
		d.to, err2 = parseLSN(to)
	}
	if !ok || err1 != nil || err2 != nil || d.from > d.to {
		return fmt.Errorf("--lsn=%s: 4096..8192, say, or 4096.. is wanted", lsns)
	}
	return nil
}

func parseLSN(s string) (format.LSN, error) {
	v, err := strconv.ParseUint(s, 0, 63)
	return format.LSN(v), err
}

// keep reports whether a message is to be shown.
func (d *dumper) keep(h format.Header) bool {
	return !d.headers && (d.pages == nil || d.pages[h.Page] && h.Kind != format.KindPad) && (d.kinds == nil || d.kinds[h.Kind.String()]) &&
		h.LSN >= d.from && h.LSN <= d.to
}

// store writes the superblock of the store in dir, and its slots: all of them, or only one.
func (d *dumper) store(ctx context.Context, dir string, out io.Writer) error {
	only := d.slot
	b, err := os.ReadFile(filepath.Join(dir, "superblock"))
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	if _, err := fmt.Fprintf(out, "superblock\n%s", format.AnnotateSuperblock(nil, b)); err != nil {
		return err
	}
	super, err := format.DecodeSuperblock(b)
	if err != nil {
		return fmt.Errorf("dump: superblock: %w", err)
	}
	log, err := os.Open(filepath.Join(dir, "log"))
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	defer log.Close()
	segment := make([]byte, super.SegmentSize)
	for slot := format.SegmentID(max(only, 0)); ctx.Err() == nil; slot++ {
		n, err := log.ReadAt(segment, int64(slot.Offset(super.SegmentSize)))
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("dump: %w", err)
		}
		if n == 0 {
			if only >= 0 {
				return fmt.Errorf("dump: --slot=%d: the log ends before it", only)
			}
			return nil
		}
		view := format.SegmentView{Store: super.Store, Slot: slot, SegmentSize: super.SegmentSize, Body: d.body, Keep: d.keep}
		text := format.AnnotateSegment(nil, segment[:n], view)
		if _, err := fmt.Fprintf(out, "\nlog\n%s", text); err != nil {
			return err
		}
		if only >= 0 {
			return nil
		}
	}
	return nil
}
