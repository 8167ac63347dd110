package recovery

import (
	"encoding/binary"
	"errors"
	"fmt"

	"pagecache/segments/format"
)

// stop is where the valid messages end.
type stop struct {
	lsn    format.LSN
	slot   format.SegmentID // NoSlot if the segment is missing
	offset format.Offset
	why    error
	rest   bool // something was written there or after
}

var errMissing = errors.New("the segment that should begin here is missing")

// findStop follows the chain to the first place without a valid message. Segments that are missing below the known-stable LSN have been
// recycled: nothing in them was current.
func (s *scanner) findStop() stop {
	at := stop{lsn: s.firstBase}
	for _, i := range s.chain {
		t, w := &s.slots[i], &s.segments[i]
		if t.base < s.firstBase {
			continue
		}
		if t.base > at.lsn {
			if t.base-1 > s.stable {
				break
			}
			s.missing += uint64((t.base - at.lsn) / format.LSN(s.size))
			if s.lastHole == 0 {
				s.firstHole = at.lsn
			}
			s.lastHole = t.base
		}
		at.lsn = t.base + format.LSN(w.end)
		if w.why != nil {
			at.slot, at.offset, at.why, at.rest = t.id, t.id.Offset(s.size)+format.Offset(w.end), w.why, w.rest
			break
		}
	}
	return s.explain(at)
}

// explain completes a stop: why it is one, and whether anything follows.
func (s *scanner) explain(at stop) stop {
	if at.why == nil {
		at.slot, at.offset, at.why = NoSlot, NoOffset, errMissing
		if id, ok := s.lostSlot(at.lsn); ok {
			at.slot, at.offset, at.why, at.rest = id, id.Offset(s.size), s.damage, true
		}
	}
	for i := range s.slots {
		at.rest = at.rest || s.slots[i].valid && s.slots[i].base >= at.lsn
	}
	return at
}

// lostSlot returns the slot with a damaged header that held, or may have held, the segment with the given base.
func (s *scanner) lostSlot(base format.LSN) (format.SegmentID, bool) {
	for i := range s.slots {
		if w := &s.segments[i]; !s.slots[i].valid && s.damage != nil && w.base == base {
			return s.slots[i].id, true
		}
	}
	if len(s.res.Damaged) > 0 {
		return s.res.Damaged[0], true
	}
	return NoSlot, false
}

// conclude decides where the log ends and fills in the result.
func (s *scanner) conclude() error {
	r := s.res
	at := s.findStop()
	r.Tip, r.Stable = at.lsn, s.stable
	s.missing += s.missingBelow()
	if r.Tip > s.stable && s.missing+s.o.Recycled != r.Recycled {
		return s.corrupt(s.lost(), fmt.Sprintf("%d segments are missing, and %d were recycled", s.missing, int64(r.Recycled)-int64(s.o.Recycled)))
	}
	r.End = cutBatches(s.marks(), r.Tip)
	d := decide(facts{
		clean: s.o.Clean,
		// A segment that was opened, but not written to, counts as its base.
		atEnd:    r.Tip == s.o.End || r.Tip == s.o.End+format.SegmentHeaderSize && s.o.End%format.LSN(s.size) == 0,
		known:    r.Tip <= s.stable,
		rest:     at.rest,
		open:     r.End < r.Tip,
		cutKnown: r.End <= s.stable,
	})
	r.Torn = d.verdict == verdictTorn
	r.Why = fmt.Sprintf("%s (LSN %v: %v)", d.label, at.lsn, at.why)
	if d.verdict == verdictCorrupt {
		return s.corrupt(at, d.label)
	}
	s.fillSegments()
	s.fillCounter()
	return nil
}

// missingBelow counts the segments below From that were in use once and are not there any more.
func (s *scanner) missingBelow() (n uint64) {
	if len(s.o.Known) == 0 {
		return 0
	}
	there := make(map[format.LSN]bool, len(s.chain))
	for _, i := range s.chain {
		there[s.slots[i].base] = true
	}
	for _, base := range s.o.Known {
		if base < s.firstBase && !there[base] {
			n++
		}
	}
	return n
}

// lost is where a segment is missing that was not recycled, as far as can be told.
func (s *scanner) lost() stop {
	at := stop{lsn: s.firstHole, slot: NoSlot, offset: NoOffset, why: errMissing}
	if len(s.res.Damaged) > 0 {
		at.slot, at.why = s.res.Damaged[0], s.damage
		at.offset = at.slot.Offset(s.size)
	}
	return at
}

// marks returns the batch markers below Tip. Where segments were recycled after a beginning, its end may have been in one of them; what is
// stable lies in no batch that was open.
func (s *scanner) marks() (marks []mark) {
	for _, i := range s.chain {
		if s.slots[i].base >= s.res.Tip {
			break
		}
		for _, m := range s.segments[i].marks {
			if m.begin == 0 && m.lsn < s.lastHole && m.lsn <= s.stable {
				continue
			}
			marks = append(marks, m)
		}
	}
	return marks
}

func (s *scanner) corrupt(at stop, label string) error {
	reason := fmt.Sprintf("%s (known stable: LSN %v", label, s.stable)
	if s.o.Clean {
		reason += fmt.Sprintf("; clean end: LSN %v", s.o.End)
	}
	if s.res.End < s.res.Tip {
		reason += fmt.Sprintf("; batch open from LSN %v", s.res.End)
	}
	return &CorruptError{File: s.o.File, Slot: at.slot, Offset: at.offset, LSN: at.lsn, Page: NoPage,
		Reason: reason + ")", Err: at.why}
}

// fillSegments sorts the slots in use into those of the log and void ones.
func (s *scanner) fillSegments() {
	r := s.res
	used := make([]bool, len(s.slots))
	for _, i := range s.chain {
		t, w := &s.slots[i], &s.segments[i]
		if t.base >= r.End {
			break
		}
		used[i] = true
		r.Segments = append(r.Segments, Segment{Slot: t.id, Base: t.base, Generation: t.gen, Stable: t.claim,
			Used: int(min(format.LSN(w.end), r.End-t.base))})
		r.index = append(r.index, w)
	}
	for i := range s.slots {
		if s.slots[i].valid && !used[i] {
			r.Void = append(r.Void, s.slots[i].id)
		}
	}
}

// fillCounter finds the highest counter: ids are never handed out twice, so one in a batch that is dropped counts too.
func (s *scanner) fillCounter() {
	r := s.res
	r.Counter = s.o.Counter
	for _, i := range s.chain {
		if s.slots[i].base >= r.Tip {
			break
		}
		bodies := s.segments[i].bodies
		for _, e := range s.segments[i].entries {
			k := e.word.Kind()
			if k == format.KindCounter {
				r.Counter = max(r.Counter, binary.LittleEndian.Uint64(bodies))
			}
			if keepsBody(k) {
				bodies = bodies[e.word.Len()-format.HeaderSize:]
			}
		}
	}
}
