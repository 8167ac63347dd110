package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"pagecache/segments/format"
)

// dump is the command pcbench dump: it writes the files of a store as annotated hex, as docs/FORMAT.md describes them. It reads only,
// and takes no lock: of a store that is open it shows what has reached the disk.
func dump(ctx context.Context, args []string, out io.Writer) error {
	f := pflag.NewFlagSet("pcbench dump", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	body := f.Int("body", 32, "`bytes` shown of the body of each message")
	slot := f.Int64("slot", -1, "`number` of the only slot to show (default all)")
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err := fmt.Fprintf(out, "pcbench dump OPTIONS DIR shows the files of a store as annotated hex.\n\n%s", f.FlagUsages())
		return err
	} else if err != nil {
		return &usageError{explain(f, err)}
	}
	switch {
	case f.NArg() != 1:
		return &usageError{errors.New("dump: name one directory, the one that a store was opened with")}
	case *body < 0:
		return &usageError{fmt.Errorf("--body=%d: must be 0 or more", *body)}
	case *slot < -1:
		return &usageError{fmt.Errorf("--slot=%d: must be 0 or more", *slot)}
	}
	return dumpStore(ctx, f.Arg(0), *body, *slot, out)
}

// dumpStore writes the superblock of the store in dir, and its slots: all of them, or only one.
func dumpStore(ctx context.Context, dir string, body int, only int64, out io.Writer) error {
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
		text := format.AnnotateSegment(nil, segment[:n], super.Store, slot, super.SegmentSize, body)
		if _, err := fmt.Fprintf(out, "\nlog\n%s", text); err != nil {
			return err
		}
		if only >= 0 {
			return nil
		}
	}
	return nil
}
