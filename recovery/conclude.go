package recovery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"pagecache/segments/format"
)

// stop is the place where the valid messages end.
type stop struct {
	lsn   format.LSN // negative if it is not known
	place Place      // without the LSN; zero if the segment is missing
	why   error      // why no valid message begins there
	rest  bool       // something was written there or after it
	// unread says that the disk does not return the bytes there.
	unread bool
}

var errMissing = errors.New("the segment that should begin here is missing")

// findStop follows the chain to the first place without a valid message. A segment that is missing below the
// known-stable LSN has been recycled: nothing in it was current.
func (s *scanner) findStop() stop {
	at := stop{lsn: s.firstBase}
	s.firstHole, s.lastHole = 0, 0
	for _, i := range s.chain {
		t, w := &s.slots[i], &s.segments[i]
		if t.base < s.firstBase {
			continue
		}
		if t.base > at.lsn {
			if t.base-1 > s.stable {
				break
			}
			if s.lastHole == 0 {
				s.firstHole = at.lsn
			}
			s.lastHole = t.base
		}
		at.lsn = t.base + format.LSN(w.end)
		if w.why != nil {
			at.place = s.placeOf(t.id, w.end)
			at.why, at.rest, at.unread = w.why, w.rest, w.unread
			break
		}
	}
	return s.explain(at)
}

// placeOf returns the place of byte pos of a slot.
func (s *scanner) placeOf(id format.SegmentID, pos int) Place {
	return Place{}.WithSlot(id).WithOffset(id.Offset(s.size) + format.Offset(pos))
}

// explain completes a stop: it adds the reason, if findStop found none, and whether anything follows.
func (s *scanner) explain(at stop) stop {
	if at.why == nil {
		at.why = errMissing
		if id, why := s.lostSlot(at.lsn); why != nil {
			at.place, at.why, at.rest = s.placeOf(id, 0), why, true
		}
	}
	for i := range s.slots {
		at.rest = at.rest || s.slots[i].valid && s.slots[i].base >= at.lsn
	}
	return at
}

// lostSlot returns the slot that held, or may have held, the segment with the given base, and the error in its
// header. The error is nil if no slot has a corrupt header.
func (s *scanner) lostSlot(base format.LSN) (format.SegmentID, error) {
	if len(s.res.Corrupt) == 0 {
		return 0, nil
	}
	for i := range s.slots {
		if t := &s.slots[i]; !t.valid && s.segments[i].base == base {
			return t.id, t.invalid
		}
	}
	return s.res.Corrupt[0], s.firstCorrupt
}

