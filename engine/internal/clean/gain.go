package clean

import "pagecache/segments/format"

// gainFactor is the number of bytes that may be moved for each byte of room that cleaning has gained on a full disk. A
// segment is cleaned there if that frees a 64th of it; half of this may be lost to the ends of segments and to the
// padding of flushes.
const gainFactor = 128

// gain finds out how much room cleaning has made. Segments that were recycled count for it, and what the log has grown
// by against it, except for the messages of callers. So moving pages counts only as far as it makes room, and not where
// the new segments end in unused space as large as that of the old ones.
type gain struct {
	highest int64 // the most room that was gained so far; only more than that counts
}

// account has sums in bytes.
type account struct {
	recycled int64 // room for messages in the segments that were recycled
	log      int64 // length of the log, without the headers of segments
	written  int64 // what Pages.Written returns: a part of log
}

// gained returns the room that was gained, up to a constant.
func (a account) gained() int64 { return a.recycled - a.log + a.written }

// update returns by how much the room gained exceeds its maximum so far.
func (g *gain) update(a account) (more int64) {
	more = max(0, a.gained()-g.highest)
	g.highest += more
	return more
}

// account returns the present sums. Messages that are written meanwhile may count as growth of the log only.
func (c *Cleaner) account() account {
	s := c.c.Store
	holds, segment := int64(s.SegmentHolds()), format.LSN(s.SegmentSize())
	a := account{recycled: c.recycler.Recycled() * holds, written: c.c.Pages.Written()}
	tail := s.Log.Tail() // after the others
	a.log = int64(tail/segment)*holds + max(0, int64(tail%segment)-format.SegmentStart)
	return a
}
