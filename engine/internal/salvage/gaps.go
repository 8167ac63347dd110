package salvage

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"pagecache/recovery"
	"pagecache/segments/format"
)

// A gap is LSNs [from, to), a part of the log that is lost.
type gap struct{ from, to format.LSN }

// lostBetween reports whether a part of the log above LSN a and below LSN b is lost.
func (r *Reader) lostBetween(a, b format.LSN) bool {
	i, _ := slices.BinarySearchFunc(r.gaps, a, func(g gap, a format.LSN) int { return cmp.Compare(g.to, a+2) })
	return i < len(r.gaps) && r.gaps[i].from < b
}

// IsInCorruptGroup reports whether the message at an LSN is in a group that is not valid as a whole: it is corrupt, or
// was never written to its end, and then has had no effect.
func (r *Reader) IsInCorruptGroup(lsn format.LSN) bool {
	i, _ := slices.BinarySearchFunc(r.groups, lsn, func(g gap, lsn format.LSN) int { return cmp.Compare(g.to, lsn+1) })
	return i < len(r.groups) && r.groups[i].from < lsn
}

// lostAbove reports whether a part of the log above LSN a is lost.
func (r *Reader) lostAbove(a format.LSN) bool {
	return len(r.gaps) > 0 && r.gaps[len(r.gaps)-1].to > a+1
}

// assemble makes the log of its parts, and reports everything that is missing. blank are the slots in which nothing was
// found.
func (r *Reader) assemble(parts []part, blank, heads []head) {
	l, gone := r.ledger(parts, heads)
	parts = slices.DeleteFunc(parts, func(p part) bool { return p.header == nil && gone[p.head.Identity()] })
	intact := slices.DeleteFunc(slices.Clone(parts), func(p part) bool { return p.header != nil })
	all := choose(parts)
	if sure := choose(intact); isWhole(sure, l) {
		// Every segment is there that was not recycled, so the other slots were free, unless they hold the end of the
		// log.
		last := format.LSN(-1)
		if len(sure) > 0 {
			last = sure[len(sure)-1].base
		}
		all = slices.DeleteFunc(all, func(p part) bool { return p.header != nil && p.base < last })
	}
	r.reportHeaders(parts, all, blank)
	r.findGaps(all, l, blank)
	for i := range all {
		r.Messages = append(r.Messages, all[i].messages...) // parts are in order
		r.suspects = append(r.suspects, all[i].suspects...)
		r.groups = append(r.groups, all[i].groups...)
	}
	r.leaveOut(all)
	if r.trusted {
		r.Log = r.Super.Log
	} else {
		r.Log = slices.ContainsFunc(r.Messages, func(m Message) bool {
			return m.Kind == format.KindData || m.Kind.OfStream()
		})
	}
}

// leaveOut removes the messages of the commits in parts that are not known to have taken effect: no page ever had them,
// unless what says so is lost. A corrupt part may name a wrong group, so its messages stay unless an intact part names
// the same.
func (r *Reader) leaveOut(parts []part) {
	decided, known := map[format.LSN]bool{}, map[format.LSN]bool{}
	if r.snap != nil {
		for _, d := range r.snap.Decisions {
			decided[d.First] = true
		}
	}
	for i := range parts {
		for _, first := range parts[i].decided {
			decided[first] = true
		}
		for _, s := range parts[i].shares {
			known[s.first] = known[s.first] || s.intact
		}
	}
	var void []share
	for i := range parts {
		for _, s := range parts[i].shares {
			if !decided[s.first] && known[s.first] {
				void = append(void, s)
				r.undecided = append(r.undecided, s.first)
			}
		}
	}
	slices.Sort(r.undecided)
	r.undecided = slices.Compact(r.undecided)
	byBegin := func(s share, lsn format.LSN) int { return cmp.Compare(s.from, lsn) }
	isVoid := func(m Message) bool { // void is in the order of the log
		i, _ := slices.BinarySearchFunc(void, m.LSN, byBegin)
		return i > 0 && m.LSN < void[i-1].to
	}
	if len(void) > 0 {
		r.Messages = slices.DeleteFunc(r.Messages, isVoid)
		r.suspects = slices.DeleteFunc(r.suspects, isVoid)
	}
}

// missing returns the number of segments that are not among parts, below the last of them.
func (r *Reader) missing(parts []part) uint64 {
	if len(parts) == 0 {
		return 0
	}
	return uint64(parts[len(parts)-1].base)/uint64(r.Super.SegmentSize) + 1 - uint64(len(parts))
}

