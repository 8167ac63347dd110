package recovery

import (
	"fmt"
	"strings"

	"pagecache/segments/format"
)

// A Place tells where something lies in a store. Each of its parts may be unknown; the zero Place knows none of them.
type Place struct {
	known  part // the parts below that are set
	slot   format.SegmentID
	offset format.Offset
	lsn    format.LSN
	page   format.PageID
}

// part is a set of the parts of a Place.
type part uint8

const (
	partSlot part = 1 << iota
	partOffset
	partLSN
	partPage
)

func (p Place) has(q part) bool { return p.known&q != 0 }

// Slot returns the slot in the log file. known is false if the slot is not known, or if the file is not the log.
func (p Place) Slot() (id format.SegmentID, known bool) { return p.slot, p.has(partSlot) }

// Offset returns the offset in the file, in bytes.
func (p Place) Offset() (off format.Offset, known bool) { return p.offset, p.has(partOffset) }

// LSN returns the LSN of the message, or, if the message is not known, of the first byte that is missing or corrupt.
func (p Place) LSN() (lsn format.LSN, known bool) { return p.lsn, p.has(partLSN) }

// Page returns the page whose data is corrupt.
func (p Place) Page() (pid format.PageID, known bool) { return p.page, p.has(partPage) }

// WithSlot returns p with its slot set to id.
func (p Place) WithSlot(id format.SegmentID) Place {
	p.slot, p.known = id, p.known|partSlot
	return p
}

// WithOffset returns p with its offset in the file set to off, in bytes.
func (p Place) WithOffset(off format.Offset) Place {
	p.offset, p.known = off, p.known|partOffset
	return p
}

// WithLSN returns p with its LSN set to lsn. A negative lsn, such as format.NoLSN, makes it unknown.
func (p Place) WithLSN(lsn format.LSN) Place {
	if p.lsn, p.known = lsn, p.known|partLSN; lsn < 0 {
		p.lsn, p.known = 0, p.known&^partLSN
	}
	return p
}

// WithPage returns p with its page set to pid. A pid above format.MaxPageID, which no page has, makes it unknown.
func (p Place) WithPage(pid format.PageID) Place {
	if p.page, p.known = pid, p.known|partPage; pid > format.MaxPageID {
		p.page, p.known = 0, p.known&^partPage
	}
	return p
}

// String returns the known parts, such as "slot 3, offset 0x6040, LSN 24640, page 17". It is empty if none is known.
func (p Place) String() string {
	var parts []string
	if id, known := p.Slot(); known {
		parts = append(parts, fmt.Sprintf("slot %d", id))
	}
	if off, known := p.Offset(); known {
		parts = append(parts, fmt.Sprintf("offset %v", off))
	}
	if lsn, known := p.LSN(); known {
		parts = append(parts, fmt.Sprintf("LSN %d", lsn))
	}
	if pid, known := p.Page(); known {
		parts = append(parts, fmt.Sprintf("page %d", pid))
	}
	return strings.Join(parts, ", ")
}
