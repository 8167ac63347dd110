package recovery

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"pagecache/segments/format"
)

// checkSet verifies that the segments below Tip are those of the log, by their digest (rule 14). The newest of them
// says what all segments add up to that have joined so far. Less those that have left, these are the ones that must be
// there. After a clean close, the superblock must know the newest segment.
func (s *scanner) checkSet(clean bool) error {
	r := s.res
	var sum format.Identity
	var newest, atEnd *slot // below Tip, and below the clean end
	var unread []*slot
	below := s.chain
	for n, i := range s.chain {
		t := &s.slots[i]
		if t.base >= r.Tip {
			below = s.chain[:n]
			break
		}
		if newest = t; t.unread {
			unread = append(unread, t)
		} else if !s.cutGone[t.identity] {
			sum += t.identity
		}
		if t.base < s.o.End {
			atEnd = t
		}
	}
	var joined format.Identity
	known := true // joined is known
	switch {
	case newest == nil:
	case !newest.unread:
		joined = newest.header.Ledger.Joined
	case clean && newest == atEnd:
		joined = s.o.Joined
	default:
		known = false
	}
	if last := r.Tip - format.LSN(s.size); last >= 0 && (newest == nil || newest.base < last) {
		// It was not recycled: the log was not stable beyond it. With a snapshot, the messages may begin above it.
		at := s.lost()
		at.lsn, at.why = last, cmp.Or(at.why, errMissing)
		return s.corrupt(at, "the last segment is missing")
	}
	diff := joined - s.cutLeft.Left - sum
	switch {
	case known && diff == 0:
		s.dropUnread(unread)
	case known && len(unread) == 0:
		text := fmt.Sprintf("the segments are not those of the log; segments missing: %d, recycled: %d",
			s.missing(below), s.cutLeft.Recycled)
		at, why := s.culprit(below, diff)
		if why != "" {
			text += "; " + why
		}
		return s.corrupt(at, text)
	default:
		if t := s.nameUnread(unread, diff, known); t != nil {
			at := stop{lsn: t.base, place: s.placeOf(t.id, 0), why: t.invalid}
			return s.corrupt(at, "the header cannot be read, and nothing shows that the log's segments are all there")
		}
	}
	if clean && atEnd != nil && !atEnd.unread && atEnd.header.Ledger.Joined != s.o.Joined {
		at := stop{lsn: atEnd.base, place: s.placeOf(atEnd.id, 0)}
		return s.corrupt(at, "this is not the last segment that the store was closed with")
	}
	return nil
}

// dropLeft removes from the chain the segments that have left the log by a message below End. Their slots were to be
// marked as free when a crash came. One that leaves by a message above, in a batch that is cut off, has not left.
func (s *scanner) dropLeft() {
	r := s.res
	s.cutLeft = format.Ledger{Left: r.Left, Recycled: r.Recycled}
	gone := map[format.Identity]bool{}
	s.cutGone = map[format.Identity]bool{}
	for _, i := range s.chain {
		for _, l := range s.segments[i].leaves {
			switch {
			case l.lsn >= r.Tip:
				continue
			case l.lsn < r.End:
				s.left(l.Left, l.Recycled)
			}
			if l.Recycled > s.cutLeft.Recycled {
				s.cutLeft = format.Ledger{Left: l.Left, Recycled: l.Recycled}
			}
			for _, id := range l.Segments {
				s.cutGone[id] = true
				gone[id] = gone[id] || l.lsn < r.End
			}
		}
	}
	s.chain = slices.DeleteFunc(s.chain, func(i int) bool {
		t := &s.slots[i]
		if t.gone = !t.unread && gone[t.identity]; t.gone {
			r.Gone = append(r.Gone, t.id)
		}
		return t.gone
	})
}

// dropUnread removes slots from the chain whose headers cannot be read and whose segments have left: the set is whole
// without them.
func (s *scanner) dropUnread(unread []*slot) {
	s.chain = slices.DeleteFunc(s.chain, func(i int) bool { return slices.Contains(unread, &s.slots[i]) })
	r := s.res
	for _, t := range unread {
		t.valid, t.unread = false, false
		s.unread[t.id] = t.invalid
		if len(r.Corrupt) == 0 {
			s.firstCorrupt = t.invalid
		}
		r.Corrupt, r.Unreadable = append(r.Corrupt, t.id), append(r.Unreadable, t.id)
	}
}

// nameUnread finds the identities of the segments whose headers cannot be read, and drops those that have left. Their
// messages show the base, the slot and the generation of each, but not the timeline. diff is the sum of those that have
// not left, if it is known: then it proves the answer. If it is not known, the generation
// must say which timeline it is; but not that of the last segment if the log ends inside it, which gets another
// identity when it moves. nameUnread returns one of the segments if there is no answer.
func (s *scanner) nameUnread(unread []*slot, diff format.Identity, known bool) *slot {
	var left []*slot
	named := false
	if known {
		left, named = s.matchUnread(unread, diff)
	}
	for _, t := range unread {
		switch candidates, certain := s.writersOf(t); {
		case named:
		case known && (len(unread) > 1 || t.base >= s.o.Listed):
			return t
		case known: // its timeline is so old that it is not listed any more
			t.identity = diff
			continue
		case certain:
			t.header.Timeline = candidates[0]
			if t.identity = t.in(candidates[0], s.o.Store); s.cutGone[t.identity] {
				left = append(left, t)
			}
		case s.res.End < t.base+format.LSN(s.size):
		default:
			return t
		}
		s.res.Timelines[t.header.Timeline] = true
	}
	s.dropUnread(left)
	return nil
}