// ledger returns what is known of the segments that have left the log: their number and the sum of their identities.
// gone has those whose slots may still have headers that say otherwise. A message by which segments leave counts only
// if a header or the snapshot knows of it: it may lie behind a hole, or in a part that was discarded, and have had no
// effect. Until it has, the segments are still there.
func (r *Reader) ledger(parts []part, heads []head) (l format.Ledger, gone map[format.Identity]bool) {
	left := func(recycled uint64, sum format.Identity) {
		if recycled > l.Recycled {
			l.Recycled, l.Left = recycled, sum
		}
	}
	if s := r.snap; s != nil {
		left(s.Recycled, s.Left)
	}
	for i := range heads {
		if h := &heads[i]; h.err == nil {
			left(h.h.Ledger.Recycled, h.h.Ledger.Left)
		}
	}
	gone = map[format.Identity]bool{}
	for i := range parts {
		for _, v := range parts[i].leaves {
			for _, id := range v.Segments {
				gone[id] = gone[id] || v.Recycled <= l.Recycled
			}
		}
	}
	return l, gone
}

// isWhole reports whether parts, all with intact headers, are all segments of the log up to the last of them (rule 14).
func isWhole(parts []part, l format.Ledger) bool {
	sum := l.Left
	for i := range parts {
		if parts[i].header != nil {
			return false
		}
		sum += parts[i].head.Identity()
	}
	return len(parts) > 0 && sum == parts[len(parts)-1].head.Ledger.Joined
}

// reportHeaders reports the headers that are not valid.
func (r *Reader) reportHeaders(parts, used []part, blank []head) {
	report := func(slot format.SegmentID, err error, what string) {
		off := slot.Offset(r.Super.SegmentSize)
		r.lose(recovery.Loss{Kind: recovery.LossFile, Place: recovery.Place{}.WithSlot(slot).WithOffset(off), Err: err,
			Text: fmt.Sprintf("slot %v, offset %v: its header: %v; %s", slot, off, err, what)})
	}
	counts := map[format.SegmentID]bool{}
	for i := range used {
		p := &used[i]
		counts[p.slot] = true
		if p.header != nil {
			report(p.slot, p.header, fmt.Sprintf("its messages, LSN %v … %v, count as part of the log; "+
				"if the slot was free, pages may be as they were earlier", p.base, p.base+format.LSN(p.end)-1))
		}
	}
	for i := range parts {
		if p := &parts[i]; p.header != nil && !counts[p.slot] {
			report(p.slot, p.header, "its messages are left over from an earlier use of the slot")
		}
	}
	for i := range blank {
		report(blank[i].slot, blank[i].err, "no message is found in it")
	}
}

// findGaps finds and reports the parts of the log that are lost.
func (r *Reader) findGaps(parts []part, l format.Ledger, blank []head) {
	size := format.LSN(r.Super.SegmentSize)
	missing := r.missing(parts)
	lost := missing != l.Recycled
	if !slices.ContainsFunc(parts, func(p part) bool { return p.header != nil }) {
		lost = !isWhole(parts, l)
	}
	next := format.LSN(0)
	for i := range parts {
		p := &parts[i]
		if p.base > next && lost {
			r.loseRange(gap{next, p.base}, recovery.Place{}, fmt.Sprintf("segments are missing: "+
				"of the log's segments %d are missing, and %d were recycled", missing, l.Recycled))
		}
		for _, h := range p.holes {
			r.loseHole(p, h)
		}
		if p.index > 0 {
			r.loseIndex(p)
		}
		next = p.base + size
		if i < len(parts)-1 && p.end < int(size) {
			r.loseHole(p, span{from: p.end, to: int(size)})
		}
	}
	r.findEnd(parts, blank)
}

// findEnd finds out whether something is lost at the end of the log.
func (r *Reader) findEnd(parts []part, blank []head) {
	size := r.Super.SegmentSize
	end := format.LSN(0)
	if len(parts) > 0 {
		p := &parts[len(parts)-1]
		end = p.base + format.LSN(p.end)
		tail := span{from: p.end, to: size}
		unread := slices.ContainsFunc(p.bad, func(b span) bool { return b.to > p.end && b.from < size })
		closed := r.trusted && r.Super.Clean && r.known < end
		switch stop := r.known + 1; {
		case p.end == size || p.end == firstMessage && r.known < p.base && !unread && !p.tried:
		case stop > end:
			tail.to = int(min(stop-p.base, format.LSN(size)))
			r.loseHole(p, tail)
			end = p.base + format.LSN(tail.to)
		case unread && !closed, p.tried && !closed:
			r.loseHole(p, tail)
			end = p.base + format.LSN(size)
		}
	}
	if r.known >= end {
		r.loseRange(gap{end, r.known + 1}, recovery.Place{}, "the log was stable beyond the last message that is left")
		return
	}
	if r.trusted && r.Super.Begun && !r.Super.Clean && r.size < int64(size) {
		at := recovery.Place{}.WithSlot(0).WithOffset(format.Offset(r.size))
		r.loseRange(gap{end, format.LSN(size)}, at, "the file was cut short: it had a whole segment")
		return
	}
	if closed := r.trusted && r.Super.Clean; len(blank) > 0 && !closed && int64(end)%int64(size) == 0 {
		at := recovery.Place{}.WithSlot(blank[0].slot).WithOffset(blank[0].slot.Offset(size))
		r.loseRange(gap{end, end + format.LSN(len(blank)*size)}, at, "slots in which nothing is found may have held it")
	}
}