// conclude decides where the log ends and completes the result.
func (s *scanner) conclude() error {
	r := s.res
	s.forgiveIndexes()
	s.fallBack()
	at := s.findEnd()
	r.Stable, r.Durable = s.stable, s.known()
	s.dropLeft()
	// If the log ends at the base of a segment, that segment may have been opened but not written to.
	segmentBegins := s.o.End%format.LSN(s.size) == 0
	atEnd := r.Tip == s.o.End || r.Tip == s.o.End+format.SegmentStart && segmentBegins
	if err := s.checkTimelines(); err != nil {
		return err
	}
	if r.Tip >= r.Durable { // else that is the more exact error
		if err := s.checkSet(s.o.Clean && atEnd); err != nil {
			return err
		}
	}
	if err := s.checkUnread(at, atEnd); err != nil {
		return err
	}
	d := decide(facts{
		clean:    s.o.Clean,
		atEnd:    atEnd,
		known:    r.Tip < r.Durable,
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
	s.res.decideParts()
	return nil
}

// fallBack takes an older copy of the newest segment in place of the newest one. An opening moves the tail, and writes
// the header of the new slot once the messages there are durable. Where blocks are longer than format.SegmentStart, the
// same write covers messages. If it is torn, the header may be there without them. The old slot still has all of them
// then, since it is marked as free afterwards.
func (s *scanner) fallBack() {
	if len(s.chain) == 0 {
		return
	}
	n := len(s.chain) - 1
	i := s.chain[n]
	t := &s.slots[i]
	end := t.header.Stable + 1 // of the log when the tail moved
	// More than a pad follows: the log went on there.
	wentOn := t.base+format.LSN(s.segments[i].end) > end+format.LSN(2*t.header.BlockSize)
	if t.unread || t.header.BlockSize <= format.SegmentStart || s.reaches(i, end) || wentOn {
		return
	}
	for j := i + 1; j < len(s.slots) && s.slots[j].valid && s.slots[j].base == t.base; j++ { // newer ones first
		if s.reaches(j, end) {
			s.slots[j].void, t.void, s.chain[n] = false, true, j
			s.durable = max(s.durable, s.segments[j].durable)
			s.fellBack = true
			return
		}
	}
}

// reaches reports whether a segment, an index into slots, has valid messages up to end.
func (s *scanner) reaches(i int, end format.LSN) bool {
	return s.slots[i].base+format.LSN(s.segments[i].end) >= end && !s.segments[i].passed
}

// findEnd finds the end of the valid messages, and where the log ends once batches are cut off. A slot whose segment
// has left may have lost messages beside its header, where blocks are longer than format.SegmentStart and the write
// that marks it was torn. So the log goes on behind such a segment, unless the message by which it leaves is not in the
// log.
func (s *scanner) findEnd() stop {
	r, chain := s.res, s.chain
	torn := s.tornMarks()
	for {
		s.chain = slices.DeleteFunc(slices.Clone(chain), func(i int) bool { return torn[i] > 0 })
		at := s.findStop()
		r.Tip = at.lsn
		r.End = cutBatches(s.marks(), r.Tip)
		n := len(torn)
		maps.DeleteFunc(torn, func(_ int, leaves format.LSN) bool { return leaves >= r.End })
		if len(torn) == n {
			s.chain = chain
			return at
		}
	}
}

// tornMarks returns the segments of the chain that end in an invalid message, as indexes into slots, each with the LSN
// of the message by which it leaves.
func (s *scanner) tornMarks() map[int]format.LSN {
	torn := map[int]format.LSN{}
	for _, i := range s.chain {
		t := &s.slots[i]
		if s.segments[i].why == nil || t.unread {
			continue
		}
		for _, j := range s.chain {
			for _, l := range s.segments[j].leaves {
				if l.lsn >= t.base+format.LSN(s.size) && slices.Contains(l.Segments, t.identity) {
					torn[i] = l.lsn
				}
			}
		}
	}
	return torn
}

// lost returns the place of a segment that is missing although it was not recycled, as far as that can be determined.
func (s *scanner) lost() stop {
	at := stop{lsn: format.NoLSN}
	if s.lastHole > 0 {
		at.lsn, at.why = s.firstHole, errMissing
	}
	if len(s.res.Corrupt) > 0 {
		at.place, at.why = s.placeOf(s.res.Corrupt[0], 0), s.firstCorrupt
	}
	return at
}

// marks returns the batch markers below Tip. It leaves out a beginning that is stable and lies below a recycled
// segment, or below bytes that are lost: its end may have been there, and no stable message belongs to an open batch.
func (s *scanner) marks() (marks []mark) {
	for _, i := range s.chain {
		if s.slots[i].base >= s.res.Tip {
			break
		}
		for _, m := range s.segments[i].marks {
			if m.begin == 0 && m.lsn < max(s.lastHole, s.lostBelow) && m.lsn <= s.stable {
				continue
			}
			marks = append(marks, m)
		}
	}
	return marks
}

// corrupt returns the error for a log that breaks the rule label names at the given place.
func (s *scanner) corrupt(at stop, label string) error {
	var known []string
	if s.stable >= 0 {
		known = append(known, fmt.Sprintf("known stable: LSN %v", s.stable))
	}
	if end := s.known(); end > s.stable+1 {
		known = append(known, fmt.Sprintf("known durable: LSN %v", end-1))
	}
	if s.o.Clean {
		known = append(known, fmt.Sprintf("clean end: LSN %v", s.o.End))
	}
	if s.res.End < s.res.Tip {
		known = append(known, fmt.Sprintf("batch open from LSN %v", s.res.End))
	}
	reason := label
	if len(known) > 0 {
		reason += " (" + strings.Join(known, "; ") + ")"
	}
	return &CorruptError{File: s.o.File, Place: at.place.WithLSN(at.lsn), Reason: reason, Err: at.why}
}

// fillSegments divides the slots in use between Result.Segments and Result.Void.
func (s *scanner) fillSegments() {
	r := s.res
	used := make([]bool, len(s.slots))
	for _, i := range s.chain {
		t, w := &s.slots[i], &s.segments[i]
		if t.base >= r.End {
			break
		}
		used[i] = true
		g := Segment{Slot: t.id, Base: t.base, Generation: t.gen, Timeline: t.header.Timeline, Identity: t.identity,
			Stable: t.header.Stable, Unread: t.unread, InTail: w.inTail}
		g.Used = int(min(format.LSN(w.end), r.End-t.base))
		if g.Used == s.size { // else the index lists messages that are cut off, and is cut off too
			g.Outline = w.outline
		}
		r.Segments = append(r.Segments, g)
		r.index = append(r.index, w)
	}
	for i := range s.slots {
		if s.slots[i].valid && !used[i] && !s.slots[i].gone {
			r.Void = append(r.Void, s.slots[i].id)
		}
	}
}

// fillCounter finds the highest counter. A counter in a batch that is cut off counts too: no id is handed out twice.
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
