package pagemap

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/txn"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// commits are the commits in parts of a Map. The zero commits is ready for use. Safe for concurrent use.
//
// A commit that takes more than a quarter of a segment is written in parts: messages of their own, between which others
// may lie. Its pages change at one moment all the same (package txn), after the last part has a place in the log and
// before that part is complete. So recovery finds the last part, and with it all changes, or none of them.
//
//	           Install         Decide
//	reads  ──────┬──────────────┬──────────▶ pages are changed
//	             │              │
//	log    ┄┄[ part 1 ]┄[ … ]┄[ last part ]┄┄
//	           place              effect
//
// Guarantees:
//
//	D1  The place of a message in a part is below the LSN of its effect, that of the last part. Whatever has seen the
//	    changes is written behind the last part. So no prefix of the log has a message that depends on changes without
//	    effect, and the messages of a page are in the order of their effects, by their places, too (txn, Q6).
//	D2  A snapshot begins below the first part of each commit that is not decided, so that recovery finds all parts of
//	    one that is decided later. It is named after the last parts of all commits that it may show are stable.
//	D3  As long as a segment with live bytes may hold a part of a commit that has taken effect, a message in the log
//	    says that it has: the last part, or one that replaced it when its segment became empty.
//	D4  The parts of a commit that was given up count as dead, in this opening and, without a last part, in all later
//	    ones.
//	D5  What shows a page to a caller names the LSN of the effect until that is stable.
type commits struct {
	// recent are the commits that may be decided and whose effect was not stable when somebody looked last; nil: none.
	// Written under mu, and to nil by readers. *Edge: a commit is entered, then its record is decided (Decide); a
	// reader finds the new head of a page, then loads recent.* A stale list has commits that are stable. The slice does
	// not change.
	recent atomic.Pointer[[]span]

	groupLimit int    // see SetGroupLimit; 0 outside of tests
	between    func() // see BetweenParts; nil outside of tests

	mu sync.Mutex
	// undecided has a lower bound of the first part of each commit that is being written.
	undecided map[*span]format.LSN
	// decided are those that have taken effect and may be needed (D3). The order means nothing.
	decided []format.Decision
	// before are the first parts, below the From of the snapshot of the opening, of the commits that have taken effect,
	// in rising order. Constant after Rebuild.
	before []format.LSN
	// highest is the highest LSN that a snapshot may depend on although no page's newest message is that high: that of
	// a last part, or of a message that replaces one. It only rises.
	highest format.LSN
}

// span is where the parts of a commit lie.
type span struct {
	parts  []lsnRange
	effect format.LSN // LSN of the last message of the last part
}

// has reports whether a message at an LSN lies in one of the parts, which are in rising order.
func (s *span) has(lsn format.LSN) bool {
	i, found := slices.BinarySearchFunc(s.parts, lsn, func(p lsnRange, lsn format.LSN) int {
		return cmp.Compare(p.from, lsn)
	})
	if !found {
		i--
	}
	return i >= 0 && lsn < s.parts[i].to
}

// lsnRange is LSNs [from, to).
type lsnRange struct{ from, to format.LSN }

// begin registers a commit that is about to reserve its first part above tail (D2).
func (c *commits) begin(s *span, tail format.LSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.undecided == nil {
		c.undecided = map[*span]format.LSN{}
	}
	c.undecided[s] = tail
}

// announce enters a commit that is about to be decided, so that its effect is known to all that see it (D5). stable is
// the stable end of the log.
func (c *commits) announce(s *span, stable format.LSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.highest = max(c.highest, s.effect)
	list := []span{*s}
	if old := c.recent.Load(); old != nil {
		for _, o := range *old {
			if o.effect >= stable {
				list = append(list, o)
			}
		}
	}
	c.recent.Store(&list)
}

// end follows a commit that was registered. last is the LSN of its last part, 0 if it has not taken effect.
func (c *commits) end(s *span, last format.LSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.undecided, s)
	if last > 0 {
		c.decided = append(c.decided, format.Decision{First: s.parts[0].from, Last: last, At: last})
	}
}

// parted is a commit that is written in parts. The methods of a nil one do nothing.
type parted struct {
	m     *Map
	c     *Commit
	rec   *txn.Record
	sizes []partSize // of the parts that are to come
	left  int        // messages to come of the current part
	live  int        // messages of the parts that are complete: they count as live
	span  span
}

