package txn

import (
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// Read is a page that a transaction has read, with the version that it found.
type Read struct {
	Page    format.PageID
	slot    *Slot
	version Version
}

// Version returns the version that was read.
func (r *Read) Version() Version { return r.version }

// Reads are the pages that a transaction has read. They belong to one goroutine. The zero Reads is empty.
type Reads struct {
	clock *Clock
	list  []Read
	// moment is one at which all of list was current, if there is more than one page: not set before the second read.
	moment uint64
	// validated counts the versions that were compared for validation.
	validated int
}

// Reset makes the Reads empty, for use with a clock. Its memory is used again.
func (r *Reads) Reset(c *Clock) {
	clear(r.list)
	r.clock, r.list, r.moment, r.validated = c, r.list[:0], 0, 0
}

// All returns the pages that were read, in the order of reading. A page may be there more than once, with the same
// version. The slice is valid until the next call.
func (r *Reads) All() []Read { return r.list }

// Last returns the page that was read last.
func (r *Reads) Last() Read { return r.list[len(r.list)-1] }

// Read reads a page: it returns its head, and adds it to the pages that were read. If that head and the versions read
// before were never current at the same moment, it returns the page that has changed, and false; the transaction must
// begin anew then. Nothing is added in that case.
func (r *Reads) Read(page format.PageID, s *Slot) (h *Head, changed format.PageID, ok bool) {
	h = r.clock.Load(s)
	switch n := len(r.list); {
	case n == 0:
	case n > 1 && r.clock.unchanged(page, r.moment):
	default:
		if h, changed, ok = r.validate(s); !ok {
			return nil, changed, false
		}
	}
	r.list = append(r.list, Read{page, s, VersionOf(h)})
	return h, 0, true
}

// lately is the number of pages among which Again looks for one.
const lately = 8

// Again returns what was read of a page, and its slot, if that is among the pages that were read last; else nil.
func (r *Reads) Again(page format.PageID) (*Read, *Slot) {
	for i := len(r.list) - 1; i >= max(0, len(r.list)-lately); i-- {
		if read := &r.list[i]; read.Page == page {
			return read, read.slot
		}
	}
	return nil, nil
}

// validate finds a moment at which the page in slot s and all pages that were read were current, and returns the page's
// head. The clock ticks between two looks at the page, and all others are looked at later than the second: so all were
// current both at the tick and at that look.
func (r *Reads) validate(s *Slot) (h *Head, changed format.PageID, ok bool) {
	h = r.clock.Load(s)
	for { // ends: each turn but the last means that the page has changed
		old := h
		moment := r.clock.tick()
		if h = r.clock.Load(s); VersionOf(h) == VersionOf(old) {
			r.moment = moment
			break
		}
		invariants.Sometimes("txn: a page changes while a transaction reads it", true)
	}
	r.validated += len(r.list)
	if page, changed := Changed(r.list); changed {
		return nil, page, false
	}
	return h, 0, true
}

// Changed returns a page that has changed since it was read, and true; false if there is none.
func Changed(reads []Read) (format.PageID, bool) {
	for i := range reads {
		if read := &reads[i]; VersionOf(load(read.slot)) != read.version {
			return read.Page, true
		}
	}
	return 0, false
}
