package recovery

import (
	"cmp"
	"slices"

	"pagecache/segments/format"
)

// A group in several parts counts only if a message says that it has taken effect: its last part, or one of kind
// decided, which outlives the segment of the last part (format.Decision). The parts of a commit that was given up, or
// that a crash has cut off, stay in the log without such a message, and mean nothing.
//
// The messages of a page are in the order in which they took effect, also those in parts: a commit reserves its first
// part after the versions that it replaces, and a version is replaced only after its commit has reserved its last part.
// So it is enough to leave out the parts that do not count.

// groupPart is a valid part of a group in several parts.
type groupPart struct {
	pos, end int // offsets in the segment
	head     format.GroupHead
}

// addPart notes a part at an offset.
func (w *walked) addPart(h format.Header, pos int, head format.GroupHead) {
	w.parts = append(w.parts, groupPart{pos, pos + format.AlignUp(h.Len), head})
}

// addDecisions notes the decisions in the body of a message at lsn.
func (w *walked) addDecisions(body []byte, lsn format.LSN) error {
	ds, err := format.DecodeDecisions(body, lsn)
	w.decisions = append(w.decisions, ds...)
	return err
}

// decideParts finds the groups in parts that have taken effect below End, and leaves the messages of all others out of
// the index. If several messages say so of a group, the last one counts: the others may leave the log.
func (r *Result) decideParts() {
	decided := map[format.LSN]format.Decision{}
	for i, w := range r.index {
		if w == nil {
			continue
		}
		base := r.Segments[i].Base
		for _, p := range w.parts {
			if lsn := base + format.LSN(p.pos); p.head.Left == 0 && lsn < r.End {
				decided[p.head.First] = latest(decided, format.Decision{First: p.head.First, Last: lsn, At: lsn})
			}
		}
		for _, d := range w.decisions {
			if d.At < r.End {
				decided[d.First] = latest(decided, d)
			}
		}
	}
	for _, d := range decided {
		r.Decisions = append(r.Decisions, d)
	}
	slices.SortFunc(r.Decisions, func(a, b format.Decision) int { return cmp.Compare(a.First, b.First) })
	for _, w := range r.index {
		if w != nil {
			w.leaveOut(func(p groupPart) bool { return decided[p.head.First].At == 0 })
		}
	}
}

// latest returns d, or the decision about the same group that is there, whichever the later message says.
func latest(decided map[format.LSN]format.Decision, d format.Decision) format.Decision {
	if old := decided[d.First]; old.At > d.At {
		return old
	}
	return d
}

// leaveOut removes the messages of the parts that are void from the index. Parts and entries are in the order of the
// segment.
func (w *walked) leaveOut(void func(groupPart) bool) {
	if !slices.ContainsFunc(w.parts, void) {
		return
	}
	entries, bodies, parts := w.entries, w.bodies, w.parts
	w.entries, w.bodies = entries[:0], nil
	for _, e := range entries {
		var body []byte
		if keepsBody(e.word.Kind()) {
			n := e.word.Len() - format.HeaderSize
			body, bodies = bodies[:n], bodies[n:]
		}
		for len(parts) > 0 && parts[0].end <= e.pos() {
			parts = parts[1:]
		}
		if len(parts) > 0 && parts[0].pos < e.pos() && void(parts[0]) {
			continue
		}
		w.entries, w.bodies = append(w.entries, e), append(w.bodies, body...)
	}
}