// partSize is the size of a part.
type partSize struct{ messages, bytes int }

// divide registers a commit that is written in parts of at most the given length. A message that is longer is a part of
// its own. Errors: iobuf.ErrTooLarge.
func (m *Map) divide(c *Commit, rec *txn.Record, most int) (*parted, error) {
	p := &parted{m: m, c: c, rec: rec}
	next := partSize{bytes: format.GroupSize()}
	for i := range c.Writes {
		for j := range c.Writes[i].Parts {
			size := format.AlignUp(format.HeaderSize + c.Writes[i].Parts[j].bodyLen())
			if next.messages > 0 && next.bytes+size > most {
				p.sizes = append(p.sizes, next)
				next = partSize{bytes: format.HeaderSize + format.KindGroupPart.GroupHeadSize()}
			}
			next.messages++
			next.bytes += size
		}
	}
	p.sizes = append(p.sizes, next)
	if n := len(p.sizes); n > format.MaxGroupParts {
		const text = "%w: the messages of the transaction take %d parts, limit %d"
		return nil, fmt.Errorf(text, iobuf.ErrTooLarge, n, format.MaxGroupParts)
	}
	m.commits.begin(&p.span, m.store.Log.Tail())
	return p, nil
}

// room makes sure that there is a place for the next message: if the current part is full, it completes the part and
// takes the place of the next one. refs are the places of all messages so far. It also fails if the commit cannot
// succeed any more. After an error there is no place.
func (p *parted) room(at *place, refs []pagestack.Ref) (err error) {
	if p == nil {
		return nil
	}
	if p.left > 0 {
		p.left--
		return nil
	}
	if len(refs) > 0 {
		for _, r := range refs[p.live:] { // rule 7
			p.m.store.Space.Live(r.Ptr)
		}
		p.live = len(refs)
		at.group.Complete()
		if between := p.m.commits.between; between != nil {
			between()
		}
	}
	if page, changed := txn.Changed(p.c.Reads); changed {
		return &ConflictError{page}
	}
	if p.rec.IsAborted() {
		return &ConflictError{p.rec.Conflict()}
	}
	first, size := format.LSN(0), p.sizes[0]
	if len(p.span.parts) > 0 {
		first = p.span.parts[0].from
	}
	p.sizes = p.sizes[1:]
	if at.group, err = p.m.store.Log.ReservePart(first, len(p.sizes), size.bytes); err != nil {
		return err
	}
	from := at.group.LSN()
	p.span.parts = append(p.span.parts, lsnRange{from, from + format.LSN(size.bytes)})
	p.left = size.messages - 1
	return nil
}

// ready follows the last message: the commit is about to be decided. It returns the number of messages that count as
// live already. refs are the places of all.
func (p *parted) ready(refs []pagestack.Ref) int {
	if p == nil {
		return 0
	}
	p.span.effect = refs[len(refs)-1].LSN
	p.m.commits.announce(&p.span, p.m.store.Log.StableEnd())
	return p.live
}

// end follows the decision, before the last part is complete.
func (p *parted) end(won bool) {
	if p == nil {
		return
	}
	last := format.LSN(0)
	if won {
		last = p.span.parts[len(p.span.parts)-1].from
	}
	p.m.commits.end(&p.span, last)
}

// giveUp ends a commit that has failed before it was decided.
func (p *parted) giveUp(refs []pagestack.Ref) {
	if p == nil {
		return
	}
	p.m.commits.end(&p.span, 0)
	for _, r := range refs[:p.live] {
		p.m.store.Space.Dead(r.Ptr)
	}
}

// Effect returns the LSN at which a message of a page, which the caller has found in the page's head, takes effect:
// that of the message, or, until that is stable, of the last one of its commit.
func (m *Map) Effect(lsn format.LSN) format.LSN {
	if recent := m.commits.recent.Load(); recent != nil {
		return m.effectOf(recent, lsn)
	}
	return lsn
}

// HasRecent reports whether Effect may return another LSN than its argument, of a head that the caller has found.
func (m *Map) HasRecent() bool { return m.commits.recent.Load() != nil }

