package clean

import (
	"slices"

	"pagecache/segments"
	"pagecache/segments/format"
)

// fewReads is the most pages that are read one by one before their segment is read as a whole.
const fewReads = 16

// empty moves every page that has a message in the segment. If the file cannot grow any more, although it could when
// the segment was chosen, the rest stays: the reserve is for segments that victimOnFullDisk chooses.
func (c *Cleaner) empty(v segments.Candidate, diskFull bool) (err error) {
	e := c.extent(v)
	pages, listed, corrupt := c.pagesIn(v)
	reads := 0
	c.pages.In(pages, e, func(pid format.PageID) bool {
		if c.stopping() {
			err = errStopping
			return false
		}
		if !diskFull && c.c.Store.Space.DiskFull() || c.c.Pages.Unknown() {
			return false
		}
		if listed && reads == fewReads {
			if err = c.readSegment(v.ID); err != nil { // so that the next pages need no reads of their own
				return false
			}
			reads++
		}
		var n int64
		var cold bool
		n, cold, err = c.pages.Move(pid, e)
		if cold && reads < fewReads {
			reads++
		}
		c.moved.Add(n)
		c.spend(n, diskFull)
		return err == nil
	})
	if err != nil {
		return asClosed(err)
	}
	return corrupt
}

// readSegment reads a segment into the cleaner's buffer, and so into the page cache.
func (c *Cleaner) readSegment(id format.SegmentID) error {
	if len(c.buf) == 0 {
		c.buf = make([]byte, c.c.Store.SegmentSize())
	}
	return c.c.Store.ReadSegment(id, c.buf)
}

// pagesIn lists the pages that have messages in a segment, current or not, some of them more than once. listed says
// that the list was in memory; otherwise the segment was read. With an error the list ends before the corrupt place.
func (c *Cleaner) pagesIn(v segments.Candidate) (pages segments.PageList, listed bool, err error) {
	if pages, listed = c.c.Store.Space.Segment(v.ID).Pages(); !listed {
		pages, err = c.readPages(v)
	}
	return pages, listed, err
}

// readPages reads a segment and lists its pages.
func (c *Cleaner) readPages(v segments.Candidate) (pages segments.PageList, err error) {
	if err := c.readSegment(v.ID); err != nil {
		return nil, err
	}
	from, seed, buf := c.extent(v).From, c.c.Store.Space.Segment(v.ID).Seed(), c.buf[:c.c.Store.Used(v.Base)]
	for pos := format.SegmentStart; len(buf)-pos >= format.HeaderSize; {
		lsn := v.Base + format.LSN(pos)
		h, _, err := format.DecodeMessage(buf[pos:], lsn, seed)
		if err != nil {
			ptr := format.DiskPtr{Off: from + format.Offset(pos), Len: format.HeaderSize}
			return pages, c.c.Store.CorruptMessage(lsn, ptr, err)
		}
		pos += h.Step()
		if h.Kind.OfPage() {
			pages = pages.Append(h.Page)
		}
	}
	return pages, nil
}

// cost returns how many bytes must be written to empty a segment: whole pages, of which the segment may hold only a
// delta. If the sum exceeds limit, cost returns some number above limit. Corrupt pages cost nothing here; Move reports
// them.
func (c *Cleaner) cost(v segments.Candidate, limit int64) (sum int64) {
	e := c.extent(v)
	list, _, _ := c.pagesIn(v)
	c.pids = c.pids[:0]
	c.pages.In(list, e, func(pid format.PageID) bool {
		c.pids = append(c.pids, pid)
		return true
	})
	slices.Sort(c.pids)
	for _, pid := range slices.Compact(c.pids) {
		if c.stopping() {
			return limit + 1
		}
		n, blob := c.pages.Cost(pid, e)
		if sum += n; blob || sum > limit { // for a blob there may be no room at all
			return limit + 1
		}
	}
	return sum
}