// loseHole reports a hole in a part of the log.
func (r *Reader) loseHole(p *part, h span) {
	off := p.slot.Offset(r.Super.SegmentSize) + format.Offset(h.from)
	unread := 0
	for _, b := range p.bad {
		if n := min(b.to, h.to) - max(b.from, h.from); n > 0 {
			unread += n
			h.err = b.err
		}
	}
	r.Unreadable += int64(unread)
	r.Corrupt += int64(h.to - h.from - unread)
	what := fmt.Sprintf("%d corrupt bytes", h.to-h.from)
	if unread > 0 {
		what = fmt.Sprintf("%d bytes, of which %d cannot be read (%v)", h.to-h.from, unread, h.err)
	}
	g := gap{p.base + format.LSN(h.from), p.base + format.LSN(h.to)}
	r.gaps = append(r.gaps, g)
	at := recovery.Place{}.WithSlot(p.slot).WithOffset(off).WithLSN(g.from)
	r.lose(recovery.Loss{Kind: recovery.LossRange, Place: at, Bytes: int64(h.to - h.from), Err: h.err,
		Text: fmt.Sprintf("slot %v, offset %v: %s, LSN %v … %v; %s", p.slot, off, what, g.from, g.to-1, older)})
}

// loseIndex reports the corrupt index of a segment.
func (r *Reader) loseIndex(p *part) {
	off, lsn := p.slot.Offset(r.Super.SegmentSize)+format.Offset(p.index), p.base+format.LSN(p.index)
	for _, b := range p.bad {
		r.Unreadable += int64(max(0, b.to-max(b.from, p.index)))
	}
	at := recovery.Place{}.WithSlot(p.slot).WithOffset(off).WithLSN(lsn)
	text := fmt.Sprintf("slot %v, offset %v: the index of the segment is corrupt, which costs no record", p.slot, off)
	r.lose(recovery.Loss{Kind: recovery.LossFile, Place: at, Text: text})
}

const older = "pages that were changed there are lost, or as they were before"

// loseRange reports a part of the log that is not in the file.
func (r *Reader) loseRange(g gap, at recovery.Place, why string) {
	r.gaps = append(r.gaps, g)
	r.lose(recovery.Loss{Kind: recovery.LossRange, Place: at.WithLSN(g.from), Bytes: int64(g.to - g.from),
		Text: fmt.Sprintf("LSN %v … %v: %s; %s", g.from, g.to-1, why, older)})
}

// ReportBatches reports the batches and groups of which a part may be missing.
func (r *Reader) ReportBatches() {
	open := map[format.LSN]bool{}
	lose := func(begin format.LSN, what string) {
		r.lose(recovery.Loss{Kind: recovery.LossBatch, Place: recovery.Place{}.WithLSN(begin),
			Text: fmt.Sprintf("the batch that begins at LSN %v may be there in part: %s", begin, what)})
	}
	for _, g := range r.groups {
		lose(g.from, "it is corrupt, or was never written as a whole")
	}
	for _, first := range r.undecided {
		if r.lostAbove(first) {
			r.lose(recovery.Loss{Kind: recovery.LossBatch, Place: recovery.Place{}.WithLSN(first),
				Text: fmt.Sprintf("nothing is saved of the transaction at LSN %v: its last part is missing, and a "+
					"part of the log behind it is lost", first)})
		}
	}
	for _, m := range r.Messages {
		switch m.Kind {
		case format.KindBatchBegin:
			open[m.LSN] = true
		case format.KindBatchEnd:
			e, err := format.DecodeManifest(m.Body, m.LSN)
			if err != nil {
				continue
			}
			delete(open, e.Begin)
			if r.lostBetween(e.Begin-1, m.LSN) {
				lose(e.Begin, "a part of the log before its end is lost")
			}
		}
	}
	for _, lsn := range slices.Sorted(maps.Keys(open)) {
		switch {
		case r.lostAbove(lsn):
			lose(lsn, "its end is missing, and a part of the log behind it is lost")
		case lsn > r.known: // else its end was in a segment that was recycled
			lose(lsn, "it was open when the store was used last")
		}
	}
}