func (m *Map) effectOf(recent *[]span, lsn format.LSN) format.LSN {
	stable, all := m.store.Log.StableEnd(), true
	for i := range *recent {
		s := &(*recent)[i]
		if s.effect < stable {
			continue
		}
		if all = false; s.has(lsn) {
			return s.effect
		}
	}
	if all {
		invariants.Jitter()
		m.commits.recent.CompareAndSwap(recent, nil) // a commit that was entered meanwhile has made a new list
	}
	return lsn
}

// beginSnapshot returns the LSN below which no commit is undecided, at most from, and the commits that a snapshot which
// begins there must name (D2, D3).
func (m *Map) beginSnapshot(from format.LSN) (format.LSN, []format.Decision) {
	c := &m.commits
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, first := range c.undecided {
		from = min(from, first)
	}
	c.decided = slices.DeleteFunc(c.decided, func(d format.Decision) bool { return !m.needs(d, format.NoLSN) })
	return from, slices.Clone(c.decided)
}

// highestPart returns the highest LSN that a snapshot depends on because of commits in parts.
func (c *commits) highestPart() format.LSN {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.highest
}

// needs reports whether a segment other than the one that begins at other may have live messages of a commit.
func (m *Map) needs(d format.Decision, other format.LSN) bool {
	return m.store.Space.LiveIn(d.First, d.Last, other)
}

// KeepDecisions is called before the segment with the given base, in which nothing is live, begins to leave the log. It
// writes again which commits have taken effect, of those about which the segment says it, and parts of which are in
// use. That message lies before the one by which the segment leaves, so it is durable first. After an error the segment
// must stay. Only one goroutine may call it at a time.
func (m *Map) KeepDecisions(base format.LSN) error {
	c, size := &m.commits, format.LSN(m.store.SegmentSize())
	inside := func(d format.Decision) bool { return d.At >= base && d.At < base+size }
	var kept []format.Decision
	c.mu.Lock()
	c.decided = slices.DeleteFunc(c.decided, func(d format.Decision) bool { return inside(d) && !m.needs(d, base) })
	for _, d := range c.decided {
		if inside(d) {
			kept = append(kept, d)
		}
	}
	c.mu.Unlock()
	for some := range slices.Chunk(kept, format.MaxDecisions) {
		if err := m.decideAgain(some); err != nil {
			return err
		}
	}
	return nil
}

// decideAgain writes decisions again.
func (m *Map) decideAgain(ds []format.Decision) error {
	r, err := m.store.Log.ReserveUrgent(format.KindDecided, 0, format.DecisionsSize(len(ds)))
	if err != nil {
		return err
	}
	format.PutDecisions(r.Body(), ds)
	c, at := &m.commits, r.LSN()
	c.mu.Lock() // before the message is complete: a snapshot that begins above it must name it as the place
	for i := range c.decided {
		if slices.ContainsFunc(ds, func(d format.Decision) bool { return d.First == c.decided[i].First }) {
			c.decided[i].At = at
		}
	}
	c.highest = max(c.highest, at)
	c.mu.Unlock()
	r.Complete()
	return nil
}

// adoptDecisions takes over the decisions that the log and the snapshot have. Of one that is only in the snapshot, the
// segment may have left since; then none of its parts was needed any more.
func (b *rebuilder) adoptDecisions() {
	m := b.m
	known := map[format.LSN]format.Decision{}
	if m.base != nil {
		for _, d := range m.base.Decisions {
			known[d.First] = d
		}
	}
	for _, d := range b.r.Scan.Decisions {
		if known[d.First].At < d.At {
			known[d.First] = d
		}
	}
	size := format.LSN(m.store.SegmentSize())
	for _, d := range known {
		if _, found := m.store.Space.Find(d.At - d.At%size); found {
			m.commits.decided = append(m.commits.decided, d)
			m.commits.highest = max(m.commits.highest, d.At) // snapshots name it
		}
		if m.base != nil && d.First < m.base.From {
			m.commits.before = append(m.commits.before, d.First)
		}
	}
	slices.Sort(m.commits.before)
}

// isVoid reports whether a message below the From of the snapshot of the opening is a part of a commit that has not
// taken effect. If its segment is still needed, the snapshot, or the log from From on, says so (D3).
func (c *commits) isVoid(h format.Header, body []byte) bool {
	if !h.Kind.IsGroup() {
		return false
	}
	head, err := format.DecodeGroupHead(h.Kind, body, h.LSN)
	_, counts := slices.BinarySearch(c.before, head.First)
	return err == nil && head.InParts(h.Kind) && !counts
}
