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
	"sync/atomic"
	"syscall"

	"github.com/spf13/pflag"

	"pagecache/cmd/pcbench/internal/load"
	"pagecache/segments/format"
)

// dump is the command pcbench dump. It writes the files of a store as annotated hex, in the format of docs/FORMAT.md.
// It only reads and takes no lock. If the store is open, it shows the data that has reached the disk.
func dump(ctx context.Context, args []string, out io.Writer, pr *load.Progress) error {
	f := pflag.NewFlagSet("pcbench dump", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	var d dumper
	f.IntVar(&d.body, "body", 32, "`bytes` of the body of each message to show")
	f.Int64Var(&d.slot, "slot", -1, "`number` of the slot to show; -1 shows all")
	f.BoolVar(&d.headers, "headers", false, "show only the headers of segments")
	pages := f.UintSlice("page", nil, "show only messages of the pages with these `numbers`")
	f.Lookup("page").DefValue = "" // hides it in the help text
	kinds := f.StringSlice("kind", nil,
		"show only these `kinds` of message: append, compact, free, counter, root, batch-begin …")
	lsns := f.String("lsn", "", "show only messages with an LSN in `FROM..TO`; each end may be left out")
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err := fmt.Fprint(out, "pcbench dump OPTIONS DIR shows the files of a store as annotated hex.\n\n",
			f.FlagUsages())
		return err
	} else if err != nil {
		return &usageError{explainFlag(f, err)}
	}
	switch {
	case f.NArg() != 1:
		return &usageError{errors.New("dump: name one directory, that of the store")}
	case d.body < 0:
		return &usageError{fmt.Errorf("--body=%d: must be 0 or more", d.body)}
	case d.slot < -1:
		return &usageError{fmt.Errorf("--slot=%d: must be 0 or more", d.slot)}
	}
	if err := d.choose(*pages, *kinds, *lsns); err != nil {
		return &usageError{err}
	}
	if load.OnTerminal(out) {
		pr = nil // the lines of the dump show how far it is
	}
	to, slots := &onlyUntil{out: out}, reading(f.Arg(0))
	state := func() string { return fmt.Sprintf("%s, slot %d", slots(), d.now.Load()) }
	finished, err := interruptible(ctx, pr, "dumping "+f.Arg(0), state, func() error {
		return d.store(ctx, f.Arg(0), to)
	})
	if to.ended.Store(true); !finished {
		return d.unfinished()
	}
	return err
}

// unfinished is the error of a dump that was interrupted.
func (d *dumper) unfinished() error {
	return &unfinishedError{fmt.Errorf("dump: interrupted: the segments from slot %d on are not shown", d.now.Load())}
}

// dumper holds the options of dump.
type dumper struct {
	body     int                    // bytes of each message's body to show
	slot     int64                  // −1: all
	headers  bool                   // show no messages
	pages    map[format.PageID]bool // nil: all
	kinds    map[string]bool        // nil: all
	from, to format.LSN             // both included
	now      atomic.Int64           // the slot that is shown; written by the goroutine that dumps
}

// choose parses the filters.
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
		for kind := range format.KindDecided + 1 {
			known = known || kind.Valid() && kind.String() == k
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
		return fmt.Errorf("--lsn=%s: must be a range, like 4096..8192, or 4096.. for all from there on", lsns)
	}
	return nil
}

func parseLSN(s string) (format.LSN, error) {
	v, err := strconv.ParseUint(s, 0, 63)
	return format.LSN(v), err
}

// keep reports whether to show a message.
func (d *dumper) keep(h format.Header) bool {
	page := d.pages == nil || d.pages[h.Page] && h.Kind != format.KindPad
	kind := d.kinds == nil || d.kinds[h.Kind.String()]
	return !d.headers && page && kind && h.LSN >= d.from && h.LSN <= d.to
}

// store writes the superblock of the store in dir, and the chosen slot or all slots.
func (d *dumper) store(ctx context.Context, dir string, out io.Writer) error {
	if err := wantStore("dump", dir); err != nil {
		return err
	}
	only := d.slot
	b, unreadable, err := readSuperblock(filepath.Join(dir, "superblock"))
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	if _, err := fmt.Fprintf(out, "superblock\n%s%s", unreadable, format.AnnotateSuperblock(nil, b)); err != nil {
		return err
	}
	super, err := format.DecodeSuperblock(b)
	if err != nil {
		return fmt.Errorf("dump: decode the superblock: %w", err)
	}
	log, err := os.Open(filepath.Join(dir, "log"))
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	defer log.Close()
	segment := make([]byte, super.SegmentSize)
	for slot := format.SegmentID(max(only, 0)); ; slot++ {
		if d.now.Store(int64(slot)); ctx.Err() != nil {
			return d.unfinished()
		}
		n, err := log.ReadAt(segment, int64(slot.Offset(super.SegmentSize)))
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("dump: %w", err)
		}
		if n == 0 {
			if only >= 0 {
				return fmt.Errorf("dump: --slot=%d: the log ends before this slot", only)
			}
			return nil
		}
		view := format.SegmentView{Store: super.Store, Slot: slot, SegmentSize: super.SegmentSize,
			Body: d.body, Keep: d.keep}
		text := format.AnnotateSegment(nil, segment[:n], view)
		if _, err := fmt.Fprintf(out, "\nlog\n%s", text); err != nil {
			return err
		}
		if only >= 0 {
			return nil
		}
	}
}

// readSuperblock reads a superblock. One copy is enough for the rest of the dump: if a copy cannot be read, it is shown
// as zeros, and note says why.
func readSuperblock(name string) (b []byte, note string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	b = make([]byte, format.SuperblockSize)
	for i := 0; i*format.SuperCopySize < len(b); i++ {
		off := i * format.SuperCopySize
		n, err := f.ReadAt(b[off:off+format.SuperCopySize], int64(off))
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return b[:off+n], note, nil
		case errors.Is(err, syscall.EIO):
			note += fmt.Sprintf("copy %d: %v\n", i, err)
			clear(b[off : off+format.SuperCopySize])
		default:
			return nil, "", err
		}
	}
	return b, note, nil
}
