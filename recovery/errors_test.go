package recovery

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"pagecache/segments/format"
)

// The text of a CorruptError holds the known parts, in order, and nothing of the unknown ones.
func TestCorruptErrorNamesKnownPartsOnly(t *testing.T) {
	const file, slot, offset, lsn, page = 1, 2, 4, 8, 16
	for known := range 32 {
		e := &CorruptError{Reason: "reason"}
		var want []string
		add := func(part int, text string, set func()) {
			if known&part != 0 {
				set()
				want = append(want, text)
			}
		}
		add(file, "/store/log", func() { e.File = "/store/log" })
		add(slot, "slot 0", func() { e.Place = e.Place.WithSlot(0) })
		add(offset, "offset 0x6040", func() { e.Place = e.Place.WithOffset(0x6040) })
		add(lsn, "LSN 0", func() { e.Place = e.Place.WithLSN(0) })
		add(page, "page 17", func() { e.Place = e.Place.WithPage(17) })
		text := "store is corrupt: reason"
		if len(want) > 0 {
			text = "store is corrupt: " + strings.Join(want, ", ") + ": reason"
		}
		if e.Error() != text {
			t.Errorf("%q, want %q", e.Error(), text)
		}
		_, hasSlot := e.Place.Slot()
		_, hasOffset := e.Place.Offset()
		_, hasLSN := e.Place.LSN()
		_, hasPage := e.Place.Page()
		if hasSlot != (known&slot != 0) || hasOffset != (known&offset != 0) || hasLSN != (known&lsn != 0) ||
			hasPage != (known&page != 0) {
			t.Errorf("%v: slot %v, offset %v, LSN %v, page %v", e, hasSlot, hasOffset, hasLSN, hasPage)
		}
	}
}

// Reason and cause each appear once.
func TestCorruptErrorStatesReasonAndCauseOnce(t *testing.T) {
	const file = "/store/superblock"
	cause := errors.New("superblock too short: 2 bytes, want 80")
	for _, c := range []struct {
		name   string
		reason string
		err    error
		want   string
	}{
		{"neither", "", nil, ""},
		{"reason alone", "a segment is missing", nil, ": a segment is missing"},
		{"cause alone", "", cause, ": superblock too short: 2 bytes, want 80"},
		{"both", "no good copy", cause, ": no good copy: superblock too short: 2 bytes, want 80"},
		{"the same text", cause.Error(), cause, ": superblock too short: 2 bytes, want 80"},
		{"the cause contains the reason", "superblock too short", cause, ": superblock too short: 2 bytes, want 80"},
		{"the reason contains the cause", "open: " + cause.Error(), cause, ": open: " + cause.Error()},
		{"the cause contains the file", "a file is missing",
			&fs.PathError{Op: "open", Path: file, Err: fs.ErrNotExist},
			": a file is missing: open: " + fs.ErrNotExist.Error()},
		{"the cause begins with the file", "short file", errors.New(file + ": 2 bytes"), ": short file: 2 bytes"},
		{"a cause without text", "a segment is missing", errors.New(""), ": a segment is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &CorruptError{File: file, Reason: c.reason, Err: c.err}
			if got, want := e.Error(), "store is corrupt: "+file+c.want; got != want {
				t.Errorf("%q, want %q", got, want)
			}
			wrapped := fmt.Errorf("open: %w", e)
			if !errors.Is(wrapped, ErrCorrupt) || c.err != nil && !errors.Is(wrapped, c.err) {
				t.Error("errors.Is does not find ErrCorrupt and the cause")
			}
		})
	}
	if got := new(CorruptError).Error(); got != "store is corrupt" {
		t.Errorf("%q without any part", got)
	}
}

func TestPlaceReturnsItsParts(t *testing.T) {
	p := Place{}.WithSlot(3).WithOffset(0x6040).WithLSN(24640).WithPage(17)
	slot, _ := p.Slot()
	offset, _ := p.Offset()
	lsn, _ := p.LSN()
	page, _ := p.Page()
	if slot != 3 || offset != 0x6040 || lsn != 24640 || page != 17 {
		t.Errorf("%v", p)
	}
	if text := p.String(); text != "slot 3, offset 0x6040, LSN 24640, page 17" {
		t.Error(text)
	}
}

// No LSN is negative and no page lies above format.MaxPageID: such a part is unknown, even if it was known before.
func TestImpossibleNumbersAreUnknown(t *testing.T) {
	p := Place{}.WithLSN(64).WithPage(2).WithLSN(format.NoLSN).WithPage(format.MaxPageID + 1)
	if p != (Place{}) || p.String() != "" {
		t.Errorf("%v", p)
	}
}
