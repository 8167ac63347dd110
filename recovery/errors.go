package recovery

import (
	"errors"
	"fmt"
	"strings"

	"pagecache/segments/format"
)

// ErrCorrupt is the mark of every *CorruptError, for errors.Is: acknowledged data has been damaged.
var ErrCorrupt = errors.New("store is corrupt")

// What the fields of a CorruptError hold where a place is not known.
const (
	NoSlot   = ^format.SegmentID(0)
	NoPage   = ^format.PageID(0)
	NoOffset = format.Offset(-1)
)

// CorruptError says where acknowledged data has been damaged, as closely as is known.
type CorruptError struct {
	File   string
	Slot   format.SegmentID // NoSlot if not known
	Offset format.Offset    // in the file, in bytes; NoOffset if not known
	LSN    format.LSN
	Page   format.PageID // NoPage if not known
	Reason string        // which rule was broken
	Err    error         // what was found there; may be nil
}

// Error names file, slot, offset, LSN, page, reason and cause.
func (e *CorruptError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: %s", ErrCorrupt, e.File)
	if e.Slot != NoSlot {
		fmt.Fprintf(&b, ", slot %v", e.Slot)
	}
	if e.Offset != NoOffset {
		fmt.Fprintf(&b, ", offset %v", e.Offset)
	}
	fmt.Fprintf(&b, ", LSN %v", e.LSN)
	if e.Page != NoPage {
		fmt.Fprintf(&b, ", page %v", e.Page)
	}
	fmt.Fprintf(&b, ": %s", e.Reason)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap lets errors.Is find ErrCorrupt and the cause.
func (e *CorruptError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrCorrupt}
	}
	return []error{ErrCorrupt, e.Err}
}
