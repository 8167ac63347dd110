package recovery

import (
	"fmt"

	"pagecache/segments/format"
)

// checkTimelines verifies that the segments below End belong to timelines of this store, and to the parts of the log
// that those have written. A copy of the store has the same id, but goes on in a timeline of its own (rule 14).
//
// Segments at or above End may be left over from a batch that an opening has cut off, if it ended before it discarded
// them.
func (s *scanner) checkTimelines() error {
	var newest *slot
	for _, i := range s.chain {
		t := &s.slots[i]
		if t.base >= s.res.End {
			break
		}
		if newest = t; t.unread {
			continue
		}
		branch, end, known := s.o.Lineage.Span(t.header.Timeline)
		switch {
		case !known && t.base >= s.o.Listed:
			return s.stranger(t, "it is not one of this store's: the segment comes from a copy of the store")
		case known && (t.base >= end || t.base+format.LSN(s.size) <= branch):
			const text = "it has LSN %v … %v of this store: the segment comes from a copy of the store"
			return s.stranger(t, fmt.Sprintf(text, branch, end-1))
		}
	}
	if newest == nil || newest.unread {
		return nil
	}
	if _, _, known := s.o.Lineage.Span(newest.header.Timeline); !known {
		return s.stranger(newest, "it is not one of this store's last ones: the segment, the newest, is old, or comes "+
			"from a copy of the store")
	}
	return s.checkTail(newest)
}

// checkTail verifies that the newest segment below End is not older than the last opening. If the log ended inside a
// segment, the opening wrote that segment's header before any other one. So once another header shows the opening's
// timeline, the newest segment must show it, too.
func (s *scanner) checkTail(newest *slot) error {
	last := s.o.Lineage[0]
	if newest.header.Timeline == last.Timeline || s.fellBack || s.res.End < last.Branch ||
		int64(last.Branch)%int64(s.size) == 0 {
		return nil
	}
	for w := range s.writers {
		if w.timeline == last.Timeline {
			const text = "the last opening, in %v, wrote the log's last segment anew: this slot has old contents"
			return s.stranger(newest, fmt.Sprintf(text, last.Timeline))
		}
	}
	return nil
}

// stranger returns the error for a segment whose timeline is wrong.
func (s *scanner) stranger(t *slot, why string) error {
	return &CorruptError{File: s.o.File, Place: s.placeOf(t.id, 0).WithLSN(t.base),
		Reason: fmt.Sprintf("the segment's timeline is %v; %s", t.header.Timeline, why)}
}