// matchUnread names those of the segments that add up to diff, and returns the other ones. It returns false if there is
// no answer, or if it is not found in some milliseconds.
func (s *scanner) matchUnread(unread []*slot, diff format.Identity) (left []*slot, found bool) {
	all := make([][]format.Timeline, len(unread))
	for i, t := range unread {
		all[i], _ = s.writersOf(t)
	}
	effort := culpritEffort
	var match func(n int, rest format.Identity) bool
	match = func(n int, rest format.Identity) bool {
		if n == len(unread) {
			return rest == 0
		}
		t := unread[n]
		for _, l := range all[n] {
			if effort--; effort < 0 {
				return false
			}
			if id := t.in(l, s.o.Store); match(n+1, rest-id) {
				t.header.Timeline, t.identity = l, id
				return true
			}
		}
		if !match(n+1, rest) {
			return false
		}
		left = append(left, t)
		return true
	}
	found = match(0, diff)
	return left, found
}

// writersOf returns the timelines that may have written the header of slot t, as its generation shows: it is that of
// one opening, which had one timeline. certain says that a header, or the superblock, has both.
func (s *scanner) writersOf(t *slot) (candidates []format.Timeline, certain bool) {
	pairs := maps.Clone(s.writers)
	if len(s.o.Lineage) > 0 {
		pairs[writer{s.o.Lineage[0].Timeline, s.o.Generation}] = true
	}
	paired := map[format.Timeline]bool{}
	for w := range pairs {
		if paired[w.timeline] = true; w.gen == t.gen {
			candidates = append(candidates, w.timeline)
		}
	}
	if len(candidates) > 0 {
		return candidates, len(candidates) == 1
	}
	for _, a := range s.o.Lineage {
		if !paired[a.Timeline] {
			candidates = append(candidates, a.Timeline)
		}
	}
	return candidates, false
}

// in returns the identity of the segment in slot t if timeline l has written it.
func (t *slot) in(l format.Timeline, store format.StoreID) format.Identity {
	return format.MakeIdentity(store, l, t.gen, t.id, t.base)
}

// missing returns the number of segments below the last of chain that are not in it.
func (s *scanner) missing(chain []int) uint64 {
	if len(chain) == 0 {
		return 0
	}
	return uint64(s.slots[chain[len(chain)-1]].base)/uint64(s.size) + 1 - uint64(len(chain))
}

// culpritEffort is the limit on the identities that culprit computes: some milliseconds.
const culpritEffort = 1 << 20

// A search looks for one segment that explains why the set of segments is not the right one.
type search struct {
	s      *scanner
	effort int // identities that may still be computed
}

// names reports whether an identity is that of a segment that an opening has written to the given slot.
func (x *search) names(id format.Identity, slot format.SegmentID, base format.LSN) bool {
	for w := range x.s.writers {
		if x.effort--; x.effort < 0 {
			return false
		}
		if format.MakeIdentity(x.s.o.Store, w.timeline, w.gen, slot, base) == id {
			return true
		}
	}
	return false
}

// culprit returns the place where the set of segments was changed, if one slot alone explains diff: the sum of the
// segments that should be in the set, less the sum of those that are. why is empty if that is not found; then the place
// is any that may have to do with it. chain is the segments below Tip.
func (s *scanner) culprit(chain []int, diff format.Identity) (at stop, why string) {
	x, size := search{s, culpritEffort}, format.LSN(s.size)
	const (
		stale = "this slot has old contents in place of the segment"
		lost  = "the segment that was in this slot is lost"
	)
	used := make(map[format.SegmentID]bool, len(chain))
	for _, i := range chain {
		t := &s.slots[i]
		used[t.id] = true
		at := stop{lsn: t.base, place: s.placeOf(t.id, 0)}
		if diff+t.identity == 0 {
			return at, "this slot has old contents: its segment had left the log"
		}
		if x.names(diff+t.identity, t.id, t.base) {
			return at, stale
		}
	}
	slots := format.SegmentID((s.fileSize + int64(s.size) - 1) / int64(s.size))
	for n := len(chain) - 1; n >= 0; n-- { // the newest first: they are likely to be those that were changed
		low := format.LSN(0)
		if n > 0 {
			low = s.slots[chain[n-1]].base + size
		}
		for base := s.slots[chain[n]].base - size; base >= low && x.effort > 0; base -= size {
			for _, i := range chain {
				if t := &s.slots[i]; x.names(diff+t.identity, t.id, base) {
					return stop{lsn: base, place: s.placeOf(t.id, 0)}, stale
				}
			}
			for id := range slots {
				if !used[id] && x.names(diff, id, base) {
					return stop{lsn: base, place: s.placeOf(id, 0), why: s.headerError(id)}, lost
				}
			}
		}
	}
	return s.lost(), ""
}

// headerError returns the error in the header of a slot, or errMissing if it is valid.
func (s *scanner) headerError(id format.SegmentID) error {
	if len(s.res.Corrupt) > 0 && s.res.Corrupt[0] == id {
		return s.firstCorrupt
	}
	for i := range s.slots {
		if t := &s.slots[i]; t.id == id && !t.valid {
			return t.invalid
		}
	}
	return cmp.Or(s.unread[id], errMissing)
}
